"""Verbs on loops: each rewrites one loop, named by its variable, and refuses where the rewrite would change a result.

A generator that starts from a naive nest says what it wants done to it in these words. Loops keep their bodies as they
stand wherever they can: a vector loop over `range(b + u, b + u + 16)` of the same variable needs no change inside, so
that one body serves main loop and tail. Errors: TD0437 where there is no such loop or it has not the needed form,
TD0438 where iterations depend on each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..ir.classes import dataclass
from ..ir.dims import Dim, ceildiv, known_le, linear, minimum, symbol
from ..ir.dims import substitute as substitute_dim
from ..ir.errors import InvalidValue
from ..ir.loops.affine import NO_LOOPS, Ranges, depends, within
from ..ir.loops.build import Names, all_exprs, bound_names, positions, rebuild, walk
from ..ir.loops.nodes import Alloc, Expr, For, If, Load, Memory, Stmt, Store, While
from . import simd, threads
from .tidy import simplified

Block: TypeAlias = tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an iteration space: a variable that runs from start to stop. Axes of different kinds are not
    joined."""

    var: str
    start: Dim
    stop: Dim
    kind: str = ""

    @property
    def extent(self) -> Dim:
        return self.stop - self.start


def refuse(message: str, code: str = "TD0437") -> InvalidValue:
    return InvalidValue(message, code=code)


# --- finding ----------------------------------------------------------------------------------------------------------


def replaced(block: Block, var: str, change: Callable[[For, Ranges], Stmt | Block]) -> Block:
    """The block with the loop over `var` changed; `change` also gets the ranges of the loops around it."""
    found = _replaced(block, var, change, dict(NO_LOOPS))
    if found is None:
        raise refuse(f"there is no loop over {var}")
    return found


def _replaced(
    block: Block, var: str, change: Callable[[For, Ranges], Stmt | Block], ranges: dict[str, tuple[Dim, Dim]]
) -> Block | None:
    for place, stmt in enumerate(block):
        made: Stmt | Block | None = None
        if isinstance(stmt, For) and stmt.var == var:
            made = change(stmt, ranges)
        elif isinstance(stmt, For):
            inside = _replaced(stmt.body, var, change, {**ranges, stmt.var: (stmt.start, stmt.stop)})
            made = None if inside is None else with_body(stmt, inside)
        elif isinstance(stmt, While):
            inside = _replaced(stmt.body, var, change, ranges)
            made = None if inside is None else While(inside, stmt.condition)
        elif isinstance(stmt, If):
            then = _replaced(stmt.then, var, change, ranges)
            otherwise = None if then is not None else _replaced(stmt.otherwise, var, change, ranges)
            if then is not None or otherwise is not None:
                made = If(stmt.condition, then or stmt.then, otherwise or stmt.otherwise)
        if made is not None:
            return (*block[:place], *(made if isinstance(made, tuple) else (made,)), *block[place + 1 :])
    return None


def with_body(loop: For, body: Block) -> For:
    return For(loop.var, loop.start, loop.stop, loop.step, loop.kind, body, loop.lanes)


# --- legality ---------------------------------------------------------------------------------------------------------


def independent(loop: For) -> bool:
    """Whether the iterations may run in any order, or at once: what one writes no other reads or writes.

    Shown only for the form that nests have: every access of a buffer that is written stands at one and the same
    position, which moves with the loop's variable by more than the loops inside move it.
    """
    own = frozenset(bound_names(loop.body))
    accesses: dict[str, dict[tuple[Dim, ...], None]] = {}
    ranges: dict[str, tuple[Dim, Dim]] = {}
    for stmt in walk(loop.body):
        if isinstance(stmt, Store) and stmt.buffer not in own:
            accesses.setdefault(stmt.buffer, {})[stmt.index] = None
        if isinstance(stmt, For):
            ranges[stmt.var] = (stmt.start, stmt.stop)
    for expr in all_exprs(loop.body):
        if type(expr) is Load and expr.buffer in accesses:
            accesses[expr.buffer][expr.index] = None
    return all(
        len(places) == 1 and any(_apart(dim, loop, ranges) for dim in next(iter(places)))
        for places in accesses.values()
    )


