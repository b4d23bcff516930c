"""Loops to LLVM text, and LLVM text to an object."""
