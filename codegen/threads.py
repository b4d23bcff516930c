"""Dividing the outer axes among threads: by shape alone, so that the bits do not depend on how many threads there are.

A piece is big enough to pay for handing it over (about 0.2 us to a worker that watches, 10 us to one that sleeps) and
small enough that the fastest thread may take another. Pieces are iterations of one `parallel` loop; which thread runs
which is the pool's affair.
"""

from __future__ import annotations

from typing import Final

from ..ir.dims import Dim, ceildiv, minimum, symbol
from ..ir.loops.build import Names
from ..ir.loops.nodes import For, Index, Let, Stmt

# Bytes moved by one piece, or the time for it: about 3 us from memory.
GRAIN: Final = 128 << 10


def divided(loop: For, weight: int, names: Names, multiple: int = 1) -> For:
    """The loop in pieces of about GRAIN, if it has more than one.

    for i in range(n): body   ->   for c in parallel(ceildiv(n, 32768)):
                                     for i in range(32768*c, min(32768*c + 32768, n)): body

    `weight` is what one iteration costs in bytes; a piece is a multiple of `multiple` iterations.
    """
    piece = max(GRAIN // max(weight, 1) // multiple, 1) * multiple  # rows of nothing cost nothing
    count = loop.stop - loop.start
    if type(count) is int and count <= piece:
        return loop
    if type(count) is int:
        # Pieces of one size: the last is not a sliver that everybody waits for.
        pieces = -(-count // piece)
        piece = ceildiv(ceildiv(count, pieces), multiple) * multiple  # type: ignore[assignment]
    name = names.fresh("c")
    start = loop.start + symbol(name) * piece
    end: Dim = start + piece
    lets: tuple[Stmt, ...] = ()
    if type(count) is not int or count % piece:
        bound = names.fresh("end")
        lets = (Let(bound, Index(minimum(end, loop.stop))),)
        end = symbol(bound)
    inner = For(loop.var, start, end, 1, loop.kind, loop.body, loop.lanes)
    return For(name, 0, ceildiv(count, piece), 1, "parallel", (*lets, inner))
