"""The decorator: signatures, static arguments, bound constants, and the bounded cache of compiled programs.

What `td.jit` returns is an instance of one native type (`runtime/dispatch.py`): a call whose arguments match a recent
signature never enters Python. Everything else comes here, to the complete path: bind the arguments, flatten them,
look the signature up, trace and compile when it is new, call with every check.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.dims import Dim, DimName, SymbolicDim, names, parse
from ..ir.dtypes import DType, of
from ..ir.errors import InvalidValue, TypeMismatch
from ..ir.graph import Graph
from ..ir.types import TensorType
from ..runtime.dispatch import Dispatched, callable_type
from . import tree
from .options import Options, config, unknown_name, watchers
from .tracer import LeafSpec, trace_to_graph
from .tracer import Traced as Trace
from .tree import TreeDef

# Argument types that are static unless said otherwise: they steer the trace, they are not data.
_STATIC = (bool, str, bytes, type, Enum, np.dtype, DType, slice)
_WEAK = {int: "int", float: "float", complex: "complex"}
_WEAK_TYPES = {"int": "i64", "float": "f64", "complex": "c128"}


class ShapeDtype:
    """Stands for an array where only its type matters. Shape entries are ints or names (`"B"`, `"2*B + 1"`)."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Sequence[int | str | SymbolicDim], dtype: Any) -> None:
        self.shape: tuple[Dim, ...] = tuple(parse(d) if isinstance(d, str) else d for d in shape)
        self.dtype = of(dtype)

    @property
    def type(self) -> TensorType:
        return TensorType(self.shape, self.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapeDtype) and (self.shape, self.dtype) == (other.shape, other.dtype)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        return f"ShapeDtype({self.type})"


@dataclass(frozen=True)
class Settings:
    """How one function is compiled: what the keywords of `td.jit` say."""

    static: tuple[str, ...] = ()
    donate: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    donate_lenient: bool = False
    threads: int | None = None
    dims: tuple[DimName, ...] = ()
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """What decides which compiled program a call needs."""

    structure: TreeDef
    leaves: tuple[tuple[str, TensorType], ...]
    static: tuple[tuple[str, Hashable], ...]


@dataclass
class State:
    """What the native object stands for. `lock` guards the cache; compiling happens outside of it, once per key."""

    fn: Callable[..., Any]
    settings: Settings
    signature: inspect.Signature
    bound: Mapping[str, Any] = field(default_factory=dict)
    cache: OrderedDict[Key, Any] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    n_compiles: int = 0
    hits: int = 0

    @property
    def name(self) -> str:
        return str(getattr(self.fn, "__name__", type(self.fn).__name__))


@dataclass(frozen=True)
class CacheInfo:
    """As `functools.lru_cache` reports: `misses` are compilations."""

    hits: int
    misses: int
    maxsize: int
    currsize: int


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)])


def bind_call(state: State, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by parameter name, defaults applied; the user's own TypeError message where they do not fit."""
    parameters = state.signature.parameters
    free = [p for p in parameters.values() if p.name not in state.bound]
    try:
        given = state.signature.replace(parameters=free).bind(*args, **kwargs)
    except TypeError as error:
        known = [p.name for p in free]
        wrong = [name for name in kwargs if name not in known]
        if wrong and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in free):
            raise unknown_name(f"argument of {state.name}", wrong[0], known) from None
        raise TypeMismatch(f"{state.name}: {error}", code="TD0620") from None
    given.apply_defaults()
    return dict(given.arguments)


def split(state: State, arguments: Mapping[str, Any]) -> tuple[Key, list[Any], list[LeafSpec]]:
    """The cache key of a call, its dynamic leaves, and their specs."""
    dynamic: dict[str, Any] = {}
    static: list[tuple[str, Hashable]] = []
    for name, value in arguments.items():
        if name in state.settings.static or (name not in state.settings.donate and _is_static(value)):
            static.append((name, _hashable(state, name, value)))
        else:
            dynamic[name] = value
    leaves: list[Any] = []
    children = []
    specs: list[LeafSpec] = []
    for name, value in dynamic.items():
        found, structure = tree.flatten(value, lambda x: isinstance(x, ShapeDtype))
        children.append(structure)
        for path, leaf in zip(structure.paths(name), found, strict=True):
            specs.append(leaf_spec(leaf, path, state.name))
        leaves += found
    whole = TreeDef("dict", tuple(dynamic), tuple(children))
    key = Key(whole, tuple((spec.kind, spec.type) for spec in specs), tuple(static))
    return key, leaves, specs


