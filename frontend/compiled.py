"""A compiled function: what can be called, read, measured and saved.

It knows how the user's arguments become leaves and how result leaves become the user's structure; everything native is
in the executable that it holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.classes import dataclass
from ..ir.dims import evaluate as evaluate_dim
from ..ir.errors import InvalidValue, TreadleError, TypeMismatch
from ..ir.graph import Graph
from ..passes.cost import cost_of
from ..runtime import dispatch
from ..runtime.executable import Executable, failure
from ..runtime.profile import Profile
from . import tree
from .arguments import ShapeDtype, bind_call, split
from .compile import Compilation, Executed, finish, install_context, processes, profile, save, target_named, verify
from .options import config
from .samples import concrete
from .trace import current
from .tree import LEAF, TreeDef
from .userline import file_problem, spoken

if TYPE_CHECKING:
    import inspect

    from .jit import Traced


@dataclass(frozen=True)
class MemoryAnalysis:
    """Bytes of one program; symbolic sizes are evaluated at the dims given to `memory_analysis`."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    temp_size_in_bytes: int
    alias_size_in_bytes: int
    generated_code_size_in_bytes: int
    lower_bound_in_bytes: int


class Compiled:
    """One signature of a function as native code."""

    def __init__(self, traced: Traced, executed: Executed) -> None:
        self.traced = traced
        self.executed = executed
        self.out_tree = traced.trace.out_tree

    @staticmethod
    def of(traced: Traced, compilation: Compilation | None = None) -> Compiled:
        executed = finish(
            compilation or compilation_of(traced),
            traced.options,
            lenient=traced.state.settings.donate_lenient,
            results=traced.trace.out_tree.paths("result"),
        )
        return Compiled(traced, executed)

    @property
    def graph(self) -> Graph:
        return self.traced.graph

    def call_leaves(self, leaves: Sequence[Any], out: Any = None, threads: int | None = None) -> Any:
        """The call proper, from leaves in order."""
        outs = self._outs(out) if out is not None else None
        if threads is None:
            threads = self.traced.state.settings.threads
        if config.current.check:
            self.check_captured()
        return self.out_tree.unflatten(self.executed.executable(leaves, outs, threads))

    def _outs(self, out: Any) -> list[Any]:
        found, structure = tree.flatten(out, lambda x: x is None)
        if structure != self.out_tree:
            raise TypeMismatch(
                f"out has the structure {structure}, the result {self.out_tree}",
                code="TD0641",
                edit="give an array, or None, for each array of the result",
            )
        return found

    def verify(self, leaves: Sequence[Any]) -> None:
        """Under `TREADLE_CHECK=1`: every pass and the native program against the reference, on these leaves; noise
        stands in for what is only a type."""
        made_up = any(isinstance(leaf, ShapeDtype) for leaf in leaves)
        try:
            verify(self.executed, concrete(leaves))
        except TreadleError as error:
            # Noise may be an index out of range, or break what was promised of a size: that says nothing.
            if not made_up or error.code == "TD0648":
                raise

    def check_captured(self) -> None:
        """Under `TREADLE_CHECK=1`: refuse to go on with arrays that have changed since they became constants."""
        for each in self.traced.trace.captured:
            if each.changed():
                raise InvalidValue(
                    f"the array {each.label} has changed since {self.traced.state.name} was compiled, where its "
                    "content is a constant",
                    code="TD0645",
                    location=each.location,
                    edit="pass it as an argument, or forget the program with .clear_cache()",
                )

    @spoken
    def __call__(self, *args: Any, out: Any = None, threads: int | None = None, **kwargs: Any) -> Any:
        """Call with arguments of exactly this signature; `out` are arrays to fill, in the result's structure."""
        from .jit import check_threads

        state, own = self.traced.state, self.traced.key
        if current() is not None:
            raise TypeMismatch(
                f"a compiled program of {state.name} is called inside a traced function, and cannot be part of it",
                code="TD0647",
                edit=f"call the function {state.name} itself, or its jitted form",
            )
        check_threads(threads)
        key, leaves, _ = split(state, bind_call(state, args, kwargs))
        if key.structure != own.structure:
            raise TypeMismatch(
                f"{state.name} was compiled for arguments of the structure {own.structure}, these are {key.structure}",
                code="TD0642",
                edit="pass the same containers, or call the jitted function, which compiles again",
            )
        for (name, value), (_, was) in zip(key.static, own.static, strict=False):
            if value != was:
                raise TypeMismatch(
                    f"{state.name} was compiled for {name}={was!r}, this is {value!r}",
                    code="TD0642",
                    edit=f"compile it for {name}={value!r} as well, or call the jitted function",
                )
        if key.static != own.static or key.constants != own.constants:
            raise TypeMismatch(
                f"{state.name} was compiled for other constants than these",
                code="TD0642",
                edit="compile the function that is bound to them",
            )
        return self.call_leaves(leaves, out, threads)

    @spoken
    def as_text(self, stage: str = "program") -> str:
        """`graph`, `graph:PASS`, `program`, `loops`, `llvm` or `asm`."""
        return self.executed.compilation.text(stage)

    @spoken
    def cost_analysis(self, dims: Mapping[str, int] | None = None) -> Mapping[str, float]:
        """`flops`, `bytes accessed` and `transcendentals` of one call; symbolic sizes are those of `dims`."""
        cost = cost_of(self.executed.compilation.program, self._sizes(dims))
        return {"flops": cost.flops, "bytes accessed": cost.bytes, "transcendentals": cost.transcendentals}

    @spoken
    def memory_analysis(self, dims: Mapping[str, int] | None = None) -> MemoryAnalysis:
        """Bytes of arguments, results, scratch, results in donated memory, code, and the least scratch possible."""
        program = self.executed.compilation.program
        sizes = self._sizes(dims)

        def total(buffers: Sequence[Any]) -> int:
            return sum(evaluate_dim(buffer.type.bytes, sizes) for buffer in buffers)

        return MemoryAnalysis(
            argument_size_in_bytes=total(program.inputs),
            output_size_in_bytes=total(program.outputs),
            temp_size_in_bytes=evaluate_dim(program.arena_bytes, sizes),
            alias_size_in_bytes=total([program.outputs[result] for result, _ in program.donated]),
            generated_code_size_in_bytes=len(self.executed.built.code),
            lower_bound_in_bytes=evaluate_dim(program.lower_bound, sizes),
        )

    def _sizes(self, dims: Mapping[str, int] | None) -> dict[str, int]:
        wanted = [dim.name for dim in self.graph.dims]
        given = dict(dims or {})
        if sorted(given) != sorted(wanted):
            example = ", ".join(f"{name!r}: 8" for name in wanted)
            raise InvalidValue(
                f"the sizes of {self.graph.name} are {', '.join(wanted) or 'all known'}; given: "
                f"{', '.join(given) or 'none'}",
                code="TD0646",
                edit=f"dims={{{example}}}" if wanted else "leave dims out",
            )
        return given

    @spoken
    def profile(self, *args: Any, calls: int = 10, threads: int | None = None, **kwargs: Any) -> Profile:
        """Time per kernel and per line of the user's, over some calls with these arguments: print it."""
        from .jit import check_threads

        check_threads(threads)
        state = self.traced.state
        _, leaves, _ = split(state, bind_call(state, args, kwargs))
        return profile(self.executed, leaves, calls=calls, threads=threads or state.settings.threads)

    @spoken
    def save(self, path: str | Path, *, name: str | None = None, header: bool = False, loader: bool = False) -> None:
        """Write `path`: one shared library that needs neither treadle nor LLVM.

        `name` prefixes its C functions (the file's stem unless given); `header` writes `model.h` beside it, `loader` a
        `model.py` that needs only NumPy and ctypes.
        """
        extra = {
            "function": self.traced.state.name,
            "arguments": self.traced.key.structure.to_json(),
            "results": self.out_tree.to_json(),
        }
        try:
            save(self.executed, path, name=name, extra=extra, header=header, loader=loader)
        except OSError as error:
            raise file_problem(error, path) from None

    def install(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Let further calls of this very form go the native way, where it can take them."""
        record = record_for(self, args, kwargs, out)
        if record is not None:
            with contextlib.suppress(dispatch.Unservable):  # a frame of thousands of arrays is too large
                function.install(record)

    def __repr__(self) -> str:
        return f"<compiled {self.graph.name}: {len(self.executed.built.code)} bytes of code>"


def compilation_of(traced: Traced) -> Compilation:
    """A trace at the beginning of its way, with the donations that can take effect (TD0640 for the others)."""
    pairs, unused = donations(traced)
    if unused and not traced.state.settings.donate_lenient:
        raise InvalidValue(
            f"donation of {unused[0]} cannot take effect: no result has its shape and dtype",
            code="TD0640",
            edit="do not donate it, or use donate='try'",
        )
    options = traced.options
    return Compilation(
        traced.graph,
        target_named(options.target),
        check=options.check,
        donated=pairs,
        processes=processes(options),
    )


class _NotServed(Exception):
    """The native way does not take this form of call."""


def record_for(
    compiled: Compiled, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
) -> dispatch.Record | None:
    """The dispatch record of a call of this form; None where the complete path must take it each time."""
    state, key = compiled.traced.state, compiled.traced.key
    if config.current.check or key.constants:
        return None  # each call looks at arrays that may have changed
    places: dict[str, tuple[TreeDef, int]] = {}
    count = 0
    for name, structure in zip(key.structure.keys, key.structure.children, strict=True):
        places[str(name)] = (structure, count)
        count += structure.leaves
    free = [p for p in state.signature.parameters.values() if p.name not in state.bound]
    positional, rest = places_of(free, places)
    executed = compiled.executed
    context = install_context(executed.built.manifest, state.settings.threads)
    return served(executed.executable, args, kwargs, out, (positional, {**places, **rest}), compiled.out_tree, context)


Where = tuple[TreeDef, int]  # a structure, and the number of its first leaf


def served(
    executable: Executable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    out: Any,
    places: tuple[Sequence[Where | None], Mapping[Any, Where]],
    results: TreeDef,
    context: Mapping[str, Any],
) -> dispatch.Record | None:
    """The record of a call of this form of a program, whose arguments stand where `places_of` says; None where the
    complete path must take it each time."""
    positional, rest = places

    @spoken
    def failed(status: int, found: int) -> Any:
        raise failure(status, executable.failures, found)

    try:
        arguments = tuple(
            _argument(value, positional[i] if i < len(positional) else rest.get(i - len(positional)))
            for i, value in enumerate(args)
        )
        keywords = [(name, _argument(value, rest.get(name))) for name, value in kwargs.items()]
        if out is not None:
            keywords.append(("out", _out_argument(out, [0])))
        return dispatch.record_of(
            executable,
            arguments,
            _result(results, [0]),
            keywords=tuple(keywords),
            failed=failed,
            **context,
        )
    except (_NotServed, dispatch.Unservable):
        return None


def places_of(
    parameters: Sequence[inspect.Parameter], places: Mapping[str, Where]
) -> tuple[list[Where | None], dict[Any, Where]]:
    """Where the dynamic arguments of a call are: positional ones in order (None for a static one), and those of
    `*args` by number and `**kwargs` by name."""
    positional: list[Where | None] = []
    rest: dict[Any, Where] = {}
    for p in parameters:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            positional.append(places.get(p.name))
        elif p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name in places:
            structure, number = places[p.name]
            for key, child in zip(structure.keys, structure.children, strict=True):
                rest[key] = (child, number)
                number += child.leaves
    return positional, rest


def _argument(value: Any, place: Where | None) -> Any:
    """How the native walk sees one argument; `place` is None for a static one."""
    if place is None:
        return dispatch.Fixed(value)
    structure, number = place
    kind = type(value)
    if structure.kind == "leaf":
        if kind is np.ndarray:
            return dispatch.Leaf(number)
        if kind in (int, float, bool, complex) or isinstance(value, np.generic):
            return dispatch.Number(number, kind)
        raise _NotServed
    if structure.kind == "none":
        return dispatch.Fixed(None)
    if structure.kind == "static":
        return dispatch.Fixed(value)
    starts: dict[Any, Where] = {}
    for name, child in zip(structure.keys, structure.children, strict=False):
        starts[name] = (child, number)
        number += child.leaves
    if kind is dict:
        return dispatch.DictOf(tuple(value), tuple(_argument(value[name], starts[name]) for name in value))
    if kind is list:
        return dispatch.ListOf(tuple(_argument(item, starts[i]) for i, item in enumerate(value)))
    if isinstance(value, tuple):
        places = [starts[i] for i in range(len(value))] if kind is tuple else [starts[n] for n in structure.keys]
        return dispatch.TupleOf(tuple(_argument(v, p) for v, p in zip(value, places, strict=True)), kind)
    raise _NotServed


def _out_argument(out: Any, number: list[int]) -> Any:
    if type(out) is np.ndarray:
        number[0] += 1
        return dispatch.Out(number[0] - 1)
    if type(out) is tuple:
        return dispatch.TupleOf(tuple(_out_argument(item, number) for item in out))
    if type(out) is list:
        return dispatch.ListOf(tuple(_out_argument(item, number) for item in out))
    raise _NotServed


def _result(structure: TreeDef, number: list[int]) -> Any:
    kind = structure.kind
    if kind == "leaf":
        number[0] += 1
        return dispatch.Output(number[0] - 1)
    if kind == "none":
        return dispatch.Fixed(None)
    if kind == "static":
        return dispatch.Fixed(structure.value.value)
    children = tuple(_result(child, number) for child in structure.children)
    if kind == "tuple":
        return dispatch.TupleOf(children)
    if kind == "list":
        return dispatch.ListOf(children)
    if kind == "dict":
        return dispatch.DictOf(structure.keys, children)
    bare = TreeDef(kind, structure.keys, (LEAF,) * len(children))
    return dispatch.CallOf(lambda *items: bare.unflatten(items), children)


def donations(traced: Traced) -> tuple[list[tuple[int, int]], list[str]]:
    """(result, argument) pairs for donated arguments, first fitting result first, and the paths that found none."""
    wanted = traced.state.settings.donate
    free = list(range(len(traced.graph.results)))
    pairs: list[tuple[int, int]] = []
    unused: list[str] = []
    for i, spec in enumerate(traced.specs):
        if spec.path.split("[")[0].split(".")[0] not in wanted or spec.kind != "array":
            continue
        fit = next((r for r in free if traced.graph.results[r].type == spec.type), None)
        if fit is None:
            unused.append(spec.path)
        else:
            free.remove(fit)
            pairs.append((fit, i))
    return pairs, unused
