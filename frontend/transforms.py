"""Derivatives as functions of functions: grad, jvp, vjp and their kin, with JAX's signatures.

A transform traces its function to a closed graph, differentiates the graph, and puts the result where it is called:
into the running trace if there is one, else into a program of its own that is compiled as `td.jit` would. So transforms
compose with each other and with `jit` in any order. Complex derivatives follow JAX: tangents and cotangents pair
without a conjugate, so the gradient of a real function of z = x + iy is df/dx - i df/dy; a step against its conjugate
descends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.dims import Dim
from ..ir.dtypes import i64
from ..ir.errors import InvalidValue, ShapeMismatch, TypeMismatch
from ..ir.graph import Graph, inline, rebuild
from ..ir.ops.control import Checkpoint
from ..ir.ops.elementwise import Convert, Eq
from ..ir.ops.movement import Iota, Reshape, StopGradient, Transpose
from ..ir.types import TensorType
from ..ir.value import Get, Parameter, Value, lift
from ..passes import autodiff, batch
from ..passes import remat as rematerialize
from . import tree
from .arguments import signature_of
from .arrays import lift as lift_array
from .arrays import static_dim
from .jit import jit
from .trace import LeafSpec, current, here, operation
from .tracer import Traced, Tracer, trace_inner, unwrap, wrap
from .tree import TreeDef
from .userline import spoken


@spoken
def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    remat: str | int | None = None,
) -> Callable[..., Any]:
    """The gradient of a scalar function with respect to argument number `argnums` (several: a tuple of gradients).

    With `has_aux` the function returns (value, aux) and the result is (gradient, aux). `remat` says what is kept for
    the way back, as the policy of a `checkpoint` of the whole function. Errors: TD0701 when the value is no real
    scalar, TD0702 when an argument is not made of floats.
    """
    both = value_and_grad(fun, argnums, has_aux, remat=remat)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return spoken(named(gradient, fun, "grad"))


@spoken
def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    remat: str | int | None = None,
) -> Callable[..., Any]:
    """As `grad`, but (value, gradient); with `has_aux`, ((value, aux), gradient)."""
    fun = function_of(fun, "td.grad")
    if remat is not None:
        fun = checkpoint(fun, policy=remat)
    several, wanted = numbers_of(argnums, name_of(fun))

    def inside(*args: Any, **kwargs: Any) -> Any:
        name = name_of(fun)
        positions = places_of(wanted, len(args), name)
        point = Point(fun, args, kwargs, positions, name)
        results, aux = point.results(has_aux)
        structure = point.out_tree(has_aux)
        if structure.kind != "leaf" or results[0].rank != 0 or results[0].dtype.kind != "float":
            raise TypeMismatch(
                f"grad of {name}: its value is {structure.shown(v.type for v in results)}, a real scalar is needed",
                code="TD0701",
                location=here(),
                edit=_scalar_edit(structure, results, has_aux),
            )
        one = lift(1, results[0])
        gradients = point.pull(results, [one])
        value = wrap(point.at_arguments(results)[0])
        parts = tuple(point.unflatten_argument(i, gradients) for i in range(len(positions)))
        answer = parts if several else parts[0]
        return ((value, point.aux(aux)), answer) if has_aux else (value, answer)

    return transformed(inside, fun, "value_and_grad", same=True)


def _scalar_edit(structure: TreeDef, results: Sequence[Value], has_aux: bool) -> str:
    if not results:
        return "return the number that the gradient is of"
    if structure.kind != "leaf":
        if structure.kind == "tuple" and len(structure.children) == 2 and not has_aux:
            return "has_aux=True, if it returns (value, what is carried along)"
        return f"return the number itself: value{structure.paths()[0]}"
    if results[0].dtype.kind != "float":
        return "a float that is real: .astype(np.float64) of a whole number, np.real or np.abs of a complex one"
    return "reduce it to one number, for example by .sum(), or use td.jacrev"


@spoken
def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(value, pullback): `pullback(cotangent)` gives a tuple of cotangents, one for each primal."""
    fun = function_of(fun, "td.vjp", "td.vjp(f, x)")
    value, aux = _primal(fun, primals, has_aux)

    def inside(cotangent: Any, *args: Any) -> Any:
        point = Point(fun, args, {}, list(range(len(args))), name_of(fun))
        results, _ = point.results(has_aux)
        bars = _matching(cotangent, point.out_tree(has_aux), results, "cotangent", name_of(fun))
        found = point.pull(results, bars)
        return tuple(point.unflatten_argument(i, found) for i in range(len(args)))

    pulled = transformed(inside, fun, "vjp")

    def pullback(cotangent: Any) -> Any:
        return pulled(cotangent, *primals)

    return (value, pullback, aux) if has_aux else (value, pullback)


