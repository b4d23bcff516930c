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

from ..ir.errors import TypeMismatch
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
from .tree import TreeDef
from .userline import definition


class _Custom(ABC):
    """What both have in common: arguments that are differentiated and arguments that are not."""

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = ()) -> None:
        functools.update_wrapper(self, fun)
        self.fun = fun
        self.nondiff = tuple(nondiff_argnums)

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
        fixed = {number % len(args) for number in custom.nondiff} if args else set()
        self.fixed = tuple(arg for i, arg in enumerate(args) if i in fixed)
        moved = [arg for i, arg in enumerate(args) if i not in fixed]
        places = [i for i in range(len(args)) if i not in fixed]
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


def _fitting(
    given: Any, structure: TreeDef, types: Sequence[TensorType], mask: Sequence[bool], function: Any, what: str
) -> list[Value]:
    """The leaves of what a rule gave, one for each type that `mask` names; None is zero. TD0708 where they do not
    fit."""
    leaves, found = tree.flatten(given, lambda x: x is None)
    if leaves == [None] and structure.leaves != 1:
        leaves = [None] * structure.leaves
    elif found != structure:
        raise TypeMismatch(
            f"{what} has the structure {found}, {structure} is needed",
            code="TD0708",
            location=definition(function),
            edit=f"return {structure} there, with None for what is zero",
        )
    values: list[Value] = []
    for leaf, kind, moves, path in zip(leaves, types, mask, structure.paths(""), strict=True):
        if not moves:
            continue
        if leaf is None:
            values.append(Full(0, kind))
            continue
        tracer = lift_array(leaf)
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
        self.jvp = jvp
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """One rule for each argument, `jvp(tangent, value, *primals)`, of which the tangent is the sum; None: zero."""

        def jvp(primals: Any, tangents: Any) -> Any:
            value = self(*primals)
            terms = [f(t, value, *primals) for f, t in zip(jvps, tangents, strict=True) if f and t is not None]
            total = terms[0] if terms else None
            for term in terms[1:]:
                total = tree.map(lambda a, b: a + b, total, term)
            return value, total

        self.jvp = jvp

    def ready(self) -> bool:
        return self.jvp is not None

    def op(self, call: _Call) -> Value:
        function = self.jvp
        assert function is not None

        def rule() -> Graph:
            dots = [spec for spec, moves in zip(call.specs, call.moving, strict=True) if moves]
            count = len(call.specs)

            def flat(*given: Tracer) -> Any:
                primals = call.structure.unflatten(given[:count])
                tangents = call.structure.unflatten(_spread(given[count:], call.moving))
                found: Any = function(*call.fixed, primals, tangents)
                if not isinstance(found, tuple) or len(found) != 2:
                    raise TypeMismatch(
                        f"the rule of {self.name} must return (value, tangent)",
                        code="TD0708",
                        location=definition(function),
                        edit="return value, tangent",
                    )
                kinds, structure = call.traced.out_types, call.traced.out_tree
                everything = [True] * len(kinds)
                _fitting(found[0], structure, kinds, everything, function, f"the value that the rule of {self.name}")
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
        self.rules = (fwd, bwd)

    def ready(self) -> bool:
        return self.rules is not None

    def op(self, call: _Call) -> Value:
        assert self.rules is not None
        fwd, bwd = self.rules
        kinds, structure = call.traced.out_types, call.traced.out_tree
        everything = [True] * len(kinds)

        def ahead(*given: Tracer) -> Any:
            args = list(call.structure.unflatten(given))
            for number in sorted({n % (len(args) + len(call.fixed)) for n in self.nondiff}):
                args.insert(number, call.fixed[sum(m < number for m in self.nondiff)])
            found: Any = fwd(*args)
            if not isinstance(found, tuple) or len(found) != 2:
                raise TypeMismatch(
                    f"the rule forward of {self.name} must return (value, residuals)",
                    code="TD0708",
                    location=definition(fwd),
                    edit="return value, residuals",
                )
            what = f"the value that the rule forward of {self.name} gives"
            return [wrap(v) for v in _fitting(found[0], structure, kinds, everything, fwd, what)], found[1]

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
                found: Any = bwd(*call.fixed, residuals.unflatten(given[: len(specs)]), cotangent)
                if not isinstance(found, tuple) or len(found) != len(call.structure.children):
                    raise TypeMismatch(
                        f"the rule backward of {self.name} must return a tuple of {len(call.structure.children)} "
                        f"cotangents",
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
