"""Derivatives that the user says: rules for a function forward or backward, and values that are computed again.

A rule forward is put in the place of the tangents. A rule backward makes an op that is linear in the tangents and whose
transpose is the rule; should nobody transpose it, it is the rule turned round (a linear rule has a transpose itself).
A checkpoint's tangents read a second copy of its values, which stands behind `After(operand)`: going backward, a copy
waits for the cotangent that needs it (`autodiff.Again`); going forward there is nothing to wait for, and the copy is
merged with the first. Ops with rules are gone when a trace has ended: `without_rules` leaves their bodies.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.errors import TypeMismatch, Unsupported
from ..ir.graph import Graph, inline, rebuild
from ..ir.ops.control import Checkpoint
from ..ir.ops.custom import Custom, CustomJvp, CustomTangent, CustomVjp
from ..ir.value import After, Full, Get, Parameter, Value
from . import autodiff, remat
from .rewrite import opened

Tangents = tuple[Value | None, ...]


def custom_tangent(op: CustomJvp | CustomVjp | CustomTangent | Checkpoint, tangents: Tangents) -> Tangents:
    """The tangents of the results."""
    match op:
        case CustomJvp():
            return _by_rule(op, tangents)
        case CustomVjp():
            return _by_rule_backward(op, tangents)
        case CustomTangent():
            return _of_a_tangent(op, tangents)
        case Checkpoint():
            return _again(op, tangents)


def _given(op: Custom, tangents: Tangents) -> list[Value]:
    """A tangent for each float among the operands that are not captured, zeros where none is given."""
    if any(t is not None for t in tangents[: op.captured]):
        raise TypeMismatch(
            f"{op.body.name} has a derivative of its own and closes over an array that is differentiated",
            code="TD0344",
            location=op.location,
            edit="pass that array as an argument, and give its derivative in the rule",
        )
    rest = zip(op.args[op.captured :], tangents[op.captured :], strict=True)
    return [autodiff.zeros_like(a) if t is None else t for a, t in rest if autodiff.differentiable(a)]


def _placed(op: Value, kinds: Graph, found: Sequence[Value]) -> Tangents:
    """Tangents of the floats among the results, in their places."""
    rest = iter(found)
    return tuple(next(rest) if autodiff.differentiable(result) else None for result in kinds.results)


def _by_rule(op: CustomJvp, tangents: Tangents) -> Tangents:
    dots = _given(op, tangents)
    return _placed(op, op.body, inline(op.rule(), (*op.args[op.captured :], *dots)))


def _by_rule_backward(op: CustomVjp, tangents: Tangents) -> Tangents:
    dots = _given(op, tangents)
    forward, backward = op.rule()
    residuals = inline(forward, op.args[op.captured :])[len(op.body.results) :]
    made = CustomTangent(tuple(residuals), tuple(dots), backward, turned(backward, residuals, dots))
    return _placed(op, op.body, [Get(made, i) for i in range(len(backward.params) - len(residuals))])


def turned(backward: Graph, residuals: Sequence[Value], given: Sequence[Value]) -> tuple[Graph, ...]:
    """The rule backward as a rule forward: its own transpose. None where it is not linear in the cotangents."""
    dots = tuple(Parameter(f"t{i}", t.tensor) for i, t in enumerate(given))
    known, bars = backward.params[: len(residuals)], backward.params[len(residuals) :]
    try:
        found = autodiff.transpose(backward.results, dots, bars)
        # What does not depend on the cotangents is added to what does: affine, not linear.
        linear = all(_depends(result, bars) for result in backward.results)
    except Unsupported:
        return ()
    if not linear:
        return ()
    results = tuple(autodiff.zeros_like(b) if f is None else f for b, f in zip(bars, found, strict=True))
    return (Graph(f"{backward.name}_turned", (*known, *dots), results, backward.dims),)


def _depends(result: Value, bars: Sequence[Parameter]) -> bool:
    if isinstance(result, Full) and result.value == 0:
        return True
    return any(value is bar for value in autodiff.reachable_from([result]) for bar in bars)


def _of_a_tangent(op: CustomTangent, tangents: Tangents) -> Tangents:
    count = len(op.residuals)
    if all(t is None for t in tangents[:count]):
        dots = [autodiff.zeros_like(a) if t is None else t for a, t in zip(op.tangents, tangents[count:], strict=True)]
        made = CustomTangent(op.residuals, tuple(dots), op.backward, op.forward)
        return tuple(Get(made, i) for i in range(len(op.backward.params) - count))
    if not op.forward:
        raise op.one_way()
    operands = (*op.residuals, *op.tangents)
    seeds = {id(o): t for o, t in zip(operands, tangents, strict=True) if t is not None}
    return tuple(autodiff.push(inline(op.forward[0], operands), seeds))


def custom_transpose(op: CustomTangent, cotangents: Tangents, moving: tuple[bool, ...]) -> Tangents:
    """The cotangents of the operands: those of the rule."""
    bars = op.backward.params[len(op.residuals) :]
    seen = [autodiff.zeros_like(bar) if c is None else c for bar, c in zip(bars, cotangents, strict=True)]
    found = inline(op.backward, (*op.residuals, *seen))
    return (*(None for _ in op.residuals), *found)


def _again(op: Checkpoint, tangents: Tangents) -> Tangents:
    """The tangents of the body, which read a copy of what is not kept. Each of its chains begins at a mark of its own,
    so that it waits for the cotangent that needs it, not for the first that needs any."""
    body = op.body
    moving = [i for i, t in enumerate(tangents) if t is not None]
    dots = {id(body.params[i]): Parameter(f"t{i}", body.params[i].given) for i in moving}
    found = autodiff.push(body.results, dots)
    linear = [t for t in found if t is not None]
    choice = remat.choose(body, linear, list(dots.values()), op.policy)
    remat.tell(op, choice)
    values = inline(body.with_results(choice.kept), op.args)
    memo: dict[int, Value] = {id(k): After(v, ()) for k, v in zip(choice.kept, values, strict=True)}
    for param, arg in zip(body.params, op.args, strict=True):
        memo.setdefault(id(param), After(arg, ()))
    params = (*body.params, *dots.values())
    memo |= {id(dots[id(body.params[i])]): t for i in moving if (t := tangents[i]) is not None}
    done = iter(rebuild(Graph(body.name, params, tuple(linear), body.dims), lambda value: None, memo=memo).results)
    return tuple(None if t is None else next(done) for t in found)


def without_rules(graph: Graph) -> Graph:
    """The graph with the bodies of such ops in their places: what is left when nothing more can be differentiated."""
    return opened(graph, _ruled)


def _ruled(value: Value) -> Graph | None:
    match value:
        case Custom(body=body):
            return body
        case CustomTangent(forward=(forward,)):
            return forward
        case CustomTangent():
            raise value.one_way()
    return None