def _is_static(value: Any) -> bool:
    return isinstance(value, _STATIC) or (
        callable(value) and not hasattr(value, "__array__") and not tree.is_node(value)
    )


def _hashable(state: State, name: str, value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        raise TypeMismatch(
            f"{state.name}: static argument {name} of type {type(value).__name__} is not hashable",
            code="TD0621",
            edit="pass a tuple instead of a list, or make it an array argument",
        ) from None
    return _Static(value)


class _Static:
    """A static argument with its type: `1`, `1.0` and `True` are equal but do not trace alike."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and type(self.value) is type(other.value) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


def leaf_spec(leaf: Any, path: str, function: str) -> LeafSpec:
    """What the trace must know of one leaf. TD0622 for what is no number, array or container."""
    kind = type(leaf)
    if kind is np.ndarray:
        return LeafSpec("array", TensorType(leaf.shape, of(leaf.dtype)), path)
    if kind is ShapeDtype:
        return LeafSpec("array", leaf.type, path)
    if kind in _WEAK:
        weak = _WEAK[kind]
        return LeafSpec(weak, TensorType((), of(_WEAK_TYPES[weak])), path)
    if isinstance(leaf, bool):
        return LeafSpec("array", TensorType((), of("bool")), path)
    if isinstance(leaf, np.generic | np.ndarray):
        return LeafSpec("array", TensorType(np.shape(leaf), of(leaf.dtype)), path)
    if hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array_interface__") or hasattr(leaf, "__array__"):
        array = as_numpy(leaf)
        return LeafSpec("array", TensorType(array.shape, of(array.dtype)), path)
    root = path.split("[")[0].split(".")[0]
    raise TypeMismatch(
        f"{function}: {path} is a {kind.__name__}, which is neither a number, an array nor a container of them",
        code="TD0622",
        edit=f"make it static: td.jit(static_argnames={root!r}), or register its type with td.tree.register",
    )


def as_numpy(leaf: Any) -> np.ndarray[Any, Any]:
    """A NumPy view of an array of another library, without a copy where DLPack allows."""
    if hasattr(leaf, "__dlpack__") and not isinstance(leaf, np.ndarray):
        try:
            return np.from_dlpack(leaf)
        except (BufferError, RuntimeError, TypeError):
            pass
    return np.asarray(leaf)


def declared_dims(state: State, specs: Sequence[LeafSpec]) -> tuple[DimName, ...]:
    """The symbolic names in the arguments' types, with the promises of `dims=`."""
    promised = {dim.name: dim for dim in state.settings.dims}
    found = sorted({name for spec in specs for dim in spec.type.shape for name in names(dim)})
    return tuple(promised.get(name, DimName(name)) for name in found)


@dataclass(frozen=True)
class Traced:
    """A function traced for one signature: `graph` is what it computes."""

    state: State
    key: Key
    trace: Trace
    specs: tuple[LeafSpec, ...]
    options: Options

    @property
    def graph(self) -> Graph:
        return self.trace.graph

    def lower(self) -> Lowered:
        return Lowered(self)

    def __str__(self) -> str:
        return str(self.graph)


@dataclass(frozen=True)
class Lowered:
    """Ready to be compiled; its texts can be read at each stage."""

    traced: Traced

    def as_text(self, stage: str = "program") -> str:
        """`graph`, `graph:PASS`, `program`, `loops`, `llvm` or `asm`."""
        text: str = self.compile().as_text(stage)
        return text

    def compile(self) -> Any:
        return compiled_for(self.traced)


def trace(state: State, arguments: Mapping[str, Any]) -> Traced:
    """Trace the function for these arguments (arrays or `ShapeDtype`s)."""
    key, _, specs = split(state, arguments)
    statics = {name: value.value for name, value in key.static if isinstance(value, _Static)}

    def rebuild(tracers: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = {**state.bound, **statics, **key.structure.unflatten(tracers)}
        call = inspect.BoundArguments(
            state.signature, OrderedDict((n, values[n]) for n in state.signature.parameters if n in values)
        )
        return call.args, call.kwargs

    graph = trace_to_graph(state.fn, list(specs), rebuild, state.name, declared_dims(state, specs))
    options = config.current
    if state.settings.target is not None:
        options = options.changed(target=state.settings.target)
    return Traced(state, key, graph, tuple(specs), options)


def compiled_for(traced: Traced) -> Any:
    """Compile a trace. The driver is loaded only now: a warm start that finds its program in memory never needs it."""
    from .compile import compile_trace

    return compile_trace(traced)


def lookup(state: State, arguments: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The compiled program for a call, made if need be, and the call's leaves."""
    key, leaves, _ = split(state, arguments)
    with state.lock:
        found = state.cache.get(key)
        if found is not None:
            state.cache.move_to_end(key)
            state.hits += 1
            return found, leaves
        # One thread compiles a signature; the others wait for it rather than compile it again.
        compiled = compiled_for(trace(state, arguments))
        state.n_compiles += 1
        state.cache[key] = compiled
        limit = config.current.max_signatures
        while len(state.cache) > limit:
            state.cache.popitem(last=False)
        return compiled, leaves


def names_of(state_signature: inspect.Signature, given: Any, what: str, function: str) -> tuple[str, ...]:
    """Parameter names from names or positions, as `static_argnames` and its kin take them."""
    if given is None:
        return ()
    parameters = list(state_signature.parameters)
    found = []
    for each in (given,) if isinstance(given, str | int) else given:
        if isinstance(each, int):
            if not -len(parameters) <= each < len(parameters):
                raise InvalidValue(f"{what}: {function} has no parameter number {each}", code="TD0623")
            found.append(parameters[each])
        elif each not in parameters:
            raise unknown_name(f"parameter in {what} of {function}", each, parameters)
        else:
            found.append(each)
    return tuple(found)


def dims_of(given: Any) -> tuple[DimName, ...]:
    """`dims={"B": (1, 64)}`, `{"B": DimName(...)}`, or `{"B": (1, 64, 8)}` (low, high, multiple)."""
    found = []
    for name, promise in (given or {}).items():
        if isinstance(promise, DimName):
            found.append(promise)
        else:
            low, high, *rest = promise
            found.append(DimName(name, low, high, rest[0] if rest else 1))
    return tuple(found)


class Function(Dispatched):
    """What `td.jit` returns. Instances are of a native type made from this class, see `function_type`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def state(self) -> State:
        found: State = self.__dict__["state"]
        return found

    def trace(self, *args: Any, **kwargs: Any) -> Traced:
        """Trace for these arguments (arrays or `ShapeDtype`s): `.graph` is what was traced."""
        return trace(self.state, bind_call(self.state, args, kwargs))

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace, and give the texts of every stage by `.as_text(stage)`."""
        return self.trace(*args, **kwargs).lower()

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        """Compile for these arguments without calling; with symbolic sizes, one program for all of them."""
        return lookup(self.state, bind_call(self.state, args, kwargs))[0]

    def bind(self, *args: Any, **kwargs: Any) -> Function:
        """The function with some arguments fixed. Their arrays become constants: folded, packed, saved.

        Positional arguments bind the first parameters. Arrays are copied by content when a signature is traced.
        """
        state = self.state
        try:
            given = state.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise TypeMismatch(f"{state.name}.bind: {error}", code="TD0620") from None
        return make_function(state.fn, state.settings, {**state.bound, **given.arguments})

    def cache_info(self) -> CacheInfo:
        state = self.state
        return CacheInfo(state.hits, state.n_compiles, config.current.max_signatures, len(state.cache))

    def clear_cache(self) -> None:
        """Forget every compiled program of this function, in memory."""
        with self.state.lock:
            self.state.cache.clear()
        self.forget()

    @property
    def n_compiles(self) -> int:
        return self.state.n_compiles

    def explain(self) -> str:
        """Why it was compiled as often as it was, what was captured, and what the compiler decided, for each
        signature."""
        from .explain import explain

        return explain(self.state)

    def inspect_llvm(self, *args: Any, **kwargs: Any) -> str:
        return self.lower(*args, **kwargs).as_text("llvm")

    def inspect_asm(self, *args: Any, **kwargs: Any) -> str:
        return self.lower(*args, **kwargs).as_text("asm")

    def __reduce__(self) -> tuple[Any, ...]:
        return make_function, (self.state.fn, self.state.settings, dict(self.state.bound))

    def __repr__(self) -> str:
        return f"<treadle.jit of {self.state.name}{self.state.signature}>"


def make_function(fn: Callable[..., Any], settings: Settings, bound: Mapping[str, Any] | None = None) -> Function:
    state = State(fn, settings, signature_of(fn), dict(bound or {}))
    if settings.constant:
        return _with_constants(fn, settings, state)
    function: Function

    def slow(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        compiled, leaves = lookup(state, bind_call(state, args, kwargs))
        result = compiled.call_leaves(leaves, out)
        compiled.install(function, args, kwargs, out)
        return result

    function = _instance(slow, state)
    return function


_functions: weakref.WeakSet[Function] = weakref.WeakSet()


def _forget_all() -> None:
    """Installed calls hold their number of threads; they are looked up anew."""
    for function in list(_functions):
        function.forget()


watchers.append(_forget_all)


def _instance(slow: Callable[..., Any], state: State) -> Function:
    function: Function = function_type()(slow)
    function.__dict__["state"] = state
    functools.update_wrapper(function, state.fn)
    _functions.add(function)
    return function


def _with_constants(fn: Callable[..., Any], settings: Settings, state: State) -> Function:
    """`constant_argnames`: the named arguments are bound at each call; one program per content."""
    plain = dataclasses.replace(settings, constant=())
    made: dict[tuple[Any, ...], Function] = {}

    def slow(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        arguments = bind_call(state, args, kwargs)
        constants = {name: arguments.pop(name) for name in settings.constant}
        key = tuple((name, *content_key(value)) for name, value in constants.items())
        if key not in made:
            made[key] = make_function(fn, plain, {**state.bound, **constants})
        function = made[key]
        compiled, leaves = lookup(function.state, arguments)
        state.n_compiles = sum(each.state.n_compiles for each in made.values())
        return compiled.call_leaves(leaves, out)

    return _instance(slow, state)


def content_key(value: Any) -> tuple[Any, ...]:
    """What decides whether two constant arguments are the same: structure, dtypes, shapes and bytes."""
    leaves, structure = tree.flatten(value)
    digests = []
    for leaf in leaves:
        array = np.asarray(leaf)
        digests.append((array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()))
    return structure, tuple(digests)


@functools.cache
def function_type() -> type[Any]:
    """The native type of jitted functions; made once in a process, its routine's code kept on disk."""
    from .compile import dispatch_object

    return callable_type(Function, dispatch_object)


_KEYWORDS = (
    "static_argnums", "static_argnames", "donate_argnums", "donate_argnames", "donate", "constant_argnames",
    "threads", "dims", "target",
)  # fmt: skip


def jit(fn: Callable[..., Any] | None = None, **keywords: Any) -> Any:
    """Compile a NumPy function at its first call with each new signature (structure, dtypes, shapes, static values).

    `static_argnums`/`static_argnames`: arguments that steer the trace; they must be hashable. bool, str, None, enums,
    dtypes and callables are static by themselves. `donate_argnums`/`donate_argnames`: arguments whose memory a result
    may take; `donate="try"` makes that lenient. `constant_argnames`: arguments that become constants of the program.
    `threads`: the most threads a call uses. `dims`: promises about symbolic sizes, `{"B": (1, 64)}`. `target`: what to
    compile for, the running machine by default.
    """
    for name in keywords:
        if name not in _KEYWORDS:
            raise unknown_name("keyword of td.jit", name, list(_KEYWORDS))
    if fn is None:
        return lambda fn: jit(fn, **keywords)
    if not callable(fn):
        raise TypeMismatch(f"td.jit takes a function, not a {type(fn).__name__}", code="TD0624")
    signature = signature_of(fn)
    name = str(getattr(fn, "__name__", type(fn).__name__))

    def named(*options: str) -> tuple[str, ...]:
        return tuple(found for option in options for found in names_of(signature, keywords.get(option), option, name))

    settings = Settings(
        static=named("static_argnums", "static_argnames"),
        donate=named("donate_argnums", "donate_argnames"),
        constant=named("constant_argnames"),
        donate_lenient=keywords.get("donate") == "try",
        threads=keywords.get("threads"),
        dims=dims_of(keywords.get("dims")),
        target=keywords.get("target"),
    )
    return make_function(fn, settings)


__all__ = ["CacheInfo", "Function", "Lowered", "ShapeDtype", "Traced", "jit"]
