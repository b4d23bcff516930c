"""Small arrays of a kernel kept in registers.

What one op of a step computes and the next one reads, a vector or less, goes through memory only because kernels were
written one after the other: a store and the load that follows it cost as much as a multiply-add or two, in a chain
where each step waits for the last. An array of the kernel's own becomes a register array where it is small, every
position is known while code is emitted, and it is written whole before it is read. Others stay on the stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from ...ir.dims import Dim, evaluate, names
from ...ir.loops.build import blocks, expressions, walk, walk_expr
from ...ir.loops.nodes import Alloc, Expr, For, If, Kernel, Load, Stmt, Store, While

Block: TypeAlias = tuple[Stmt, ...]

BYTES: Final = 64  # of one array: lanes of more are read faster from a cache than picked out of registers
TRIPS: Final = 4  # a loop of at most so many turns over vectors is written out


def resident(kernel: Kernel) -> Kernel:
    """The kernel with its small arrays in registers; itself where none can be."""
    body = tuple([written_out(stmt) for stmt in kernel.body])
    arrays = [stmt for stmt in body if isinstance(stmt, Alloc) and stmt.memory == "stack" and is_small(stmt)]
    found = False
    for array in arrays:
        if fixed(body, array.name):
            rest = tuple([stmt for stmt in body if stmt is not array])
            placed = place(rest, array)
            if placed is not None:
                body, found = placed, True
    return replace(kernel, body=body) if found else kernel


def is_small(array: Alloc) -> bool:
    size = array.shape[0] if len(array.shape) == 1 else None
    return type(size) is int and 0 < size * array.dtype.bytes <= BYTES


def written_out(stmt: Stmt) -> Stmt:
    """Short loops over the vectors of an array are unrolled, so that positions in them are known."""
    match stmt:
        case For(kind="serial", start=start, stop=stop, step=step, body=body) if (
            type(start) is int and type(stop) is int
        ):
            inner = tuple(map(written_out, body))
            strips = all(
                isinstance(each, For) and each.kind == "vector" and stmt.var in names(each.start) for each in inner
            )
            if strips and -(-(stop - start) // step) <= TRIPS:
                return replace(stmt, kind="unrolled", body=inner)
            return replace(stmt, body=inner)
        case For():
            return replace(stmt, body=tuple(map(written_out, stmt.body)))
        case If():
            return replace(
                stmt, then=tuple(map(written_out, stmt.then)), otherwise=tuple(map(written_out, stmt.otherwise))
            )
        case While():
            return replace(stmt, body=tuple(map(written_out, stmt.body)))
    return stmt


def accesses(stmt: Stmt, name: str) -> Iterator[tuple[str, tuple[Dim, ...]]]:
    """("load" or "store", position) of each access of an array by a statement itself."""
    if isinstance(stmt, Store) and stmt.buffer == name:
        yield "store", stmt.index
    for expr in walk_expr(*expressions(stmt)):
        if type(expr) is Load and expr.buffer == name:
            yield "load", expr.index


def touches(stmt: Stmt, name: str) -> bool:
    return any(True for each in walk((stmt,)) for _ in accesses(each, name))


def fixed(body: Block, name: str) -> bool:
    """Whether all positions of an array follow from unrolled and vector variables."""

    def inside(block: Block, known: frozenset[str]) -> bool:
        for stmt in block:
            for _, index in accesses(stmt, name):
                if any(variable not in known for dim in index for variable in names(dim)):
                    return False
            now = known
            if isinstance(stmt, For) and stmt.kind in ("unrolled", "vector"):
                now = known | {stmt.var}
            if not all(inside(inner, now) for inner in blocks(stmt)):
                return False
        return True

    return inside(body, frozenset())


def place(block: Block, array: Alloc) -> Block | None:
    """The block with the array allocated where it is first written, None where it may be read before that."""
    touching = [n for n, stmt in enumerate(block) if touches(stmt, array.name)]
    if not touching:
        return None
    first = touching[0]
    stmt = block[first]
    if covers(stmt, array):
        return (*block[:first], replace(array, memory="registers"), *block[first:])
    if len(touching) == 1 and isinstance(stmt, For) and stmt.kind == "serial":
        inner = place(stmt.body, array)
        return None if inner is None else (*block[:first], replace(stmt, body=inner), *block[first + 1 :])
    if len(touching) == 1 and isinstance(stmt, While) and not touched(stmt.condition, array.name):
        inner = place(stmt.body, array)
        return None if inner is None else (*block[:first], replace(stmt, body=inner), *block[first + 1 :])
    return None


def touched(expr: Expr, name: str) -> bool:
    return any(type(each) is Load and each.buffer == name for each in walk_expr(expr))


def covers(stmt: Stmt, array: Alloc) -> bool:
    """Whether a statement writes every element, and reads none."""
    size = array.shape[0]
    assert type(size) is int
    written: set[int] = set()

    def inside(stmt: Stmt, at: Mapping[str, int]) -> bool:
        for kind, index in accesses(stmt, array.name):
            if kind == "load":
                return False
            written.add(int(evaluate(index[0], at)))
        if isinstance(stmt, For) and stmt.kind in ("unrolled", "vector"):
            start, stop = (int(evaluate(dim, at)) for dim in (stmt.start, stmt.stop))
            return all(inside(each, {**at, stmt.var: n}) for n in range(start, stop, stmt.step) for each in stmt.body)
        return not any(touches(each, array.name) for inner in blocks(stmt) for each in inner)

    return inside(stmt, {}) and len(written) == size
