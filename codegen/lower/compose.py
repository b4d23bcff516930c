"""From values to scalars: what a group's value is at a position, written with the group's inputs alone.

This is how maps fuse. A value is asked for at a position; its op says at which positions it needs its operands, and so
on down to the buffers, so that no intermediate array exists. Sharing is kept by `Let`: a value that several ops read is
bound once per position. Padding and concatenation read outside their operands on purpose; the condition under which a
position is inside (a `Guard`) goes down to the loads, which are the only thing that may not be done outside. Where the
ranges of the loops decide a condition it disappears; what they do not decide is remembered in `undecided`, so that a
generator may cut its loops there and ask again.

An op whose structure says less than that, because its positions are data, has a rule in its own chapter of this room;
see `lower/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from ...ir.classes import dataclass
from ...ir.dims import Dim, DimName, SymbolicDim, exact_div, floordiv, symbol
from ...ir.dims import mod as dim_mod
from ...ir.dims import substitute as substitute_dim
from ...ir.errors import CheckFailed, Unsupported
from ...ir.graph import failing
from ...ir.loops.affine import NO_LOOPS, Ranges, linearize, simplify, within
from ...ir.loops.build import Names, lit, substitute_expr
from ...ir.loops.nodes import (
    Alloc,
    Binary,
    Const,
    Expr,
    Fail,
    If,
    Index,
    Let,
    Load,
    Param,
    Select,
    Stmt,
    Store,
    Table,
    Var,
    While,
)
from ...ir.ops.elementwise import Pow, convert
from ...ir.ops.families import Movement
from ...ir.ops.movement import Concatenate, Iota, Pad
from ...ir.program import KernelDef
from ...ir.structure import Read, Structure, zero
from ...ir.value import After, Constant, DimSize, Elementwise, Full, Mul, Parameter, Value

Position: TypeAlias = tuple[Dim, ...]


class Bound(NamedTuple):
    """low <= dim < high, and dim is a multiple of `divisor`."""

    dim: Dim
    low: Dim
    high: Dim
    divisor: int = 1


Guard: TypeAlias = tuple[Bound, ...]
Demand: TypeAlias = tuple[Value, Position, Guard]
Steps: TypeAlias = Generator[Demand, Expr, Expr]
Rule: TypeAlias = Callable[[Any, Position, Guard, "Composer"], Steps]
# What is known about a value at a position; None where this leaf does not know.
Leaf: TypeAlias = Callable[[Position, Guard], Expr | None]

# A constant of up to so many bytes becomes a table inside the kernel's code; a larger one is an operand.
MOST_TABLE_BYTES: Final = 64 << 10
DEEPEST: Final = 12  # ops inside each other in one expression; walks over expressions are recursive
_ATOMIC = (Var, Const, Index)
NO_RULES: Final[Mapping[type, Rule]] = {}


def in_code(constant: Constant) -> bool:
    """Whether code can hold the constant: as one literal, or in a table, which holds neither pairs nor fp8."""
    small = constant.data.nbytes <= MOST_TABLE_BYTES
    return is_one_number(constant.data) or (small and constant.dtype.kind not in ("complex", "float8"))


def is_one_number(data: np.ndarray[Any, Any]) -> bool:
    """Whether all elements, at least one, are the same bits."""
    return bool(data.size) and (data.size == 1 or bool(np.all(_bits(data) == _bits(data)[0])))


class Source:
    """A kernel's graph and what all its nests share: buffers, names, readers, local failure sites, tables.

    Buffers are one-dimensional: the elements of a value in row-major order. That is what the native function is given,
    and it leaves index arithmetic to where it can be simplified.
    """

    def __init__(self, definition: KernelDef) -> None:
        graph = definition.graph
        self.definition = definition
        self.graph = graph
        self.known: dict[str, DimName] = {dim.name: dim for dim in graph.dims}
        self.dims = tuple([dim.name for dim in graph.dims])
        for given in graph.params:
            for name in given.given.names():
                if name not in self.known:
                    raise CheckFailed(f"{definition.name}: the size {name} is not declared", code="TD0436")
        self.names = Names(self.dims)
        updates = dict(definition.updates)
        updated = {param: result for result, param in definition.updates}
        self.params: list[Param] = []
        self.buffer_of: dict[int, Param] = {}
        for number, given in enumerate(graph.params):
            name = self.names.fresh(f"p{number}")
            param = Param(name, given.dtype, (given.tensor.size,), "inout" if number in updated else "in")
            self.params.append(param)
            self.buffer_of[id(given)] = param
        self.outs: list[Param] = []
        for number, value in enumerate(graph.results):
            if number in updates:
                self.outs.append(self.params[updates[number]])
                continue
            name = self.names.fresh(f"o{len(self.params) - len(graph.params)}")
            out = Param(name, value.dtype, (value.tensor.size,), "out")
            self.params.append(out)
            self.outs.append(out)
        self.tables: dict[int, Table] = {}
        self.readers: dict[int, int] = {}
        for value in graph.order:
            for operand in value.operands:
                self.readers[id(operand)] = self.readers.get(id(operand), 0) + 1
        self.sites = {id(value): number for number, value in enumerate(failing(graph), 1)}

    def param(self, name: str) -> Param:
        return next(param for param in self.params if param.name == name)

    def table(self, constant: Constant) -> Table:
        """The constant as numbers inside the code."""
        found = self.tables.get(id(constant))
        if found is None:
            if not in_code(constant):
                raise Unsupported(
                    f"a constant of type {constant.type} inside a kernel",
                    code="TD0431",
                    location=constant.location,
                    edit="pass it as an operand of the group",
                )
            values = tuple([lit(x, constant.dtype).value for x in constant.data.reshape(-1)])
            found = Table(self.names.fresh("c"), constant.dtype, values)  # type: ignore[arg-type]
            self.tables[id(constant)] = found
        return found


@dataclass(frozen=True)
class Lanes:
    """The vector loop that a composed body will stand in: its variable, which counts from 0, and its width."""

    var: str
    count: int


class Composer:
    """Scalars of a graph's values at positions. Lets and failures are appended to `out`, allocations to `header`, which
    belongs in front of the vector loop."""

    def __init__(
        self,
        source: Source,
        leaves: Mapping[int, Leaf] | None = None,
        ranges: Ranges = NO_LOOPS,
        lanes: Lanes | None = None,
        rules: Mapping[type, Rule] = NO_RULES,
    ) -> None:
        self.source = source
        self.names = source.names
        self.leaves = dict(leaves or {})
        self.ranges = ranges
        self.lanes = lanes
        self.rules = rules
        self.out: list[Stmt] = []
        self.header: list[Stmt] = []
        self.undecided: dict[Bound, None] = {}
        self.has_variables = False
        self.depths: dict[int, int] = {}
        self.memo: dict[tuple[int, Position, Guard], Expr] = {}
        self.offsets: dict[tuple[Position, tuple[Dim, ...]], Dim] = {}

    def at(self, value: Value, position: Position, guard: Guard = ()) -> Expr:
        """The scalar that `value` is at `position`. Iterative: chains may be longer than Python's stack."""
        found = self.memo.get((id(value), position, guard))
        if found is not None:
            return found
        return self.keep(value, position, guard, self.run(self.steps(value, position, guard)))

    def run(self, first: Steps) -> Expr:
        """What a rule comes to, its demands met one inside the other."""
        stack: list[tuple[Demand | None, Steps]] = [(None, first)]
        answer: Expr | None = None
        while True:
            demand, steps = stack[-1]
            try:
                wanted = steps.send(answer)  # type: ignore[arg-type]  # the first answer is None, as generators want
            except StopIteration as done:
                stack.pop()
                if demand is None:
                    found: Expr = done.value
                    return found
                answer = self.keep(*demand, done.value)
                continue
            answer = self.memo.get((id(wanted[0]), wanted[1], wanted[2]))
            if answer is None:
                stack.append((wanted, self.steps(*wanted)))

    def keep(self, value: Value, position: Position, guard: Guard, expr: Expr) -> Expr:
        depth = 1 + max([self.depths.get(id(operand), 0) for operand in value.operands], default=0)
        # A product stays in place, where it may become part of a multiply-add.
        if self.source.readers.get(id(value), 0) > 1 or (depth > DEEPEST and not isinstance(value, Mul)):
            expr = self.bind(expr)
            depth = 0
        self.depths[id(value)] = depth
        self.memo[id(value), position, guard] = expr
        return expr

    def bind(self, expr: Expr, name: str = "v") -> Expr:
        """`expr` by a name, unless it is as short as one."""
        if isinstance(expr, _ATOMIC):
            return expr
        bound = self.names.fresh(name)
        self.out.append(Let(bound, expr))
        return Var(bound, expr.dtype)

    def steps(self, value: Value, position: Position, guard: Guard) -> Steps:
        leaf = self.leaves.get(id(value))
        known = None if leaf is None else leaf(position, guard)
        if known is not None:
            return _done(known)
        kind = type(value)
        for cls, rule in self.rules.items():
            if issubclass(kind, cls):
                return rule(value, position, guard, self)
        if isinstance(value, Elementwise):
            if isinstance(value, Pow) and value.dtype.is_integer:
                return _integer_power(value, position, guard, self)
            return _map(value, position, guard, self)
        if isinstance(value, Parameter):
            return _done(self.read(self.source.buffer_of[id(value)], value.shape, position, guard))
        if isinstance(value, Full):
            return _done(Const(value.value, value.dtype))
        if isinstance(value, Pad):
            return _pad(value, position, guard, self)
        if isinstance(value, Movement):
            return _movement(value, position, guard, self)
        if isinstance(value, Concatenate):
            return _concatenate(value, position, guard, self)
        if isinstance(value, Constant):
            return _done(self.constant(value, position, guard))
        if isinstance(value, After):
            return _after(value, position, guard, self)
        if isinstance(value, DimSize):
            return _done(Index(value.dim))
        if isinstance(value, Iota):
            return _done(convert(Index(position[value.axis]), value.dtype))
        structure = value.structure()
        if structure is None or structure.combine is not None:
            raise Unsupported(f"{value.name} cannot be computed inside a map", code="TD0432", location=value.location)
        return _structured(value, structure, position, guard, self)

    # Leaves.

    def read(
        self, buffer: Param | Table | Alloc, shape: tuple[Dim, ...], position: Position, guard: Guard, base: Dim = 0
    ) -> Expr:
        """An element of a buffer that holds a value of `shape` from `base` on; anything where the guard is false."""
        index = (base + self.offset(position, shape),)
        if not guard:
            loaded: Expr = Load(buffer.name, index, buffer.dtype)
            return self.bind(loaded) if isinstance(buffer, Param) and buffer.role == "inout" else loaded
        kept = self.variable("g", Const(zero(buffer.dtype), buffer.dtype))
        inside = Store(kept.buffer, kept.index, Load(buffer.name, index, buffer.dtype))
        self.out.append(If(condition(guard), (inside,)))
        return self.bind(kept)

    def variable(self, name: str, value: Expr) -> Load:
        """A register that begins as `value` and may be stored to: what reads it now. In a vector loop there is one per
        lane."""
        self.has_variables = True
        bound = self.names.fresh(name)
        where: Position = (symbol(self.lanes.var),) if self.lanes else ()
        extent: tuple[Dim, ...] = (self.lanes.count,) if self.lanes else ()
        (self.header if self.lanes else self.out).append(Alloc(bound, value.dtype, extent, "registers"))
        self.out.append(Store(bound, where, value))
        return Load(bound, where, value.dtype)

    def constant(self, value: Constant, position: Position, guard: Guard) -> Expr:
        data = value.data
        if is_one_number(data):
            return lit(data.flat[0], value.dtype)
        return self.read(self.source.table(value), value.shape, position, guard)

    # Positions.

    def offset(self, position: Position, shape: tuple[Dim, ...]) -> Dim:
        """The element's number in row-major order."""
        key = (position, shape)
        found = self.offsets.get(key)
        if found is None:
            found = self.offsets[key] = self.place(linearize(position, shape))
        return found

    def place(self, dim: Dim) -> Dim:
        """The position without the divisions and extrema that the loops' ranges decide."""
        if type(dim) is int or not has_atoms(dim):
            return dim
        return simplify(dim, self.ranges, self.source.known)

    def decide(self, bound: Bound) -> bool | None:
        """Whether the bound holds for all iterations (True), for none (False), or for some (None)."""
        dim, low, high, divisor = bound
        known, ranges = self.source.known, self.ranges
        if divisor > 1 and exact_div(dim, divisor) is None:
            return None
        if within(dim, low, high, ranges, known):
            return True
        if _below(dim, low, ranges, known) or _below(high - 1, dim, ranges, known):
            return False
        return None

    def open_bounds(self, bounds: Sequence[Bound]) -> Guard | None:
        """The bounds that are not decided, noted as such; None where one of them never holds."""
        found: list[Bound] = []
        for bound in bounds:
            decided = self.decide(bound)
            if decided is False:
                return None
            if decided is None:
                found.append(bound)
        self.undecided.update(dict.fromkeys(found))
        return tuple(found)

    # Failures.

    def fail(self, op: Value, when: Expr, guard: Guard, *found: Expr) -> None:
        if guard:
            when = Binary("and", condition(guard), when)
        self.out.append(Fail(when, self.source.sites[id(op)], found))


