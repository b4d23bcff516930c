"""Reproducible arrays where only a type was given: for the command line, and for checks of what was compiled.

Standard normal floats, small integers, fair bools, always the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.dims import evaluate, names
from ..ir.types import TensorType
from . import tree
from .arguments import ShapeDtype

SYMBOLIC_SIZE = 8  # what a symbolic size is when an argument must be made up


def concrete(arguments: Sequence[Any]) -> list[Any]:
    """The arguments, with noise in the place of each `ShapeDtype` in them."""
    generator = np.random.default_rng(0)

    def filled(leaf: Any) -> Any:
        return noise(leaf.type, generator) if isinstance(leaf, ShapeDtype) else leaf

    return [tree.map(filled, each, is_leaf=lambda x: isinstance(x, ShapeDtype)) for each in arguments]


def noise(kind: TensorType, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """An array of that type."""
    shape = tuple(evaluate(dim, dict.fromkeys(names(dim), SYMBOLIC_SIZE)) for dim in kind.shape)
    dtype = kind.dtype
    if dtype.kind == "bool":
        return generator.random(shape) < 0.5
    if dtype.is_integer:
        return generator.integers(0, 8, shape).astype(dtype.numpy)
    values = generator.standard_normal(shape)
    return (values + 1j * generator.standard_normal(shape) if dtype.kind == "complex" else values).astype(dtype.numpy)
