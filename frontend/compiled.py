"""A compiled function: what can be called, read, measured and saved.

It knows how the user's arguments become leaves and how result leaves become the user's structure; everything native is
in the executable that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.dims import evaluate as evaluate_dim
from ..ir.errors import InvalidValue, TreadleError, TypeMismatch
from ..ir.graph import Graph
from ..passes.cost import cost_of
from ..runtime import dispatch
from ..runtime.errors import RuntimeFault
from . import tree
from .compile import Executed, install_context, prepare, save
from .tree import LEAF, TreeDef

if TYPE_CHECKING:
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
    constant_size_in_bytes: int


class Compiled:
    """One signature of a function as native code."""

    def __init__(self, traced: Traced, executed: Executed) -> None:
        self.traced = traced
        self.executed = executed
        self.out_tree = traced.trace.out_tree

    @staticmethod
    def of(traced: Traced) -> Compiled:
        settings = traced.state.settings
        pairs, unused = donations(traced)
        if unused and not settings.donate_lenient:
            raise InvalidValue(
                f"donation of {unused[0]} cannot take effect: no result has its shape and dtype",
                code="TD0640",
                edit="do not donate it, or use donate='try'",
            )
        executed = prepare(traced.graph, donated=pairs, lenient=settings.donate_lenient, options=traced.options)
        return Compiled(traced, executed)

    @property
    def graph(self) -> Graph:
        return self.traced.graph

    def call_leaves(self, leaves: Sequence[Any], out: Any = None, threads: int | None = None) -> Any:
        """The call proper, from leaves in order."""
        outs = self._outs(out) if out is not None else None
        if threads is None:
            threads = self.traced.state.settings.threads
        try:
            results = self.executed.executable(leaves, outs, threads)
        except RuntimeFault as fault:
            raise as_ours(fault) from None
        return self.out_tree.unflatten(results)

    def _outs(self, out: Any) -> list[Any]:
        found, structure = tree.flatten(out, lambda x: x is None)
        if structure != self.out_tree:
            raise TypeMismatch(f"out has the structure {structure}, the result {self.out_tree}", code="TD0641")
        return found

    def __call__(self, *args: Any, out: Any = None, threads: int | None = None, **kwargs: Any) -> Any:
        """Call with arguments of exactly this signature; `out` are arrays to fill, in the result's structure."""
        from .jit import bind_call, split

        state = self.traced.state
        key, leaves, _ = split(state, bind_call(state, args, kwargs))
        if key.structure != self.traced.key.structure or key.static != self.traced.key.static:
            raise TypeMismatch(
                f"{state.name} was compiled for arguments of the structure {self.traced.key.structure}, "
                f"these are {key.structure}",
                code="TD0642",
            )
        return self.call_leaves(leaves, out, threads)

    def as_text(self, stage: str = "program") -> str:
        """`graph`, `graph:PASS`, `program`, `loops`, `llvm` or `asm`."""
        return self.executed.compilation.text(stage)

    def cost_analysis(self, dims: Mapping[str, int] | None = None) -> Mapping[str, float]:
        """`flops`, `bytes accessed` and `transcendentals` of one call."""
        cost = cost_of(self.executed.compilation.program, dims or {})
        return {"flops": cost.flops, "bytes accessed": cost.bytes, "transcendentals": cost.transcendentals}

    def memory_analysis(self, dims: Mapping[str, int] | None = None) -> MemoryAnalysis:
        program = self.executed.compilation.program
        sizes = dict(dims or {})

        def total(buffers: Sequence[Any]) -> int:
            return sum(evaluate_dim(buffer.type.bytes, sizes) for buffer in buffers)

        return MemoryAnalysis(
            argument_size_in_bytes=total(program.inputs),
            output_size_in_bytes=total(program.outputs),
            temp_size_in_bytes=evaluate_dim(program.arena_bytes, sizes),
            alias_size_in_bytes=total([program.outputs[result] for result, _ in program.donated]),
            generated_code_size_in_bytes=len(self.executed.built.code),
            lower_bound_in_bytes=evaluate_dim(program.lower_bound, sizes),
            constant_size_in_bytes=total(program.constants),
        )

    def save(self, path: str | Path, *, name: str | None = None, header: bool = False, loader: bool = False) -> None:
        """Write `path`: one shared library that needs neither treadle nor LLVM.

        `name` prefixes its C functions (the file's stem unless given); `header` writes `model.h` beside it, `loader` a
        `model.py` that needs only NumPy and ctypes.
        """
        traced = self.traced
        save(
            self.executed,
            path,
            name=name,
            extra={
                "function": traced.state.name,
                "arguments": traced.key.structure.to_json(),
                "results": self.out_tree.to_json(),
            },
            header=header,
            loader=loader,
        )

    def install(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Let further calls of this very form go the native way, where it can take them."""
        record = record_for(self, args, kwargs, out)
        if record is not None:
            function.install(record)

    def __repr__(self) -> str:
        return f"<compiled {self.graph.name}: {len(self.executed.built.code)} bytes of code>"


class _NotServed(Exception):
    """The native way does not take this form of call."""


def record_for(
    compiled: Compiled, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
) -> dispatch.Record | None:
    """The dispatch record of a call of this form; None where the complete path must take it each time."""
    state, key = compiled.traced.state, compiled.traced.key
    free = [name for name in state.signature.parameters if name not in state.bound]
    first: dict[str, tuple[TreeDef, int]] = {}
    count = 0
    for name, structure in zip(key.structure.keys, key.structure.children, strict=True):
        first[str(name)] = (structure, count)
        count += structure.leaves
    given = {**dict(zip(free, args, strict=False)), **kwargs}
    try:
        if any(name not in given for name in first):
            raise _NotServed  # a default is data: it is no part of the call
        positional = tuple(_argument(value, first.get(name)) for name, value in zip(free, args, strict=False))
        keywords = [(name, _argument(value, first.get(name))) for name, value in kwargs.items()]
        if out is not None:
            keywords.append(("out", _out_argument(out, [0])))
        return dispatch.record_of(
            compiled.executed.executable,
            positional,
            _result(compiled.out_tree, [0]),
            keywords=tuple(keywords),
            **install_context(compiled.executed, state.settings.threads),
        )
    except (_NotServed, dispatch.Unservable):
        return None


def _argument(value: Any, place: tuple[TreeDef, int] | None) -> Any:
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
    starts: dict[Any, tuple[TreeDef, int]] = {}
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


def as_ours(fault: RuntimeFault) -> TreadleError:
    """A fault of the runtime as an error of ours: the same code and message, and the builtin a user would catch."""
    kind = _CLASSES.get(fault.builtin)
    if kind is None:
        kind = _CLASSES[fault.builtin] = type(fault.builtin.__name__, (TreadleError, fault.builtin), {})
    return kind(fault.message, code=fault.code, edit=fault.edit)


_CLASSES: dict[type[Exception], type[TreadleError]] = {}
