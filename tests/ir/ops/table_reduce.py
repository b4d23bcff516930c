"""Rows of reductions and prefixes: every dtype, NaN and infinities, no elements, ties, several axes, symbolic
sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sample import Inputs, Sample, around, at_sizes, draw, kind, random_inputs

from treadle.ir.dtypes import ARITHMETIC, NUMBERS, DType, bool_
from treadle.ir.ops.reduce import (
    ORDERED,
    All,
    Any,
    ArgMax,
    ArgMin,
    CumMax,
    CumMin,
    CumProd,
    CumSum,
    LinearRecurrence,
    Max,
    Min,
    Prod,
    Sum,
)
from treadle.ir.value import Value

Make = Callable[..., Value]

# Sums and products in another order; the state is f32 or wider, the result is rounded once.
ROUNDING = {"f16": 1.0, "bf16": 1.0, "f32": 16.0, "f64": 16.0, "c64": 64.0, "c128": 64.0}


def tied(*types: str, **sizes: int) -> Inputs:
    """Small whole numbers, so that extremes are shared and sums are exact."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        found = []
        for text in types:
            shape, dtype = at_sizes(text, sizes), kind(text).dtype
            low = 0 if dtype.kind in ("bool", "uint") else -2
            found.append(rng.integers(low, 2 if dtype is bool_ else 3, shape).astype(dtype.numpy))
        return found

    return inputs


def with_specials(text: str) -> Inputs:
    """Random numbers among which stand NaN and infinities, alone and together."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        x = draw(rng, kind(text).dtype, at_sizes(text, {}))
        flat = x.reshape(-1)
        flat[3::11] = np.nan
        flat[5::13] = np.inf
        flat[7::17] = -np.inf
        return [x]

    return inputs


def apart(text: str) -> Inputs:
    """Numbers no two of which are close, in random order: extremes stay where they are under small changes."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        shape = at_sizes(text, {})
        return [(rng.permutation(int(np.prod(shape))).reshape(shape) * 0.3 - 2).astype(kind(text).dtype.numpy)]

    return inputs


def row(
    op: str, make: Make, *types: str, label: str = "", inputs: Inputs | None = None, ulp: float = 0.0, **sizes: int
) -> Sample:
    shown = " ".join((*types, label)).strip()
    return Sample(op, shown, around(make, *types), inputs or tied(*types, **sizes), ulp=ulp, sizes=sizes)


def smooth(op: str, make: Make, *types: str, inputs: Inputs | None = None, label: str = "") -> Sample:
    return Sample(
        op, f"smooth {' '.join(types)} {label}".strip(), around(make, *types), inputs or random_inputs(*types),
        ulp=64.0, smooth=True,
    )  # fmt: skip


def shapes(op: str, make: Callable[..., Make], dtype: DType, one_axis: bool) -> list[Sample]:
    """The shapes at which axes are easy to get wrong; `make(axis)` or `make(*axes)` gives what builds the op."""
    name = dtype.name
    rows = [
        row(op, make(0), f"{name}[5]"),
        row(op, make(1), f"{name}[3,4]"),
        row(op, make(-2), f"{name}[2,3,4]"),
        row(op, make(0), f"{name}[1,6]", label="of one"),
        row(op, make(0), f"{name}[0,3]", label="of none"),
        row(op, make(1), f"{name}[0,3]", label="none of them"),
        row(op, make(0), f"{name}[B,3]", label="symbolic", B=4),
        row(op, make(1), f"{name}[3,2*B + 1]", label="symbolic", B=2),
    ]
    if not one_axis:
        rows += [
            row(op, make(), f"{name}[3]", label="over no axis"),
            row(op, make(), f"{name}[]", label="scalar"),
            row(op, make(0, 2), f"{name}[3,2,4]", label="two axes"),
            row(op, make(1, 0), f"{name}[B,T]", label="all", B=3, T=2),
        ]
    return rows


