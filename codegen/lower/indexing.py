"""Ops whose positions are data: gather, dynamic slices and searches as scalars at a position, scatter and dynamic
updates as nests.

A position worked out from data is made valid as a scalar, bound to a name, and stands in positions by that name; every
name counts as a number that is not negative, so nothing else may be bound. What an index outside does follows the
op's mode: `raise` notes a failure and goes on at a valid position, so that no load is ever outside. Where an axis may
have no elements there is no valid position, and the loads stand under the condition that it has some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from ...ir.dims import Dim, symbol
from ...ir.dtypes import DType, bool_, i32, i64, u64
from ...ir.loops.build import lit
from ...ir.loops.nodes import Binary, Cast, Const, Expr, If, Index, Let, Load, Select, Stmt, Store, Unary, While
from ...ir.ops.indexing import DynamicSlice, DynamicUpdate, Gather, Scatter, SearchSorted
from ...ir.structure import zero
from ...ir.value import Value
from .compose import Bound, Composer, Guard, Position, Rule, Steps, condition
from .structured import NestRule, Nests, looped

Block: TypeAlias = tuple[Stmt, ...]
_MODES: Final = ("raise", "clip", "wrap", "fill", "drop", "promised")
_GREATEST: Final = (1 << 63) - 1


class Places(NamedTuple):
    """Positions along the indexed axes. `inside` is whether all indices are meant to be (None: certainly), which for an
    axis of no elements none is; reads at the positions stand under `guard`."""

    at: tuple[Dim, ...]
    inside: Expr | None
    guard: Guard
    nowhere: bool = False


# --- positions from data ----------------------------------------------------------------------------------------------


def located(op: Gather | Scatter, raws: Sequence[Expr], at: Position, guard: Guard, cx: Composer) -> Places:
    """Where the indices `raws`, read at `at`, point to. Their failure is noted."""
    places: list[Dim] = []
    inside: Expr | None = None
    bounds: list[Bound] = []
    wrong: list[tuple[Expr, tuple[Expr, ...]]] = []
    for axis, index, raw in zip(op.axes, op.indices, raws, strict=True):
        n = op.x.shape[axis]
        bounds.append(Bound(0, 0, n))
        place, within, given = _remembered(index, raw, n, op.mode, at, guard, cx)
        places.append(place)
        inside = _both(inside, within)
        if within is not None and given is not None:
            wrong.append((within, (given, Const(axis, i64), _size(n, i64))))
    if op.mode == "raise" and inside is not None:
        cx.fail(op, Unary("not", inside), guard, *_first(wrong))
    # What is promised to be inside an axis says that the axis has elements.
    some = () if op.mode == "promised" else cx.open_bounds(bounds)
    if some is None:
        return Places(tuple(places), inside, guard, True)
    if some:
        inside = _both(inside, condition(some))
    return Places(tuple(places), inside, guard + some)


def _first(wrong: Sequence[tuple[Expr, tuple[Expr, ...]]]) -> tuple[Expr, ...]:
    """The index, axis and size of the first axis that is left, given that one is."""
    *others, (_, found) = wrong
    for within, told in reversed(others):
        found = tuple([Select(within, last, one) for last, one in zip(found, told)])
    return found


def _remembered(
    index: Value, raw: Expr, n: Dim, mode: str, at: Position, guard: Guard, cx: Composer
) -> tuple[Dim, Expr | None, Expr | None]:
    """The position of one index, whether it is inside, and as it was given; the same name for every op that asks for
    it.

    It is kept beside the scalars of the index itself, with the axis and the mode behind its position, which is longer
    than any position of the index.
    """
    key = (*at, n, _MODES.index(mode))
    known = cx.memo.get((id(index), (*key, 0), guard))
    if known is not None:
        assert isinstance(known, Index)
        inside, given = (cx.memo.get((id(index), (*key, which), guard)) for which in (1, 2))
        return known.dim, inside, given
    place, inside, given = _valid(raw, n, mode, cx)
    cx.memo[id(index), (*key, 0), guard] = Index(place)
    if inside is not None:
        cx.memo[id(index), (*key, 1), guard] = inside
    if given is not None:
        cx.memo[id(index), (*key, 2), guard] = given
    return place, inside, given


def _valid(raw: Expr, n: Dim, mode: str, cx: Composer) -> tuple[Dim, Expr | None, Expr | None]:
    """(position, whether the index is meant to be inside, what it was as an i64) of an index along an axis of `n`
    elements."""
    if mode == "wrap" and raw.dtype is u64:
        size: Expr = Const(n, u64) if type(n) is int and n > 0 else Binary("max", Cast(Index(n), u64), Const(1, u64))
        return _named(Cast(Binary("mod", raw, size), i64), n, cx), None, None
    dtype = _computed_in(raw.dtype, n)
    if raw.dtype is u64:
        # What i64 does not hold is outside every axis, and so is the greatest i64.
        raw = Binary("min", raw, Const(_GREATEST, u64))
    index = raw if raw.dtype is dtype else Cast(raw, dtype)
    size = _size(n, dtype)
    none = Const(0, dtype)
    match mode:
        case "promised":
            return _named(index, n, cx), None, None
        case "clip":
            last = Const(max(n - 1, 0), dtype) if type(n) is int else Index(n - 1)
            return _named(Binary("max", Binary("min", index, last), none), n, cx), None, None
        case "wrap":
            return _named(_modulo(index, n, dtype), n, cx), None, None
    index = cx.bind(index, "x")
    given = index if dtype is i64 else Cast(index, i64)
    if mode == "raise" and raw.dtype.is_signed:
        index = cx.bind(Select(Binary("lt", index, none), Binary("add", index, size), index), "x")
    inside = cx.bind(Binary("and", Binary("ge", index, none), Binary("lt", index, size)), "inside")
    return _named(Select(inside, index, none), n, cx), inside, given


def _computed_in(dtype: DType, n: Dim) -> DType:
    """i32 where that holds the index and the axis: twice the lanes of i64."""
    small = dtype.bits < 32 or dtype is i32
    return i32 if small and type(n) is int and n < 1 << 30 else i64


def _size(n: Dim, dtype: DType) -> Expr:
    return Const(n, dtype) if type(n) is int else Index(n)


def _modulo(index: Expr, n: Dim, dtype: DType) -> Expr:
    if type(n) is not int:
        return Binary("mod", index, Binary("max", Index(n), Const(1, dtype)))
    if n > 0 and n & (n - 1) == 0:
        return Binary("and", index, Const(n - 1, dtype))
    return Binary("mod", index, Const(max(n, 1), dtype))


def _named(index: Expr, n: Dim, cx: Composer) -> Dim:
    """The index as it may stand in a position."""
    if isinstance(index, Const):
        assert isinstance(index.value, int)
        return index.value
    name = cx.names.fresh("at")
    cx.out.append(Let(name, index))
    cx.ranges = {**cx.ranges, name: (0, n)}
    return symbol(name)


def _both(x: Expr | None, y: Expr | None) -> Expr | None:
    return y if x is None else x if y is None else Binary("and", x, y)


def placed(op: Gather | Scatter, at: Position, places: tuple[Dim, ...], rest: Position) -> Position:
    """The position in x: batch axes as they are, indexed axes from data, the rest along the slice."""
    along = dict(zip(op.axes, places, strict=True))
    whole = iter(rest)
    return tuple([at[i] if i < op.batch_rank else along[i] if i in along else next(whole) for i in range(op.x.rank)])


def _gather(op: Gather, position: Position, guard: Guard, cx: Composer) -> Steps:
    rank = op.indices[0].rank
    at, rest = position[:rank], position[rank:]
    raws: list[Expr] = []
    for index in op.indices:
        raws.append((yield (index, at, guard)))  # noqa: PERF401  # a comprehension cannot yield
    places = located(op, raws, at, guard, cx)
    nan = op.mode == "fill" and op.dtype.kind in ("float", "float8", "complex")
    fill = lit(float("nan"), op.dtype) if nan else Const(zero(op.dtype), op.dtype)
    if places.nowhere:
        return fill
    x = yield (op.x, placed(op, at, places.at, rest), places.guard)
    return Select(places.inside, x, fill) if places.inside is not None and op.mode != "raise" else x


# --- dynamic slices ---------------------------------------------------------------------------------------------------


def corner(op: DynamicSlice | DynamicUpdate, raws: Sequence[Expr], sizes: tuple[Dim, ...], cx: Composer) -> Position:
    """Where the block begins, moved inside. `raws` are the starts."""
    found: list[Dim] = []
    for start, raw, size, n in zip(op.starts, raws, sizes, op.x.shape, strict=True):
        room = n - size
        if room == 0:
            found.append(0)
            continue
        key = (id(start), (n, size), ())
        known = cx.memo.get(key)
        if known is None:
            known = cx.memo[key] = Index(_moved_inside(raw, room, cx))
        assert isinstance(known, Index)
        found.append(known.dim)
    return tuple(found)


def _moved_inside(raw: Expr, room: Dim, cx: Composer) -> Dim:
    if isinstance(raw, Const) and isinstance(raw.value, int):
        if raw.value <= 0:
            return 0
        if type(room) is int:
            return min(raw.value, room)
    if isinstance(raw, Index) and cx.decide(Bound(raw.dim, 0, room + 1)):
        return raw.dim
    return _named(Binary("max", Binary("min", raw, Index(room)), Const(0, i64)), room + 1, cx)


def _dynamic_slice(op: DynamicSlice, position: Position, guard: Guard, cx: Composer) -> Steps:
    raws: list[Expr] = []
    for start in op.starts:
        raws.append((yield (start, (), guard)))  # noqa: PERF401  # a comprehension cannot yield
    begin = corner(op, raws, op.sizes, cx)
    return (yield (op.x, tuple([cx.place(a + b) for a, b in zip(begin, position)]), guard))


# --- searching --------------------------------------------------------------------------------------------------------


def _search_sorted(op: SearchSorted, position: Position, guard: Guard, cx: Composer) -> Steps:
    """Halving what is left of the axis: of `left` elements from `low` on, the middle one is looked at."""
    n = op.sorted.shape[-1]
    batch = position[: op.sorted.rank - 1]
    wanted = cx.bind((yield (op.values, position, guard)))
    low, left = cx.variable("low", Const(0, i64)), cx.variable("left", Index(n))
    outside, memo = cx.out, dict(cx.memo)
    cx.out = []
    half = Binary("shr", left, Const(1, i64))
    step = cx.bind(half, "half")
    middle = cx.names.fresh("at")
    cx.out.append(Let(middle, Binary("add", low, step)))
    ranges = cx.ranges
    cx.ranges = {**ranges, middle: (0, n)}
    element = cx.bind((yield (op.sorted, (*batch, symbol(middle)), guard)))
    if op.side == "left":
        right_of = less(element, wanted)
    else:
        right_of = Unary("not", less(wanted, element))
    right_of = cx.bind(right_of, "right")
    after = Binary("add", Index(symbol(middle)), Const(1, i64))
    above = Binary("sub", Binary("sub", left, step), Const(1, i64))
    cx.out.append(Store(low.buffer, low.index, Select(right_of, after, low)))
    cx.out.append(Store(left.buffer, left.index, Select(right_of, above, step)))
    loop = While(tuple(cx.out), Binary("gt", left, Const(0, i64)))
    # What was bound inside the loop is not known behind it.
    cx.out, cx.memo, cx.ranges = outside, memo, ranges
    cx.out.append(If(Binary("gt", left, Const(0, i64)), (loop,)))
    return cx.bind(low)


def less(x: Expr, y: Expr) -> Expr:
    """x < y where NaN is above every number."""
    if x.dtype.kind != "float":
        return Binary("lt", x, y)
    return Binary("or", Binary("lt", x, y), Binary("and", Binary("ne", y, y), Binary("eq", x, x)))


# --- writing ----------------------------------------------------------------------------------------------------------


def combined(kind: str, old: Load, new: Expr) -> Expr:
    """What a scatter leaves where it finds `old`."""
    match kind:
        case "set":
            return new
        case "add":
            return Binary("or" if new.dtype is bool_ else "add", old, new)
        case "mul":
            return Binary("and" if new.dtype is bool_ else "mul", old, new)
    return Binary(kind, old, new)


def _copied_operand(op: Scatter | DynamicUpdate, nests: Nests) -> Block:
    variables = [nests.names.fresh("i") for _ in op.x.shape]
    position = tuple(map(symbol, variables))
    composer = nests.composer(op, dict(zip(variables, [(0, n) for n in op.x.shape])))
    value = composer.at(op.x, position)
    store = nests.place(op).store(position, value)
    return looped(variables, op.x.shape, (*composer.header, *composer.out, store))


def _scatter_nest(op: Scatter, nests: Nests) -> Block:
    """One update after the other, in row-major order."""
    (target,) = nests.rooms(op)
    begin = _copied_operand(op, nests)
    shape = op.updates.shape
    variables = [nests.names.fresh("i") for _ in shape]
    position = tuple(map(symbol, variables))
    composer = nests.composer(op, dict(zip(variables, [(0, n) for n in shape])))
    rank = op.indices[0].rank
    at, rest = position[:rank], position[rank:]
    places = located(op, [composer.at(index, at) for index in op.indices], at, (), composer)
    if places.nowhere:
        return (*begin, *looped(variables, shape, (*composer.header, *composer.out)))
    new = composer.bind(composer.at(op.updates, position))
    where = placed(op, at, places.at, rest)
    store: Stmt = target.store(where, combined(op.combine, target.load(where), new))
    if places.inside is not None:
        store = If(places.inside, (store,))
    return (*begin, *looped(variables, shape, (*composer.header, *composer.out, store)))


def _update_nest(op: DynamicUpdate, nests: Nests) -> Block:
    """The operand, then the block over it."""
    (target,) = nests.rooms(op)
    begin = _copied_operand(op, nests)
    shape = op.update.shape
    variables = [nests.names.fresh("i") for _ in shape]
    position = tuple(map(symbol, variables))
    composer = nests.composer(op, dict(zip(variables, [(0, n) for n in shape])))
    start = corner(op, [composer.at(start, ()) for start in op.starts], shape, composer)
    new = composer.at(op.update, position)
    store = target.store(tuple([a + b for a, b in zip(start, position)]), new)
    return (*begin, *looped(variables, shape, (*composer.header, *composer.out, store)))


RULES: Final[Mapping[type, Rule]] = {Gather: _gather, DynamicSlice: _dynamic_slice, SearchSorted: _search_sorted}
NESTS: Final[Mapping[type, NestRule]] = {Scatter: _scatter_nest, DynamicUpdate: _update_nest}