@spoken
def jvp(fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> Any:
    """(value, tangent) of `fun` at `primals` along `tangents`, which have their structure, shapes and dtypes
    (TD0703)."""
    fun = function_of(fun, "td.jvp", "td.jvp(f, (x,), (tx,))")
    for given, what in ((primals, "primals"), (tangents, "tangents")):
        if not isinstance(given, list | tuple):
            raise TypeMismatch(
                f"jvp of {name_of(fun)}: the {what} are {type(given).__name__}, a tuple of them is needed",
                code="TD0703",
                location=here(),
                edit="td.jvp(f, (x,), (tx,))",
            )

    def inside(args: Any, dots: Any) -> Any:
        point = Point(fun, tuple(args), {}, list(range(len(args))), name_of(fun))
        results, aux = point.results(has_aux)
        given = _matching(tuple(dots), tree.structure(tuple(args)), point.moving_params, "tangent", name_of(fun))
        tangent = point.push(results, given)
        structure = point.out_tree(has_aux)
        value = structure.unflatten(wrap(v) for v in point.at_arguments(results))
        answer = (value, structure.unflatten(tangent))
        return (*answer, point.aux(aux)) if has_aux else answer

    return transformed(inside, fun, "jvp")(tuple(primals), tuple(tangents))


@spoken
def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(value, linear map): the map takes tangents of the primals to the tangent of the value."""
    fun = function_of(fun, "td.linearize", "td.linearize(f, x)")
    value, aux = _primal(fun, primals, has_aux)

    def linear(*tangents: Any) -> Any:
        return jvp(fun, primals, tangents, has_aux)[1]

    return (value, linear, aux) if has_aux else (value, linear)


def _primal(fun: Callable[..., Any], primals: Sequence[Any], has_aux: bool) -> tuple[Any, Any]:
    found = transformed(lambda *args: fun(*args), fun, "primal")(*primals)
    return found if has_aux else (found, None)


class Point:
    """A function traced at given arguments, some of which move; values of its graph on demand, in the running trace."""

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Sequence[int],
        name: str,
    ) -> None:
        self.name = name
        leaves: list[Tracer] = []
        self.structures: list[TreeDef] = []
        self.starts: list[int] = []
        for number in positions:
            found, structure = tree.flatten(args[number])
            paths = structure.paths(f"argument {number}")
            self.starts.append(len(leaves))
            self.structures.append(structure)
            for leaf, path in zip(found, paths, strict=True):
                tracer = lift_array(leaf)
                if not autodiff.differentiable(unwrap(tracer)):
                    raise TypeMismatch(
                        f"{name}: {path} is {unwrap(tracer).type}, which has no derivative",
                        code="TD0702",
                        location=here(),
                        edit="differentiate with respect to floats, or convert it by .astype(np.float32)",
                    )
                leaves.append(tracer)
        self.leaves = leaves

        def flat(*tracers: Tracer) -> Any:
            rebuilt = list(args)
            for number, structure, start in zip(positions, self.structures, self.starts, strict=True):
                rebuilt[number] = structure.unflatten(tracers[start : start + structure.leaves])
            return fun(*rebuilt, **kwargs)

        self.traced: Traced = trace_inner(flat, [unwrap(t).tensor for t in leaves], name)
        self.graph: Graph = self.traced.graph
        self.moving_params = self.graph.params[len(self.graph.params) - len(leaves) :]
        self.given: tuple[Value, ...] = (*self.traced.outer, *(unwrap(t) for t in leaves))
        self.placed: dict[int, Value] = {
            id(param): value for param, value in zip(self.graph.params, self.given, strict=True)
        }
        self.seen: list[Graph] = []

    def out_tree(self, has_aux: bool) -> TreeDef:
        return self.traced.out_tree.children[0] if has_aux else self.traced.out_tree

    def results(self, has_aux: bool) -> tuple[list[Value], list[Value]]:
        """The results proper, and those of `aux`."""
        found = list(self.graph.results)
        if not has_aux:
            return found, []
        structure = self.traced.out_tree
        if structure.kind != "tuple" or len(structure.children) != 2:
            raise TypeMismatch(
                f"{self.name}: with has_aux it must return (value, aux), it returns {structure}",
                code="TD0704",
                location=here(),
                edit="return value, aux",
            )
        count = structure.children[0].leaves
        return found[:count], found[count:]

    def at_arguments(
        self, values: Sequence[Value], params: Sequence[Parameter] = (), given: Sequence[Value] = ()
    ) -> list[Value]:
        """Values of the inner graph, put into the running trace; `params` are further ones, which stand for `given`.

        What an earlier call has put there is taken from there."""
        graph = Graph(self.name, (*self.graph.params, *params), tuple(values), self.graph.dims)
        self.placed |= {id(param): value for param, value in zip(params, given, strict=True)}
        # The values whose ids are remembered must live as long as the memory of them.
        self.seen.append(graph)
        return list(rebuild(graph, lambda value: None, memo=self.placed).results)

    def aux(self, values: Sequence[Value]) -> Any:
        structure = self.traced.out_tree.children[1]
        return structure.unflatten(wrap(v) for v in self.at_arguments(values))

    def pull(self, results: Sequence[Value], cotangents: Sequence[Value]) -> list[Tracer]:
        """The cotangents of the moving leaves; zeros where nothing depends on one."""
        bars = [Parameter(f"bar{i}", c.tensor) for i, c in enumerate(cotangents)]
        found = autodiff.pull(results, bars, self.moving_params)
        filled = [autodiff.zeros_like(p) if c is None else c for p, c in zip(self.moving_params, found, strict=True)]
        return [wrap(v) for v in self.at_arguments(filled, bars, cotangents)]

    def push(self, results: Sequence[Value], tangents: Sequence[Value]) -> list[Tracer]:
        dots = [Parameter(f"dot{i}", t.tensor) for i, t in enumerate(tangents)]
        found = autodiff.push(results, {id(p): dot for p, dot in zip(self.moving_params, dots, strict=True)})
        filled = [autodiff.zeros_like(r) if t is None else t for r, t in zip(results, found, strict=True)]
        return [wrap(v) for v in self.at_arguments(filled, dots, tangents)]

    def unflatten_argument(self, i: int, leaves: Sequence[Any]) -> Any:
        start, structure = self.starts[i], self.structures[i]
        return structure.unflatten(leaves[start : start + structure.leaves])


def _matching(given: Any, structure: TreeDef, like: Sequence[Value], what: str, name: str) -> list[Value]:
    """The leaves of a tangent or cotangent, checked against what they belong to: TD0703."""
    leaves, found = tree.flatten(given)
    if found.leaves != structure.leaves or found != structure:
        raise TypeMismatch(
            f"{name}: the {what} has the structure {found}, {structure} is needed",
            code="TD0703",
            location=here(),
            edit="one tangent for each primal: td.jvp(f, (x, y), (tx, ty))"
            if what == "tangent"
            else "a cotangent like the value: td.tree.map(np.ones_like, value)",
        )
    values = []
    for leaf, other, path in zip(leaves, like, structure.paths(what), strict=True):
        value = unwrap(lift_array(leaf))
        if (
            value.rank == 0
            and value.shape == other.shape
            and value.dtype is not other.dtype
            and not hasattr(leaf, "dtype")
        ):
            value = lift(leaf, other)
        if value.type != other.type:
            raise TypeMismatch(
                f"{name}: {path} is {value.type}, {other.type} is needed",
                code="TD0703",
                location=here(),
                edit=f".astype({other.dtype.numpy.name!r})"
                if value.shape == other.shape
                else f"an array of {other.type}",
            )
        values.append(value)
    return values


@spoken
def jacfwd(fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The Jacobian by forward mode, one tangent per input element: result axes first, then the argument's."""
    return _jacobian(fun, argnums, has_aux, forward=True)


@spoken
def jacrev(fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The Jacobian by reverse mode, one cotangent per result element: result axes first, then the argument's."""
    return _jacobian(fun, argnums, has_aux, forward=False)


jacobian = jacrev


@spoken
def hessian(fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The second derivative: forward over reverse."""
    return jacfwd(jacrev(fun, argnums, has_aux), argnums, has_aux)


def _jacobian(
    fun: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool, *, forward: bool
) -> Callable[..., Any]:
    fun = function_of(fun, "td.jacfwd" if forward else "td.jacrev")
    several, wanted = numbers_of(argnums, name_of(fun))

    def inside(*args: Any, **kwargs: Any) -> Any:
        name = name_of(fun)
        point = Point(fun, args, kwargs, places_of(wanted, len(args), name), name)
        results, aux = point.results(has_aux)
        for result, path in zip(results, point.out_tree(has_aux).paths("its value"), strict=True):
            if not autodiff.differentiable(result):
                raise TypeMismatch(
                    f"the Jacobian of {name}: {path} is {result.type}, which has no derivative",
                    code="TD0701",
                    location=here(),
                    edit="has_aux=True and `return value, that` for what is carried along"
                    if len(results) > 1
                    else "return floats: .astype(np.float64)",
                )
        blocks = _blocks_forward(point, results) if forward else _blocks_reverse(point, results)
        structure = point.out_tree(has_aux)
        rows = []
        for row in blocks:
            columns = tuple(point.unflatten_argument(i, row) for i in range(len(wanted)))
            rows.append(columns if several else columns[0])
        answer = structure.unflatten(rows)
        return (answer, point.aux(aux)) if has_aux else answer

    return transformed(inside, fun, "jacfwd" if forward else "jacrev", same=True)


def _basis(like: Value) -> Value:
    """The unit vectors of `like`'s space, stacked along a new leading axis."""
    size = like.tensor.size
    square = TensorType((size, size), i64)
    unit = Convert(Eq(Iota(square, 0), Iota(square, 1)), like.dtype)
    return Reshape(unit, (size, *like.shape))


def _blocks_reverse(point: Point, results: Sequence[Value]) -> list[list[Tracer]]:
    """For each result its derivatives by each moving leaf: result axes, then leaf axes."""
    rows = []
    for result in results:
        bar = Parameter("bar", result.tensor)
        found = autodiff.pull([result], [bar], point.moving_params)
        filled = [autodiff.zeros_like(p) if c is None else c for p, c in zip(point.moving_params, found, strict=True)]
        graph = Graph(point.name, (*point.graph.params, bar), tuple(filled), point.graph.dims)
        size = result.tensor.size
        mask = (*(False for _ in point.graph.params), True)
        batched = batch.batch_all(graph, mask, size, [True] * len(filled))
        outs = inline(batched, (*point.given, _basis(result)))
        rows.append(
            [wrap(Reshape(o, (*result.shape, *p.shape))) for o, p in zip(outs, point.moving_params, strict=True)]
        )
    return rows


def _blocks_forward(point: Point, results: Sequence[Value]) -> list[list[Tracer]]:
    columns = []
    for param in point.moving_params:
        dot = Parameter("dot", param.given)
        found = autodiff.push(results, {id(param): dot})
        filled = [autodiff.zeros_like(r) if t is None else t for r, t in zip(results, found, strict=True)]
        graph = Graph(point.name, (*point.graph.params, dot), tuple(filled), point.graph.dims)
        mask = (*(False for _ in point.graph.params), True)
        batched = batch.batch_all(graph, mask, param.given.size, [True] * len(filled))
        outs = inline(batched, (*point.given, _basis(param)))
        column = []
        for out, result in zip(outs, results, strict=True):
            whole = Reshape(out, (*param.shape, *result.shape))
            k = param.rank
            column.append(wrap(Transpose(whole, (*range(k, whole.rank), *range(k)))))
        columns.append(column)
    return [[column[i] for column in columns] for i in range(len(results))]


@spoken
def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: Any = None,
    *,
    chunk_size: Any = None,
) -> Callable[..., Any]:
    """`fun` over one more axis of its arguments, as one batched program; over at most `chunk_size` elements at once, if
    it is given.

    `in_axes`: an int or None (not mapped) for all arguments, or a tuple with one for each, each a tree prefix of its
    argument; `out_axes` likewise for the results. Errors: TD0710 wrong structure, TD0711 sizes differ or none is known,
    TD0712 an axis that is not there, TD0713 a chunk of no element.
    """
    fun = function_of(fun, "td.vmap")
    name = name_of(fun)
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise InvalidValue(
            f"vmap of {name}: chunk_size is {chunk_size!r}, at least 1 is needed",
            code="TD0713",
            edit="chunk_size=1 or more, or leave it out",
        )

    def inside(*args: Any, **kwargs: Any) -> Any:
        axes = _prefix(tuple(in_axes) if isinstance(in_axes, list) else in_axes, args, "in_axes", name)
        leaves, structure = tree.flatten((args, kwargs))
        axes += [0] * (len(leaves) - len(axes))
        paths = _paths(fun, structure)
        values = [unwrap(lift_array(leaf)) for leaf in leaves]
        size: Dim | None = None if axis_size is None else static_dim(axis_size, "axis_size")
        if isinstance(size, int) and size < 0:
            raise InvalidValue(
                f"vmap of {name}: axis_size is {size}, less than none",
                code="TD0711",
                location=here(),
                edit="axis_size=n, or none: the arguments that are mapped tell it",
            )
        first = "axis_size"
        fronted: list[Value] = []
        for value, axis, path in zip(values, axes, paths, strict=True):
            if axis is None:
                fronted.append(value)
                continue
            if not -value.rank <= axis < value.rank:
                raise InvalidValue(
                    f"vmap of {name}: {path} is {value.type} and has no axis {axis}",
                    code="TD0712",
                    location=here(),
                    edit=f"an axis from {-value.rank} to {value.rank - 1}, or None for what is not mapped"
                    if value.rank
                    else "in_axes=None for what is not mapped",
                )
            axis %= value.rank
            if size is None:
                size, first = value.shape[axis], path
            elif value.shape[axis] != size:
                raise ShapeMismatch(
                    f"vmap of {name}: axis {axis} of {path} has {value.shape[axis]} elements, {first} has {size}",
                    code="TD0711",
                    location=here(),
                    edit=f"axis_size={value.shape[axis]}, or none"
                    if first == "axis_size"
                    else "in_axes=(0, None): None for what all members share",
                )
            fronted.append(_moved(value, axis, 0))
        if size is None:
            raise InvalidValue(
                f"vmap of {name}: nothing is mapped, so no size is known",
                code="TD0711",
                location=here(),
                edit="axis_size=n, or an axis among in_axes",
            )

        def flat(*tracers: Tracer) -> Any:
            inner_args, inner_kwargs = structure.unflatten(tracers)
            return fun(*inner_args, **inner_kwargs)

        mask = [axis is not None for axis in axes]
        types = [v.tensor.with_shape(v.shape[1:]) if m else v.tensor for v, m in zip(fronted, mask, strict=True)]
        traced = trace_inner(flat, types, name)
        whole = (*(False for _ in traced.outer), *mask)
        outs: Sequence[Value]
        if chunk_size is None:
            graph, flags = batch.batch(traced.graph, whole, size)
            outs = inline(graph, (*traced.outer, *fronted))
        else:
            outs = batch.by_steps(traced.graph, (*traced.outer, *fronted), whole, size, chunk_size)
            flags = (True,) * len(outs)
        example = traced.out_tree.unflatten(range(len(outs)))
        places = _prefix(out_axes, example, "out_axes", name)
        results = []
        for out, flag, place in zip(outs, flags, places, strict=True):
            if place is None:
                if flag:
                    raise InvalidValue(
                        f"vmap of {name}: a result with out_axes None depends on the mapped axis",
                        code="TD0710",
                        location=here(),
                        edit="out_axes=0 for it",
                    )
                results.append(wrap(out))
                continue
            full = out if flag else batch.repeat(out, size)
            if not -full.rank <= place < full.rank:
                raise InvalidValue(
                    f"vmap of {name}: a batch of results is {full.type} and has no axis {place}",
                    code="TD0712",
                    location=here(),
                    edit=f"an axis from {-full.rank} to {full.rank - 1}",
                )
            results.append(wrap(_moved(full, 0, place % full.rank)))
        return traced.out_tree.unflatten(results)

    return transformed(inside, fun, "vmap", same=True, bind=False)


def _paths(fun: Callable[..., Any], structure: TreeDef) -> list[str]:
    """Where the leaves of `(args, kwargs)` stand, by the names of the parameters."""
    parameters = list(signature_of(fun).parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    star = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    args, kwargs = structure.children
    names += [f"{star}[{i}]" for i in range(len(args.children) - len(names))]
    roots = [*names[: len(args.children)], *map(str, kwargs.keys)]
    each = zip(roots, (*args.children, *kwargs.children), strict=True)
    return [path for root, child in each for path in child.paths(root)]


def _moved(value: Value, source: int, target: int) -> Value:
    if source == target:
        return value
    order = [i for i in range(value.rank) if i != source]
    order.insert(target, source)
    return Transpose(value, tuple(order))


def _prefix(axes: Any, whole: Any, what: str, name: str) -> list[int | None]:
    """One axis per leaf of `whole` from a tree prefix: an int or None stands for all leaves below it."""
    if axes is None or isinstance(axes, int):
        return [axes] * len(tree.leaves(whole))
    if isinstance(axes, list | tuple) and isinstance(whole, list | tuple) and len(axes) == len(whole):
        return [a for part, below in zip(axes, whole, strict=True) for a in _prefix(part, below, what, name)]
    if isinstance(axes, dict) and isinstance(whole, dict) and axes.keys() == whole.keys():
        order = tree.structure(whole).keys
        return [a for key in order for a in _prefix(axes[key], whole[key], what, name)]
    raise TypeMismatch(
        f"vmap of {name}: {what} has the structure {axes!r}, which is no prefix of {tree.structure(whole)}",
        code="TD0710",
        location=here(),
        edit=f"{what}=0 for all of it, or an entry for each {'argument' if what == 'in_axes' else 'result'}",
    )


def stop_gradient(x: Any) -> Any:
    """`x`, whose derivative is taken as zero."""
    if current() is None:
        return x
    return tree.map(lambda leaf: wrap(StopGradient(unwrap(lift_array(leaf)))), x)


@spoken
def checkpoint(
    fun: Callable[..., Any],
    *,
    policy: Any = None,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
) -> Callable[..., Any]:
    """`fun`, whose values a derivative backward computes again instead of keeping them.

    `policy` says what is kept all the same: "nothing" (the default), "everything", "dots" (contractions), "min_cut"
    (the fewest bytes from which no contraction and no loop is computed again), or a number of bytes as "2MB", into
    which as little computing again as possible is made to fit. Numbers and other arguments that are no arrays steer
    the trace, so `static_argnums` has nothing to add, and no copy is merged with what it repeats unless both would
    stand together, so neither has `prevent_cse`. `.frontier(*args)` says what is chosen for these arguments, and prints
    as a table of the ways to choose that were weighed, with the bytes that are kept and those that the way back has at
    once. Errors: TD0345 for another policy.
    """
    fun = function_of(fun, "td.checkpoint")
    spelt = "nothing" if policy is None else str(policy)
    rematerialize.budget_of(spelt if not isinstance(policy, float) else "a float")
    name = name_of(fun)

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return fun(*args, **kwargs)
        with operation():
            flat, structure = tree.flatten((args, kwargs))
            places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tracer | np.ndarray)]
            leaves = [lift_array(flat[i]) for i in places]
            paths = _paths(fun, structure)
            specs = [
                LeafSpec(x.weak or "array", unwrap(x).tensor, paths[i]) for x, i in zip(leaves, places, strict=True)
            ]

            def inside(*given: Tracer) -> Any:
                whole = list(flat)
                for i, tracer in zip(places, given, strict=True):
                    whole[i] = tracer
                inner_args, inner_kwargs = structure.unflatten(whole)
                return fun(*inner_args, **inner_kwargs)

            traced = trace_inner(inside, specs, name)
            made = Checkpoint((*traced.outer, *(unwrap(x) for x in leaves)), traced.graph, spelt)
            weak = traced.out_weak
            return traced.out_tree.unflatten(wrap(Get(made, i), weak[i]) for i in range(len(weak)))

    def frontier(*args: Any, **kwargs: Any) -> rematerialize.Choice:
        graph = jit(fun).trace(*args, **kwargs).graph
        dots = {id(p): Parameter(p.label, p.given) for p in graph.params if autodiff.differentiable(p)}
        tangents = [t for t in autodiff.push(graph.results, dots) if t is not None]
        return rematerialize.choose(graph, tangents, list(dots.values()), spelt)

    call.frontier = frontier  # type: ignore[attr-defined]
    return call


# What all transforms share.


def name_of(fun: Callable[..., Any]) -> str:
    return str(getattr(fun, "__name__", type(fun).__name__))


def named(inside: Callable[..., Any], fun: Callable[..., Any], what: str, *, same: bool = True) -> Callable[..., Any]:
    """Call `inside` after what it is made from; with `same`, it takes the arguments of `fun`."""
    inside.__name__ = inside.__qualname__ = f"{what}_{name_of(fun)}"
    inside.__doc__ = fun.__doc__
    inside.__module__ = fun.__module__
    if same:
        inside.__signature__ = signature_of(fun)  # type: ignore[attr-defined]
    return inside


def transformed(
    inside: Callable[..., Any], fun: Callable[..., Any], what: str, *, same: bool = False, bind: bool = True
) -> Callable[..., Any]:
    """`inside` in a running trace; outside of one, compiled and called as `td.jit` would. Without `bind` arguments by
    keyword stay so, whatever the parameters of `fun` are."""
    named(inside, fun, what, same=same)
    compiled: list[Any] = []

    @functools.wraps(inside)
    def as_operation(*args: Any, **kwargs: Any) -> Any:
        with operation():
            return inside(*args, **kwargs)

    def unbound(*args: Any, **kwargs: Any) -> Any:
        return as_operation(*args, **kwargs)

    unbound.__name__ = unbound.__qualname__ = inside.__name__

    @functools.wraps(inside)
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is not None:
            return as_operation(*args, **kwargs)
        if not compiled:
            compiled.append(jit(as_operation if bind else unbound))
        return compiled[0](*args, **kwargs)

    return spoken(call)


def function_of(fun: Any, what: str, edit: str = "") -> Callable[..., Any]:
    """What is to be transformed, which has to be a function: TD0624."""
    if callable(fun):
        return fun  # type: ignore[no-any-return]
    raise TypeMismatch(
        f"{what} takes a function, not {type(fun).__name__}",
        code="TD0624",
        location=here(),
        edit=edit or f"the function itself, and its arguments behind it: {what}(f)(x)",
    )


def numbers_of(argnums: Any, name: str, option: str = "argnums") -> tuple[bool, tuple[int, ...]]:
    """Whether several arguments are meant, and their numbers: TD0705 for what is no number."""
    several = isinstance(argnums, list | tuple)
    wanted = tuple(argnums) if several else (argnums,)
    for number in wanted:
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise TypeMismatch(
                f"{name}: {option}={argnums!r} does not number arguments",
                code="TD0705",
                location=here(),
                edit=f"{option}=(0,) for the first argument, {option}=(0, 1) for the first two",
            )
    return several, tuple(map(int, wanted))


def places_of(given: Sequence[int], count: int, name: str, option: str = "argnums") -> list[int]:
    """The places of arguments numbered from the start or from the end: TD0705."""
    found: list[int] = []
    for number in given:
        if not -count <= number < count:
            raise InvalidValue(
                f"{name}: there is no argument number {number}, {count} were given",
                code="TD0705",
                location=here(),
                edit=f"{option}={count - 1}, the last one" if count else "give it by its place, not by its name",
            )
        if number % count in found:
            raise InvalidValue(
                f"{name}: {option}={tuple(given)} numbers one argument twice",
                code="TD0705",
                location=here(),
                edit="each argument once",
            )
        found.append(number % count)
    return found
