"""Choices: rewrites of graphs, and the pipelines that order them."""