def _apart(dim: Dim, loop: For, ranges: Ranges) -> bool:
    """Whether a coordinate differs between any two iterations, whatever the loops inside do: the variables are the
    digits of a number, in some order, each step of one being longer than all the way of those before it."""
    digits: list[tuple[Dim, Dim]] = []
    rest = dim
    for var, (start, stop) in ((loop.var, (loop.start, loop.stop)), *ranges.items()):
        parts = linear(rest, var)
        if parts is None:
            return False
        step, rest = parts
        if step == 0:
            if var == loop.var:
                return False
            continue
        if type(step) is int and step < 0:
            step = -step
        digits.append((step, stop - start))
    return len(digits) <= 5 and any(_are_digits(order) for order in itertools.permutations(digits))


def _are_digits(digits: Sequence[tuple[Dim, Dim]]) -> bool:
    way: Dim = 1  # one more than all the way of the digits so far
    for step, extent in digits:
        if not known_le(way, step):
            return False
        way = way + step * (extent - 1)
    return True


def _demand_independent(loop: For, verb: str) -> None:
    if not independent(loop):
        raise refuse(f"{verb}: iterations over {loop.var} depend on each other", "TD0438")


# --- verbs ------------------------------------------------------------------------------------------------------------


def split(block: Block, var: str, factor: int, outer: str, inner: str) -> Block:
    """Pieces of `factor` iterations; the last may be shorter. The order of iterations stays.

    for i in range(n): y[i] = x[i]   ->   for o in range((n + 15) // 16):
                                            for i in range(min(16, n - 16*o)): y[16*o + i] = x[16*o + i]
    """

    def change(loop: For, ranges: Ranges) -> Stmt:
        if loop.step != 1 or loop.kind not in ("serial", "parallel"):
            raise refuse(f"split: the loop over {var} must be serial or parallel, with a step of 1")
        extent = loop.stop - loop.start
        base = symbol(outer) * factor
        whole = type(extent) is int and extent % factor == 0
        count: Dim = factor if whole else minimum(factor, extent - base)
        body = moved(loop.body, {var: loop.start + base + symbol(inner)})
        return For(outer, 0, ceildiv(extent, factor), 1, loop.kind, (For(inner, 0, count, 1, "serial", body),))

    return replaced(block, var, change)


def reorder(block: Block, outer: str, inner: str, checked: bool = True) -> Block:
    """Two loops, the one directly inside the other, change places. Their iterations must be independent.

    for i in range(m):                   ->   for j in range(n):
      for j in range(n): y[j, i] = x[i, j]      for i in range(m): y[j, i] = x[i, j]
    """

    def change(loop: For, ranges: Ranges) -> Stmt:
        below = loop.body[0] if len(loop.body) == 1 else None
        if not isinstance(below, For) or below.var != inner:
            raise refuse(f"reorder: the loop over {inner} is not directly inside that over {outer}")
        if depends(below.start, outer) or depends(below.stop, outer):
            raise refuse(f"reorder: the bounds of {inner} depend on {outer}")
        if loop.kind != "serial" or below.kind != "serial":
            raise refuse("reorder: both loops must be serial")
        if checked:
            # No two of all the pairs touch one element, so they may come in any order.
            _demand_independent(loop, "reorder")
        return with_body(below, (with_body(loop, below.body),))

    return replaced(block, outer, change)


