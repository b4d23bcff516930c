"""Derivatives of graphs: push tangents forward, pull cotangents back.

One rule per op serves both directions. `push` walks forward and gives tangents; `pull` pushes seeds that stand for
unknown tangents, keeps what depends on them (it is linear in them, and reads the original values as residuals), and
walks that part back by the ops' transposes. Both build values beside the ones they differentiate, so they compose with
themselves and with batching. Cotangents of parts (slices, gathers) are added into one array, never spread into zeros
and summed. Integers and bools carry no tangents; None stands for a zero tangent throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir.errors import Unsupported
from ..ir.graph import Graph, topological
from ..ir.location import at
from ..ir.ops.control import Checkpoint
from ..ir.ops.custom import Custom, CustomTangent
from ..ir.ops.families import Composite, Control, Op, Tangent
from ..ir.types import TensorType
from ..ir.value import After, Elementwise, Get, Parameter, Value, lift, through


def differentiable(value: Value) -> bool:
    """Whether a value can carry a tangent: inexact numbers."""
    kind = value.type
    return isinstance(kind, TensorType) and kind.dtype.kind in ("float", "complex")


def reachable_from(roots: Iterable[Value], known: Iterable[int] = ()) -> tuple[Value, ...]:
    """Everything that `roots` need, no further than the values whose ids are `known`; operands before readers, free
    parameters included."""
    return topological((), roots, free=True, known=known)


def push(results: Sequence[Value], seeds: Mapping[int, Value]) -> list[Value | None]:
    """The tangents of `results`, where `seeds` gives those of some values by their ids."""
    tangents: dict[int, Tangent] = dict(seeds)
    for value in reachable_from(results):
        if id(value) in tangents:
            continue
        operands = value.operands
        if not any(tangents.get(id(operand)) is not None for operand in operands):
            continue
        with at(value.origin):
            tangents[id(value)] = _tangent(value, tangents)
    found: list[Value | None] = []
    for result in results:
        tangent = tangents.get(id(result))
        assert not isinstance(tangent, tuple)
        found.append(tangent)
    return found


def _tangent(value: Value, tangents: Mapping[int, Tangent]) -> Tangent:
    if isinstance(value, Get):
        several = tangents.get(id(value.x))
        return several[value.index] if isinstance(several, tuple) else None
    if isinstance(value.type, TensorType) and not differentiable(value):
        return None
    given: list[Value | None] = []
    for operand in value.operands:
        tangent = tangents.get(id(operand))
        given.append(tangent if isinstance(tangent, Value) else None)
    return tangent_of(value, tuple(given))


def tangent_of(value: Value, tangents: tuple[Value | None, ...]) -> Tangent:
    """The tangent of one op from its operands' tangents."""
    if isinstance(value, After):
        # What it waits for says when, not what.
        return None if tangents[0] is None else After(tangents[0], value.dependencies)
    if value.linear and all(t is None or i in value.linear for i, t in enumerate(tangents)):
        return _linear_tangent(value, tangents)
    if isinstance(value, Custom | CustomTangent | Checkpoint):
        from .autodiff_custom import custom_tangent

        return custom_tangent(value, tangents)  # type: ignore[arg-type]
    if isinstance(value, Control):
        from .autodiff_control import control_tangent

        return control_tangent(value, tangents)
    if isinstance(value, Composite) and type(value).jvp is Op.jvp:
        seeds = {id(o): t for o, t in zip(value.operands, tangents, strict=True) if t is not None}
        return push([value.decompose()], seeds)[0]
    if isinstance(value, Elementwise | Op):
        return value.jvp(tangents)
    return None


def _linear_tangent(value: Value, tangents: tuple[Value | None, ...]) -> Value | None:
    """Of an op linear in several operands: all at once if it is so jointly, else one term for each that moves."""
    present = [i for i in value.linear if tangents[i] is not None]
    total: Value | None = None
    for moved in [value.linear] if value.joint else [(i,) for i in present]:
        operands = list(value.operands)
        for i in moved:
            tangent = tangents[i]
            operands[i] = zeros_like(operands[i]) if tangent is None else tangent
        term = value.with_operands(tuple(operands))
        total = term if total is None else total + term
    return total if present else None


