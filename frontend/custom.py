"""Derivatives that the user writes: `custom_jvp` forward, `custom_vjp` backward, with JAX's signatures.

The function is traced where it is called; its rule is traced when a derivative is taken there, so a rule may call the
function whose rule it is. What a rule returns is checked against what it stands for: a structure, shapes and dtypes.
Integers and bools carry no tangents: a rule sees None for theirs, and may return None for a zero. Outside a trace the
function is called as it is.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ..ir.errors import TreadleError, TypeMismatch
from ..ir.graph import Graph
from ..ir.ops.custom import CustomJvp, CustomVjp
from ..ir.types import TensorType
from ..ir.value import Full, Get, Value, lift
from ..passes.autodiff import differentiable
from . import tree
from .arguments import signature_of
from .arrays import lift as lift_array
from .trace import LeafSpec, current, here, operation
from .tracer import Traced, Tracer, trace_inner, unwrap, wrap
from .transforms import function_of, name_of, numbers_of, places_of
from .tree import TreeDef
from .userline import definition


class _Custom(ABC):
    """What both have in common: arguments that are differentiated and arguments that are not."""

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = ()) -> None:
        self.fun = function_of(fun, f"td.{type(self).__name__}", f"@td.{type(self).__name__} above the function")
        functools.update_wrapper(self, fun)
        self.nondiff = numbers_of(nondiff_argnums, name_of(fun), "nondiff_argnums")[1]

    @property
    def name(self) -> str:
        return str(getattr(self.fun, "__name__", "function"))

    @abstractmethod
    def ready(self) -> bool:
        """Whether there is a rule."""

    @abstractmethod
    def op(self, call: _Call) -> Value:
        """The operation that stands for one call."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return self.fun(*args, **kwargs)
        with operation():
            if not self.ready():
                how = "defjvp(rule)" if isinstance(self, custom_jvp) else "defvjp(forward, backward)"
                raise TypeMismatch(
                    f"{self.name} has no rule yet", code="TD0706", location=here(), edit=f"{self.name}.{how}"
                )
            if kwargs:
                bound = signature_of(self.fun).bind(*args, **kwargs)
                bound.apply_defaults()
                args = bound.args
            call = _Call(self, args)
            made = self.op(call)
            weak = call.traced.out_weak
            return call.traced.out_tree.unflatten(wrap(Get(made, i), weak[i]) for i in range(len(weak)))


class _Call:
    """One call: the function traced at its arguments."""

    def __init__(self, custom: _Custom, args: tuple[Any, ...]) -> None:
        self.custom = custom
        # Where the arguments stand that are not differentiated.
        self.places = sorted(places_of(custom.nondiff, len(args), custom.name, "nondiff_argnums"))
        self.fixed = tuple(args[i] for i in self.places)
        moved = [arg for i, arg in enumerate(args) if i not in self.places]
        places = [i for i in range(len(args)) if i not in self.places]
        flat, self.structure = tree.flatten(tuple(moved))
        leaves = [lift_array(leaf) for leaf in flat]
        paths = self.structure.paths("argument ")
        self.specs = [
            LeafSpec(x.weak or "array", unwrap(x).tensor, path) for x, path in zip(leaves, paths, strict=True)
        ]

        def body(*given: Tracer) -> Any:
            whole = list(args)
            for place, value in zip(places, self.structure.unflatten(given), strict=True):
                whole[place] = value
            return custom.fun(*whole)

        self.traced: Traced = trace_inner(body, self.specs, custom.name)

        values = [unwrap(leaf) for leaf in leaves]
        self.operands = (*self.traced.outer, *values)
        self.moving = [differentiable(value) for value in values]
        self.floats = [differentiable(result) for result in self.traced.graph.results]

    def rule(self, function: Callable[..., Any], flat: Callable[..., Any], specs: list[LeafSpec], what: str) -> Traced:
        """A rule traced on these arguments; it may not use traced arrays beside them."""
        name = str(getattr(function, "__name__", what))
        traced = trace_inner(flat, specs, name if name.isidentifier() else what)
        if traced.outer:
            raise TypeMismatch(
                f"{self.custom.name}: the {what} uses a traced array that is none of its arguments",
                code="TD0707",
                location=definition(function),
                edit="pass it to the function as an argument, and on to the rule",
            )
        return traced


def _spread(values: Sequence[Any], mask: Sequence[bool]) -> list[Any]:
    """The values where the mask is true, None elsewhere."""
    rest = iter(values)
    return [next(rest) if here else None for here in mask]


