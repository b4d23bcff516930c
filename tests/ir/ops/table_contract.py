"""Rows of contractions and windows: which axes go together, dtypes, no elements, strides and dilations,
symbolic sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sample import Sample, around, kind, random_inputs
from table_reduce import apart, tied

from treadle.ir.dims import floordiv
from treadle.ir.dtypes import ARITHMETIC, NUMBERS, DType, f32, f64, i32, i64, u32
from treadle.ir.ops.contract import ArgWindow, Conv, Dot, ReduceWindow, SpreadWindow, TakeWindow
from treadle.ir.ops.reduce import ORDERED
from treadle.ir.value import Parameter, Value

Make = Callable[..., Value]
Axes = tuple[int, ...]

# Sums in another order, relative to a result that is at most a few times smaller than its terms.
ROUNDING = {"f16": 1.0, "bf16": 1.0, "f32": 16.0, "f64": 16.0, "c64": 64.0, "c128": 64.0}


def row(op: str, make: Make, *types: str, label: str = "", **sizes: int) -> Sample:
    return Sample(op, " ".join((*types, label)).strip(), around(make, *types), tied(*types, **sizes), sizes=sizes)


def random(op: str, make: Make, *types: str, dtype: DType, label: str = "") -> Sample:
    given = random_inputs(*types, low=0.5)
    label = f"random {' '.join(types)} {label}".strip()
    return Sample(op, label, around(make, *types), given, ulp=ROUNDING[dtype.name])


def smooth(op: str, make: Make, *types: str, label: str = "") -> Sample:
    return Sample(
        op, f"smooth {' '.join(types)} {label}".strip(), around(make, *types), random_inputs(*types),
        ulp=1024.0, atol=1e-12, smooth=True,
    )  # fmt: skip


def dot(batch: tuple[Axes, Axes], contract: tuple[Axes, Axes], accumulate: DType | None = None) -> Make:
    return lambda x, y: Dot(x, y, *batch, *contract, accumulate)


NONE: tuple[Axes, Axes] = ((), ())
MATMUL = dot(NONE, ((1,), (0,)))
# (how, types): which axes are batch, contracted and free, on either side.
DOTS: tuple[tuple[Make, str, str], ...] = (
    (MATMUL, "[3,4]", "[4,5]"),
    (dot(NONE, ((0,), (1,))), "[4,3]", "[5,4]"),
    (dot(NONE, ((0,), (0,))), "[6]", "[6]"),
    (dot(NONE, NONE), "[3]", "[4]"),
    (dot(((0,), (0,)), ((2,), (1,))), "[2,3,4]", "[2,4,5]"),
    (dot(((1,), (2,)), ((0,), (0,))), "[4,2,3]", "[4,5,2]"),
    (dot(((0, 2), (1, 0)), ((1, 3), (3, 2))), "[2,3,4,5]", "[4,2,5,3]"),
    (dot(((0,), (0,)), NONE), "[3]", "[3]"),
    (dot(NONE, ((0, 1), (1, 0))), "[2,3]", "[3,2]"),
    (dot(NONE, ((1,), (0,))), "[3,4]", "[4]"),
    (dot(((0,), (-1,)), ((-1,), (0,))), "[2,3,4]", "[4,2]"),
)


def dots() -> list[Sample]:
    found = [row("dot", make, f"f32{x}", f"f32{y}") for make, x, y in DOTS]
    found += [smooth("dot", make, f"f64{x}", f"f64{y}") for make, x, y in DOTS]
    found.append(smooth("dot", MATMUL, "c128[2,3]", "c128[3,2]"))
    for dtype in ARITHMETIC:
        found.append(row("dot", MATMUL, f"{dtype}[3,6]", f"{dtype}[6,2]", label="dtype"))
        if dtype.name in ROUNDING:
            found.append(random("dot", MATMUL, f"{dtype}[3,40]", f"{dtype}[40,2]", dtype=dtype))
    found += [
        row("dot", MATMUL, "f32[3,0]", "f32[0,5]", label="nothing summed"),
        row("dot", MATMUL, "f32[0,4]", "f32[4,5]", label="no rows"),
        row("dot", MATMUL, "f32[B,K]", "f32[K,3]", label="symbolic", B=2, K=5),
        row("dot", dot(((0,), (0,)), ((2,), (1,))), "f32[B,3,2*K]", "f32[B,2*K,5]", label="symbolic", B=2, K=3),
    ]
    for x, y, sums in (
        ("i8", "i8", i32), ("u8", "i8", i32), ("i8", "u8", i32), ("u8", "u8", u32), ("u8", "u8", i32),
        ("i16", "i16", i64), ("f16", "f16", f32), ("bf16", "bf16", f32), ("f32", "f32", f64),
    ):  # fmt: skip
        make = dot(NONE, ((1,), (0,)), sums)
        found.append(row("dot", make, f"{x}[3,6]", f"{y}[6,2]", label=f"in {sums}"))
    return found


def conv(spec: str, **numbers: object) -> Make:
    return lambda x, w: Conv(x, w, spec, **numbers)


PLAIN, GROUPED, DEPTHWISE = "NIhw,OIhw->NOhw", "NGIhw,GOIhw->NGOhw", "NGhw,Ghw->NGhw"
# (how, types): every number alone, then together, in one, two and three dimensions, and every layout once.
CONVS: tuple[tuple[Make, str, str], ...] = (
    (conv("NIw,OIw->NOw"), "[2,3,7]", "[4,3,3]"),
    (conv("NIw,OIw->NOw", strides=(2,)), "[1,2,8]", "[3,2,3]"),
    (conv("NIw,OIw->NOw", padding=((2, 1),)), "[1,2,5]", "[3,2,3]"),
    (conv("NIw,OIw->NOw", padding=((-1, -2),)), "[1,2,8]", "[3,2,3]"),
    (conv("NIw,OIw->NOw", dilation=(3,)), "[1,2,9]", "[3,2,3]"),
    (conv("NIw,OIw->NOw", x_dilation=(3,)), "[1,2,4]", "[3,2,4]"),
    (conv("NIw,OIw->NOw", strides=(3,), padding=((2, 0),), dilation=(2,), x_dilation=(2,)), "[2,2,6]", "[3,2,3]"),
    (conv(PLAIN, strides=(2, 1), padding=((1, 1), (0, 2)), dilation=(1, 2)), "[2,3,6,5]", "[4,3,3,2]"),
    (conv("NhwI,hwIO->NhwO", padding=((1, 1), (1, 1)), strides=(2, 2)), "[2,5,6,3]", "[3,3,3,2]"),
    (conv("INhw,whOI->OhNw", padding=((1, 0), (0, 1))), "[3,2,5,4]", "[2,3,2,3]"),
    (conv("NIdhw,OIdhw->NOdhw", strides=(1, 2, 1), padding=((0, 0), (1, 1), (0, 1))), "[1,2,3,4,3]", "[2,2,2,3,2]"),
    (conv(GROUPED, padding=((1, 1), (1, 1)), strides=(2, 1)), "[2,3,2,5,4]", "[3,2,2,3,3]"),
    (conv(GROUPED, dilation=(2, 1), x_dilation=(1, 2)), "[1,2,2,5,3]", "[2,3,2,2,3]"),
    (conv(DEPTHWISE, padding=((1, 1), (1, 1))), "[2,3,4,5]", "[3,3,3]"),
    (conv("NIhwJ,OIhwJP->NOhwP", padding=((1, 1), (0, 0))), "[1,2,4,3,3]", "[2,2,3,2,3,2]"),
    (conv("NI,OI->NO"), "[2,3]", "[4,3]"),
)


def pad_half(x: Value, w: Value) -> Value:
    """As the transpose of a strided convolution pads: by what depends on a size."""
    return Conv(x, w, "NIw,OIw->NOw", padding=((floordiv(x.shape[2] + 1, 2) - 2, 1 - floordiv(x.shape[2], 3)),))


def convolutions() -> list[Sample]:
    found = [row("conv", make, f"f32{x}", f"f32{w}", label=str(i)) for i, (make, x, w) in enumerate(CONVS)]
    found += [smooth("conv", make, f"f64{x}", f"f64{w}", label=str(i)) for i, (make, x, w) in enumerate(CONVS)]
    small = conv("NIw,OIw->NOw", strides=(2,), padding=((1, 1),))
    found.append(smooth("conv", small, "c128[1,2,5]", "c128[2,2,3]"))
    for dtype in ARITHMETIC:
        found.append(row("conv", small, f"{dtype}[1,2,5]", f"{dtype}[2,2,3]", label="dtype"))
        if dtype.name in ROUNDING:
            found.append(random("conv", small, f"{dtype}[1,9,5]", f"{dtype}[2,9,3]", dtype=dtype))
    found += [
        row("conv", conv("NIw,OIw->NOw", accumulate=i32), "u8[1,2,5]", "i8[2,2,3]", label="in i32"),
        row("conv", conv("NIw,OIw->NOw", accumulate=f32), "bf16[1,2,5]", "bf16[2,2,3]", label="in f32"),
        row("conv", conv("NIw,OIw->NOw"), "f32[0,2,5]", "f32[3,2,3]", label="no batch"),
        row("conv", conv("NIw,OIw->NOw"), "f32[2,0,5]", "f32[3,0,3]", label="no channels"),
        row("conv", conv("NIw,OIw->NOw"), "f32[1,2,2]", "f32[3,2,3]", label="no window fits"),
        row("conv", conv("NIw,OIw->NOw", padding=((2, 2),)), "f32[1,2,0]", "f32[3,2,3]", label="padding alone"),
        row(
            "conv",
            conv("NIw,OIw->NOw", strides=(2,), padding=((1, 1),)),
            "f32[B,2,W]",
            "f32[3,2,3]",
            label="symbolic",
            B=2,
            W=7,
        ),
        row("conv", pad_half, "f32[1,2,W]", "f32[3,2,3]", label="symbolic padding", W=7),
        row("conv", conv("NIw,OIw->NOw"), "f32[B,C,W]", "f32[4,C,3]", label="symbolic", B=1, C=2, W=5),
    ]
    return found


# (window, strides, padding, dilation, x_dilation) over one type each.
WINDOWS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("[7]", ((3,),)),
    ("[8]", ((3,), (2,))),
    ("[8]", ((2,), (3,), ((1, 1),))),
    ("[9]", ((3,), (1,), ((0, 0),), (3,))),
    ("[5]", ((3,), (1,), ((2, 1),), (1,), (2,))),
    ("[6]", ((3,), (3,), ((2, 0),), (1,), (2,))),
    ("[2,5,6,2]", ((1, 3, 2, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (0, 0), (0, 0)))),
    ("[2,2,5,4]", ((1, 1, 2, 2), (1, 1, 1, 2))),
    ("[3,4]", ((3, 4),)),
    ("[4]", ((2,), (1,), ((-1, 0),))),
    ("[]", ((),)),
)


def windows() -> list[Sample]:
    found: list[Sample] = []
    for way in ("sum", "max", "min", "prod"):
        for i, (shape, numbers) in enumerate(WINDOWS):

            def make(x: Value, way: str = way, numbers: tuple[object, ...] = numbers) -> Value:
                return ReduceWindow(x, way, *numbers)

            found.append(row("reduce_window", make, f"f32{shape}", label=f"{way} {i}"))
            made = around(make, f"f64{shape}")
            inputs = apart(f"f64{shape}") if way in ("max", "min") else random_inputs(f"f64{shape}")
            found.append(Sample("reduce_window", f"smooth {way} {i}", made, inputs, ulp=64.0, atol=1e-13, smooth=True))

        def pool(x: Value, way: str = way) -> Value:
            return ReduceWindow(x, way, (3,), (2,), ((1, 1),))

        accepted = NUMBERS if way in ("sum", "prod") else ORDERED
        found += [row("reduce_window", pool, f"{dtype}[7]", label=way) for dtype in accepted]
        found += [
            row("reduce_window", pool, "f32[W]", label=way, W=6),
            row("reduce_window", pool, "f32[0]", label=way),
            # Every other window falls between the elements.
            row(
                "reduce_window",
                lambda x, way=way: ReduceWindow(x, way, (2,), (3,), (), (2,), (2,)),
                "f32[6]",
                label=way,
            ),
        ]
    return found + choices()


def choices() -> list[Sample]:
    found: list[Sample] = []
    for i, (shape, numbers) in enumerate(WINDOWS):
        for largest in (True, False):

            def make(x: Value, largest: bool = largest, numbers: tuple[object, ...] = numbers) -> Value:
                return ArgWindow(x, largest, *numbers)

            found.append(row("arg_window", make, f"f32{shape}", label=f"{i} {largest}"))
        for op in ("take_window", "spread_window"):
            build = around(partial(_chosen, op, numbers), f"f64{shape}", f"f64{shape}")
            types = (f"f64{shape}", f"f64{shape}")
            found.append(Sample(op, f"{shape} {i}", build, tied(*types)))
            found.append(_smooth_choice(op, shape, numbers, str(i)))

    def pool(x: Value) -> Value:
        return ArgWindow(x, True, (3,), (2,), ((1, 1),))

    found += [row("arg_window", pool, f"{dtype}[7]") for dtype in ORDERED]
    for op in ("take_window", "spread_window"):
        for dtype in ARITHMETIC:
            types = ("f32[7]", f"{dtype}[7]")
            build = around(partial(_chosen, op, ((3,), (2,), ((1, 1),))), *types)
            found.append(Sample(op, f"of {dtype}", build, tied(*types)))
    found.append(row("arg_window", pool, "f32[W]", W=7))
    return found


def _chosen(op: str, numbers: tuple[object, ...], x: Value, t: Value) -> Value:
    """`t` read where x has its maxima, or the windows of `t` spread back there."""
    choice = ArgWindow(x, True, *numbers)
    taken = TakeWindow(t, choice, *numbers)
    return taken if op == "take_window" else SpreadWindow(taken, choice, t.shape, *numbers)


def _smooth_choice(op: str, shape: str, numbers: tuple[Any, ...], label: str) -> Sample:
    """Any offsets as choice, padding and the outside of the window among them: the op is linear whatever is chosen."""
    windows = ArgWindow(Parameter("x", kind(f"f64{shape}")), True, *numbers).tensor
    large, small = (f"f64[{','.join(map(str, v))}]" for v in (kind(f"f64{shape}").shape, windows.shape))

    def make(x: Value, choice: Value) -> Value:
        whole = kind(large).shape
        return TakeWindow(x, choice, *numbers) if op == "take_window" else SpreadWindow(x, choice, whole, *numbers)

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        (x,) = random_inputs(large if op == "take_window" else small)(rng)
        choice = rng.integers(-1, math.prod(numbers[0]) + 1, windows.shape)  # type: ignore[arg-type]
        return [x, choice.astype(np.int32)]

    types = (large if op == "take_window" else small, str(windows))
    return Sample(op, f"smooth {shape} {label}", around(make, *types), inputs, ulp=64.0, atol=1e-13, smooth=True)


def samples() -> list[Sample]:
    return [*dots(), *convolutions(), *windows()]