def zeros_like(value: Value) -> Value:
    return lift(0, value)


def pull(results: Sequence[Value], cotangents: Sequence[Value | None], wanted: Sequence[Value]) -> list[Value | None]:
    """The cotangents of `wanted` from those of `results`; None where nothing depends on it."""
    seeds = {id(w): Parameter(f"t{i}", w.tensor) for i, w in enumerate(wanted) if differentiable(w)}
    tangents = push(results, seeds)
    ends = [(t, c) for t, c in zip(tangents, cotangents, strict=True) if t is not None and c is not None]
    found = transpose([t for t, _ in ends], [c for _, c in ends], list(seeds.values()))
    by_seed = {id(seed): cotangent for seed, cotangent in zip(seeds.values(), found, strict=True)}
    return [by_seed[id(seeds[id(w)])] if id(w) in seeds else None for w in wanted]


def transpose(
    results: Sequence[Value],
    cotangents: Sequence[Value],
    wanted: Sequence[Value],
    *,
    into: Mapping[int, Value] | None = None,
) -> list[Value | None]:
    """`results` are linear in `wanted`: the cotangents of these from those of the results.

    `into` gives, by the id of a wanted value, what its cotangent is added to: a loop's running sum.
    """
    order = reachable_from(results)
    moving = {id(w) for w in wanted}
    for value in order:
        if any(id(operand) in moving for operand in value.operands):
            moving.add(id(value))
    again = Again([value for value in order if id(value) not in moving])
    gathered: dict[int, Value] = dict(into or {})
    tuples: dict[int, list[Value | None]] = {}
    for result, cotangent in zip(results, cotangents, strict=True):
        if id(result) in moving:
            _add(gathered, result, cotangent)
    for value in reversed(order):
        if id(value) not in moving or isinstance(value, Parameter):
            continue
        with at(value.origin):
            if isinstance(value, Get):
                if id(value) in gathered:
                    several = tuples.setdefault(id(value.x), [None] * len(value.x.type.elements))  # type: ignore[union-attr]
                    before, seen = several[value.index], gathered[id(value)]
                    several[value.index] = seen if before is None else before + seen
            elif id(value) in tuples:
                several_seen = tuple(tuples[id(value)])
                waiting = again.read_by(value, [c for c in several_seen if c is not None])
                _transpose_control(waiting, several_seen, moving, gathered)
            elif id(value) in gathered:
                _transpose_op(again.read_by(value, [gathered[id(value)]]), gathered[id(value)], moving, gathered)
    return [gathered.get(id(w)) for w in wanted]


class Again:
    """What is computed again while cotangents are pulled back: values behind `After(x, ())`, the mark of a checkpoint.

    The first cotangent that needs one is what its chain waits for, so a chain is computed when the way back has come to
    it, and no sooner; later ones read the same chain.
    """

    def __init__(self, known: Sequence[Value]) -> None:
        self.behind = behind_marks(known)
        self.copies: dict[int, Value] = {}

    def read_by(self, value: Value, cotangents: Sequence[Value]) -> Value:
        """`value` on operands that are computed again, where they are."""
        if not any(id(operand) in self.behind for operand in value.operands):
            return value
        return value.with_operands(tuple(self._copy(operand, tuple(cotangents)) for operand in value.operands))

    def _copy(self, root: Value, cotangents: tuple[Value, ...]) -> Value:
        if id(root) not in self.behind:
            return root
        stack = [root]
        while stack:
            value = stack[-1]
            if id(value) in self.copies:
                stack.pop()
                continue
            missing = [o for o in value.operands if id(o) in self.behind and id(o) not in self.copies]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            with at(value.origin):
                if isinstance(value, After) and not value.dependencies:
                    self.copies[id(value)] = After(value.x, cotangents)
                else:
                    self.copies[id(value)] = value.with_operands(
                        tuple(self.copies.get(id(operand), operand) for operand in value.operands)
                    )
        return self.copies[id(root)]


