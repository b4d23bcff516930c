"""Control flow as naive nests: calls written where they stand, branches under conditions, loops over arrays that hold
the carry.

The carry of a loop lies in arrays of its own from before the first step; a step's results are computed apart and copied
there when all of them are known, so parts that change places do. Steps read and write stacked arrays at their own
row. A body is lowered by the same rules as the graph around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from ...ir.dims import symbol
from ...ir.dtypes import bool_, i64
from ...ir.loops.build import cast, eq
from ...ir.loops.nodes import Binary, Const, For, If, Index, Let, Stmt, Var, While
from ...ir.ops.control import Call, Scan, Switch
from ...ir.ops.control import While as WhileOp
from .structured import NestRule, Nests, Place, copied

Block: TypeAlias = tuple[Stmt, ...]


def _call(op: Call, nests: Nests) -> Block:
    """The body in the place of the call."""
    block: list[Stmt] = []
    given = [nests.located(x, block) for x in op.args]
    body, results = nests.graph(op.body, given)
    nests.places[id(op)] = results
    return (*block, *body)


def _switch(op: Switch, nests: Nests) -> Block:
    """One branch after the other asked for; the last one takes what is left."""
    block: list[Stmt] = []
    selector, *given = [nests.located(x, block) for x in op.operands]
    results = nests.rooms(op)
    which = nests.names.fresh("which")
    number = cast(selector.load(()), i64)
    block.append(Let(which, Binary("max", Binary("min", number, Const(len(op.branches) - 1, i64)), Const(0, i64))))
    chosen: Block = ()
    for place, branch in reversed(list(enumerate(op.branches))):
        body, news = nests.graph(branch, given)
        body = (*body, *[stmt for new, to in zip(news, results, strict=True) for stmt in copied(nests, new, to)])
        chosen = (If(eq(Var(which, i64), place), body, chosen),) if place < len(op.branches) - 1 else body
    return (*block, *chosen)


def _while(op: WhileOp, nests: Nests) -> Block:
    """The condition is asked at the beginning of every step; where it is false nothing is done, for the last time."""
    n = len(op.consts)
    block: list[Stmt] = []
    given = [nests.located(x, block) for x in op.operands]
    carry = nests.rooms(op)
    block += _moved(nests, given[n:], carry)
    going = nests.room(bool_, (), "going")
    ask, (found,) = nests.graph(op.condition, [*given[:n], *carry])
    body, news = nests.graph(op.body, [*given[:n], *carry])
    step = If(going.load(()), (*body, *_moved(nests, news, carry)))
    return (*block, While((*ask, going.store((), found.load(())), step), going.load(())))


def _scan(op: Scan, nests: Nests) -> Block:
    n, m = len(op.consts), len(op.consts) + len(op.carry)
    block: list[Stmt] = []
    given = [nests.located(x, block) for x in op.operands]
    results = nests.rooms(op)
    carry, stacks = results[: len(op.carry)], results[len(op.carry) :]
    block += _moved(nests, given[n:m], carry)
    step = nests.names.fresh("t")
    at = op.length - 1 - symbol(step) if op.reverse else symbol(step)
    number: list[Place] = []
    begin: Block = ()
    if op.counted:
        number.append(nests.room(i64, (), "number"))
        begin = (number[0].store((), Index(at)),)
    body, news = nests.graph(op.body, [*number, *given[:n], *carry, *[x.row(at) for x in given[m:]]])
    stacked = [
        stmt for new, to in zip(news[len(carry) :], stacks, strict=True) for stmt in copied(nests, new, to.row(at))
    ]
    whole = (*begin, *body, *stacked, *_moved(nests, news[: len(carry)], carry))
    return (*block, For(step, 0, op.length, 1, "serial", whole))


def _moved(nests: Nests, sources: Sequence[Place], targets: Sequence[Place]) -> Block:
    """All sources copied to the targets at once: by way of fresh arrays, since a source may be another one's target."""
    block: list[Stmt] = []
    for source, target in zip(sources, targets, strict=True):
        if source == target:
            continue
        fresh = nests.room(target.dtype, target.shape)
        block[:0] = copied(nests, source, fresh)
        block += copied(nests, fresh, target)
    return tuple(block)


NESTS: Final[Mapping[type, NestRule]] = {Call: _call, Switch: _switch, WhileOp: _while, Scan: _scan}
