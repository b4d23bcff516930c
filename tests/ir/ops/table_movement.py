"""Rows of the ops that move elements: every dtype once, and the shapes at which positions are easy to get wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from sample import Inputs, Sample, around, at_sizes, kind, random_inputs

from treadle.ir.dims import Dim
from treadle.ir.dims import parse as size
from treadle.ir.dtypes import DTYPES
from treadle.ir.ops.movement import (
    Broadcast,
    Concatenate,
    Copy,
    Iota,
    Pad,
    Reshape,
    Reverse,
    Slice,
    StopGradient,
    Transpose,
)
from treadle.ir.value import Full, Value

Make = Callable[..., Value]


def counted(*types: str, sizes: Mapping[str, int] | None = None) -> Inputs:
    """Inputs whose elements are all different where the dtype allows it, so that no two can be exchanged unseen."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        found, base = [], 1
        for text in types:
            shape = at_sizes(text, sizes or {})
            count = int(np.prod(shape))
            numbers = np.arange(base, base + count).reshape(shape)
            found.append((numbers % 2 if kind(text).dtype.kind == "bool" else numbers).astype(kind(text).dtype.numpy))
            base += count
        return found

    return inputs


def sizes_of(*texts: str) -> tuple[Dim, ...]:
    return tuple(size(text) for text in texts)


def row(op: str, make: Make, *types: str, label: str = "", **sizes: int) -> Sample:
    shown = " ".join(types) + (f" {label}" if label else "")
    return Sample(op, shown, around(make, *types), counted(*types, sizes=sizes), sizes=sizes)


def smooth(op: str, make: Make, *types: str) -> Sample:
    return Sample(op, "smooth", around(make, *types), random_inputs(*types), smooth=True)


def reshape(*texts: str) -> Make:
    return lambda x: Reshape(x, sizes_of(*texts))


def broadcast(axes: tuple[int, ...], *texts: str) -> Make:
    return lambda x: Broadcast(x, sizes_of(*texts), axes)


def cut(*bounds: tuple[str, str, int]) -> Make:
    start, stop, step = zip(*bounds, strict=True) if bounds else ((), (), ())
    return lambda x: Slice(x, sizes_of(*start), sizes_of(*stop), step)


def pad(*amounts: tuple[str, str, int], value: float | None = None) -> Make:
    low, high, interior = zip(*amounts, strict=True) if amounts else ((), (), ())

    def make(x: Value, *rest: Value) -> Value:
        filling = rest[0] if rest else Full(value or 0, x.tensor.with_shape(()))
        return Pad(x, filling, sizes_of(*low), sizes_of(*high), interior)

    return make


def concatenate(axis: int) -> Make:
    return lambda *xs: Concatenate(xs, axis)


