"""The decorator: signatures, static arguments, bound constants, and the bounded cache of compiled programs.

What `td.jit` returns is an instance of one native type (`runtime/dispatch.py`): a call whose arguments match a recent
signature never enters Python. Everything else comes here, to the complete path: bind the arguments, flatten them, look
the signature up, trace and compile when it is new, call with every check. Inside a running trace a jitted function is
the plain function again: what it computes becomes part of that trace.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.classes import dataclass
from ..ir.dims import DimName, SymbolicDim
from ..ir.errors import InvalidValue, TypeMismatch
from ..ir.graph import Graph
from ..runtime.dispatch import Dispatched, callable_type
from ..runtime.errors import RuntimeFault
from .arguments import (
    Key,
    ShapeDtype,
    bind_call,
    call_of,
    declared_dims,
    dims_of,
    flatten,
    names_of,
    signature_of,
    spelt,
    split,
)
from .options import Options, config, watchers
from .trace import LeafSpec, current
from .tracer import Traced as Trace
from .tracer import Tracer, trace_to_graph, wrap
from .tree import Static
from .userline import as_ours, definition, refine, spoken, unknown_name

if TYPE_CHECKING:
    from .compile import Compilation
    from .compiled import Compiled


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


@dataclass
class State:
    """What the native object stands for. `lock` guards the cache: one thread compiles a signature, the others wait for
    it rather than compile it again."""

    fn: Callable[..., Any]
    settings: Settings
    signature: inspect.Signature
    bound: Mapping[str, Any] = field(default_factory=dict)
    cache: OrderedDict[Key, Compiled] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    n_compiles: int = 0
    hits: int = 0
    # The native object, whose records keep programs, too; it holds this state, not the other way round.
    function: Callable[[], Function | None] = lambda: None

    @property
    def name(self) -> str:
        return str(getattr(self.fn, "__name__", type(self.fn).__name__))

    @property
    def options(self) -> Options:
        options = config.current
        return options if self.settings.target is None else options.changed(target=self.settings.target)


@dataclass(frozen=True)
class CacheInfo:
    """As `functools.lru_cache` reports: `misses` are compilations."""

    hits: int
    misses: int
    maxsize: int
    currsize: int


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


class Lowered:
    """A traced function on its way to code; its texts can be read at each stage, for any target."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced

    @functools.cached_property
    def compilation(self) -> Compilation:
        from .compiled import compilation_of

        return compilation_of(self.traced)

    @spoken
    def as_text(self, stage: str = "program") -> str:
        """`graph`, `graph:PASS`, `program`, `loops`, `llvm` or `asm`."""
        return self.compilation.text(stage)

    @spoken
    def compile(self) -> Compiled:
        from .compiled import Compiled

        return Compiled.of(self.traced, self.compilation)

    def __repr__(self) -> str:
        return f"<lowered {self.traced.graph.name}>"


