"""The order of sorts, and their plain meaning: where an element goes is how many go before it.

Elements are compared key by key. NaN is above every number and equal to itself, and so are the two zeros to each other;
what is equal keeps its order, which is what makes the order total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from ...ir.dims import Dim, symbol
from ...ir.dtypes import i64
from ...ir.loops.build import loop
from ...ir.loops.nodes import Alloc, Binary, Const, Expr, If, Index, Let, Load, Stmt, Store, Unary, Var
from ...ir.ops.indexing import ArgSort, Sort, TopK
from .compose import Position
from .indexing import less
from .structured import NestRule, Nests, Place, looped

Block: TypeAlias = tuple[Stmt, ...]
Ordering: TypeAlias = Sort | ArgSort | TopK


def operands_of(op: Ordering) -> tuple[Any, ...]:
    """What is permuted; the first `keys_of` of them are compared."""
    return op.xs if isinstance(op, Sort) else (op.x,)


def keys_of(op: Ordering) -> int:
    return op.keys if isinstance(op, Sort) else 1


def descends(op: Ordering) -> bool:
    return op.largest if isinstance(op, TopK) else op.descending


def before(a: Sequence[Expr], b: Sequence[Expr], descending: bool) -> Expr:
    """Whether the keys `a` come before the keys `b` and are not equal to them. Keys are read once for each comparison,
    so they are names."""
    result: Expr | None = None
    for x, y in zip(reversed(a), reversed(b), strict=True):
        first, second = (less(y, x), less(x, y)) if descending else (less(x, y), less(y, x))
        result = first if result is None else Binary("or", first, Binary("and", Unary("not", second), result))
    assert result is not None
    return result


# --- the plain meaning ------------------------------------------------------------------------------------------------


def _sort_nest(op: Sort, nests: Nests) -> Block:
    targets = nests.rooms(op)
    return _ranked(op, nests, lambda i, rank, values: _stores(targets, op.axis, i, rank, values))


def _arg_sort_nest(op: ArgSort, nests: Nests) -> Block:
    targets = nests.rooms(op)
    return _ranked(op, nests, lambda i, rank, values: _stores(targets, op.axis, i, rank, (Index(i[op.axis]),)))


def _top_k_nest(op: TopK, nests: Nests) -> Block:
    targets = nests.rooms(op)

    def store(i: Position, rank: Var, values: Sequence[Expr]) -> Block:
        inside = _stores(targets, op.axis, i, rank, (values[0], Index(i[op.axis])))
        return (If(Binary("lt", rank, Index(op.k)), inside),)

    return _ranked(op, nests, store)


def _stores(targets: Sequence[Place], axis: int, i: Position, rank: Var, values: Sequence[Expr]) -> Block:
    where = (*i[:axis], symbol(rank.name), *i[axis + 1 :])
    return tuple([target.store(where, value) for target, value in zip(targets, values, strict=True)])


def _ranked(op: Ordering, nests: Nests, store: Any) -> Block:
    """Every element counts those before it."""
    xs = operands_of(op)
    shape: tuple[Dim, ...] = xs[0].shape
    n = shape[op.axis]
    variables = [nests.names.fresh("i") for _ in shape]
    i = tuple(map(symbol, variables))
    other = nests.names.fresh("j")
    j = (*i[: op.axis], symbol(other), *i[op.axis + 1 :])
    ranges: dict[str, tuple[Dim, Dim]] = {**dict(zip(variables, [(0, n) for n in shape])), other: (0, n)}
    mine = nests.composer(op, ranges)
    values = [mine.bind(mine.at(x, i)) for x in xs]
    theirs = nests.composer(op, ranges)
    others = [theirs.bind(theirs.at(x, j)) for x in xs[: keys_of(op)]]
    keys = values[: keys_of(op)]
    earlier = Binary("lt", Index(symbol(other)), Index(symbol(variables[op.axis])))
    tied = Binary("and", earlier, Unary("not", before(keys, others, descends(op))))
    counted = Binary("or", before(others, keys, descends(op)), tied)
    count = Alloc(nests.names.fresh("before"), i64, (), "registers")
    sofar = Load(count.name, (), i64)
    step = Store(count.name, (), Binary("add", sofar, Const(1, i64)))
    rank = Var(nests.names.fresh("rank"), i64)
    body: Block = (
        *mine.header,
        *mine.out,
        count,
        Store(count.name, (), Const(0, i64)),
        loop(other, n, (*theirs.header, *theirs.out, If(counted, (step,)))),
        Let(rank.name, sofar),
        *store(i, rank, values),
    )
    return looped(variables, shape, body)


NESTS: Final[Mapping[type, NestRule]] = {Sort: _sort_nest, ArgSort: _arg_sort_nest, TopK: _top_k_nest}