def _called(function: Callable[..., Any], args: Sequence[Any], what: str, takes: str) -> Any:
    """What a rule gives for these arguments; TD0708 where it does not take so many."""
    try:
        signature_of(function).bind(*args)
    except TypeError as error:
        raise TypeMismatch(
            f"{what} takes {takes}: {error}", code="TD0708", location=definition(function), edit=f"def rule{takes}: ..."
        ) from None
    return function(*args)


def _fitting(
    given: Any,
    structure: TreeDef,
    types: Sequence[TensorType],
    mask: Sequence[bool],
    function: Any,
    what: str,
    *,
    zeros: bool = True,
) -> list[Value]:
    """The leaves of what a rule gave, one for each type that `mask` names; with `zeros`, None is zero. TD0708 where
    they do not fit."""
    leaves, found = tree.flatten(given, (lambda x: x is None) if zeros else None)
    if given is None and zeros:
        leaves = [None] * structure.leaves
    elif found != structure:
        raise TypeMismatch(
            f"{what} has the structure {found}, {structure} is needed",
            code="TD0708",
            location=definition(function),
            edit=f"return {structure.shown(types)}" + (", or None for what is zero" if zeros else ""),
        )
    values: list[Value] = []
    for leaf, kind, moves, path in zip(leaves, types, mask, structure.paths(""), strict=True):
        if not moves:
            continue
        if leaf is None:
            values.append(Full(0, kind))
            continue
        try:
            tracer = lift_array(leaf)
        except TreadleError as error:
            raise TypeMismatch(
                f"{what}{path} is no array: {error.message}",
                code="TD0708",
                location=definition(function),
                edit=f"an array of {kind}",
            ) from None
        value = unwrap(tracer)
        if tracer.weak is not None and kind.shape == () and value.dtype is not kind.dtype:
            value = lift(leaf, Full(0, kind)) if not isinstance(leaf, Tracer) else value
        if value.type != kind:
            raise TypeMismatch(
                f"{what}{path} is {value.type}, {kind} is needed",
                code="TD0708",
                location=definition(function),
                edit=f".astype({kind.dtype.numpy.name!r})" if value.shape == kind.shape else f"an array of {kind}",
            )
        values.append(value)
    return values


