"""Forward and reverse mode in a page, by the rules in `ops/families.py`: enough to differentiate one op and
test its rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from treadle.ir.graph import Graph
from treadle.ir.ops.families import Composite, Op, Tangent
from treadle.ir.value import Elementwise, Parameter, Value, lift


def tangent(value: Value, tangents: tuple[Value | None, ...]) -> Tangent:
    """The tangent of one op."""
    # An op may be linear in some operands only; where another one moves, it has a jvp.
    if value.linear and all(tangents[i] is None for i in range(len(tangents)) if i not in value.linear):
        found: Value | None = None
        present = [i for i in value.linear if tangents[i] is not None]
        if not present:
            return None
        choices = [value.linear] if value.joint else [(i,) for i in present]
        for moved in choices:
            operands = list(value.operands)
            for i in moved:
                t = tangents[i]
                operands[i] = lift(0, operands[i]) if t is None else t
            term = value.with_operands(tuple(operands))
            found = term if found is None else found + term
        return found
    if isinstance(value, Composite) and type(value).jvp is Op.jvp:
        return through_pieces(value, tangents)
    assert isinstance(value, Elementwise | Op)
    return value.jvp(tangents)


def through_pieces(value: Composite, tangents: tuple[Value | None, ...]) -> Tangent:
    """The tangent of a composite, from those of the ops that it is made of."""
    found: dict[int, Tangent] = {id(v): t for v, t in zip(value.operands, tangents, strict=True)}
    pieces = value.decompose()
    params = tuple(v for v in reachable(pieces) if isinstance(v, Parameter))
    for piece in Graph("pieces", params, (pieces,)).order:
        if id(piece) not in found:
            given = tuple(found[id(operand)] for operand in piece.operands)
            moves = any(t is not None for t in given) and piece.dtype.kind in ("float", "complex")
            found[id(piece)] = tangent(piece, given) if moves else None
    return found[id(pieces)]


def pull_back(result: Value, wanted: Sequence[Parameter], cotangent: Value) -> list[Value | None]:
    """The cotangents of `wanted`, in which `result` is linear. Sums are accumulated the way reads of parts
    ask for.
    """
    params = [v for v in reachable(result) if isinstance(v, Parameter)]
    order = Graph("linear", tuple(params), (result,)).order
    moving = {id(p) for p in wanted}
    for value in order:
        if any(id(v) in moving for v in value.operands):
            moving.add(id(value))
    cotangents: dict[int, Value] = {id(result): cotangent}
    for value in reversed(order):
        seen = cotangents.get(id(value))
        if seen is None or isinstance(value, Parameter):
            continue
        for i, operand in enumerate(value.operands):
            if id(operand) not in moving:
                continue
            into = cotangents.get(id(operand))
            if into is not None and isinstance(value, Op):
                cotangents[id(operand)] = value.accumulate_transpose(into, seen, i)
                continue
            back = transposed(value, seen, i)
            if back is not None:
                cotangents[id(operand)] = back if into is None else into + back
    return [cotangents.get(id(p)) for p in wanted]


def transposed(value: Value, cotangent: Value, operand: int) -> Value | None:
    if operand in value.linear:
        return value.transpose(cotangent, operand)  # type: ignore[attr-defined, no-any-return]
    assert isinstance(value, Elementwise), f"{value!r} is not linear in operand {operand}"
    partial = value.partials()[operand]
    return None if partial is None else cotangent * partial


def reachable(result: Value) -> list[Value]:
    found: dict[int, Value] = {}
    stack = [result]
    while stack:
        value = stack.pop()
        if id(value) not in found:
            found[id(value)] = value
            stack.extend(value.operands)
    return list(found.values())
