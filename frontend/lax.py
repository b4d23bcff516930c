"""`treadle.lax`: control flow as operations, and the array functions that NumPy lacks.

Bodies are traced once, on one step's types, into closed graphs; traced arrays that a body closes over become operands
of the operation by themselves. A Python number in a carry is weak, as in a Python loop: it takes the type that the
body gives it. Outside a trace everything runs at once on NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from ..ir.dims import Dim, SymbolicDim, known_le, maximum
from ..ir.dtypes import FLOAT8, bool_, f32, i32, i64, of, u64
from ..ir.errors import InvalidValue, TypeMismatch, Unsupported
from ..ir.graph import Graph
from ..ir.ops import elementwise as e
from ..ir.ops import reduce as r
from ..ir.ops.control import Scan, Switch, While
from ..ir.ops.indexing import DynamicSlice, DynamicUpdate, TopK
from ..ir.types import TensorType
from ..ir.value import Add, Full, Get, Lt, Parameter, Value
from . import keys, transforms, tree
from .arrays import (
    WEAK,
    axis_of,
    broadcast,
    convert,
    described,
    entries,
    lift,
    reshape,
    size_value,
    static_dim,
    static_int,
    static_shape,
    typed,
)
from .eager import in_trace, public
from .functions.joining import concatenate, stack
from .promotion import result_type
from .trace import LeafSpec, Weak, here
from .tracer import Traced, Tracer, trace_inner, unwrap, wrap
from .tree import TreeDef

# Beyond the end of every array, and an i64 with the size of any added.
FAR: Final = 1 << 62

# --- bodies -------------------------------------------------------------------------------------------------------


def _lifted(operands: Any) -> tuple[list[Tracer], TreeDef]:
    """The leaves of operands as traced arrays, and their structure."""
    leaves, structure = tree.flatten(operands)
    return [lift(leaf) for leaf in leaves], structure


def _spec(x: Tracer, label: str) -> LeafSpec:
    return LeafSpec(x.weak or "array", x.value.tensor, label)


def _specs(leaves: Sequence[Tracer], paths: Sequence[str]) -> list[LeafSpec]:
    return [_spec(x, path) for x, path in zip(leaves, paths, strict=True)]


def _name(function: Any, otherwise: str) -> str:
    name = str(getattr(function, "__name__", otherwise))
    return name if name.isidentifier() else otherwise


def _union(bodies: Sequence[Traced]) -> tuple[tuple[Value, ...], list[Graph]]:
    """The outer values that any of the bodies uses, and the bodies with parameters for all of them, in that order."""
    outer: dict[int, Value] = {}
    for body in bodies:
        for value in body.outer:
            outer.setdefault(id(value), value)
    graphs = []
    for body in bodies:
        mine = {id(value): param for value, param in zip(body.outer, body.graph.params, strict=False)}
        params = [mine[key] if key in mine else Parameter("unused", v.tensor) for key, v in outer.items()]
        graphs.append(Graph(body.graph.name, (*params, *body.graph.params[len(body.outer) :]), body.graph.results))
    return tuple(outer.values()), graphs


def _wrapped(found: Value, count: int, weak: Sequence[Weak | None], structure: TreeDef, first: int = 0) -> Any:
    """Results of a control op, from number `first` on, in the structure in which the body gave them."""
    return structure.unflatten(wrap(Get(found, first + i), weak[i]) for i in range(count))


def _functions(what: str, edit: str, *given: Any) -> None:
    """Refuse arrays where functions are needed (TD0624)."""
    for each in given:
        transforms.function_of(each, f"td.lax.{what}", edit)


# --- branches -----------------------------------------------------------------------------------------------------


@in_trace
def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """`true_fun(*operands)` where `pred` is true, else `false_fun(*operands)`; only one of them runs."""
    _functions("cond", "np.where(pred, a, b) of arrays, or lambda: a", true_fun, false_fun)
    if not isinstance(pred, Tracer):
        return (true_fun if pred else false_fun)(*operands)
    chosen = unwrap(pred)
    if chosen.rank != 0:
        raise InvalidValue(
            f"cond: pred is {chosen.type}, a scalar is needed",
            code="TD0840",
            location=here(),
            edit="np.where chooses by element",
        )
    return _switch(convert(chosen, bool_), (false_fun, true_fun), operands, "cond")


@in_trace
def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """`branches[index](*operands)`, the index moved to the nearest branch; only one of them runs."""
    branches = entries(branches, "branches")
    _functions("switch", "np.select of arrays, or lambda: a", *branches)
    if not branches:
        raise InvalidValue(
            "switch: there is no branch", code="TD0840", location=here(), edit="give one function at least"
        )
    if not isinstance(index, Tracer):
        return branches[min(max(static_int(index, "index"), 0), len(branches) - 1)](*operands)
    chosen = unwrap(index)
    if chosen.rank != 0 or not (chosen.dtype.is_integer or chosen.dtype is bool_):
        raise TypeMismatch(
            f"switch: the index is {chosen.type}, an integer is needed",
            code="TD0840",
            location=here(),
            edit="one number: .astype(np.int64) of a scalar",
        )
    selector = chosen if chosen.dtype in (bool_, i32, i64) else _signed(chosen)
    return _switch(selector, tuple(branches), operands, "switch")


def _signed(index: Value) -> Value:
    """An integer as an i64. The greatest stands for what is greater still: both are moved to the last place."""
    if index.dtype is u64:
        index = e.Minimum(index, Full((1 << 63) - 1, index.tensor))
    return convert(index, i64)


def _switch(selector: Value, branches: Sequence[Callable[..., Any]], operands: Any, what: str) -> Any:
    leaves, structure = _lifted(operands)
    specs = _specs(leaves, structure.paths("operand"))
    bodies = [
        trace_inner(lambda *flat, f=branch: f(*structure.unflatten(flat)), specs, _name(branch, f"branch{i}"))
        for i, branch in enumerate(branches)
    ]
    first = bodies[0]
    for i, body in enumerate(bodies[1:], 1):
        if body.out_tree != first.out_tree:
            raise TypeMismatch(
                f"{what}: branch {i} gives {body.out_tree}, branch 0 gives {first.out_tree}",
                code="TD0841",
                location=here(),
                edit="return the same containers from all branches",
            )
    kinds, weak = _met(bodies, what)
    bodies = [_converted(body, kinds) for body in bodies]
    outer, graphs = _union(bodies)
    found = Switch(selector, (*outer, *(unwrap(x) for x in leaves)), tuple(graphs))
    return _wrapped(found, len(kinds), weak, first.out_tree)


def _met(bodies: Sequence[Traced], what: str) -> tuple[list[TensorType], list[Weak | None]]:
    """The types in which the results of all branches meet: a weak one gives way, two strong ones must agree."""
    kinds: list[TensorType] = []
    weaks: list[Weak | None] = []
    for i, path in enumerate(bodies[0].out_tree.paths("result")):
        given = [(body.out_types[i], body.out_weak[i]) for body in bodies]
        strong = [kind for kind, weak in given if weak is None]
        if not strong:
            widest = _widest([weak for _, weak in given if weak is not None])
            kinds.append(TensorType((), result_type(WEAK[widest])))
            weaks.append(widest)
            continue
        for kind in strong[1:]:
            if kind != strong[0]:
                raise TypeMismatch(
                    f"{what}: {path} is {strong[0]} in one branch and {kind} in another",
                    code="TD0841",
                    location=here(),
                    edit="convert them to one type: .astype(...), np.broadcast_to(...)",
                )
        for shape, weak in ((k.shape, w) for k, w in given if w is not None):
            if shape != strong[0].shape or not _gives_way(weak, strong[0]):
                raise TypeMismatch(
                    f"{what}: {path} is a Python {weak} in one branch and {strong[0]} in another",
                    code="TD0841",
                    location=here(),
                    edit="give an array of that type: np.full_like(x, number)",
                )
        kinds.append(strong[0])
        weaks.append(None)
    return kinds, weaks


def _widest(weak: Sequence[Weak]) -> Weak:
    return "complex" if "complex" in weak else "float" if "float" in weak else "int"


def _converted(body: Traced, kinds: Sequence[TensorType]) -> Traced:
    """The body with its results in these dtypes."""
    results = tuple(convert(v, kind.dtype) for v, kind in zip(body.graph.results, kinds, strict=False))
    graph = body.graph.with_results((*results, *body.graph.results[len(results) :]))
    return Traced(graph, body.out_tree, body.out_weak, body.captured, body.outer)


# --- loops --------------------------------------------------------------------------------------------------------


def _told_of_keys(before: Sequence[Tracer], after: Any) -> None:
    """Warn of keys that every step of a loop uses, given the carry of a step and of the next."""
    values = [leaf.value if isinstance(leaf, Tracer) else Full(0, TensorType((), i64)) for leaf in tree.leaves(after)]
    keys.used_in_steps([leaf.value for leaf in before], values)


def _settled(
    trace_body: Callable[[list[LeafSpec]], Traced], carry: list[Tracer], paths: Sequence[str], what: str
) -> tuple[Traced, list[Tracer]]:
    """The body traced until the carry keeps its type; weak Python numbers take the type that the body gives them."""
    for _ in range(8):
        specs = _specs(carry, paths)
        body = trace_body(specs)
        changed = False
        kinds: list[TensorType] = []
        for i, spec in enumerate(specs):
            kind, weak = body.out_types[i], body.out_weak[i]
            if spec.weak is not None and kind.shape == () and (weak != spec.weak or kind != spec.type):
                if weak is None and not _gives_way(spec.weak, kind):
                    raise _changed(spec, kind, body.graph.results[i], what)  # 1.5 is no integer
                new = _next(spec, kind, weak)
                if (new[0] is not spec.type.dtype) or new[1] != spec.weak:
                    carry[i] = Tracer(convert(unwrap(carry[i]), new[0]), carry[i].owner, new[1])
                    changed = True
                kinds.append(TensorType((), new[0]))
                continue
            if weak is not None and spec.weak is None and spec.type.shape == ():
                if _gives_way(weak, spec.type):
                    kinds.append(spec.type)
                    continue
            if kind != spec.type:
                raise _changed(spec, kind, body.graph.results[i], what)
            kinds.append(kind)
        if not changed:
            return _converted(body, kinds), carry
    raise TypeMismatch(
        f"{what}: the types of the carry do not settle",
        code="TD0842",
        location=here(),
        edit="convert the new carry to the types of the old: new.astype(old.dtype)",
    )


def _gives_way(weak: Weak, kind: TensorType) -> bool:
    """Whether a Python number beside an array of this dtype takes the dtype, as NumPy has it."""
    return result_type(WEAK[weak], kind.dtype) is kind.dtype


def _next(spec: LeafSpec, kind: TensorType, weak: Weak | None) -> tuple[Any, Weak | None]:
    """What a weak carry becomes, given what the body made of it."""
    assert spec.weak is not None
    if weak is None:
        return kind.dtype, None
    stronger = _widest([spec.weak, weak])
    return result_type(WEAK[stronger]), stronger


def _changed(spec: LeafSpec, kind: TensorType, given: Value, what: str) -> TypeMismatch:
    """The error for a leaf of a carry that does not keep its type."""
    return TypeMismatch(
        f"{what}: {spec.path} goes in as {spec.type} and comes out as {kind}",
        code="TD0842",
        # A parameter has the place of the function that it is one of.
        location=(None if isinstance(given, Parameter) else given.location) or here(),
        edit=_carry_edit(spec, kind),
    )


def _carry_edit(spec: LeafSpec, kind: TensorType) -> str:
    if spec.type.shape != kind.shape:
        return "begin with an array of the shape that the body gives"
    return f"begin with that dtype, or return .astype(np.{np.dtype(spec.type.dtype.numpy).name}) from the body"


def _check_tree(got: TreeDef, expected: TreeDef, what: str) -> None:
    if got != expected:
        raise TypeMismatch(
            f"{what}: the carry goes in as {expected} and comes out as {got}",
            code="TD0842",
            location=here(),
            edit=f"return {'one array' if expected.kind == 'leaf' else expected}, as it came in",
        )


@in_trace
def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: Any = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    checkpoint: int | bool = False,
) -> tuple[Any, Any]:
    """`carry, y = f(carry, x)` for each slice x of `xs` along its first axis; the last carry, and the y stacked.

    `unroll` is a hint that this compiler takes from the loop itself. With `checkpoint` a derivative backward keeps the
    carry every so many steps (True: every sqrt(T)) and computes the steps between again. Errors: TD0842, TD0843.
    """
    _functions("scan", "scan(f, init, xs)", f)
    if checkpoint:
        return _in_pieces(f, init, xs, length, reverse, checkpoint)
    return _stepped(f, init, xs, length, reverse)


def _stepped(f: Any, init: Any, xs: Any, length: Any = None, reverse: bool = False, chunk: int = 0) -> tuple[Any, Any]:
    """A scan of which at most `chunk` steps are taken at once (0: any number)."""
    carry, carry_tree = _lifted(init)
    slices, x_tree = _lifted(xs)
    steps = _length(slices, x_tree, length)
    kinds = [x.value.tensor.with_shape(x.shape[1:]) for x in slices]
    x_specs = [LeafSpec("array", kind, path) for kind, path in zip(kinds, x_tree.paths("x"), strict=True)]
    count = len(carry)

    def trace_body(specs: list[LeafSpec]) -> Traced:
        def flat(*leaves: Tracer) -> tuple[Any, Any]:
            found: Any = f(carry_tree.unflatten(leaves[:count]), x_tree.unflatten(leaves[count:]))
            if not isinstance(found, tuple) or len(found) != 2:
                raise TypeMismatch(
                    "scan: f must return (carry, y)", code="TD0842", location=here(), edit="return carry, ()"
                )
            _told_of_keys(leaves[:count], found[0])
            return found[0], found[1]

        body = trace_inner(flat, [*specs, *x_specs], _name(f, "scan"))
        _check_tree(body.out_tree.children[0], carry_tree, "scan")
        return body

    body, carry = _settled(trace_body, carry, carry_tree.paths("carry"), "scan")
    outer, (graph,) = _union([body])
    begin, stacks = tuple([unwrap(x) for x in carry]), tuple([unwrap(x) for x in slices])
    found = Scan(outer, begin, stacks, graph, steps, reverse, chunk=chunk)
    last = _wrapped(found, count, [x.weak for x in carry], carry_tree)
    stacked = len(graph.results) - count
    return last, _wrapped(found, stacked, [None] * stacked, body.out_tree.children[1], count)


def _in_pieces(f: Any, init: Any, xs: Any, length: Any, reverse: bool, every: int | bool) -> tuple[Any, Any]:
    """A scan of scans, each of which is a checkpoint; what is left over is run last."""
    slices, x_tree = _lifted(xs)
    steps = static_int(_length(slices, x_tree, length), "the number of steps of a scan with checkpoints")
    size = max(round(steps**0.5), 1) if every is True else static_int(every, "checkpoint")
    if size < 1:
        raise InvalidValue(
            f"scan: a checkpoint every {size} steps",
            code="TD0843",
            location=here(),
            edit="a number of steps of at least 1",
        )
    count, rest = divmod(steps, size)
    first, last = (rest, steps) if reverse else (0, count * size)

    def piece(carry: Any, chunk: Any) -> tuple[Any, Any]:
        return scan(f, carry, x_tree.unflatten(chunk), size, reverse)

    chunks = [_rows(x[first:last], (count, size)) for x in slices]
    carry, ys = scan(transforms.checkpoint(piece), init, chunks, count, reverse)
    ys = tree.map(lambda y: _rows(y, None), ys)
    if rest:
        others = x_tree.unflatten(x[:rest] if reverse else x[count * size :] for x in slices)
        carry, more = scan(f, carry, others, rest, reverse)
        ys = tree.map(lambda a, b: concatenate([b, a] if reverse else [a, b], 0), ys, more)
    return carry, ys


def _rows(x: Tracer, split: tuple[int, int] | None) -> Tracer:
    """The first axis cut in two, or the first two joined."""
    lead, kept = ((x.shape[0] * x.shape[1],), 2) if split is None else (split, 1)
    return wrap(reshape(unwrap(x), (*lead, *x.shape[kept:])))


def _length(slices: Sequence[Tracer], structure: TreeDef, length: Any) -> Dim:
    if not slices:
        if length is None:
            raise InvalidValue("scan: without xs, length is needed", code="TD0843", location=here(), edit="length=n")
        return static_dim(length, "length")
    for x, path in zip(slices, structure.paths("xs"), strict=True):
        if x.ndim == 0:
            raise TypeMismatch(
                f"scan: {path} is a scalar, there is no axis to scan over",
                code="TD0843",
                location=here(),
                edit="close over what is the same in all steps",
            )
    steps = slices[0].shape[0]
    for x, path in zip(slices, structure.paths("xs"), strict=True):
        if x.shape[0] != steps or (length is not None and static_dim(length, "length") != steps):
            raise InvalidValue(
                f"scan: {path} has {x.shape[0]} slices, {steps if length is None else length} are wanted",
                code="TD0843",
                location=here(),
                edit="cut them to one length: x[:n]",
            )
    return steps


@in_trace
def map(f: Callable[[Any], Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """`f` of each slice of `xs` along its first axis, stacked: of all at once where that pays, of at most `batch_size`
    if it is given. Errors: TD0843."""
    _functions("map", "map(f, xs)", f)
    return _stepped(lambda carry, x: (carry, f(x)), (), xs, chunk=chunk_of(batch_size, "map: batch_size"))[1]


@in_trace
def pfor(fn: Callable[[Any], Any], n: Any, *, chunk_size: int | None = None) -> Any:
    """`fn(i)` for i in 0..n-1, stacked: for all at once where that pays, for at most `chunk_size` if it is given.
    Errors: TD0843."""
    _functions("pfor", "pfor(f, n)", fn)
    chunk = chunk_of(chunk_size, "pfor: chunk_size")
    return _counted(lambda i, carry: (carry, fn(i)), (), static_dim(n, "n"), 0, chunk)[1]


def chunk_of(size: Any, what: str) -> int:
    """How many steps may be taken at once, 0 for any number."""
    if size is None:
        return 0
    found = static_int(size, what)
    if found < 1:
        raise InvalidValue(
            f"{what} is {found}, at least one step is taken at once",
            code="TD0843",
            location=here(),
            edit="1 or more",
        )
    return found


@in_trace
def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any, *, unroll: Any = None) -> Any:
    """`val = body_fun(i, val)` for i in lower..upper-1. With bounds that are known it has a derivative in both
    modes."""
    _functions("fori_loop", "fori_loop(lower, upper, f, init)", body_fun)
    if not isinstance(lower, Tracer) and not isinstance(upper, Tracer):
        low, high = static_dim(lower, "lower"), static_dim(upper, "upper")
        steps = high - low
        steps = steps if known_le(0, steps) else maximum(steps, 0)
        return _counted(lambda i, carry: (body_fun(i, carry), ()), init_val, steps, low)[0]
    start, stop = (convert(unwrap(lift(x)), i64) for x in (lower, upper))

    def unfinished(i: Tracer, *leaves: Tracer) -> Any:
        return wrap(Lt(unwrap(i), stop))

    begin, carry_tree = _lifted(init_val)

    def step(i: Tracer, *leaves: Tracer) -> Any:
        found = body_fun(Tracer(i.value, i.owner, "int"), carry_tree.unflatten(leaves))
        _told_of_keys(leaves, found)
        _check_tree(tree.structure(found), carry_tree, "fori_loop")
        return i + 1, found

    paths, names = ["i", *carry_tree.paths("carry")], ("condition", _name(body_fun, "body"))
    return carry_tree.unflatten(_while(unfinished, step, [wrap(start), *begin], paths, "fori_loop", names)[1:])


def _counted(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    steps: Dim,
    low: Dim,
    chunk: int = 0,
    what: str = "fori_loop",
) -> tuple[Any, Any]:
    """A scan over the numbers low, low + 1, ... of which nothing is stored."""
    carry, carry_tree = _lifted(init)
    count = len(carry)

    def trace_body(specs: list[LeafSpec]) -> Traced:
        def flat(number: Tracer, *leaves: Tracer) -> tuple[Any, Any]:
            place: Value = unwrap(number)
            if not (type(low) is int and low == 0):
                place = Add(place, size_value(low))
            found = f(wrap(place, "int"), carry_tree.unflatten(leaves))
            _told_of_keys(leaves, found[0])
            return found

        body = trace_inner(flat, [LeafSpec("int", TensorType((), i64), "i"), *specs], _name(f, "loop"))
        _check_tree(body.out_tree.children[0], carry_tree, what)
        return body

    body, carry = _settled(trace_body, carry, carry_tree.paths("carry"), what)
    outer, (graph,) = _union([body])
    # The op wants the number before what is captured.
    params = (graph.params[len(outer)], *graph.params[: len(outer)], *graph.params[len(outer) + 1 :])
    graph = Graph(graph.name, params, graph.results)
    found = Scan(outer, tuple([unwrap(x) for x in carry]), (), graph, steps, False, True, chunk)
    last = _wrapped(found, count, [x.weak for x in carry], carry_tree)
    stacked = len(graph.results) - count
    return last, _wrapped(found, stacked, [None] * stacked, body.out_tree.children[1], count)


@in_trace
def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any, *, max_steps: int | None = None
) -> Any:
    """`val = body_fun(val)` while `cond_fun(val)` is true.

    With `max_steps` it has a derivative in reverse mode, too; a call that would take more steps fails (TD0157).
    """
    _functions("while_loop", "while_loop(cond, body, init)", cond_fun, body_fun)
    carry, carry_tree = _lifted(init_val)
    if max_steps is not None:
        return _bounded(cond_fun, body_fun, carry, carry_tree, static_int(max_steps, "max_steps"))

    def step(*leaves: Tracer) -> Any:
        found = body_fun(carry_tree.unflatten(leaves))
        _told_of_keys(leaves, found)
        _check_tree(tree.structure(found), carry_tree, "while_loop")
        return found

    def going(*leaves: Tracer) -> Any:
        return cond_fun(carry_tree.unflatten(leaves))

    names = _name(cond_fun, "condition"), _name(body_fun, "body")
    return carry_tree.unflatten(_while(going, step, carry, carry_tree.paths("carry"), "while_loop", names))


def _while(going: Any, step: Any, carry: list[Tracer], paths: list[str], what: str, names: tuple[str, str]) -> Any:
    """The leaves of a carry after as many steps as `going` of them says."""
    body, carry = _settled(lambda specs: trace_inner(step, specs, names[1]), carry, paths, what)
    steady = [
        param is result for param, result in zip(body.graph.params[-len(carry) :], body.graph.results, strict=True)
    ]

    def tested(*leaves: Tracer) -> Tracer:
        found = _truth(going(*leaves))
        _told_of_keys(leaves, [leaf if same else 0 for leaf, same in zip(leaves, steady, strict=True)])
        return found

    condition = trace_inner(tested, _specs(carry, paths), names[0])
    outer, (test, once) = _union([condition, body])
    found = While(outer, tuple([unwrap(x) for x in carry]), test, once)
    return [wrap(Get(found, i), x.weak) for i, x in enumerate(carry)]


def _truth(x: Any) -> Tracer:
    found = lift(x)
    if found.ndim != 0:
        raise TypeMismatch(
            f"while_loop: the condition is {found.value.type}, a scalar is needed",
            code="TD0840",
            location=here(),
            edit="say which elements count: .any() or .all()",
        )
    return wrap(convert(unwrap(found), bool_))


def _bounded(cond_fun: Any, body_fun: Any, carry: list[Tracer], carry_tree: TreeDef, steps: int) -> Any:
    if steps < 0:
        raise InvalidValue(
            f"while_loop: max_steps is {steps}, less than none",
            code="TD0843",
            location=here(),
            edit="the most steps that any call needs, or none: max_steps=None",
        )

    def fitting(value: Any) -> Any:
        """The body, held to the types of the carry, of which a branch would speak as its own."""
        found = body_fun(value)
        after, after_tree = _lifted(found)
        _check_tree(after_tree, carry_tree, "while_loop")
        for spec, new in zip(_specs(tree.leaves(value), carry_tree.paths("carry")), after, strict=True):
            kind = new.value.tensor
            # A Python number gives way to an array's type, whichever of both it is.
            if kind.shape == spec.type.shape and (
                kind == spec.type
                or (new.weak is not None and (spec.weak is not None or _gives_way(new.weak, spec.type)))
                or (new.weak is None and spec.weak is not None and _gives_way(spec.weak, kind))
            ):
                continue
            raise _changed(spec, kind, new.value, "while_loop")
        return found

    def step(i: Any, state: Any) -> tuple[Any, Any]:
        return cond(_truth(cond_fun(state)), fitting, lambda value: value, state), ()

    last = _counted(step, carry_tree.unflatten(carry), steps, 0, what="while_loop")[0]
    done = e.Not(unwrap(_truth(cond_fun(last))))
    leaves, structure = _lifted(last)
    return structure.unflatten(wrap(e.Finished(x.value, broadcast(done, x.shape), steps), x.weak) for x in leaves)


@in_trace
def associative_scan(fn: Callable[[Any, Any], Any], elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """Prefixes of an associative `fn` along an axis, in about 2 log2(n) steps on whole arrays.

    `fn` takes and gives trees like `elems`, of any size along the axis.
    """
    _functions("associative_scan", "associative_scan(f, elems)", fn)
    leaves, structure = _lifted(elems)
    if not leaves:
        return elems
    places = [axis_of(axis, x.ndim) for x in leaves]
    size = leaves[0].shape[places[0]]
    if isinstance(size, SymbolicDim):
        raise Unsupported(
            f"associative_scan along an axis of size {size}",
            code="TD0813",
            location=here(),
            edit="td.lax.scan takes a symbolic size",
        )
    if reverse:
        leaves = [x[_along(p, slice(None, None, -1))] for x, p in zip(leaves, places, strict=True)]

    def combine(a: list[Tracer], b: list[Tracer]) -> list[Tracer]:
        found, shape = _lifted(fn(structure.unflatten(a), structure.unflatten(b)))
        _check_tree(shape, structure, "associative_scan")
        return found

    def cut(xs: list[Tracer], part: slice) -> list[Tracer]:
        return [x[_along(p, part)] for x, p in zip(xs, places, strict=True)]

    def prefixes(xs: list[Tracer], n: int) -> list[Tracer]:
        if n < 2:
            return xs
        odd = prefixes(combine(cut(xs, slice(0, n - 1, 2)), cut(xs, slice(1, n, 2))), n // 2)
        even = cut(xs, slice(0, 1))
        if n > 2:
            rest = combine(cut(odd, slice(0, (n - 1) // 2)), cut(xs, slice(2, n, 2)))
            even = [concatenate([a, b], p) for a, b, p in zip(even, rest, places, strict=True)]
        return [_interleaved(a, b, p) for a, b, p in zip(even, odd, places, strict=True)]

    found = prefixes(leaves, size)
    if reverse:
        found = cut(found, slice(None, None, -1))
    return structure.unflatten(found)


def _along(axis: int, part: Any) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, part)


def _interleaved(even: Tracer, odd: Tracer, axis: int) -> Tracer:
    """even[0], odd[0], even[1], ...; there may be one more of the even."""
    count = static_int(odd.shape[axis], "a size")
    extra = even[_along(axis, slice(count, None))]
    pairs = stack([even[_along(axis, slice(0, count))], odd], axis + 1)
    value = unwrap(pairs)
    joined = wrap(reshape(value, (*odd.shape[:axis], 2 * count, *odd.shape[axis + 1 :])))
    return concatenate([joined, extra], axis) if extra.shape[axis] != 0 else joined


# --- blocks at computed places ------------------------------------------------------------------------------------


def _starts(starts: Any, shape: Sequence[Dim]) -> tuple[Value, ...]:
    given = (
        list(starts) if not isinstance(starts, Tracer) else [starts[i] for i in range(static_int(starts.shape[0], "n"))]
    )
    if len(given) != len(shape):
        raise InvalidValue(
            f"{len(given)} starts for {len(shape)} axes", code="TD0844", location=here(), edit="a start for each axis"
        )
    return tuple(_place(start, size) for start, size in zip(given, shape, strict=True))


def _place(start: Any, size: Dim) -> Value:
    """Where a block begins along an axis of this size; below 0 it is counted from the end, as everywhere."""
    if isinstance(start, int | np.integer) and type(start) is not bool:
        known = min(max(int(start), -FAR), FAR)
        return size_value(size + known if known < 0 else known)
    value = unwrap(lift(start))
    if value.rank != 0 or not value.dtype.is_integer:
        raise TypeMismatch(
            f"a start is {value.type}, an integer is needed",
            code="TD0844",
            location=here(),
            edit="convert it by .astype(int)",
        )
    place = _signed(value)
    if value.dtype.numpy.kind == "u":
        return place
    return e.Select(Lt(place, Full(0, place.tensor)), Add(place, size_value(size)), place)


@public
def dynamic_slice(operand: Any, start_indices: Any, slice_sizes: Any) -> Tracer:
    """The block of these sizes that begins at computed places, those below 0 counted from the end; it is moved to lie
    inside."""
    value = unwrap(lift(operand))
    return wrap(DynamicSlice(value, _starts(start_indices, value.shape), static_shape(slice_sizes, "slice_sizes")))


@public
def dynamic_slice_in_dim(operand: Any, start_index: Any, slice_size: Any, axis: int = 0) -> Tracer:
    """`dynamic_slice` along one axis."""
    value = unwrap(lift(operand))
    number = axis_of(axis, value.rank)
    starts = tuple(_place(start_index if i == number else 0, n) for i, n in enumerate(value.shape))
    sizes = tuple(static_dim(slice_size, "slice_size") if i == number else n for i, n in enumerate(value.shape))
    return wrap(DynamicSlice(value, starts, sizes))


@public
def dynamic_index_in_dim(operand: Any, index: Any, axis: int = 0, keepdims: bool = True) -> Tracer:
    """One element along an axis at a computed place, which is moved to lie inside."""
    value = unwrap(lift(operand))
    number = axis_of(axis, value.rank)
    starts = tuple(_place(index if i == number else 0, n) for i, n in enumerate(value.shape))
    found: Value = DynamicSlice(value, starts, tuple(1 if i == number else n for i, n in enumerate(value.shape)))
    return wrap(found if keepdims else reshape(found, tuple(n for i, n in enumerate(value.shape) if i != number)))


@public
def dynamic_update_slice(operand: Any, update: Any, start_indices: Any) -> Tracer:
    """`operand` with the block that begins at computed places replaced; the block is moved to lie inside."""
    value = unwrap(lift(operand))
    return wrap(DynamicUpdate(value, typed(update, value.dtype), _starts(start_indices, value.shape)))


@public
def dynamic_update_slice_in_dim(operand: Any, update: Any, start_index: Any, axis: int = 0) -> Tracer:
    """`dynamic_update_slice` along one axis."""
    value = unwrap(lift(operand))
    number = axis_of(axis, value.rank)
    starts = tuple(_place(start_index if i == number else 0, n) for i, n in enumerate(value.shape))
    return wrap(DynamicUpdate(value, typed(update, value.dtype), starts))


@public
def dynamic_update_index_in_dim(operand: Any, update: Any, index: Any, axis: int = 0) -> Tracer:
    """`operand` with one element along an axis replaced, at a computed place that is moved to lie inside."""
    value = unwrap(lift(operand))
    number = axis_of(axis, value.rank)
    starts = tuple(_place(index if i == number else 0, n) for i, n in enumerate(value.shape))
    block = reshape(typed(update, value.dtype), tuple(1 if i == number else n for i, n in enumerate(value.shape)))
    return wrap(DynamicUpdate(value, block, starts))


# --- functions that NumPy lacks -----------------------------------------------------------------------------------


@public
def top_k(operand: Any, k: Any, *, axis: int = -1) -> tuple[Tracer, Tracer]:
    """The k greatest along an axis, greatest first, and where they stood."""
    found = TopK(unwrap(lift(operand)), static_dim(k, "k"), axis)
    return wrap(Get(found, 0)), wrap(Get(found, 1))


def _inexact(x: Any) -> Value:
    """An operand in a float type: integers as f64."""
    kind = described(x)
    dtype = result_type(kind, float) if isinstance(kind, type) or kind.is_integer or kind is bool_ else kind
    return typed(x, dtype)


def _apply(op: type[Value], x: Any) -> Tracer:
    value = _inexact(x)
    if value.dtype in FLOAT8:
        return wrap(convert(op(convert(value, f32)), value.dtype))
    return wrap(op(value))


@public
def erf(x: Any) -> Tracer:
    """The error function."""
    return _apply(e.Erf, x)


@public
def erfc(x: Any) -> Tracer:
    """1 - erf(x), without cancellation."""
    return _apply(e.Erfc, x)


@public
def erf_inv(x: Any) -> Tracer:
    """The inverse of the error function."""
    return _apply(e.Erfinv, x)


@public
def lgamma(x: Any) -> Tracer:
    """The logarithm of the size of the gamma function."""
    return _apply(e.Lgamma, x)


@public
def digamma(x: Any) -> Tracer:
    """The derivative of `lgamma`."""
    return _apply(e.Digamma, x)


@public
def rsqrt(x: Any) -> Tracer:
    """1 / sqrt(x)."""
    return _apply(e.Rsqrt, x)


@public
def logistic(x: Any) -> Tracer:
    """1 / (1 + exp(-x))."""
    return _apply(e.Logistic, x)


def _running(op: type[Value], operand: Any, axis: int, reverse: bool) -> Tracer:
    value = unwrap(lift(operand))
    return wrap(op(value, axis_of(axis, value.rank), reverse))


@public
def cumsum(operand: Any, axis: int = 0, reverse: bool = False) -> Tracer:
    """Running sums, in the operand's own dtype; from the end with `reverse`."""
    return _running(r.CumSum, operand, axis, reverse)