def behind_marks(order: Sequence[Value]) -> set[int]:
    """The ids of the values that depend on an `After(x, ())`, these included; operands come before readers."""
    behind: set[int] = set()
    for value in order:
        mark = isinstance(value, After) and not value.dependencies
        if mark or any(id(operand) in behind for operand in value.operands):
            behind.add(id(value))
    return behind


def _add(gathered: dict[int, Value], value: Value, cotangent: Value) -> None:
    before = gathered.get(id(value))
    gathered[id(value)] = cotangent if before is None else before + cotangent


def _transpose_op(value: Value, seen: Value, moving: set[int], gathered: dict[int, Value]) -> None:
    for i, operand in enumerate(value.operands):
        if id(operand) not in moving or (isinstance(value, After) and i > 0):
            continue
        if i in value.linear:
            if not value.joint and any(id(o) in moving for j, o in enumerate(value.operands) if j != i):
                raise _not_linear(value)
            before = gathered.get(id(operand))
            if before is not None and isinstance(value, Op):
                gathered[id(operand)] = value.accumulate_transpose(before, seen, i)
                continue
            back: Value | None = value.transpose(seen, i)  # type: ignore[attr-defined]
        elif isinstance(value, Elementwise):
            partial = value.partials()[i]
            if partial is not None and _reads_moving(partial, value, moving):
                raise _not_linear(value)
            back = None if partial is None else through(seen, partial)
        else:
            raise _not_linear(value)
        if back is not None:
            _add(gathered, operand, back)


def _not_linear(value: Value) -> Unsupported:
    return Unsupported(
        f"{value.name} is not linear in the tangents that it is given",
        code="TD0340",
        location=value.location,
        edit="a derivative of your own must be linear in the tangents, one backward in the cotangents",
    )


def _reads_moving(partial: Value, value: Value, moving: set[int]) -> bool:
    """Whether a partial derivative of `value`, built from it and its operands, depends on what moves."""
    ends = {id(value): True} | {id(operand): id(operand) in moving for operand in value.operands}
    stack, seen = [partial], set[int]()
    while stack:
        part = stack.pop()
        if id(part) in ends:
            if ends[id(part)]:
                return True
        elif id(part) not in seen:
            seen.add(id(part))
            stack.extend(part.operands)
    return False


def _transpose_control(
    value: Value, seen: tuple[Value | None, ...], moving: set[int], gathered: dict[int, Value]
) -> None:
    assert isinstance(value, Control)
    from .autodiff_control import control_transpose
    from .autodiff_custom import custom_transpose

    mask = tuple(id(operand) in moving for operand in value.operands)
    if isinstance(value, CustomTangent):
        found = custom_transpose(value, seen, mask)
    else:
        found = control_transpose(value, seen, mask)
    for operand, back in zip(value.operands, found, strict=True):
        if back is not None:
            _add(gathered, operand, back)


def jvp(graph: Graph, moving: Sequence[bool]) -> Graph:
    """`graph` and its tangents: parameters, then a tangent for each moving one; results, then a tangent for each
    differentiable result (zeros where nothing moves)."""
    seeds = {
        id(p): Parameter(f"{p.label}_dot", p.given) for p, moves in zip(graph.params, moving, strict=True) if moves
    }
    carrying = [r for r in graph.results if differentiable(r)]
    tangents = push(carrying, seeds)
    dots = [t if t is not None else zeros_like(r) for r, t in zip(carrying, tangents, strict=True)]
    return Graph(f"{graph.name}_jvp", (*graph.params, *seeds.values()), (*graph.results, *dots), graph.dims)


def vjp(graph: Graph, moving: Sequence[bool]) -> Graph:
    """`graph` and its cotangents: parameters, then a cotangent for each differentiable result; results, then a
    cotangent for each moving parameter (zeros where nothing depends on it)."""
    carrying = [r for r in graph.results if differentiable(r)]
    bars = [Parameter(f"bar{i}", r.tensor) for i, r in enumerate(carrying)]
    wanted = [p for p, moves in zip(graph.params, moving, strict=True) if moves]
    found = pull(carrying, bars, wanted)
    backs = [c if c is not None else zeros_like(p) for p, c in zip(wanted, found, strict=True)]
    return Graph(f"{graph.name}_vjp", (*graph.params, *bars), (*graph.results, *backs), graph.dims)
