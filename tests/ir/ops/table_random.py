"""Rows of the random ops: every width, keys alone and in batches, positions past the first word of the counter's
low half being out of reach here (`test_random.py` has the published vectors), symbolic sizes, nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sample import Inputs, Sample, around, at_sizes, kind

from treadle.ir.dims import parse as size
from treadle.ir.dtypes import INTEGERS, DType, u32
from treadle.ir.ops.random import BITS, FoldIn, RandomBits
from treadle.ir.value import Value


def words(*types: str, **sizes: int) -> Inputs:
    """Integers over their whole range, the least and the greatest among them."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        found = []
        for text in types:
            limits = np.iinfo(kind(text).dtype.numpy)
            drawn = rng.integers(limits.min, limits.max, at_sizes(text, sizes), kind(text).dtype.numpy, endpoint=True)
            drawn.reshape(-1)[:2] = (limits.max, limits.min)[: drawn.size]
            found.append(drawn)
        return found

    return inputs


def bits(to: DType, *sizes: str) -> Callable[[Value], Value]:
    return lambda key: RandomBits(key, tuple(map(size, sizes)), to)


def row(op: str, make: Callable[..., Value], *types: str, label: str = "", **sizes: int) -> Sample:
    return Sample(op, f"{' '.join(types)} {label}".strip(), around(make, *types), words(*types, **sizes), sizes=sizes)


def samples() -> list[Sample]:
    name = RandomBits.name
    found = [row(name, bits(to, "3", "5"), "u32[2]", label=to.name) for to in BITS]
    found += [
        row(name, bits(u32), "u32[2]", label="scalar"),
        row(name, bits(u32, "0", "4"), "u32[2]", label="of none"),
        row(name, bits(u32, "7"), "u32[3,2]", label="keys"),
        row(name, bits(u32, "2", "3"), "u32[2,2,2]", label="keys of two axes"),
        row(name, bits(u32, "3"), "u32[B,2]", label="keys, symbolic", B=4),
        Sample(
            name,
            "symbolic",
            around(lambda key, x: RandomBits(key, x.shape, u32), "u32[2]", "f32[B,2*T]"),
            lambda rng: [*words("u32[2]")(rng), np.zeros((3, 4), np.float32)],
            sizes={"B": 3, "T": 2},
        ),
    ]
    found += [row(FoldIn.name, FoldIn, "u32[2]", f"{dtype}[]") for dtype in INTEGERS]
    found += [
        row(FoldIn.name, FoldIn, "u32[5,2]", "i64[5]"),
        row(FoldIn.name, FoldIn, "u32[B,3,2]", "u64[B,3]", B=2),
        row(FoldIn.name, FoldIn, "u32[0,2]", "i32[0]"),
    ]
    return found