@public
def cumprod(operand: Any, axis: int = 0, reverse: bool = False) -> Tracer:
    """Running products, in the operand's own dtype."""
    return _running(r.CumProd, operand, axis, reverse)


@public
def cummax(operand: Any, axis: int = 0, reverse: bool = False) -> Tracer:
    """Running maxima."""
    return _running(r.CumMax, operand, axis, reverse)


@public
def cummin(operand: Any, axis: int = 0, reverse: bool = False) -> Tracer:
    """Running minima."""
    return _running(r.CumMin, operand, axis, reverse)


@public
def linear_recurrence(a: Any, b: Any, axis: int = 0, reverse: bool = False) -> Tracer:
    """`y[i] = a[i] * y[i-1] + b[i]` along an axis, y[-1] = 0: moving averages, linear state space models."""
    kind = result_type(described(a), described(b))
    x, y = typed(a, kind), typed(b, kind)
    return wrap(r.LinearRecurrence(x, y, axis_of(axis, x.rank), reverse))


@public
def bitcast_convert_type(operand: Any, new_dtype: Any) -> Tracer:
    """The same bits as another type of the same width."""
    return wrap(e.Bitcast(unwrap(lift(operand)), of(new_dtype)))


@public
def population_count(x: Any) -> Tracer:
    """How many bits are set, in the operand's dtype."""
    value = unwrap(lift(x))
    return wrap(convert(e.PopulationCount(value), value.dtype))


__all__ = [
    "associative_scan", "bitcast_convert_type", "cond", "cummax", "cummin", "cumprod", "cumsum", "digamma",
    "dynamic_index_in_dim", "dynamic_slice", "dynamic_slice_in_dim", "dynamic_update_index_in_dim",
    "dynamic_update_slice", "dynamic_update_slice_in_dim", "erf", "erf_inv", "erfc", "fori_loop", "lgamma",
    "linear_recurrence", "logistic", "map", "pfor", "population_count", "rsqrt", "scan", "switch", "top_k",
    "while_loop",
]  # fmt: skip
