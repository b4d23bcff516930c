"""The two types a value can have: a tensor of known rank, or a tuple of types (what multi-result ops yield)."""

from __future__ import annotations

from .classes import dataclass
from .dims import Dim, names, product, show, substitute
from .dtypes import DType

Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """`f32[B,784]`: an element type and one size per axis, each an int or a polynomial over names."""

    shape: Shape
    dtype: DType

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        return product((*self.shape, self.dtype.bytes))

    @property
    def is_static(self) -> bool:
        return all(type(dim) is int for dim in self.shape)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({name for dim in self.shape for name in names(dim)}))

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def substitute(self, values: dict[str, Dim]) -> TensorType:
        return TensorType(tuple(substitute(dim, values) for dim in self.shape), self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(show(dim) for dim in self.shape)}]"


@dataclass(frozen=True, slots=True)
class TupleType:
    """`(f32[4], i64[])`: the type of an op with several results."""

    elements: tuple[TensorType, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.elements))})"


Type = TensorType | TupleType