def reductions() -> list[Sample]:
    found: list[Sample] = []
    for op in (Sum, Prod, Max, Min, Any, All):

        def make(*axes: int, op: Callable[..., Value] = op) -> Make:
            return lambda x: op(x, axes)

        name = op.name
        found += shapes(name, make, op.accepts[-1] if len(op.accepts) == 1 else kind("f32[]").dtype, one_axis=False)
        for dtype in op.accepts:
            found.append(row(name, make(1), f"{dtype}[3,7]", label="dtype"))
            if dtype.kind in ("float", "complex"):
                text = f"{dtype}[4,9]"
                loose = ROUNDING[dtype.name] if op in (Sum, Prod) else 0.0
                found.append(row(name, make(1), text, label="random", inputs=random_inputs(text, low=0.5), ulp=loose))
            if dtype.kind == "float":
                found.append(
                    row(
                        name,
                        make(0),
                        f"{dtype}[20,6]",
                        label="special",
                        inputs=with_specials(f"{dtype}[20,6]"),
                        ulp=16.0,
                    )
                )
    for op in (Sum, Prod):

        def make(*axes: int, op: Callable[..., Value] = op) -> Make:
            return lambda x: op(x, axes)

        found += [
            smooth(op.name, make(1), "f64[3,4]"),
            smooth(op.name, make(0, 2), "f64[2,3,2]"),
            smooth(op.name, make(0), "c128[4,2]"),
            smooth(op.name, make(), "f64[3]"),
        ]
    found.append(
        smooth("prod", lambda x: Prod(x, (0,)), "f64[4,3]", inputs=zeros_in("f64[4,3]"), label="one zero, two zeros")
    )
    for op in (Max, Min):
        found += [
            smooth(op.name, lambda x, op=op: op(x, (1,)), "f64[3,4]", inputs=apart("f64[3,4]")),
            smooth(op.name, lambda x, op=op: op(x, (0, 1)), "f64[3,4]", inputs=apart("f64[3,4]"), label="all"),
        ]
    return found


def zeros_in(text: str) -> Inputs:
    """Column 0 holds one zero, column 1 two, the last none."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        x = draw(rng, kind(text).dtype, at_sizes(text, {}), 0.5, 2.0)
        x[1, 0] = x[0, 1] = x[2, 1] = 0
        return [x]

    return inputs


def positions() -> list[Sample]:
    found: list[Sample] = []
    for op in (ArgMax, ArgMin):

        def make(axis: int, op: Callable[..., Value] = op) -> Make:
            return lambda x: op(x, axis)

        found += shapes(op.name, make, kind("f32[]").dtype, one_axis=True)
        for dtype in ORDERED:
            found.append(row(op.name, make(1), f"{dtype}[3,7]", label="dtype"))
            if dtype.kind == "float":
                text = f"{dtype}[20,6]"
                found.append(row(op.name, make(0), text, label="special", inputs=with_specials(text)))
    return found


def prefixes() -> list[Sample]:
    found: list[Sample] = []
    for op in (CumSum, CumProd, CumMax, CumMin):
        for reverse in (False, True):
            way = "reverse" if reverse else "forward"

            def make(axis: int, op: Callable[..., Value] = op, reverse: bool = reverse) -> Make:
                return lambda x: op(x, axis, reverse)

            found += [
                s for s in shapes(op.name, make, kind("f64[]").dtype, one_axis=True) if not reverse or "B" in s.label
            ]
            for dtype in ARITHMETIC if op in (CumSum, CumProd) else ORDERED:
                found.append(row(op.name, make(1), f"{dtype}[3,5]", label=way))
            text = "f32[20,6]"
            found.append(row(op.name, make(0), text, label=f"special {way}", inputs=with_specials(text), ulp=16.0))
            if op in (CumSum, CumProd):
                found += [
                    smooth(op.name, make(1), "f64[2,4]", label=way),
                    smooth(op.name, make(0), "c128[3,2]", label=way),
                ]
                continue
            found.append(smooth(op.name, make(1), "f64[3,5]", inputs=apart("f64[3,5]"), label=way))
        if op is CumProd:
            found.append(
                smooth(op.name, lambda x: CumProd(x, 0), "f64[4,3]", inputs=zeros_in("f64[4,3]"), label="zeros")
            )
    for reverse in (False, True):

        def recurrence(a: Value, b: Value, reverse: bool = reverse) -> Value:
            return LinearRecurrence(a, b, 1, reverse)

        way = "reverse" if reverse else "forward"
        name = LinearRecurrence.name
        for dtype in NUMBERS:
            found.append(row(name, recurrence, f"{dtype}[2,5]", f"{dtype}[2,5]", label=way))
        found += [
            row(name, recurrence, "f32[2,B]", "f32[2,B]", label=way, B=3),
            row(name, recurrence, "f32[2,0]", "f32[2,0]", label=way),
            smooth(name, recurrence, "f64[2,5]", "f64[2,5]", label=way),
            smooth(name, recurrence, "c128[2,3]", "c128[2,3]", label=way),
        ]
    return found


def samples() -> list[Sample]:
    return [*reductions(), *positions(), *prefixes()]