def fuse_loops(block: Block, outer: str, inner: str) -> Block:
    """Two loops, the one directly inside the other, as one over all pairs, in the same order.

    for i in range(m):                     ->   for j in range(m*n):
      for j in range(n): y[n*i + j] = x[j]        y[j] = x[j % n]
    """

    def change(loop: For, ranges: Ranges) -> Stmt:
        below = loop.body[0] if len(loop.body) == 1 else None
        if not isinstance(below, For) or below.var != inner or below.kind != loop.kind:
            raise refuse(f"fuse_loops: the loop over {inner} is not directly inside that over {outer}")
        if (loop.start, loop.step, below.start, below.step) != (0, 1, 0, 1) or depends(below.stop, outer):
            raise refuse(f"fuse_loops: {outer} and {inner} must run from 0 by 1, each for itself")
        both = symbol(inner)
        body = moved(below.body, {outer: both // below.stop, inner: both % below.stop})
        fused = For(inner, 0, loop.stop * below.stop, 1, loop.kind, body)
        return simplified((fused,), {})[0]

    return replaced(block, outer, change)


def stage(
    block: Block,
    var: str,
    buffer: str,
    start: tuple[Dim, ...],
    shape: tuple[int, ...],
    name: str,
    memory: Memory = "stack",
) -> Block:
    """In every iteration over `var`, copy the part of `buffer` that begins at `start` into a local array and read it
    there. Every read inside must be of that part; the buffer must not be written inside.

    for i in range(m):                     ->   for i in range(m):
      for j in range(8): y[i, j] = w[j] * 2       t: stack f32[8]
                                                  for t_0 in range(8): t[t_0] = w[t_0]
                                                  for j in range(8): y[i, j] = t[j] * 2
    """

    def change(loop: For, ranges: Ranges) -> Stmt:
        if any(isinstance(stmt, Store) and stmt.buffer == buffer for stmt in walk(loop.body)):
            raise refuse(f"stage: {buffer} is written inside the loop over {var}", "TD0438")
        here = {**ranges, var: (loop.start, loop.stop)}
        for stmt in walk(loop.body):
            if isinstance(stmt, For):
                here[stmt.var] = (stmt.start, stmt.stop)
        dtype = None

        def local(x: Expr) -> Expr:
            nonlocal dtype
            if type(x) is not Load or x.buffer != buffer:
                return x
            index = tuple([at - low for at, low in zip(x.index, start, strict=True)])
            if not all(within(at, 0, extent, here) for at, extent in zip(index, shape, strict=True)):
                raise refuse(f"stage: {buffer}[{', '.join(map(str, x.index))}] may lie outside the part")
            dtype = x.dtype
            return Load(name, index, x.dtype)

        body = rebuild(loop.body, expr=local)
        if dtype is None:
            raise refuse(f"stage: {buffer} is not read inside the loop over {var}")
        variables = [f"{name}_{axis}" for axis in range(len(shape))]
        at = tuple(map(symbol, variables))
        copy: Block = (Store(name, at, Load(buffer, tuple([low + place for low, place in zip(start, at)]), dtype)),)
        for variable, extent in zip(reversed(variables), reversed(shape)):
            copy = (For(variable, 0, extent, 1, "unrolled" if memory == "registers" else "serial", copy),)
        return with_body(loop, (Alloc(name, dtype, shape, memory), *copy, *body))

    return replaced(block, var, change)


def unroll(block: Block, var: str) -> Block:
    """The loop's iterations are written out one after the other. Their number must be known.

    for k in range(3): s = s + x[k]   ->   for k in unrolled(3): s = s + x[k]
    """

    def change(loop: For, ranges: Ranges) -> Stmt:
        if loop.kind != "serial" or type(loop.stop) is not int or type(loop.start) is not int:
            raise refuse(f"unroll: the loop over {var} must be serial and its bounds known")
        return For(var, loop.start, loop.stop, loop.step, "unrolled", loop.body)

    return replaced(block, var, change)


def vectorize(block: Block, var: str, lanes: int, names: Names, round: int = 1, checked: bool = True) -> Block:
    """Iterations run in the lanes of vectors, `round` vectors to a round of the main loop; the rest under a mask.

    for i in range(n): y[i] = x[i]   ->   for b in range(0, n // 16 * 16, 16):
                                            for i in vector(b, b + 16, lanes=16): y[i] = x[i]
                                          for i in vector(n // 16 * 16, n, lanes=16): y[i] = x[i]
    """

    def change(loop: For, ranges: Ranges) -> Stmt | Block:
        if loop.kind != "serial" or loop.step != 1:
            raise refuse(f"vectorize: the loop over {var} must be serial, with a step of 1")
        if checked:
            _demand_independent(loop, "vectorize")
        return simd.strips(loop, lanes, round, names)

    return replaced(block, var, change)


def parallelize(block: Block, var: str, weight: int, names: Names, multiple: int = 1, checked: bool = True) -> Block:
    """Pieces of the loop run on any thread; a loop too short for two pieces stays as it is. `weight` is what one
    iteration costs, in bytes that could be moved meanwhile.

    for i in range(n): y[i] = x[i]   ->   for c in parallel((n + 16383) // 16384):
                                            for i in range(16384*c, min(16384*c + 16384, n)): y[i] = x[i]
    """

    def change(loop: For, ranges: Ranges) -> Stmt:
        if loop.kind != "serial" or loop.step != 1:
            raise refuse(f"parallelize: the loop over {var} must be serial, with a step of 1")
        if checked:
            _demand_independent(loop, "parallelize")
        return threads.divided(loop, weight, names, multiple)

    return replaced(block, var, change)


def stream(block: Block, buffer: str) -> Block:
    """Stores to the buffer pass the caches by. It must not be read in the block: what is read again belongs there.

    y[i] = x[i]   ->   stream y[i] = x[i]
    """
    if any(type(x) is Load and x.buffer == buffer for x in all_exprs(block)):
        raise refuse(f"stream: {buffer} is read again")
    return _streamed(block, buffer)


def _streamed(block: Block, buffer: str) -> Block:
    result: list[Stmt] = []
    for stmt in block:
        if isinstance(stmt, Store) and stmt.buffer == buffer:
            result.append(Store(buffer, stmt.index, stmt.value, True))
        elif isinstance(stmt, For):
            result.append(with_body(stmt, _streamed(stmt.body, buffer)))
        elif isinstance(stmt, While):
            result.append(While(_streamed(stmt.body, buffer), stmt.condition))
        elif isinstance(stmt, If):
            result.append(If(stmt.condition, _streamed(stmt.then, buffer), _streamed(stmt.otherwise, buffer)))
        else:
            result.append(stmt)
    return tuple(result)


# --- joining axes -----------------------------------------------------------------------------------------------------


def merged(axes: Sequence[Axis], blocks: Sequence[Block]) -> tuple[list[Axis], tuple[Block, ...]]:
    """Neighbouring axes joined where every access goes on from the end of the inner one to the next of the outer.

    for i in range(m):            ->   for j in range(m*n):
      for j in range(n):                 y[j] = x[j]
        y[n*i + j] = x[n*i + j]

    `blocks` are the straight bodies that the axes' loops will hold.
    """
    axes = list(axes)
    if len(axes) < 2:
        return axes, tuple(blocks)
    accesses: dict[Dim, None] = {}
    others: dict[Dim, None] = {}
    for block in blocks:
        for stmt in walk(block):
            accesses.update(dict.fromkeys(positions(stmt)))
        for expr in all_exprs(block):
            (accesses if type(expr) is Load else others).update(dict.fromkeys(positions(expr)))
    gone: dict[str, Dim] = {}
    for place in range(len(axes) - 1, 0, -1):
        outer, inner = axes[place - 1], axes[place]
        # The inner axis must be whole, or a row would not end where the next begins.
        if inner.start != 0 or outer.kind != inner.kind:
            continue
        if any(depends(dim, outer.var) or depends(dim, inner.var) for dim in others):
            continue
        if all(_runs_on(dim, outer.var, inner) for dim in accesses):
            start, stop = outer.start * inner.stop, outer.stop * inner.stop
            axes[place - 1 : place + 1] = [Axis(inner.var, start, stop, inner.kind)]
            gone[outer.var] = 0
            accesses = dict.fromkeys([substitute_dim(dim, {outer.var: 0}) for dim in accesses])
    return axes, tuple([moved(block, gone) for block in blocks]) if gone else tuple(blocks)


def _runs_on(dim: Dim, outer: str, inner: Axis) -> bool:
    """Whether one step of the outer axis moves the access as far as all steps of the inner one."""
    along_outer, along_inner = linear(dim, outer), linear(dim, inner.var)
    if along_outer is None or along_inner is None:
        return False
    return along_outer[0] == along_inner[0] * inner.stop


def moved(block: Block, places: dict[str, Dim]) -> Block:
    """The block with loop variables replaced by positions. Each position is worked out once, however often it
    occurs."""
    cache: dict[Dim, Dim] = {}

    def place(dim: Dim) -> Dim:
        if type(dim) is int:
            return dim
        found = cache.get(dim)
        if found is None:
            found = cache[dim] = substitute_dim(dim, places)
        return found

    return rebuild(block, dim=place)
