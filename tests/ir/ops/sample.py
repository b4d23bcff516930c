"""One row of the op table: a graph around one op, inputs for it, and how far another implementation may be off.

Everything that is true of every op is tested over these rows: types, texts, the two meanings, derivatives, batching,
compiled code. A chapter adds rows in its own `table_*.py`; see `table.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dims import DimName
from treadle.ir.dims import parse as parse_dim
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph
from treadle.ir.types import TensorType
from treadle.ir.value import Parameter, Value

Inputs = Callable[[np.random.Generator], list[np.ndarray]]


@dataclass(frozen=True)
class Sample:
    """`build()` gives a graph whose first result is (a `Get` of) the op; `inputs(rng)` its arguments.

    `ulp` and `atol` bound the distance of any other implementation from the op's own `evaluate`, see `agree`.
    `smooth` rows have inputs of f64 or c128 near which the op is differentiable, so that differences tell its
    derivative. `sizes` are the values that the inputs give to symbolic sizes.
    """

    op: str
    label: str
    build: Callable[[], Graph]
    inputs: Inputs
    ulp: float = 0.0
    atol: float = 0.0
    smooth: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}: {self.label}"

    def arrays(self) -> list[np.ndarray]:
        """The inputs, the same in every run."""
        return self.inputs(np.random.default_rng(sum(map(ord, self.op + self.label))))


def kind(text: str) -> TensorType:
    """The type that `f32[B,4]` spells."""
    name, _, rest = text.partition("[")
    sizes = re.split(r",(?![^(]*\))", rest.removesuffix("]"))  # not at the commas of min(B, 3)
    return TensorType(tuple(parse_dim(size) for size in sizes if size), dtypes.named(name))


def around(make: Callable[..., Value], *types: str) -> Callable[[], Graph]:
    """A graph of the one op that `make` builds from parameters of these types."""

    def build() -> Graph:
        params = tuple(Parameter(f"x{i}", kind(text)) for i, text in enumerate(types))
        names = sorted({name for param in params for name in param.given.names()})
        return Graph("sample", params, (make(*params),), tuple(DimName(name) for name in names))

    return build


def at_sizes(text: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that the type spells at these sizes."""
    return tuple(int(size) for size in kind(text).substitute(dict(sizes)).shape)  # type: ignore[arg-type]


def draw(
    rng: np.random.Generator, dtype: DType, shape: Sequence[int], low: float = -2.0, high: float = 2.0
) -> np.ndarray:
    """Random numbers of a dtype: floats in [low, high), both parts of complex ones, small integers, coin tosses."""
    shape = tuple(shape)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0 if dtype.kind == "uint" else -9, 10, shape).astype(dtype.numpy)
    if dtype.kind == "complex":
        return (rng.uniform(low, high, shape) + 1j * rng.uniform(low, high, shape)).astype(dtype.numpy)
    return rng.uniform(low, high, shape).astype(dtype.numpy)


def random_inputs(*types: str, low: float = -2.0, high: float = 2.0, sizes: Mapping[str, int] | None = None) -> Inputs:
    """Inputs drawn for these types."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        return [draw(rng, kind(text).dtype, at_sizes(text, sizes or {}), low, high) for text in types]

    return inputs


# Digits after the binary point, and the least normal exponent.
_FORMATS = {
    "f16": (10, -14),
    "bf16": (7, -126),
    "f32": (23, -126),
    "f64": (52, -1022),
    "c64": (23, -126),
    "c128": (52, -1022),
    "f8e4m3fn": (3, -6),
    "f8e5m2": (2, -14),
    "f8e4m3fnuz": (3, -7),
    "f8e5m2fnuz": (2, -15),
    "f8e4m3b11fnuz": (3, -10),
}


def last_place(size: np.ndarray, dtype: DType) -> np.ndarray:
    """The distance of neighbouring numbers of `dtype` around `size`."""
    digits, least = _FORMATS[dtype.name]
    _, exponent = np.frexp(np.where(np.isfinite(size), size, 0.0))
    return np.ldexp(1.0, np.maximum(exponent - 1, least) - digits)


def agree(got: np.ndarray, want: np.ndarray, ulp: float = 0.0, atol: float = 0.0, about: object = "") -> None:
    """Assert that both are the same array: type, shape, and every element. NaN is NaN, and zeros have their sign;
    with `ulp` finite elements may be so many last places of the wanted value apart, or `atol` (complex: of its
    modulus)."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, f"{about}: {got.dtype} instead of {want.dtype}"
    assert got.shape == want.shape, f"{about}: shape {got.shape} instead of {want.shape}"
    dtype = dtypes.of(want.dtype)
    with np.errstate(all="ignore"):
        if dtype.kind in ("bool", "int", "uint"):
            right = got == want
        elif dtype.kind == "complex":
            a, b = got.astype(np.complex128), want.astype(np.complex128)
            slack = ulp * last_place(np.abs(b), dtype) + atol
            right = (np.abs(a - b) <= slack) | (_same(a.real, b.real) & _same(a.imag, b.imag))
            right |= np.isnan(a) & np.isnan(b)
        else:
            a, b = got.astype(np.float64), want.astype(np.float64)
            right = _same(a, b) & ((a != 0) | (b != 0) | (np.signbit(a) == np.signbit(b)))
            if ulp or atol:
                slack = ulp * last_place(np.abs(b), dtype) + atol
                right |= (np.abs(a - b) <= slack) & ((a != 0) | (b != 0))
    if not np.all(right):
        place = tuple(int(i[0]) for i in np.nonzero(~np.asarray(right)))
        count = int(np.size(right) - np.count_nonzero(right))
        raise AssertionError(
            f"{about}: {count} of {np.size(right)} differ, at {place}: {got[place]!r} instead of {want[place]!r}"
        )


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))
