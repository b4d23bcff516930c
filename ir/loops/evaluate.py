"""Running loops, slowly and exactly: the definition of what a kernel computes.

The definition is the plain path: statement by statement, scalar by scalar, with the functions of `scalars`.
Because that is slow, a loop whose iterations turn out not to touch each other's elements is run in lockstep:
every name holds one value per iteration ("lane"), a condition becomes a mask, an inner loop multiplies the
lanes. Whether iterations are independent is not believed from the kind of the loop but observed: every element
that is read or written remembers the lane that did so, and at the first element that two lanes share, one of
them writing, the loop's effects are undone and it is run in order. So both paths give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, assert_never

import numpy as np

from ..classes import dataclass
from ..dims import Atom, Dim, SymbolicDim
from ..dtypes import DType, of
from ..errors import InvalidValue, OutOfRange, ShapeMismatch, TreadleError
from . import scalars
from .build import bound_names, stored, used_names
from .nodes import (
    Alloc,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Fail,
    Fma,
    For,
    If,
    Index,
    Kernel,
    Let,
    Load,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    While,
    neighbours,
)
from .text import show_head

Instruction: TypeAlias = Callable[..., Any]
Array: TypeAlias = np.ndarray[Any, Any]
Value: TypeAlias = Any  # a NumPy scalar, or in lockstep an array with one value per lane
Place: TypeAlias = Any  # a Python int, or an int64 array with one value per lane


class Failure(NamedTuple):
    """The site, the values of the loop variables around it, outermost first, and the numbers that it tells."""

    site: int
    position: tuple[int, ...]
    found: tuple[int, ...] = ()


_FEWEST_LANES = 4  # below, lockstep costs more than it saves
_MOST_LANES = 1 << 16
_MOST_ELEMENTS = 1 << 23  # of one local buffer over all lanes
_MOST_ROUNDS = 10_000  # of a `while` in lockstep, where values not yet written may keep it going


def evaluate(
    kernel: Kernel,
    args: Mapping[str, Array],
    dims: Mapping[str, int],
    instructions: Mapping[str, Instruction] | None = None,
    *,
    lockstep: bool = True,
) -> tuple[dict[str, Array], Failure | None]:
    """The arrays that the kernel wrote, by name, and the smallest failure.

    `args` holds an array for every `in` and `inout` parameter; none of them is changed. `out` arrays start as
    garbage (NaN). `instructions` gives each `Call` its meaning as a function of NumPy
    scalars, or arrays of one shape. With `lockstep=False` only the plain path is taken. Raises `OutOfRange` (TD0422)
    where an index leaves its buffer.
    """
    for name in kernel.dims:
        if name not in dims:
            raise InvalidValue(f"{kernel.name}: no value for the size {name}", code="TD0421")
    run = _Run({name: int(dims[name]) for name in kernel.dims}, instructions or {}, lockstep)
    for param in kernel.params:
        shape = tuple([run.size(dim) for dim in param.shape])
        if param.role == "out":
            run.buffers[param.name] = _garbage(param.dtype, shape)
            continue
        if param.name not in args:
            raise InvalidValue(f"{kernel.name}: no array for {param.name}", code="TD0421")
        given = np.asarray(args[param.name])
        if given.dtype != param.dtype.numpy or given.shape != shape:
            wanted = f"{param.dtype.numpy}{list(shape)}"
            raise ShapeMismatch(
                f"{kernel.name}: {param.name} is {wanted}, was given {given.dtype}{list(given.shape)}",
                code="TD0421",
            )
        run.buffers[param.name] = np.array(given, order="C", copy=True)
    for table in kernel.tables:
        run.buffers[table.name] = np.array(table.values, table.dtype.numpy)
    with np.errstate(all="ignore"):
        run.block(kernel.body)
    written = {param.name: run.buffers[param.name] for param in kernel.params if param.role != "in"}
    return written, run.failure


def _garbage(dtype: DType, shape: tuple[int, ...]) -> Array:
    """What nobody should read: NaN, True, or an unlikely integer."""
    if dtype.is_integer:
        return np.full(shape, np.array([0x5A] * dtype.bytes, np.uint8).view(dtype.numpy)[0], dtype.numpy)
    return np.full(shape, True if dtype.kind == "bool" else np.nan, dtype.numpy)


class _Conflict(Exception):
    """Lanes of the loop at this level share an element, or it cannot be run in lockstep otherwise."""

    def __init__(self, level: int) -> None:
        self.level = level


@dataclass(slots=True)
class _Shadow:
    """Per element of one buffer, who wrote and who read it. Stamps below the level's base are old."""

    writer: Array
    reader: Array


