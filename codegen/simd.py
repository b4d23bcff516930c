"""Vector loops: how wide, how often unrolled, and what becomes of the rest.

A vector is 64 bytes of the widest element on every target: sixteen f32 lanes, eight f64. A target with narrower
registers takes several for one; so the same elements stand in the same lanes everywhere, and results agree bit for bit.
The rest of a loop runs under a mask, with the very same body as its main part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from ..ir.classes import dataclass
from ..ir.dims import Dim, minimum, symbol
from ..ir.dtypes import DType
from ..ir.loops.build import Names, all_exprs, walk
from ..ir.loops.nodes import MATH, MATH_BINARY, Binary, For, Load, Param, Stmt, Store, Unary
from ..ir.target import Target

Block: TypeAlias = tuple[Stmt, ...]
VECTOR_BYTES: Final = 64
# Rounds below which a loop of known length is not unrolled: it gains a few nanoseconds by it, and every copy of its
# body costs LLVM some hundred microseconds.
FEW_ROUNDS: Final = 8
_MATH: Final = frozenset((*MATH, *MATH_BINARY))


def lanes_of(dtypes: Iterable[DType]) -> int:
    """Lanes of a vector loop over these element types: the widest fills a vector."""
    widest = max([dtype.bytes for dtype in dtypes], default=4)
    return max(VECTOR_BYTES // max(widest, 1), 1)


def dtypes_in(block: Block) -> tuple[DType, ...]:
    """The element types that a block loads, stores and computes with, each once. Positions do not count: they are
    computed in vectors only where they are used as numbers."""
    found: dict[DType, None] = {}
    for expr in all_exprs(block):
        found[expr.dtype] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Weight:
    """What one iteration of a body costs: bytes moved, plain operations, calls of smooth functions."""

    bytes: int
    operations: int
    functions: int

    @property
    def total(self) -> int:
        """In bytes that could be moved meanwhile, at about 40 per nanosecond: a smooth function takes as long as 8,
        four plain operations as long as one."""
        return max(self.bytes + 8 * self.functions + self.operations // 4, 1)


def weigh(block: Block) -> Weight:
    """The cost of a straight body; loops inside count once."""
    moved = operations = functions = 0
    for stmt in walk(block):
        if isinstance(stmt, Store):
            moved += stmt.value.dtype.bytes
    for expr in all_exprs(block):
        if isinstance(expr, Load):
            moved += expr.dtype.bytes
        elif isinstance(expr, Unary | Binary):
            operations += 1
            if expr.op in _MATH:
                functions += 1
        else:
            operations += 1
    return Weight(moved, operations, functions)


def unroll_of(weight: Weight) -> int:
    """Vectors per round of the main loop: short bodies need several to hide the latency of their operations and the
    cost of the loop itself, long ones keep the machine busy alone."""
    if weight.functions:
        return 1 if weight.functions > 1 else 2
    return 4 if weight.operations <= 12 else 2 if weight.operations <= 32 else 1


def streams(out: Param, target: Target) -> bool:
    """Whether stores to a result should pass the caches by: it would push out of them everything else, and itself."""
    size = out.shape[0]
    cache = target.l3_bytes or target.l2_bytes
    return out.role == "out" and type(size) is int and size * out.dtype.bytes > cache // 2 and target.has("stream")


def power_above(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def strips(loop: For, lanes: int, unroll: int, names: Names) -> Block:
    """The loop in vectors.

    for i in range(n): body   ->   for b in range(0, n // 64 * 64, 64):
                                     for u in unrolled(0, 64, 16):
                                       for i in vector(b + u, b + u + 16, lanes=16): body
                                   for b in range(n // 64 * 64, n, 16):
                                     for i in vector(b, min(b + 16, n), lanes=16): body

    The body keeps its variable, so it is shared as it stands. Of a known and small n only straight vectors remain.
    """
    start, stop, var, body = loop.start, loop.stop, loop.var, loop.body
    count = stop - start
    if type(count) is int and type(start) is int and type(stop) is int:
        if count <= 0:
            return ()
        if count <= lanes:
            return (For(var, start, stop, 1, "vector", body, min(lanes, power_above(count))),)
        if count <= unroll * lanes:
            ends = range(start, stop, lanes)
            return tuple([For(var, b, min(b + lanes, stop), 1, "vector", body, lanes) for b in ends])
        if count < FEW_ROUNDS * unroll * lanes:
            unroll = 1
    step = lanes * unroll
    main = start + count // step * step
    block: list[Stmt] = []
    if main != start:
        block.append(_main(loop, start, main, lanes, unroll, names))
    rest = stop - main
    if type(rest) is int:
        full = rest // lanes
        if full == 1 or (full and rest % lanes == 0):
            block.append(_main(loop, main, main + full * lanes, lanes, 1, names))
            main = main + full * lanes
            rest = rest % lanes
        if rest == 0:
            return tuple(block)
        if rest < lanes:
            block.append(For(var, main, stop, 1, "vector", body, lanes))
            return tuple(block)
    if unroll == 1:
        block.append(For(var, main, stop, 1, "vector", body, lanes))
        return tuple(block)
    base = names.fresh("b")
    at = symbol(base)
    tail = For(var, at, minimum(at + lanes, stop), 1, "vector", body, lanes)
    block.append(For(base, main, stop, lanes, "serial", (tail,)))
    return tuple(block)


def _main(loop: For, start: Dim, stop: Dim, lanes: int, unroll: int, names: Names) -> For:
    """Whole vectors only: the trip count is a multiple of a round's elements."""
    base = names.fresh("b")
    at = symbol(base)
    if unroll == 1:
        inner: Stmt = For(loop.var, at, at + lanes, 1, "vector", loop.body, lanes)
    else:
        offset = names.fresh("u")
        begin = at + symbol(offset)
        vector = For(loop.var, begin, begin + lanes, 1, "vector", loop.body, lanes)
        inner = For(offset, 0, lanes * unroll, lanes, "unrolled", (vector,))
    return For(base, start, stop, lanes * unroll, "serial", (inner,))