def trace(state: State, arguments: Mapping[str, Any]) -> Traced:
    """Trace the function for these arguments (arrays or `ShapeDtype`s)."""
    key, _, specs = split(state, arguments)
    fixed = {name: arguments[name] for name in state.settings.constant if name in arguments} | dict(state.bound)
    static = {name: value.value for name, value in key.static}
    given: dict[str, Any] = {}
    before: dict[str, Any] = {}

    def rebuild(tracers: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        dynamic = key.structure.unflatten(tracers)
        given.update({name: as_constants(value, name) for name, value in fixed.items()} | dynamic)
        before.update(contents(given))
        return call_of(state, {**static, **given})

    dims = declared_dims(state.settings.dims, specs)
    traced = trace_to_graph(state.fn, list(specs), rebuild, state.name, dims)
    check_unchanged(state, before, contents(given))
    for each in traced.captured:
        if each.changed():
            raise InvalidValue(
                f"{state.name} changed the array {each.label} while it was traced; its content is a constant of the "
                "program, so it would be changed only once",
                code="TD0629",
                location=each.location,
                edit="pass it as an argument, and return the new one",
            )
    return Traced(state, key, traced, tuple(specs), state.options)


def as_constants(value: Any, name: str) -> Any:
    """A bound argument as the traced function sees it: in containers of its own, its arrays traced, so that what may be
    done to an argument may be done to a bound one (`params["embedding"][tokens]`); its numbers are numbers."""
    trace = current()
    assert trace is not None
    leaves, structure = flatten(value, name)
    lifted = [
        wrap(trace.constant(leaf, path)) if isinstance(leaf, np.ndarray) else leaf
        for leaf, path in zip(leaves, structure.paths(name), strict=True)
    ]
    return structure.unflatten(lifted)


def contents(values: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in the arguments by its path: leaves, and the static values between them."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        leaves, structure = flatten(value, name)
        found |= dict(zip(structure.paths(name), leaves, strict=True))
        found[f"the structure of {name}"] = Static(structure)
    return found


def check_unchanged(state: State, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse a function that changed a container among its arguments (TD0628): the caller's would stay as it was."""
    for path in [*before, *after]:
        leaf = after.get(path)
        if leaf is before.get(path) or (isinstance(leaf, Static) and leaf == before.get(path)):
            continue
        where = leaf.value.location if isinstance(leaf, Tracer) else None
        did = "removed" if path not in after else "changed" if isinstance(leaf, Static) else "set"
        raise TypeMismatch(
            f"{state.name} {did} {path}, which would leave the caller's as it is",
            code="TD0628",
            location=where or definition(state.fn),
            edit="return the new value, or change a copy of the container",
        )


def lookup(state: State, arguments: Mapping[str, Any], *, call: bool = False) -> tuple[Compiled, list[Any]]:
    """The compiled program for these arguments, made if need be, and their leaves."""
    from .compiled import Compiled

    key, leaves, specs = split(state, arguments)
    with state.lock:
        known = key if key in state.cache else symbolic(state, key)
        if known is not None:
            state.cache.move_to_end(known)
            state.hits += 1
            return state.cache[known], leaves
        if call:
            for leaf, spec in zip(leaves, specs, strict=True):
                if isinstance(leaf, ShapeDtype):
                    raise TypeMismatch(
                        f"{state.name}: {spec.path} is a ShapeDtype, which has no elements",
                        code="TD0627",
                        edit=f"compile with it, {state.name}.compile(...), and call with arrays",
                    )
        compiled = Compiled.of(trace(state, arguments))
        if config.current.check:
            compiled.verify(leaves)
        state.n_compiles += 1
        state.cache[key] = compiled
        while len(state.cache) > config.current.max_signatures:
            state.cache.popitem(last=False)
            if (function := state.function()) is not None:
                function.forget()
        return compiled, leaves


def symbolic(state: State, key: Key) -> Key | None:
    """The key of a program with symbolic sizes that serves the arguments, where one was compiled; the last used
    first."""
    for known, compiled in reversed(state.cache.items()):
        same = known.structure == key.structure and known.static == key.static and known.constants == key.constants
        if not same or all(kind.is_static for _, kind in known.leaves):
            continue
        pairs = list(zip(known.leaves, key.leaves, strict=True))
        if any(a != b or x.dtype != y.dtype or x.rank != y.rank for (a, x), (b, y) in pairs):
            continue
        sizes = [(size, now) for (_, x), (_, y) in pairs for size, now in zip(x.shape, y.shape, strict=True)]
        if any(isinstance(now, SymbolicDim) or (isinstance(size, int) and size != now) for size, now in sizes):
            continue
        try:
            compiled.executed.signature.solve([tuple(map(int, kind.shape)) for _, kind in key.leaves])
        except RuntimeFault:
            continue  # a size that was not promised: a program of its own
        return known
    return None


class Function(Dispatched):
    """What `td.jit` returns. Instances are of a native type made from this class, see `function_type`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def state(self) -> State:
        found: State = self.__dict__["state"]
        return found

    @spoken
    def trace(self, *args: Any, **kwargs: Any) -> Traced:
        """Trace for these arguments (arrays or `ShapeDtype`s): `.graph` is what was traced."""
        return trace(self.state, bind_call(self.state, args, kwargs))

    @spoken
    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace, and give the texts of every stage by `.as_text(stage)`."""
        return trace(self.state, bind_call(self.state, args, kwargs)).lower()

    @spoken
    def compile(self, *args: Any, **kwargs: Any) -> Compiled:
        """Compile for these arguments without calling; with symbolic sizes, one program for all of them."""
        return lookup(self.state, bind_call(self.state, args, kwargs))[0]

    @spoken
    def bind(self, *args: Any, **kwargs: Any) -> Function:
        """The function with some arguments fixed. Their arrays become constants: folded, packed, saved.

        Positional arguments bind the first parameters. Arrays are copied by content when a signature is traced.
        """
        state = self.state
        free = [p for p in state.signature.parameters.values() if p.name not in state.bound]
        try:
            given = state.signature.replace(parameters=free).bind_partial(*args, **kwargs)
        except TypeError as error:
            raise TypeMismatch(f"{state.name}.bind: {error}", code="TD0620", edit=f"it takes {spelt(free)}") from None
        for name in given.arguments:
            if name in state.settings.donate:
                raise InvalidValue(
                    f"{state.name}.bind: {name} is donated, and a constant has no memory to give",
                    code="TD0625",
                    edit="do not donate it, or do not bind it",
                )
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

    @spoken
    def inspect_llvm(self, *args: Any, **kwargs: Any) -> str:
        """The LLVM text of the program for these arguments."""
        return trace(self.state, bind_call(self.state, args, kwargs)).lower().compilation.text("llvm")

    @spoken
    def inspect_asm(self, *args: Any, **kwargs: Any) -> str:
        """The assembly text of the program for these arguments."""
        return trace(self.state, bind_call(self.state, args, kwargs)).lower().compilation.text("asm")

    def __reduce__(self) -> tuple[Any, ...]:
        return make_function, (self.state.fn, self.state.settings, dict(self.state.bound))

    def __repr__(self) -> str:
        state = self.state
        free = [p for p in state.signature.parameters.values() if p.name not in state.bound]
        return f"<treadle.jit of {state.name}{spelt(free)}>"


def make_function(fn: Callable[..., Any], settings: Settings, bound: Mapping[str, Any] | None = None) -> Function:
    state = State(fn, settings, signature_of(fn), dict(bound or {}))
    function: Function

    def slow(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if current() is not None:
            return inlined(state, args, kwargs, out)
        try:
            try:
                compiled, leaves = lookup(state, bind_call(state, args, kwargs), call=True)
                result = compiled.call_leaves(leaves, out)
            except RuntimeFault as fault:
                raise as_ours(fault) from None
        except Exception as error:
            refine(error)
            raise
        compiled.install(function, args, kwargs, out)
        return result

    function = function_type()(slow)
    functools.update_wrapper(function, fn)
    state.function = weakref.ref(function)
    function.__dict__["state"] = state  # last: a jitted `fn` has one of its own, which was copied
    _functions.add(function)
    return function


def inlined(state: State, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Any:
    """A call inside of a running trace: the function's operations become part of that trace."""
    if out is not None:
        raise InvalidValue(
            f"{state.name}: out= inside a traced function",
            code="TD0806",
            edit="use the result, which nobody else holds",
        )
    bound = {name: as_constants(value, name) for name, value in state.bound.items()}
    positional, named = call_of(state, {**bound, **bind_call(state, args, kwargs)})
    return state.fn(*positional, **named)


_functions: weakref.WeakSet[Function] = weakref.WeakSet()


def _forget_all() -> None:
    """Installed calls hold their number of threads; they are looked up anew."""
    for function in list(_functions):
        function.forget()


watchers.append(_forget_all)


def _renew_locks() -> None:
    # Another thread may have been compiling while the process forked; in the child nobody will release its lock.
    for function in list(_functions):
        function.state.lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


@functools.cache
def function_type() -> type[Any]:
    """The native type of jitted functions; made once in a process, its routine's code kept on disk."""
    from .compile import dispatch_object

    return callable_type(Function, dispatch_object)


_KEYWORDS = (
    "static_argnums", "static_argnames", "donate_argnums", "donate_argnames", "donate", "constant_argnames",
    "threads", "dims", "target",
)  # fmt: skip


@spoken
def jit(fn: Callable[..., Any] | None = None, **keywords: Any) -> Any:
    """Compile a NumPy function at its first call with each new signature (structure, dtypes, shapes, static values).

    `static_argnums`/`static_argnames`: arguments that steer the trace; they must be hashable. bool, str, None, enums,
    dtypes and callables are static by themselves, also inside containers. `donate_argnums`/`donate_argnames`:
    arguments whose memory a result may take; `donate="try"` makes that lenient. `constant_argnames`: arguments that
    become constants of the program, one program per content. `threads`: the most threads a call uses. `dims`: promises
    about symbolic sizes, `{"B": (1, 64)}`. `target`: what to compile for, the running machine by default.
    """
    for name in keywords:
        if name not in _KEYWORDS:
            raise unknown_name("keyword of td.jit", name, list(_KEYWORDS), TypeMismatch)
    if fn is None:
        return lambda fn: jit(fn, **keywords)
    if not callable(fn):
        raise TypeMismatch(
            f"td.jit takes a function, not a {type(fn).__name__}", code="TD0624", edit="name options: td.jit(threads=1)"
        )
    return make_function(fn, settings_of(keywords, signature_of(fn), str(getattr(fn, "__name__", type(fn).__name__))))


def settings_of(keywords: Mapping[str, Any], signature: inspect.Signature, name: str) -> Settings:
    """The keywords, checked against the function and each other (TD0625)."""

    def named(*options: str) -> tuple[str, ...]:
        return tuple(found for option in options for found in names_of(signature, keywords.get(option), option, name))

    donate, threads, target = (keywords.get(option) for option in ("donate", "threads", "target"))
    if donate not in (None, "try"):
        raise InvalidValue(f"donate is {donate!r}", code="TD0625", edit="donate='try', or leave it out")
    check_threads(threads)
    if not isinstance(target, str | None):
        raise TypeMismatch(f"target is a {type(target).__name__}", code="TD0625", edit="target='host', for example")
    settings = Settings(
        static=named("static_argnums", "static_argnames"),
        donate=named("donate_argnums", "donate_argnames"),
        constant=named("constant_argnames"),
        donate_lenient=donate == "try",
        threads=threads,
        dims=dims_of(keywords.get("dims")),
        target=target,
    )
    kinds = {"static": settings.static, "donated": settings.donate, "constant": settings.constant}
    for one, other in (("static", "donated"), ("static", "constant"), ("donated", "constant")):
        for parameter in kinds[one]:
            if parameter in kinds[other]:
                raise InvalidValue(f"{name}: {parameter} is {one} and {other}", code="TD0625", edit="choose one")
    own = signature.parameters.get("out")
    if own is not None and own.default is own.empty and own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY):
        raise InvalidValue(
            f"{name} has a parameter out, which is the keyword for arrays that receive results",
            code="TD0625",
            edit="give the parameter another name",
        )
    return settings


def check_threads(threads: Any) -> None:
    """How many threads a call may use: a positive number, or None for as many as there are."""
    if threads is None or (isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1):
        return
    raise InvalidValue(f"threads is {threads!r}", code="TD0625", edit="threads=1, or leave it out for all there are")


__all__ = ["CacheInfo", "Function", "Lowered", "ShapeDtype", "Traced", "jit"]