@dataclass(slots=True)
class _Level:
    """One loop run in lockstep: lanes in all, and the stamp of the first. `base + count` stands for many."""

    count: int
    base: int
    tracked: dict[str, None]  # buffers written inside that were there before


class _Run:
    def __init__(self, scope: dict[str, Any], instructions: Mapping[str, Instruction], lockstep: bool) -> None:
        self.scope = scope  # sizes, loop variables and lets
        self.lets: dict[str, None] = {}  # which of them a let bound
        self.buffers: dict[str, Array] = {}
        self.lane_of: dict[str, int] = {}  # for a buffer with a leading lane axis: the level that allocated it
        self.instructions = instructions
        self.lockstep = lockstep
        self.failure: Failure | None = None
        self.around: list[str] = []  # variables of the loops around, outermost first
        self.levels: list[_Level] = []
        self.mask: Array | None = None  # the active lanes; None for all
        self.shadows: dict[tuple[int, str], _Shadow] = {}
        self.stamp = 0
        self.in_order: dict[int, None] = {}  # loops found not to be independent, by identity
        self.facts: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    # Positions.

    def size(self, dim: Dim) -> int:
        result = self.place(dim)
        assert isinstance(result, int)
        return result

    def place(self, dim: Dim) -> Place:
        """A position under the present values, by Python's arithmetic or, for lanes, by int64's."""
        if type(dim) is int:
            return dim
        assert isinstance(dim, SymbolicDim)
        total: Place = dim.constant
        for factors, coefficient in dim.terms:
            term: Place = coefficient
            for factor in factors:
                term = term * (self.atom(factor) if isinstance(factor, Atom) else self.named(factor))
            total = total + term
        return total

    def atom(self, atom: Atom) -> Place:
        parts = [self.place(operand) for operand in atom.operands]
        plain = all(type(part) is int for part in parts)
        match atom.kind:
            case "min" | "max":
                if plain:
                    return min(parts) if atom.kind == "min" else max(parts)
                function = np.minimum if atom.kind == "min" else np.maximum
                result = parts[0]
                for part in parts[1:]:
                    result = function(result, part)
                return result
            case "floordiv" | "mod":
                if np.any(np.equal(parts[1], 0)):
                    raise InvalidValue(f"{atom} divides by zero", code="TD0422")
                return parts[0] // parts[1] if atom.kind == "floordiv" else parts[0] % parts[1]
            case _:
                assert_never(atom.kind)

    def named(self, name: str) -> Place:
        value = self.read(name)
        if name not in self.lets:
            return value
        # A name in a position stands for an integer >= 0 (see dims); what a let binds may be another.
        if isinstance(value, np.ndarray):
            wide = value.astype(np.int64)
            if np.any(self.active(wide < 0)):
                raise OutOfRange(f"{name} is negative in a position", code="TD0422")
            return wide
        whole = int(value)
        if whole < 0:
            raise OutOfRange(f"{name} is {whole} in a position", code="TD0422")
        return whole

    def read(self, name: str) -> Any:
        try:
            return self.scope[name]
        except KeyError:
            raise InvalidValue(f"{name} has no value here", code="TD0421") from None

    def active(self, condition: Array) -> Array:
        return condition if self.mask is None else condition & self.mask

    # Elements.

    def flat(self, buffer: str, index: tuple[Dim, ...]) -> Place:
        """The element's number in row-major order, after the lane's own start in a local buffer. Inactive
        lanes are given an element that exists.
        """
        array = self.buffers[buffer]
        level = self.lane_of.get(buffer)
        shape = array.shape if level is None else array.shape[1:]
        if len(shape) != len(index):
            raise OutOfRange(f"{buffer} has {len(shape)} axes, not {len(index)}", code="TD0422")
        number: Place = 0
        for axis, (dim, extent) in enumerate(zip(index, shape)):
            at = self.place(dim)
            if isinstance(at, int):
                outside = not 0 <= at < extent
                if outside and self.mask is not None:
                    at, outside = 0, bool(self.mask.any())
            else:
                wrong = (at < 0) | (at >= extent)
                outside = bool(np.any(self.active(wrong)))
                at = np.where(wrong, 0, at)
            if outside:
                message = f"index {self.shown(dim)} is outside axis {axis} of {buffer}, of size {extent}"
                raise OutOfRange(message, code="TD0422")
            number = number * extent + at
        if level is not None:
            lanes, own = self.levels[-1].count, array.shape[0]
            number = (np.arange(lanes) // (lanes // own)) * (array.size // own) + number
        return number

    def shown(self, dim: Dim) -> str:
        if isinstance(dim, int) or self.levels:
            return str(dim)
        values = ", ".join([f"{name} = {self.scope[name]}" for name in self.around])
        return f"{dim} = {self.place(dim)}" + (f" at {values}" if values else "")

    def load(self, buffer: str, index: tuple[Dim, ...], dtype: DType) -> Value:
        held = self.buffers[buffer].dtype
        if held != dtype.numpy:
            # Little-endian: the first neighbour in the low bits.
            parts = [
                self.load(buffer, (*index[:-1], index[-1] + n), of(held)) for n in range(neighbours(dtype, of(held)))
            ]
            return np.stack(parts, axis=-1).view(dtype.numpy)[..., 0]
        number = self.flat(buffer, index)
        elements = self.buffers[buffer].reshape(-1)
        for depth, level in enumerate(self.levels):
            if buffer in level.tracked:
                self.note_read(depth, buffer, number)
        if elements.size == 0:  # no lane is active: an active one would have been outside
            return np.zeros(self.levels[-1].count, elements.dtype)
        return elements[number]

    def store(self, buffer: str, index: tuple[Dim, ...], value: Value) -> None:
        number = self.flat(buffer, index)
        elements = self.buffers[buffer].reshape(-1)
        if not self.levels:
            elements[number] = value
            return
        lanes = self.levels[-1].count
        number = np.broadcast_to(number, lanes)
        value = np.broadcast_to(value, lanes)
        if self.mask is not None:
            number, value = number[self.mask], value[self.mask]
        for depth, level in enumerate(self.levels):
            if buffer in level.tracked:
                self.note_write(depth, buffer, number)
        elements[number] = value

    # Who touched what.

    def shadow(self, depth: int, buffer: str) -> _Shadow:
        size = self.buffers[buffer].size
        found = self.shadows.get((depth, buffer))
        if found is None or found.writer.size != size:
            found = _Shadow(np.full(size, -1, np.int64), np.full(size, -1, np.int64))
            self.shadows[depth, buffer] = found
        return found

    def stamps(self, depth: int) -> Array:
        """For each present lane, the stamp of the lane of that level in which it runs."""
        level, lanes = self.levels[depth], self.levels[-1].count
        stamps = level.base + np.arange(lanes) // (lanes // level.count)
        return stamps if self.mask is None else stamps[self.mask]

    def note_read(self, depth: int, buffer: str, number: Place) -> None:
        level, shadow, stamps = self.levels[depth], self.shadow(depth, buffer), self.stamps(depth)
        number = np.broadcast_to(number, self.levels[-1].count)
        if self.mask is not None:
            number = number[self.mask]
        writer = shadow.writer[number]
        if np.any((writer >= level.base) & (writer != stamps)):
            raise _Conflict(depth)
        before = shadow.reader[number]
        shadow.reader[number] = stamps
        shared = ((before >= level.base) & (before != stamps)) | (shadow.reader[number] != stamps)
        shadow.reader[number[shared]] = level.base + level.count

    def note_write(self, depth: int, buffer: str, number: Array) -> None:
        level, shadow, stamps = self.levels[depth], self.shadow(depth, buffer), self.stamps(depth)
        for touched in (shadow.writer[number], shadow.reader[number]):
            if np.any((touched >= level.base) & (touched != stamps)):
                raise _Conflict(depth)
        shadow.writer[number] = stamps
        if np.any(shadow.writer[number] != stamps):
            raise _Conflict(depth)

    # Scalars.

    def value(self, expr: Expr) -> Value:
        match expr:
            case Binary(op, x, y):
                return scalars.binary(op, self.value(x), self.value(y))
            case Load(buffer, index, dtype):
                return self.load(buffer, index, dtype)
            case Var(name):
                return self.read(name)
            case Const(value, dtype):
                return dtype.numpy.type(value)
            case Unary(op, x):
                return scalars.unary(op, self.value(x))
            case Fma(x, y, z):
                return scalars.fma(self.value(x), self.value(y), self.value(z))
            case Select(condition, x, y):
                return scalars.select(self.value(condition), self.value(x), self.value(y))
            case Cast(x, dtype, bits):
                inner = self.value(x)
                return scalars.bits(inner, dtype) if bits else scalars.cast(inner, dtype)
            case Index(dim):
                return np.int64(self.place(dim))
            case Call(instruction, args, dtype):
                return self.call(instruction, [self.value(x) for x in args], dtype)
            case _:
                assert_never(expr)

    def call(self, instruction: str, args: list[Value], dtype: DType) -> Value:
        meaning = self.instructions.get(instruction)
        if meaning is None:
            raise InvalidValue(f"the instruction {instruction} has no meaning here", code="TD0423")
        if not self.levels:
            return dtype.numpy.type(meaning(*args))
        lanes = self.levels[-1].count
        on = slice(None) if self.mask is None else self.mask
        result = np.zeros(lanes, dtype.numpy)
        result[on] = meaning(*[np.broadcast_to(arg, lanes)[on] for arg in args])
        return result

    # Statements.

    def block(self, stmts: tuple[Stmt, ...]) -> None:
        for stmt in stmts:
            try:
                self.stmt(stmt)
            except OutOfRange as error:
                raise _located(error, stmt) from None

    def stmt(self, stmt: Stmt) -> None:
        match stmt:
            case Let(name, value):
                self.scope[name] = self.value(value)
                self.lets[name] = None
            case Store(buffer, index, value):
                self.store(buffer, index, self.value(value))
            case Alloc(name, dtype, shape):
                self.alloc(name, dtype, tuple([self.size(dim) for dim in shape]))
            case For():
                self.loop(stmt)
            case While(body, condition):
                self.repeat(body, condition)
            case If(condition, then, otherwise):
                self.branch(self.value(condition), then, otherwise)
            case Fail(when, site, found):
                self.fail(self.value(when), site, found)
            case _:
                assert_never(stmt)

    def alloc(self, name: str, dtype: DType, shape: tuple[int, ...]) -> None:
        self.lane_of.pop(name, None)
        if self.levels:
            shape = (self.levels[-1].count, *shape)
            if int(np.prod(shape, dtype=np.int64)) > _MOST_ELEMENTS:
                raise _Conflict(len(self.levels) - 1)
            self.lane_of[name] = len(self.levels) - 1
        self.buffers[name] = _garbage(dtype, shape)

    def branch(self, condition: Value, then: tuple[Stmt, ...], otherwise: tuple[Stmt, ...]) -> None:
        if not isinstance(condition, np.ndarray):
            self.block(then if condition else otherwise)
            return
        outer = self.mask
        for chosen, body in ((condition, then), (~condition, otherwise)):
            inner = chosen if outer is None else chosen & outer
            if body and inner.any():
                self.mask = inner
                self.block(body)
                self.mask = outer

    def repeat(self, body: tuple[Stmt, ...], condition: Expr) -> None:
        outer = self.mask
        rounds = 0
        while True:
            self.block(body)
            again = self.value(condition)
            if isinstance(again, np.ndarray):
                self.mask = self.active(again)
                if not self.mask.any():
                    break
            elif not again:
                break
            rounds += 1
            if self.levels and rounds > _MOST_ROUNDS:
                raise _Conflict(len(self.levels) - 1)
        self.mask = outer

    def fail(self, when: Value, site: int, found: tuple[Expr, ...]) -> None:
        if not self.levels:
            if when:
                at = tuple([int(self.scope[name]) for name in self.around])
                self.note_failure(Failure(site, at, tuple([int(self.value(x)) for x in found])))
            return
        lanes = self.levels[-1].count
        failing = np.nonzero(self.active(np.broadcast_to(when, lanes)))[0]
        if len(failing):
            columns = [np.broadcast_to(self.scope[name], lanes)[failing].tolist() for name in self.around]
            at, lane = min(zip(zip(*columns), failing.tolist()))
            told = tuple([int(np.broadcast_to(self.value(x), lanes)[lane]) for x in found])
            self.note_failure(Failure(site, at, told))

    def note_failure(self, failure: Failure) -> None:
        if self.failure is None or failure[:2] < self.failure[:2]:
            self.failure = failure

    # Loops.

    def loop(self, loop: For) -> None:
        start, stop = self.place(loop.start), self.place(loop.stop)
        if np.any(np.less(start, 0)):
            raise OutOfRange(f"{loop.var} starts below 0", code="TD0422")
        trips = (stop - start + (loop.step - 1)) // loop.step
        most = trips if isinstance(trips, int) else int(np.max(trips * self.active(trips > 0)))
        if most <= 0:
            return
        self.around.append(loop.var)
        alone = not self.lockstep or id(loop) in self.in_order
        if alone or not self.side_by_side(loop, start, trips, most):
            self.one_by_one(loop, start, trips, range(most))
        self.around.pop()

    def one_by_one(self, loop: For, start: Place, trips: Place, counts: range) -> None:
        outer = self.mask
        for t in counts:
            if not isinstance(trips, int):
                self.mask = trips > t if outer is None else (trips > t) & outer
                if not self.mask.any():
                    continue
            self.scope[loop.var] = start + t * loop.step
            self.block(loop.body)
        self.mask = outer

    def side_by_side(self, loop: For, start: Place, trips: Place, most: int) -> bool:
        """Run the loop in lockstep, as many iterations at a time as fit; False if nothing was done."""
        before = self.levels[-1].count if self.levels else 1
        width = min(most, _MOST_LANES // before)
        if width < _FEWEST_LANES:
            return False
        for first in range(0, most, width):
            if not self.expand(loop, start, trips, first, min(width, most - first), before):
                self.one_by_one(loop, start, trips, range(first, most))
                break
        return True

    def expand(self, loop: For, start: Place, trips: Place, first: int, width: int, before: int) -> bool:
        """Iterations `first` to `first + width` side by side; False if they are not independent, all undone."""
        used, written = self.facts_of(loop)
        depth = len(self.levels)
        saved = {name: self.buffers[name].copy() for name in written if name in self.buffers}
        scope, mask, failure, around = self.scope, self.mask, self.failure, list(self.around)
        counts = np.tile(np.arange(first, first + width), before)
        # A name that is not used inside may keep too few lanes: nobody looks.
        inner = dict(scope)
        for name in (*used, *around):
            value = scope.get(name)
            if isinstance(value, np.ndarray):
                inner[name] = np.repeat(value, width)
        inner[loop.var] = (start if isinstance(start, int) else np.repeat(start, width)) + counts * loop.step
        new_mask = None if mask is None else np.repeat(mask, width)
        if not isinstance(trips, int):
            running = counts < np.repeat(trips, width)
            new_mask = running if new_mask is None else running & new_mask
        level = _Level(before * width, self.stamp, dict.fromkeys(saved))
        self.stamp += level.count + 1
        self.levels.append(level)
        self.scope, self.mask = inner, new_mask
        done = False
        try:
            self.block(loop.body)
            done = True
        except _Conflict as conflict:
            if conflict.level < depth:
                raise
        except TreadleError:
            # Either the kernel is wrong, and in order it will say in which iteration; or a lane has read
            # what another one had yet to write.
            pass
        finally:
            del self.levels[depth:]
            self.scope, self.mask = scope, mask
            if not done:
                self.around[:] = around
                self.failure = failure
                for name, content in saved.items():
                    self.buffers[name][...] = content
        if not done:
            self.in_order[id(loop)] = None
        return done

    def facts_of(self, loop: For) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names read inside, and the buffers from outside that are written inside."""
        facts = self.facts.get(id(loop))
        if facts is None:
            own = dict.fromkeys(bound_names(loop.body))
            facts = used_names(loop.body), tuple([name for name in stored(loop.body) if name not in own])
            self.facts[id(loop)] = facts
        return facts


def _located(error: OutOfRange, stmt: Stmt) -> OutOfRange:
    """The error with the innermost statement it arose in."""
    if "`" in error.message:
        return error
    return OutOfRange(f"{error.message}, in `{show_head(stmt)}`", code=error.code)