def samples() -> list[Sample]:
    rows: list[Sample] = []
    for dtype in DTYPES:
        rows += [
            row("broadcast", broadcast((1,), "2", "3"), f"{dtype}[3]"),
            row("reshape", reshape("3", "2"), f"{dtype}[2,3]"),
            row("transpose", lambda x: Transpose(x, (1, 0)), f"{dtype}[2,3]"),
            row("slice", cut(("1", "6", 2)), f"{dtype}[7]"),
            row("pad", pad(("2", "1", 1)), f"{dtype}[3]"),
            row("pad", pad(("2", "1", 1)), f"{dtype}[3]", f"{dtype}[]"),
            row("concatenate", concatenate(0), f"{dtype}[2]", f"{dtype}[3]"),
            row("reverse", lambda x: Reverse(x, (0,)), f"{dtype}[5]"),
            row("copy", Copy, f"{dtype}[2,2]"),
            row("stop_gradient", StopGradient, f"{dtype}[2,2]"),
        ]
        if dtype.kind not in ("bool", "float8"):
            rows.append(row("iota", lambda dtype=dtype: Iota(kind(f"{dtype}[300,2]"), 0), label=f"{dtype}"))
    rows += [
        row("broadcast", broadcast((), "2", "2"), "f32[]"),
        row("broadcast", broadcast((0, 2), "2", "3", "4"), "f32[2,4]"),
        row("broadcast", broadcast((0, 1), "2", "3"), "f32[2,3]", label="to itself"),
        row("broadcast", broadcast((-1,), "0", "3"), "f32[3]", label="to nothing"),
        row("broadcast", broadcast((0,), "B", "B+1"), "f32[B]", B=2),
        row("broadcast", broadcast((1,), "3", "B"), "f32[B]", label="of nothing", B=0),
        row("reshape", reshape(), "f32[1,1]"),
        row("reshape", reshape("1", "1"), "f32[]"),
        row("reshape", reshape("6"), "f32[2,3]"),
        row("reshape", reshape("2", "3"), "f32[6]"),
        row("reshape", reshape("4", "6"), "f32[2,3,4]"),
        row("reshape", reshape("6", "4"), "f32[2,3,4]"),
        row("reshape", reshape("2", "1", "3", "1"), "f32[2,3]"),
        row("reshape", reshape("2", "3"), "f32[1,2,1,3]"),
        row("reshape", reshape("3", "5", "2"), "f32[2,3,5]"),
        row("reshape", reshape("3", "0", "7"), "f32[0,2]"),
        row("reshape", reshape("4*B"), "f32[B,4]", B=3),
        row("reshape", reshape("B", "4"), "f32[4*B]", B=3),
        row("reshape", reshape("2*B", "2"), "f32[B,4]", B=3),
        row("reshape", reshape("2", "2*B"), "f32[B,4]", B=3),
        row("reshape", reshape("C", "B"), "f32[B,C]", B=3, C=2),
        row("reshape", reshape("B", "1", "2", "C"), "f32[B,2*C]", B=3, C=2),
        row("reshape", reshape("B", "C"), "f32[C,B]", label="of nothing", B=0, C=2),
        row("transpose", lambda x: Transpose(x, ()), "f32[]"),
        row("transpose", lambda x: Transpose(x, (2, 0, 1)), "f32[2,3,4]"),
        row("transpose", lambda x: Transpose(x, (0, -1, 1)), "f32[2,0,4]"),
        row("transpose", lambda x: Transpose(x, (1, 0)), "f32[B,C]", B=2, C=3),
        row("slice", cut(), "f32[]"),
        row("slice", cut(("0", "5", 1), ("1", "3", 1)), "f32[5,4]"),
        row("slice", cut(("4", "5", 3), ("0", "4", 3)), "f32[5,4]"),
        row("slice", cut(("5", "5", 2)), "f32[5]", label="of nothing"),
        row("slice", cut(("0", "0", 1)), "f32[0]"),
        row("slice", cut(("1", "B", 1)), "f32[B]", B=4),
        row("slice", cut(("0", "B", 2)), "f32[B]", B=5),
        row("slice", cut(("B", "2*B", 1)), "f32[2*B]", B=3),
        row("slice", cut(("0", "min(B, 3)", 1)), "f32[B]", B=2),
        row("slice", cut(("0", "min(B, 3)", 1)), "f32[B]", B=7),
        row("pad", pad(), "f32[]"),
        row("pad", pad(("1", "2", 0), ("0", "0", 2)), "f32[2,3]"),
        row("pad", pad(("-1", "-2", 0)), "f32[6]"),
        row("pad", pad(("-2", "1", 2)), "f32[4]"),
        row("pad", pad(("-3", "-3", 2)), "f32[4]", label="to the inside"),
        row("pad", pad(("1", "2", 3)), "f32[0]"),
        row("pad", pad(("1", "2", 3)), "f32[0]", "f32[]"),
        row("pad", pad(("-2", "1", 2), ("0", "1", 1)), "f32[4,2]", "f32[]"),
        row("pad", pad(("1", "0", 0), value=-1.5), "f32[3]"),
        row("pad", pad(("B", "1", 0)), "f32[B]", B=2),
        row("pad", pad(("0", "1", 2)), "f32[B]", B=3),
        row("pad", pad(("0", "1", 2)), "f32[B]", "f32[]", B=3),
        row("pad", pad(("0", "1", 2)), "f32[B]", B=0),
        row("concatenate", concatenate(0), "f32[3]", label="alone"),
        row("concatenate", concatenate(-1), "f32[2,1]", "f32[2,0]", "f32[2,3]", "f32[2,2]"),
        row("concatenate", concatenate(1), "f32[2,3,2]", "f32[2,1,2]"),
        row("concatenate", concatenate(0), "f32[B,2]", "f32[3,2]", "f32[C,2]", B=2, C=0),
        row("concatenate", lambda x: Concatenate((x, x), 0), "f32[B]", label="twice", B=2),
        row("reverse", lambda x: Reverse(x, ()), "f32[]"),
        row("reverse", lambda x: Reverse(x, (0, 2)), "f32[2,3,4]"),
        row("reverse", lambda x: Reverse(x, (-1,)), "f32[2,0]"),
        row("reverse", lambda x: Reverse(x, (0,)), "f32[B,2]", B=3),
        row("iota", lambda: Iota(kind("i64[0]"), 0), label="of nothing"),
        row("iota", lambda: Iota(kind("f32[2,3,4]"), -2), label="in the middle"),
        row("iota", lambda x: Iota(kind("i32[B,B+1]"), 1), "f32[B]", B=3),
        row("copy", Copy, "f32[]"),
        row("copy", Copy, "f32[B,0]", B=2),
        row("stop_gradient", StopGradient, "f32[B,0]", B=2),
    ]
    for dtype in ("f64", "c128"):
        rows += [
            smooth("broadcast", broadcast((0, 2), "2", "3", "4"), f"{dtype}[2,4]"),
            smooth("reshape", reshape("3", "4"), f"{dtype}[2,6]"),
            smooth("transpose", lambda x: Transpose(x, (2, 0, 1)), f"{dtype}[2,3,4]"),
            smooth("slice", cut(("1", "6", 2), ("0", "2", 1)), f"{dtype}[7,3]"),
            smooth("pad", pad(("-1", "2", 2), ("1", "0", 0)), f"{dtype}[4,2]", f"{dtype}[]"),
            smooth("concatenate", concatenate(1), f"{dtype}[2,1]", f"{dtype}[2,3]"),
            smooth("reverse", lambda x: Reverse(x, (0, 1)), f"{dtype}[2,3]"),
            smooth("copy", Copy, f"{dtype}[3]"),
        ]
    return rows
