"""Rows of the composites: every float dtype, axes anywhere, none and one element, infinities and NaN, large offsets
(where one pass or no subtraction would lose all digits), symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sample import Inputs, Sample, around, at_sizes, draw, kind, random_inputs

from treadle.ir.dims import parse as size
from treadle.ir.dtypes import FLOATS, REALS
from treadle.ir.ops.composite import (
    Attention,
    BatchNorm,
    Gelu,
    GroupNorm,
    LayerNorm,
    LogSoftmax,
    LogSumExp,
    Relu,
    RmsNorm,
    Silu,
    Softmax,
    Variance,
)
from treadle.ir.value import Value

Make = Callable[..., Value]

# What other implementations in the dtype (f32 for half floats) may be off: sums in another order and a few roundings.
ULP = {"f16": 1.0, "bf16": 1.0, "f32": 32.0, "f64": 64.0}
ATOL = {"f16": 1e-6, "bf16": 1e-6, "f32": 2e-6, "f64": 5e-15}


def row(op: str, make: Make, *types: str, label: str = "", inputs: Inputs | None = None, **sizes: int) -> Sample:
    shown = f"{' '.join(types)} {label}".strip()
    dtype = kind(types[0]).dtype.name
    given = inputs or random_inputs(*types, sizes=sizes)
    return Sample(op, shown, around(make, *types), given, ULP.get(dtype, 0.0), ATOL.get(dtype, 0.0), sizes=sizes)


def smooth(op: str, make: Make, *types: str, label: str = "", inputs: Inputs | None = None) -> Sample:
    shown = f"smooth {' '.join(types)} {label}".strip()
    return Sample(op, shown, around(make, *types), inputs or random_inputs(*types), 64.0, 1e-14, smooth=True)


def special(text: str) -> Inputs:
    """A row each with NaN, with inf, with -inf, of -inf alone, of large and of tiny numbers, of both zeros."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        x = draw(rng, kind(text).dtype, at_sizes(text, {})).astype(np.float64)
        big = float(np.finfo(np.float16).max if kind(text).dtype.name == "f16" else 1e30)
        x[0, 1], x[1, 1], x[2, 1] = np.nan, np.inf, -np.inf
        x[3, :], x[4, :], x[5, :] = -np.inf, -big, 1e-7
        x[6, ::2], x[6, 1::2] = 0.0, -0.0
        x[7, :] = np.linspace(-big, big, x.shape[1])
        return [x.astype(kind(text).dtype.numpy)]

    return inputs


def along_an_axis() -> list[Sample]:
    found: list[Sample] = []
    for op in (Softmax, LogSoftmax):

        def make(axis: int, op: Callable[..., Value] = op) -> Make:
            return lambda x: op(x, axis)

        name = op.name
        for dtype in FLOATS:
            found += [
                row(name, make(-1), f"{dtype}[3,7]"),
                row(name, make(1), f"{dtype}[8,6]", label="special", inputs=special(f"{dtype}[8,6]")),
            ]
        found += [
            row(name, make(0), "f32[5]"),
            row(name, make(0), "f32[4,3]", label="down"),
            row(name, make(1), "f32[2,5,3]", label="between"),
            row(name, make(1), "f32[3,1]", label="of one"),
            row(name, make(1), "f32[3,0]", label="of none"),
            row(name, make(0), "f32[3,0]", label="none of them"),
            row(name, make(-1), "f32[B,2*T]", label="symbolic", B=3, T=2),
            smooth(name, make(1), "f64[3,4]"),
            smooth(name, make(0), "f64[4,2]"),
        ]
    return found


def over_axes() -> list[Sample]:
    found: list[Sample] = []
    for op in (LogSumExp, Variance):

        def make(*axes: int, op: Callable[..., Value] = op) -> Make:
            return lambda x: op(x, axes)

        name = op.name
        found += [row(name, make(1), f"{dtype}[3,7]") for dtype in FLOATS]
        found += [
            row(name, make(0, 2), "f32[3,2,4]", label="two axes"),
            row(name, make(), "f32[3]", label="over no axis"),
            row(name, make(0), "f32[1,4]", label="of one"),
            row(name, make(1), "f32[3,0]", label="of none"),
            row(name, make(0), "f32[3,0]", label="none of them"),
            row(name, make(0, 1), "f32[B,T]", label="all, symbolic", B=3, T=2),
            smooth(name, make(1), "f64[3,4]"),
            smooth(name, make(0, 1), "f64[3,4]", label="all"),
        ]
    for dtype in FLOATS:
        text = f"{dtype}[8,6]"
        found.append(row(LogSumExp.name, lambda x: LogSumExp(x, (1,)), text, label="special", inputs=special(text)))
    far = random_inputs("f64[3,50]", low=1e6, high=1e6 + 1)
    found += [
        row(Variance.name, lambda x: Variance(x, (1,), 1), "f32[3,7]", label="corrected"),
        row(Variance.name, lambda x: Variance(x, (1,), 1), "f32[3,1]", label="corrected to none"),
        row(Variance.name, lambda x: Variance(x, (0,), 1), "f32[B,3]", label="corrected, symbolic", B=4),
        Sample(Variance.name, "far from 0", around(lambda x: Variance(x, (1,)), "f64[3,50]"), far, 64.0, 1e-9),
        smooth(Variance.name, lambda x: Variance(x, (0,), 1), "f64[4,3]", label="corrected"),
    ]
    return found


