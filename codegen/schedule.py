"""Verbs on loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..ir.dims import Dim, linear
from ..ir.dims import substitute as substitute_dim
from ..ir.loops.affine import depends
from ..ir.loops.build import all_exprs, positions, rebuild, walk
from ..ir.loops.nodes import Load, Stmt

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
