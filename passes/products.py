"""Products with one vector become sums of products, which read the matrix once as it lies.

A matrix product earns its speed by reading what it has packed again for every row of the other operand. Against a
single vector nothing is read again, so packing is all cost: the matrix is only to be read at the speed of memory, and
that is what reductions do. Their sums are trees of short chains, and so rounded less often than the product's, which
are one chain. Nothing happens to products of short floats and integers, whose sums are of another type than their
products, to outer products, and to matrices in the caches whose last axis is not contracted, along which lanes run.
"""

from __future__ import annotations

from ..ir.classes import dataclass
from ..ir.dims import product
from ..ir.dtypes import f32, f64
from ..ir.graph import Graph
from ..ir.ops.contract import Dot, moved
from ..ir.ops.movement import Broadcast, Reshape, Transpose
from ..ir.ops.reduce import Sum
from ..ir.value import Mul, Value
from .manager import Context, graph_pass
from .rewrite import rewrite


@dataclass(frozen=True)
class ProductOptions:
    """From how many elements of the matrix on, where its last axis is not contracted: a product can read it as it lies,
    too, and is slower only beyond the caches."""

    across: int = 1 << 17


@graph_pass(options=ProductOptions())
def products(graph: Graph, cx: Context, options: ProductOptions) -> Graph:
    """Write products with one vector as sums."""

    def rule(value: Value) -> Value | None:
        return as_sum(value, options) if isinstance(value, Dot) else None

    return rewrite(graph, rule)


def as_sum(dot: Dot, options: ProductOptions) -> Value | None:
    """The sum that a product with a vector is, where that is better."""
    x, y = dot.x, dot.y
    if dot.dtype not in (f32, f64) or x.dtype is not dot.dtype or y.dtype is not dot.dtype or not dot.x_contract:
        return None
    sides = (
        (x, dot.x_batch, dot.x_contract, dot.x_free),
        (y, dot.y_batch, dot.y_contract, dot.y_free),
    )
    for (matrix, batch, contract, free), (vector, v_batch, v_contract, v_free) in (sides, sides[::-1]):
        if any(vector.shape[axis] != 1 for axis in v_free):
            continue
        order = tuple(range(matrix.rank))
        if isinstance(matrix, Transpose):
            order, matrix = matrix.permutation, matrix.x
        # By axes of the matrix as it lies.
        batch, contract, free = (tuple([order[axis] for axis in axes]) for axes in (batch, contract, free))
        elements = product(matrix.shape)
        if matrix.rank - 1 not in contract and type(elements) is int and elements < options.across:
            return None
        partners = dict(zip((*batch, *contract), (*v_batch, *v_contract), strict=True))
        total: Value = Sum(Mul(matrix, spread(vector, partners, matrix)), contract)
        wanted = (*batch, *free)
        total = moved(total, [wanted.index(axis) for axis in range(matrix.rank) if axis not in contract])
        return total if total.shape == dot.shape else Reshape(total, dot.shape)
    return None


def spread(vector: Value, partners: dict[int, int], matrix: Value) -> Value:
    """The vector over the matrix: its axis `partners[i]` along axis i; its others have one element."""
    axes = sorted(partners)
    picked = [partners[axis] for axis in axes]
    ones = [axis for axis in range(vector.rank) if axis not in picked]
    if picked != sorted(picked):
        vector = Transpose(vector, (*picked, *ones))
    if ones:
        vector = Reshape(vector, tuple([matrix.shape[axis] for axis in axes]))
    return vector if len(axes) == matrix.rank else Broadcast(vector, matrix.shape, tuple(axes))