# Where erfc, logistic and their products leave their range, and the ends of all dtypes.
EDGES = (0.0, -0.0, 0.5, -0.5, 3.0, -3.0, -5.5, -9.0, 12.0, -14.0, -38.0, 90.0, -90.0, -700.0, 6e4, -6e4, 3e38, -3e38)


def edges(text: str) -> Inputs:
    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        with np.errstate(over="ignore"):
            x = np.array([*EDGES, np.inf, -np.inf, np.nan, *rng.uniform(-6, 6, 19)])
            return [x.astype(kind(text).dtype.numpy)]

    return inputs


def activations() -> list[Sample]:
    found: list[Sample] = []
    makes: tuple[tuple[str, str, Make], ...] = (
        (Gelu.name, "", Gelu),
        (Gelu.name, "approximate", lambda x: Gelu(x, True)),
        (Silu.name, "", Silu),
        (Relu.name, "", Relu),
    )
    for name, label, make in makes:
        found += [
            row(name, make, f"{dtype}[40]", label=f"{label} edges", inputs=edges(f"{dtype}[40]")) for dtype in FLOATS
        ]
        found += [
            row(name, make, "f32[B,3]", label=f"{label} symbolic", B=2),
            row(name, make, "f32[]", label=label),
            smooth(name, make, "f64[3,4]", label=label),
            smooth(name, make, "f64[20]", label=f"{label} wide", inputs=random_inputs("f64[20]", low=-9.0, high=9.0)),
        ]
    found += [row(Relu.name, Relu, f"{dtype}[3,4]", label="whole") for dtype in REALS if dtype.is_integer]
    return found


def normalizations() -> list[Sample]:
    def layer(x, scale, shift):
        return LayerNorm(x, scale, shift, (-1,), 1e-5)

    def pair(x, scale, shift):
        return LayerNorm(x, scale, shift, (1, 2), 1e-3)

    def rms(x, scale):
        return RmsNorm(x, scale, (-1,), 1e-6)

    def batch(x, mean, var, scale, shift):
        return BatchNorm(x, mean, var, scale, shift, 1, 1e-5)

    def group(x, scale, shift):
        return GroupNorm(x, scale, shift, 2, 1, (2, 3), 1e-5)

    def last(x, scale, shift):
        return GroupNorm(x, scale, shift, 3, -1, (1,), 1e-5)

    def positive(*types: str, **sizes: int) -> Inputs:
        """The third operand is a variance."""

        def inputs(rng: np.random.Generator) -> list[np.ndarray]:
            found = random_inputs(*types, sizes=sizes)(rng)
            found[2] = np.abs(found[2]) + found[2].dtype.type(0.1)
            return found

        return inputs

    found: list[Sample] = []
    for dtype in FLOATS:
        d = dtype.name
        channels = (f"{d}[2,4,3]", *[f"{d}[4]"] * 4)
        found += [
            row(LayerNorm.name, layer, f"{d}[3,8]", f"{d}[8]", f"{d}[8]"),
            row(RmsNorm.name, rms, f"{d}[3,8]", f"{d}[8]"),
            row(BatchNorm.name, batch, *channels, inputs=positive(*channels)),
            row(GroupNorm.name, group, f"{d}[2,4,3,2]", f"{d}[4]", f"{d}[4]"),
        ]
    symbolic = ("f32[B,4,H]", *["f32[4]"] * 4)
    exact = ("f64[2,4,3]", *["f64[4]"] * 4)
    found += [
        row(LayerNorm.name, pair, "f32[2,3,4]", "f32[3,4]", "f32[3,4]", label="two axes"),
        row(LayerNorm.name, layer, "f32[B,2*T]", "f32[2*T]", "f32[2*T]", label="symbolic", B=3, T=4),
        row(LayerNorm.name, layer, "f32[3,1]", "f32[1]", "f32[1]", label="of one"),
        row(LayerNorm.name, layer, "f32[0,3]", "f32[3]", "f32[3]", label="no rows"),
        row(LayerNorm.name, layer, "f32[3,0]", "f32[0]", "f32[0]", label="of none"),
        row(RmsNorm.name, rms, "f32[2,B,D]", "f32[D]", label="symbolic", B=3, D=5),
        row(BatchNorm.name, batch, *symbolic, inputs=positive(*symbolic, B=2, H=3), label="symbolic", B=2, H=3),
        row(GroupNorm.name, group, "f32[B,2*C,3,2]", "f32[2*C]", "f32[2*C]", label="symbolic", B=2, C=3),
        row(GroupNorm.name, last, "f32[2,4,6]", "f32[6]", "f32[6]", label="channels last"),
        smooth(LayerNorm.name, layer, "f64[3,4]", "f64[4]", "f64[4]"),
        smooth(LayerNorm.name, pair, "f64[2,3,2]", "f64[3,2]", "f64[3,2]"),
        smooth(RmsNorm.name, rms, "f64[3,4]", "f64[4]"),
        smooth(BatchNorm.name, batch, *exact, inputs=positive(*exact)),
        smooth(GroupNorm.name, group, "f64[2,4,2,2]", "f64[4]", "f64[4]"),
    ]
    return found