class custom_jvp(_Custom):
    """A function with its derivative forward: `f.defjvp(rule)`, where `rule(primals, tangents)` gives (value, tangent).

    Both are tuples, one element for each argument that is not in `nondiff_argnums`; those come first. Reverse mode
    follows, since the rule is linear in the tangents. Errors: TD0706 no rule, TD0707 a rule that closes over traced
    arrays, TD0708 a rule whose results do not fit.
    """

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = ()) -> None:
        super().__init__(fun, nondiff_argnums)
        self.jvp: Callable[..., Any] | None = None

    def defjvp(self, jvp: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule, also as a decorator."""
        self.jvp = function_of(jvp, f"{self.name}.defjvp", "defjvp(rule), with rule(primals, tangents)")
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """One rule for each argument, `jvp(tangent, value, *primals)`, of which the tangent is the sum; None: zero."""

        def jvp(primals: Any, tangents: Any) -> Any:
            value = self(*primals)
            if len(jvps) != len(tangents):
                raise TypeMismatch(
                    f"{self.name}.defjvps has {len(jvps)} rules for {len(tangents)} arguments",
                    code="TD0708",
                    location=definition(jvp),
                    edit="a rule for each argument, or None where the derivative is zero",
                )
            terms = [f(t, value, *primals) for f, t in zip(jvps, tangents, strict=True) if f and t is not None]
            total = terms[0] if terms else None
            for term in terms[1:]:
                total = tree.map(lambda a, b: a + b, total, term)
            return value, total

        # Faults of the whole are shown at the first of the rules.
        first = next((f for f in jvps if f is not None), None)
        if first is not None:
            jvp.__signature__ = signature_of(jvp)  # type: ignore[attr-defined]
            jvp.__wrapped__ = first  # type: ignore[attr-defined]
        self.jvp = jvp

    def ready(self) -> bool:
        return self.jvp is not None

    def op(self, call: _Call) -> Value:
        function = self.jvp
        assert function is not None

        def rule() -> Graph:
            dots = [spec for spec, moves in zip(call.specs, call.moving, strict=True) if moves]
            count = len(call.specs)
            takes = f"({', '.join([*(f'nondiff{i}' for i in range(len(call.fixed))), 'primals', 'tangents'])})"

            def flat(*given: Tracer) -> Any:
                primals = call.structure.unflatten(given[:count])
                tangents = call.structure.unflatten(_spread(given[count:], call.moving))
                found: Any = _called(function, (*call.fixed, primals, tangents), f"the rule of {self.name}", takes)
                if not isinstance(found, tuple) or len(found) != 2:
                    raise TypeMismatch(
                        f"the rule of {self.name} must return (value, tangent)",
                        code="TD0708",
                        location=definition(function),
                        edit="return value, tangent",
                    )
                kinds, structure = call.traced.out_types, call.traced.out_tree
                everything = [True] * len(kinds)
                what = f"the value that the rule of {self.name} gives"
                _fitting(found[0], structure, kinds, everything, function, what, zeros=False)
                what = f"the tangent that the rule of {self.name} gives"
                return [wrap(v) for v in _fitting(found[1], structure, kinds, call.floats, function, what)]

            tangent_specs = [LeafSpec("array", spec.type, f"tangent of {spec.path}") for spec in dots]
            return call.rule(function, flat, [*call.specs, *tangent_specs], "rule forward").graph

        return CustomJvp(call.operands, call.traced.graph, functools.cache(rule), len(call.traced.outer))


class custom_vjp(_Custom):
    """A function with its derivative backward: `f.defvjp(forward, backward)`.

    `forward(*args)` gives (value, residuals); `backward(residuals, cotangent)` gives a tuple with a cotangent for each
    argument that is not in `nondiff_argnums`; those come first in `backward`. Forward mode turns the rule round where
    it is linear in the cotangent. Errors: as `custom_jvp`.
    """

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = ()) -> None:
        super().__init__(fun, nondiff_argnums)
        self.rules: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Set both rules."""
        what, edit = f"{self.name}.defvjp", "defvjp(forward, backward)"
        self.rules = (function_of(fwd, what, edit), function_of(bwd, what, edit))

    def ready(self) -> bool:
        return self.rules is not None

    def op(self, call: _Call) -> Value:
        assert self.rules is not None
        fwd, bwd = self.rules
        kinds, structure = call.traced.out_types, call.traced.out_tree
        everything = [True] * len(kinds)

        def ahead(*given: Tracer) -> Any:
            args = list(call.structure.unflatten(given))
            for place, value in zip(call.places, call.fixed, strict=True):
                args.insert(place, value)
            takes = str(signature_of(self.fun))
            found: Any = _called(fwd, args, f"the rule forward of {self.name}", takes)
            if not isinstance(found, tuple) or len(found) != 2:
                raise TypeMismatch(
                    f"the rule forward of {self.name} must return (value, residuals)",
                    code="TD0708",
                    location=definition(fwd),
                    edit="return value, residuals",
                )
            what = f"the value that the rule forward of {self.name} gives"
            values = _fitting(found[0], structure, kinds, everything, fwd, what, zeros=False)
            return [wrap(v) for v in values], found[1]

        def rule() -> tuple[Graph, Graph]:
            forward = call.rule(fwd, ahead, call.specs, "rule forward")
            count, residuals = len(kinds), forward.out_tree.children[1]
            specs = [
                LeafSpec(weak or "array", kind, path)
                for kind, weak, path in zip(
                    forward.out_types[count:], forward.out_weak[count:], residuals.paths("residual"), strict=True
                )
            ]

            def back(*given: Tracer) -> Any:
                cotangent = structure.unflatten(_spread(given[len(specs) :], call.floats))
                kept = residuals.unflatten(given[: len(specs)])
                takes = f"({', '.join([*(f'nondiff{i}' for i in range(len(call.fixed))), 'residuals', 'cotangent'])})"
                found: Any = _called(bwd, (*call.fixed, kept, cotangent), f"the rule backward of {self.name}", takes)
                wanted = len(call.structure.children)
                if not isinstance(found, tuple) or len(found) != wanted:
                    many = f"a tuple of {len(found)}" if isinstance(found, tuple) else tree.structure(found)
                    raise TypeMismatch(
                        f"the rule backward of {self.name} must return a tuple of {wanted} "
                        f"cotangent{'' if wanted == 1 else 's'}, it returns {many}",
                        code="TD0708",
                        location=definition(bwd),
                        edit="return (cotangent,), one for each argument, or None for zero",
                    )
                values: list[Value] = []
                first = 0
                for i, (part, below) in enumerate(zip(found, call.structure.children, strict=True)):
                    last = first + below.leaves
                    types = [spec.type for spec in call.specs[first:last]]
                    what = f"cotangent {i} that the rule backward of {self.name} gives"
                    values += _fitting(part, below, types, call.moving[first:last], bwd, what)
                    first = last
                return [wrap(v) for v in values]

            bars = [
                LeafSpec("array", kind, f"cotangent{path}")
                for kind, floating, path in zip(kinds, call.floats, structure.paths(""), strict=True)
                if floating
            ]
            return forward.graph, call.rule(bwd, back, [*specs, *bars], "rule backward").graph

        return CustomVjp(call.operands, call.traced.graph, functools.cache(rule), len(call.traced.outer))
