"""Generators of fast kernels."""