def has_atoms(dim: Dim) -> bool:
    """Whether a position is more than a polynomial: it divides, or takes an extremum."""
    if isinstance(dim, SymbolicDim):
        for monomial, _ in dim._terms:
            for factor in monomial:
                if type(factor) is not str:
                    return True
    return False


def condition(guard: Guard) -> Expr:
    """The guard as a scalar."""
    parts: list[Expr] = []
    for dim, low, high, divisor in guard:
        parts.append(Binary("ge", Index(dim), Index(low)))
        parts.append(Binary("lt", Index(dim), Index(high)))
        if divisor > 1:
            parts.append(Binary("eq", Index(dim_mod(dim, divisor)), Index(0)))
    result = parts[0]
    for part in parts[1:]:
        result = Binary("and", result, part)
    return result


def _below(a: Dim, b: Dim, ranges: Ranges, known: Mapping[str, DimName]) -> bool:
    """Whether a < b for all values of the loop variables."""
    apart = b - a
    return apart > 0 if type(apart) is int else within(apart - 1, 0, apart, ranges, known)


def _bits(data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The elements as rows of bytes, so that NaN equals itself and the two zeros differ."""
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).reshape(-1, data.dtype.itemsize)


# --- rules ------------------------------------------------------------------------------------------------------------


def _done(expr: Expr) -> Steps:
    yield from ()  # it asks for nothing
    return expr


def _after(op: After, position: Position, guard: Guard, cx: Composer) -> Steps:
    return (yield (op.x, position, guard))


def _map(op: Elementwise, position: Position, guard: Guard, cx: Composer) -> Steps:
    operands: list[Expr] = []
    for operand in op.operands:
        operands.append((yield (operand, position, guard)))  # noqa: PERF401  # a comprehension cannot yield
    if op.can_fail:
        structure = op.structure()
        assert structure is not None and structure.fault is not None
        operands = [cx.bind(x) for x in operands]
        cx.fail(op, substitute_expr(structure.fault, {f"r{i}": x for i, x in enumerate(operands)}), guard)
    body = op.scalar(*operands)
    if not _plain(body, operands):
        operands = [cx.bind(x) for x in operands]
        body = op.scalar(*operands)
    return body


def _plain(body: Expr, operands: list[Expr]) -> bool:
    """Whether no operand that is more than a name occurs twice in the body."""
    counts = {id(x): 0 for x in operands if not isinstance(x, _ATOMIC)}
    if not counts:
        return True
    if len(counts) < len([x for x in operands if not isinstance(x, _ATOMIC)]):
        return False
    pending = [body]
    while pending:
        expr = pending.pop()
        if id(expr) in counts:
            counts[id(expr)] += 1
            if counts[id(expr)] > 1:
                return False
            continue
        for name in expr.__slots__:
            part = getattr(expr, name)
            if isinstance(part, tuple):
                pending.extend(x for x in part if hasattr(x, "dtype"))
            elif hasattr(part, "__slots__") and hasattr(part, "dtype"):
                pending.append(part)
    return True


def _integer_power(op: Pow, position: Position, guard: Guard, cx: Composer) -> Steps:
    """Square and multiply, a bit of the exponent at a time until none is left. What fails has an exponent of 0."""
    x = cx.bind((yield (op.x, position, guard)))
    y = cx.bind((yield (op.y, position, guard)))
    one, none = Const(1, op.dtype), Const(0, op.dtype)
    if op.can_fail:
        cx.fail(op, Binary("lt", y, none), guard)
        y = Binary("max", y, none)
    left, square, result = cx.variable("e", y), cx.variable("s", x), cx.variable("r", one)
    odd = Binary("eq", Binary("and", left, one), one)
    body = (
        Store(result.buffer, result.index, Select(odd, Binary("mul", result, square), result)),
        Store(square.buffer, square.index, Binary("mul", square, square)),
        Store(left.buffer, left.index, Binary("shr", left, one)),
    )
    cx.out.append(While(body, Binary("ne", left, none)))
    return cx.bind(result)


def _movement(op: Movement, position: Position, guard: Guard, cx: Composer) -> Steps:
    read = op.read(position)
    return (yield (op.x, tuple([cx.place(dim) for dim in read.index]), guard))


def _pad(op: Pad, position: Position, guard: Guard, cx: Composer) -> Steps:
    bounds: list[Bound] = []
    index: list[Dim] = []
    for at, low, high, gap, extent in zip(position, op.low, op.high, op.interior, op.x.shape):
        place = at - low
        index.append(floordiv(place, gap + 1))
        if gap or low != 0 or high != 0:
            bounds.append(Bound(place, 0, extent * (gap + 1), gap + 1))
    left = cx.open_bounds(bounds)
    fill: Expr = Const(op.value.value, op.dtype) if isinstance(op.value, Full) else (yield (op.value, (), guard))
    if left is None:
        return fill
    x = yield (op.x, tuple([cx.place(dim) for dim in index]), guard + left)
    return Select(condition(left), x, fill) if left else x


def _concatenate(op: Concatenate, position: Position, guard: Guard, cx: Composer) -> Steps:
    axis = op.axis
    place = position[axis]
    choices: list[tuple[Value, Dim, Bound]] = []
    for x, offset in zip(op.xs, op.offsets):
        bound = Bound(place - offset, 0, x.shape[axis])
        decided = cx.decide(bound)
        if decided is True:
            index = (*position[:axis], cx.place(place - offset), *position[axis + 1 :])
            return (yield (x, index, guard))
        if decided is None:
            choices.append((x, offset, bound))
    cx.undecided.update(dict.fromkeys([bound for _, _, bound in choices]))
    result: Expr | None = None
    for x, offset, bound in reversed(choices):
        index = (*position[:axis], cx.place(place - offset), *position[axis + 1 :])
        here = yield (x, index, (*guard, bound))
        result = here if result is None else Select(condition((bound,)), here, result)
    # Where every operand is empty there is no position, so nothing is read.
    return result if result is not None else Const(zero(op.dtype), op.dtype)


def _structured(op: Value, structure: Structure, position: Position, guard: Guard, cx: Composer) -> Steps:
    axes: dict[str, Dim] = {axis.name: at for axis, at in zip(structure.axes, position)}
    values: dict[str, Dim | Expr] = dict(axes)
    for number, read in enumerate(structure.reads):
        x = yield from read_steps(op.operands[read.operand], read, axes, guard, cx)
        values[f"r{number}"] = cx.bind(x)
    if structure.fault is not None:
        cx.fail(op, substitute_expr(structure.fault, values), guard)
    return substitute_expr(structure.body[0], values)


def read_steps(operand: Value, read: Read, axes: Mapping[str, Dim], guard: Guard, cx: Composer) -> Steps:
    """The value of one read of a structure, its axes standing at the given positions."""
    index = [substitute_dim(dim, axes) for dim in read.index]
    if read.fill is None and not read.divisors:
        return (yield (operand, tuple([cx.place(dim) for dim in index]), guard))
    divisors = read.divisors or (1,) * len(index)
    bounds = [Bound(dim, 0, n * d, d) for dim, n, d in zip(index, operand.shape, divisors)]
    left = cx.open_bounds(bounds)
    if left is None:
        assert read.fill is not None
        return read.fill
    places = tuple([cx.place(floordiv(dim, d)) for dim, d in zip(index, divisors)])
    x = yield (operand, places, guard + left)
    if not left:
        return x
    assert read.fill is not None
    return Select(condition(left), x, read.fill)