def masks(text: str, rng: np.random.Generator, sizes: dict[str, int]) -> np.ndarray:
    """A mask whose second row lets nothing through."""
    mask = draw(rng, kind(text).dtype, at_sizes(text, sizes))
    if mask.ndim and len(mask) > 1:
        mask[1] = False if mask.dtype == np.bool_ else -np.inf
    return mask


def attentions() -> list[Sample]:
    name = Attention.name

    def make(
        masked: tuple[int, ...] | None = None, causal: bool = False, offset: str = "0", scale: float = 0.5
    ) -> Make:
        return lambda q, k, v, *mask: Attention(q, k, v, mask, scale, causal, size(offset), masked or ())

    def with_mask(*types: str, **sizes: int) -> Inputs:
        def inputs(rng: np.random.Generator) -> list[np.ndarray]:
            return [*random_inputs(*types[:3], sizes=sizes)(rng), masks(types[3], rng, sizes)]

        return inputs

    found = [row(name, make(), f"{d}[2,3,4]", f"{d}[2,5,4]", f"{d}[2,5,6]") for d in FLOATS]
    two = ("f32[2,3,4]", "f32[2,5,4]", "f32[2,5,6]")
    grouped = ("f32[2,3,4,5]", "f32[2,6,5]", "f32[2,6,3]")
    symbolic = ("f32[B,T,4]", "f32[B,S,4]", "f32[B,S,3]")
    for types, label, maker, sizes in (
        (("f32[3,4]", "f32[5,4]", "f32[5,6]"), "alone", make(), {}),
        (two, "causal", make(None, True), {}),
        (two, "causal at the end", make(None, True, "2"), {}),
        (two, "nothing for the first", make(None, True, "-1"), {}),
        (grouped, "grouped, causal", make(None, True), {}),
        (symbolic, "causal, symbolic", make(None, True, "S - T"), {"B": 2, "T": 3, "S": 5}),
        (("f32[2,3,4]", "f32[2,0,4]", "f32[2,0,6]"), "no keys", make(), {}),
        (("f32[2,0,4]", "f32[2,5,4]", "f32[2,5,6]"), "no queries", make(), {}),
    ):
        found.append(row(name, maker, *types, label=label, **sizes))
    for mask, axes in (("bool[3,5]", (1, 2)), ("f32[3,5]", (1, 2)), ("bool[2,5]", (0, 2)), ("f32[2,3,5]", (0, 1, 2))):
        found.append(row(name, make(axes), *two, mask, inputs=with_mask(*two, mask)))
    halves = ("bf16[2,3,4]", "bf16[2,5,4]", "bf16[2,5,6]", "bf16[3,5]")
    both = (*grouped, "bool[3,6]")
    found += [
        row(name, make((1, 2)), *halves, inputs=with_mask(*halves)),
        row(name, make((1, 3), True), *both, inputs=with_mask(*both), label="causal"),
        row(name, make((1, 2)), *symbolic, "bool[T,S]", inputs=with_mask(*symbolic, "bool[T,S]", B=2, T=3, S=5),
            B=2, T=3, S=5),
        smooth(name, make(), "f64[3,4]", "f64[5,4]", "f64[5,2]"),
        smooth(name, make(None, True), "f64[2,2,3,4]", "f64[2,5,4]", "f64[2,5,2]", label="grouped, causal"),
        smooth(name, make((0, 1)), "f64[3,4]", "f64[5,4]", "f64[5,2]", "f64[3,5]"),
        smooth(name, make((0, 1)), "f64[3,4]", "f64[5,4]", "f64[5,2]", "bool[3,5]",
               inputs=with_mask("f64[3,4]", "f64[5,4]", "f64[5,2]", "bool[3,5]")),
    ]  # fmt: skip
    return found


def samples() -> list[Sample]:
    return [*along_an_axis(), *over_axes(), *activations(), *normalizations(), *attentions()]
