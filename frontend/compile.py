"""The driver: the only file that knows passes, codegen and runtime.

A traced graph goes through the pipeline, becomes a program, its kernels become loops, LLVM text, an object; the object
is loaded in process and wrapped in a checked callable. Each stage keeps what it made, so that every text can be shown.
What a cached object needs to run (the manifest) travels with it: a warm start does none of this work again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import linecache
import os
import platform
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from difflib import get_close_matches
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..ir.classes import dataclass
from ..ir.dims import show as show_dim
from ..ir.errors import CheckFailed, InvalidValue, OutOfRange, ParseError, TreadleError
from ..ir.evaluate import evaluate
from ..ir.fingerprint import fingerprint
from ..ir.forms import everywhere
from ..ir.graph import Graph
from ..ir.location import Location
from ..ir.loops.build import walk
from ..ir.loops.nodes import For
from ..ir.loops.text import show as show_kernel
from ..ir.ops.control import While as WhileOp
from ..ir.ops.elementwise import Convert, Select
from ..ir.ops.families import Movement
from ..ir.program import Call, KernelDef, Program, Statement, While
from ..ir.target import Target, parse
from ..ir.text import digest, show
from ..ir.types import TensorType
from ..ir.value import Array, Comparison, Constant, Full, Get, Parameter, Value
from ..passes.buffers import to_program
from ..passes.cost import cost_of, graph_cost, type_bytes
from ..passes.manager import Context, blame, largest_difference
from ..passes.pipelines import DEFAULT, given
from ..runtime import artifact as artifacts
from ..runtime import bindings, cpu, dispatch
from ..runtime import loader as object_loader
from ..runtime import profile as profiling
from ..runtime.cache import ObjectCache
from ..runtime.errors import Place
from ..runtime.executable import CallContext, Executable
from ..runtime.join import join
from ..runtime.signature import Failure, Signature, Tensor
from ..runtime.threads import default_threads, idle_processors, pool
from .collector import resting
from .options import Options, config

if TYPE_CHECKING:
    from ..codegen.llvm.entry import Interface
    from ..ir.loops.nodes import Kernel
    from ..passes.manager import Step
    from .jit import Traced


@functools.cache
def compiler(root: Path = Path(__file__).parents[1]) -> str:
    """What decides what is compiled, as part of every key of the cache: the release, and the compiler's own files as
    they lie. So a checkout that has changed does not meet what it compiled before it did."""
    rooms = ("ir", "ir/loops", "ir/ops", "passes", "codegen", "codegen/isa", "codegen/kernels", "codegen/llvm")
    found = [__version__]
    for room in (*rooms, "codegen/lower", "frontend"):
        with os.scandir(root / room) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    seen = entry.stat()
                    found.append(f"{room}/{entry.name} {seen.st_size} {seen.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


@dataclass
class Timings:
    """Seconds spent in each stage of one compilation, in order."""

    seconds: dict[str, float] = field(default_factory=dict)
    running: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        before, self.running = self.running, name
        try:
            yield
        finally:
            self.running = before
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        parts = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in self.seconds.items())
        return f"{total * 1e3:.1f} ms ({parts})"


class _Kernels:
    """What passes may ask of the code generator, answered for one target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def accepts(self, group: Graph) -> bool:
        from ..codegen.kernels import choose

        return choose.accepts(group, self.target)

    def keeps(self, op: Any) -> bool:
        from ..codegen.kernels import choose

        return choose.keeps(op, self.target)

    def workspace(self, group: Graph) -> tuple[TensorType, ...]:
        from ..codegen.kernels import choose

        return choose.workspace(group, self.target)


class Compilation:
    """One graph on its way to an object, for one target. Stages are made when asked for, once."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        *,
        check: bool = False,
        donated: Sequence[tuple[int, int]] = (),
        passes: str | None = None,
        processes: int = 1,
    ) -> None:
        """`passes`, as a command line spells them, are run instead of the default pipeline. At most `processes`
        generate its code."""
        self.graph = graph
        self.target = target
        self.check = check
        self.donated = tuple(donated)
        self.passes = passes
        self.processes = processes
        self.timings = Timings()
        self.generation = ""  # who generated the code, where it was not one module made here
        self._kernels: dict[str, Kernel] = {}

    @cached_property
    def context(self) -> Context:
        return Context(self.target, _Kernels(self.target), self.check)

    @cached_property
    def steps(self) -> list[Step]:
        cx = self.context
        pipeline = DEFAULT if self.passes is None else given(self.passes, self.graph, cx.kernels.keeps)
        with self.timings.stage("passes"):
            return pipeline.run(self.graph, cx)

    @property
    def optimized(self) -> Graph:
        return self.steps[-1].after if self.steps else self.graph

    @cached_property
    def planned(self) -> tuple[Program, tuple[Array, ...]]:
        graph = self.optimized
        with self.timings.stage("plan"):
            return to_program(graph, self.context, donated=self.donated)

    @property
    def program(self) -> Program:
        return self.planned[0]

    @property
    def constants(self) -> tuple[Array, ...]:
        return self.planned[1]

    def kernel(self, definition: KernelDef) -> Kernel:
        """The scheduled loops of one kernel."""
        from ..codegen.kernels import choose

        found = self._kernels.get(definition.name)
        if found is None:
            with self.timings.stage("schedule"):
                found = self._kernels[definition.name] = choose.kernel(definition, self.target)
        return found

    @property
    def kernels(self) -> dict[str, Kernel]:
        """The scheduled loops of every kernel, by name."""
        return {definition.name: self.kernel(definition) for definition in self.program.kernels}

    def llvm(self) -> str:
        """The program's text, as one module."""
        from ..codegen.llvm import assemble

        kernels = self.kernels
        with self.timings.stage("emit"):
            return assemble.module_text(self.program, kernels, self.target)

    def interface(self, name: str) -> Interface:
        from ..codegen.llvm.entry import Interface

        program = self.program
        named = [(b.label, array) for b, array in zip(program.constants, self.constants, strict=True)]
        table, _ = artifacts.layout(named, list(self.constants))
        return Interface(
            name,
            len(program.inputs),
            len(program.outputs),
            tuple(row["offset"] for row in table),
            tuple(map(str, self.failures)),
        )

    def object_code(self, name: str | None = None, timed: bool = False) -> tuple[bytes, tuple[str, ...]]:
        """The object, and the CPU features that it uses. With `name`, the C functions of a saved model of that name are
        in it too; `timed`, it measures its kernels. Modules are generated while the text of the next ones is made."""
        from ..codegen.llvm.assemble import Parts
        from ..codegen.llvm.features import used
        from ..codegen.llvm.generate import Job
        from ..codegen.llvm.workers import Objects

        program = self.program
        parts = Parts(self.target)
        features: dict[str, None] = {}

        def job(text: str) -> Job:
            target = used(text, self.target)
            features.update(dict.fromkeys(target.features))
            return Job(text, target.triple, target.llvm_cpu, target.llvm_features)

        with Objects(self.processes) as objects:
            for definition in program.kernels:
                kernel = self.kernel(definition)
                with self.timings.stage("emit"):
                    text = parts.add(kernel)
                    if text is not None:
                        objects.add(job(text), parts.bytes * len(program.kernels) // parts.kernels)
            with self.timings.stage("emit"):
                interface = None if name is None else self.interface(name)
                objects.add(job(parts.last(program, interface=interface, timed=timed)))
            with self.timings.stage("codegen"):
                code = join(objects.finished())
            if len(objects.jobs) > 1:
                self.generation = str(objects)
        return code, tuple(feature for feature in self.target.features if feature in features)

    def asm(self) -> str:
        from ..codegen.llvm.features import used
        from ..codegen.llvm.optimize import assembly

        text = self.llvm()
        target = used(text, self.target)
        return assembly(text, target.triple, target.llvm_cpu, target.llvm_features)

    @cached_property
    def sites(self) -> list[tuple[Failure, int]]:
        """What each failure site of the program means, in the order in which the entry numbers them, and the number in
        `everywhere(graph)` of the value whose line it names: another trace of the same graph has lines of its own."""
        errors = [error for call in calls_of(self.program.body) for error in call.sites]
        in_kernels = len(errors)
        errors += [promise.error for promise in self.program.requires]
        lines: dict[Location, list[int]] = {}
        fallible: dict[Location, list[int]] = {}
        for number, value in enumerate(everywhere(self.graph)):
            if value.location is not None:
                lines.setdefault(value.location, []).append(number)
                if value.can_fail:
                    fallible.setdefault(value.location, []).append(number)
        found = []
        turns: Counter[Location | None] = Counter()
        for site, error in enumerate(errors):
            where = error.location
            numbers = (fallible.get(where) or lines.get(where) if where is not None else None) or [-1]
            # Several on one line: the first site is the first of them.
            # What a kernel finds out of range it tells.
            failure = failure_of(error)._replace(tells=site < in_kernels and isinstance(error, OutOfRange))
            found.append((failure, numbers[min(turns[where], len(numbers) - 1)]))
            turns[where] += 1
        return found

    @property
    def failures(self) -> list[Failure]:
        return [failure for failure, _ in self.sites]

    def after(self, name: str) -> Graph:
        """The graph after the pass of that name; `cleanup:2` is after the second time."""
        word, _, turn = name.partition(":")
        found = [step.after for step in self.steps if step.name.split("(")[0] == word]
        number = int(turn) if turn.isdigit() else 1
        if (turn and not turn.isdigit()) or not 1 <= number <= len(found):
            known = ", ".join(step.name for step in self.steps)
            raise InvalidValue(
                f"no pass {name!r} in this pipeline; it has {known}", code="TD0630", edit="treadle passes lists them"
            )
        return found[number - 1]

    def text(self, stage: str) -> str:
        """`graph`, `graph:PASS`, `program`, `loops`, `llvm` or `asm`."""
        name, _, pass_name = stage.partition(":")
        match name:
            case "graph" if pass_name:
                return str(self.after(pass_name))
            case "graph":
                return str(self.graph)
            case "program":
                return str(self.program)
            case "loops":
                return "\n".join(show_kernel(kernel) for kernel in self.kernels.values())
            case "llvm":
                return self.llvm()
            case "asm":
                return self.asm()
        raise InvalidValue(
            f"no stage is called {stage!r}; there are graph, graph:PASS, program, loops, llvm, asm",
            code="TD0631",
            edit="f.lower(x).as_text('loops'), for example",
        )


def statements_of(body: Sequence[Statement]) -> Iterator[Statement]:
    """The statements of a program in the order of its text, those inside loops and branches too."""
    for statement in body:
        yield statement
        for part in ("condition", "body"):
            yield from statements_of(getattr(statement, part, ()))
        for branch in getattr(statement, "branches", ()):
            yield from statements_of(branch)


def calls_of(body: Sequence[Statement]) -> Iterator[Call]:
    return (statement for statement in statements_of(body) if isinstance(statement, Call))


def failure_of(error: TreadleError) -> Failure:
    """An error of ours as the runtime carries it: the builtin to raise, and what the message is made of."""
    builtins = ("IndexError", "ArithmeticError", "ValueError")
    kind = next((b.__name__ for b in type(error).__mro__ if b.__name__ in builtins), "RuntimeError")
    return Failure(kind, error.code, error.message, error.edit, place_of(error.location))


def place_of(location: Location | None) -> Place | None:
    """A location with the text of its line, for whoever cannot read the file."""
    if location is None:
        return None
    source = location.source or linecache.getline(location.file, location.line).rstrip()
    return Place(location.file, location.line, location.function, location.column, source)


def target_named(name: str) -> Target:
    """`host`, a known CPU or model target, or a target's text. TD0644 for anything else."""
    if name == "host":
        return this_machine()
    from ..codegen.cpus import MODELS, cpu, names

    if name in MODELS:
        return MODELS[name]
    if name in names():
        return cpu(name)
    try:
        return parse(name)
    except ParseError as error:
        if ":" in name:
            raise
        known = ["host", *MODELS, *names()]
        near = get_close_matches(name, known, 1)
        raise InvalidValue(
            f"no target is called {name!r}; there are {', '.join(known)}",
            code="TD0644",
            edit=f"did you mean {near[0]}?" if near else f"or spell it out, as {error.message.rpartition(' ')[2]}",
        ) from None


@functools.cache
def this_machine() -> Target:
    """The running machine. What LLVM says of its CPU is kept on disk, since asking costs 20 ms of imports."""
    from ..codegen.host import described, host

    cache, cpu_identity = disk_cache(config.current), cpu.identity()
    # An LLVM that is older than the one that was asked may not know the name, and would end the process over it.
    llvm = find_spec("llvmlite")
    if cache is None or not cpu_identity or llvm is None or llvm.origin is None:
        return host()
    words = f"{compiler()} host {cpu_identity} {llvm.origin} {Path(llvm.origin).stat().st_mtime_ns}"
    key = hashlib.sha256(words.encode()).hexdigest()
    kept = cache.get(key)
    if kept is None:
        kept = described().encode()
        cache.put(key, kept)
    return host(kept.decode())


@dataclass
class Stats:
    """What compiling has cost this process: `td.stats()`."""

    compiles: int = 0
    disk_hits: int = 0
    kernels: int = 0
    timings: Timings = field(default_factory=Timings)

    def __str__(self) -> str:
        return f"{self.compiles} compiled, {self.disk_hits} loaded from disk, {self.kernels} kernels; {self.timings}"


_stats = Stats()


def stats() -> Stats:
    """Counts and seconds of all compilations of this process so far."""
    return _stats


def processes(options: Options) -> int:
    """How many processes may generate the code of one program. Unless a number is set, processors that others use are
    left to them: what a worker does there, this process would have done as soon."""
    most = default_threads()
    return options.compile_processes or min(options.num_threads or most, most, 1 + idle_processors())


def disk_cache(options: Options) -> ObjectCache | None:
    return _cache_at(options.cache_dir, options.cache_limit) if options.cache else None


@functools.cache
def _cache_at(directory: str, limit: int) -> ObjectCache:
    """One per directory and process, so that what is wrong with it is said once."""
    return ObjectCache(directory, limit)


# One file of the disk cache: the length of a JSON header, the header, the object, the folded constants.
_LENGTH = struct.Struct("<QQ")


@dataclass(frozen=True)
class Built:
    """An object and what is needed to run it. `constants` are (digest, type text) in the order of the slots; those
    that passes made, and the graph does not hold, are in `folded` by digest."""

    code: bytes
    manifest: dict[str, Any]
    folded: dict[str, Array]

    def pack(self) -> bytes:
        table = [[name, array.dtype.str, list(array.shape)] for name, array in self.folded.items()]
        header = json.dumps({"manifest": self.manifest, "folded": table}, separators=(",", ":")).encode()
        blobs = b"".join(np.ascontiguousarray(array).tobytes() for array in self.folded.values())
        return _LENGTH.pack(len(header), len(self.code)) + header + self.code + blobs

    @staticmethod
    def unpack(data: bytes) -> Built:
        header_bytes, code_bytes = _LENGTH.unpack_from(data)
        at = _LENGTH.size
        header = json.loads(data[at : at + header_bytes])
        at += header_bytes
        code = data[at : at + code_bytes]
        at += code_bytes
        folded: dict[str, Array] = {}
        for name, dtype, shape in header["folded"]:
            kind = np.dtype(dtype)
            count = int(np.prod(shape, dtype=np.int64))
            folded[name] = np.frombuffer(data, kind, count, at).reshape(shape)
            at += count * kind.itemsize
        return Built(code, header["manifest"], folded)


def manifest_of(compilation: Compilation) -> dict[str, Any]:
    """How to call the program, as JSON: what the cache and the saved model carry."""
    program = compilation.program
    # Symbolic sizes are not known here; their least is a floor, and short calls are the ones that matter.
    sizes = {dim.name: max(dim.low, 1) for dim in program.dims}

    def row(label: str, given: TensorType) -> dict[str, Any]:
        shape = [size if isinstance(size, int) else show_dim(size) for size in given.shape]
        return {"path": label, "dtype": given.dtype.name, "shape": shape}

    return {
        "inputs": [row(b.label, b.type) for b in program.inputs],
        "outputs": [row(b.label, b.type) for b in program.outputs],
        "dims": [{"name": d.name, "low": d.low, "high": d.high, "multiple_of": d.multiple_of} for d in program.dims],
        "donated": [[argument, result] for result, argument in program.donated],
        "lenient": False,
        # Without the user's lines: they are those of whoever traced the graph first.
        "failures": [
            {**failure._replace(place=None).to_manifest(), "op": number} for failure, number in compilation.sites
        ],
        "target": str(compilation.target),
        "treadle": __version__,
        "constants": [b.label for b in program.constants],
        "kernels": len(program.kernels),
        "seconds": cost_of(program, sizes).seconds(compilation.target),
        "unbounded": any(isinstance(s, While) for s in statements_of(program.body))
        or any(isinstance(v, WhileOp) for kernel in program.kernels for v in everywhere(kernel.graph)),
        "parallel": any(
            isinstance(s, For) and s.kind == "parallel"
            for kernel in compilation.kernels.values()
            for s in walk(kernel.body)
        ),
        "arena_bytes": _number(program.arena_bytes),
        "lower_bound": _number(program.lower_bound),
    }


def _number(size: Any) -> int | str:
    return size if isinstance(size, int) else show_dim(size)


def key_of(graph: Graph, target: Target, donated: Sequence[tuple[int, int]]) -> str:
    """The key of a compiled graph on disk."""
    return fingerprint(graph, compiler(), str(target), repr(tuple(donated)), repr([p.label for p in graph.params]))


def graph_constants(graph: Graph) -> dict[str, Array]:
    """Constants of a graph by digest."""
    return {digest(v): v.data for v in everywhere(graph) if isinstance(v, Constant)}


def build(compilation: Compilation) -> Built:
    """All the way to an object."""
    code, features = compilation.object_code()
    known = graph_constants(compilation.graph)
    folded = {
        buffer.label: array
        for buffer, array in zip(compilation.program.constants, compilation.constants, strict=True)
        if buffer.label not in known
    }
    return Built(code, {**manifest_of(compilation), "cpu_features": list(features)}, folded)


class Executed:
    """A built program. `executable` is the program in this process, loaded when it is first asked for: a program for
    another machine can be read and saved here, but not called."""

    def __init__(
        self,
        compilation: Compilation,
        built: Built,
        options: Options,
        *,
        lenient: bool,
        from_disk: bool,
        results: Sequence[str] | None,
    ) -> None:
        self.graph = compilation.graph
        self.compilation = compilation
        self.built = built
        self.options = options
        self.lenient = lenient
        self.from_disk = from_disk
        count = len(built.manifest["outputs"])
        self.results = results or (["result"] if count == 1 else [f"result[{i}]" for i in range(count)])
        known = {**graph_constants(self.graph), **built.folded}
        self.constants = tuple(aligned(known[name]) for name in built.manifest["constants"])

    @cached_property
    def failures(self) -> list[Failure]:
        """What the failure sites mean in this trace: a cached object may have been made from other lines."""
        rows = self.built.manifest["failures"]
        values = list(everywhere(self.graph)) if rows else []
        places = [place_of(values[row["op"]].location) if row["op"] >= 0 else None for row in rows]
        return [Failure.from_manifest(row)._replace(place=place) for row, place in zip(rows, places, strict=True)]

    @property
    def manifest(self) -> dict[str, Any]:
        """As a saved model carries it: with the lines and the names of results, which are this trace's."""
        built = self.built.manifest
        return {
            **built,
            "failures": [failure.to_manifest() for failure in self.failures],
            "outputs": [{**row, "path": path} for row, path in zip(built["outputs"], self.results, strict=True)],
            "lenient": self.lenient,
        }

    @cached_property
    def signature(self) -> Signature:
        for kind in (*self.graph.param_types, *self.graph.result_types):
            kind.dtype.numpy  # noqa: B018  # NumPy then knows the type by its name, too
        return Signature.from_manifest(self.manifest)

    @cached_property
    def executable(self) -> Executable:
        self.check_machine()
        with self.compilation.timings.stage("load"):
            return self.loaded(self.built.code, self.signature)

    def loaded(self, code: bytes, signature: Signature) -> Executable:
        """Object code of this program in memory."""
        loaded = object_loader.load(code)
        return Executable(
            signature,
            loaded.address("treadle_entry"),
            loaded.address("treadle_arena_bytes"),
            constants=[array.ctypes.data for array in self.constants],
            failures=self.failures,
            pool=pool_address,
            threads=lambda: config.current.num_threads or default_threads(),
            keep=(loaded, self.constants),
        )

    def sizes(self, leaves: Sequence[Any]) -> dict[str, int]:
        """The symbolic sizes of a call with these leaves."""
        found = self.signature.solve([array.shape for array in self.executable.inputs(leaves)])
        return dict(zip([dim.name for dim in self.signature.dims], found, strict=True))

    def check_machine(self) -> None:
        """Refuse to run code here that was made for another machine (TD0643)."""
        if self.options.target == "host":
            return
        target, here = self.compilation.target, platform.machine()
        lacking = cpu.missing(self.built.manifest["cpu_features"])
        if target.triple.startswith(here):
            if not lacking:
                return
            reason = f"this CPU lacks {', '.join(lacking)}"
        else:
            reason = f"this machine is {here}"
        raise InvalidValue(
            f"{self.graph.name} was compiled for {self.options.target}, and {reason}",
            code="TD0643",
            edit="read its texts or save it here; to call it, compile it for 'host'",
        )


def prepare(
    graph: Graph, *, donated: Sequence[tuple[int, int]] = (), lenient: bool = False, options: Options | None = None
) -> Executed:
    """Compile a graph, or find it on disk, and load it."""
    options = options or config.current
    compilation = Compilation(
        graph, target_named(options.target), check=options.check, donated=donated, processes=processes(options)
    )
    return finish(compilation, options, lenient=lenient)


def finish(
    compilation: Compilation, options: Options, *, lenient: bool = False, results: Sequence[str] | None = None
) -> Executed:
    """The rest of the way for a compilation, of which some stages may have been made already. `results` are the paths
    of the results in what the function returns."""
    cache = disk_cache(options)
    key = key_of(compilation.graph, compilation.target, compilation.donated)
    data = cache.get(key) if cache is not None else None
    if data is not None:
        built = Built.unpack(data)
        _stats.disk_hits += 1
    else:
        with alarm(compilation, options.alarm), resting():
            built = build(compilation)
        _stats.compiles += 1
        _stats.kernels += len(compilation.program.kernels)
        if cache is not None:
            cache.put(key, built.pack())
    executed = Executed(compilation, built, options, lenient=lenient, from_disk=data is not None, results=results)
    if options.target == "host":
        executed.executable  # noqa: B018  # loaded here, so that the time is the compilation's
    for name, seconds in compilation.timings.seconds.items():
        _stats.timings.seconds[name] = _stats.timings.seconds.get(name, 0.0) + seconds
    if options.debug:
        debug(executed, options.debug)
    return executed


def profile(executed: Executed, leaves: Sequence[Any], *, calls: int, threads: int | None) -> profiling.Profile:
    """The program compiled once more with a clock round each kernel, and called with these leaves."""
    executed.check_machine()
    compilation, plain = executed.compilation, executed.signature
    program = compilation.program
    sizes = executed.sizes(leaves)
    costs = {kernel.name: graph_cost(kernel.graph, sizes) for kernel in program.kernels}
    statements = [
        profiling.Statement(
            call.kernel,
            str(call.location or ""),
            costs[call.kernel].flops + costs[call.kernel].transcendentals,
            float(sum(type_bytes(slot.type, sizes) for slot in (*call.reads, *call.writes))),
        )
        for call in calls_of(program.body)
    ]
    table = Tensor("times", np.dtype(np.int64), (len(statements), 2))
    timed = Signature(plain.inputs, [*plain.outputs, table], plain.dims, plain.donated, True)
    executable = executed.loaded(compilation.object_code(timed=True)[0], timed)
    return profiling.profile(executable, leaves, statements, calls=calls, threads=threads)[1]


def verify(executed: Executed, leaves: Sequence[Any]) -> None:
    """What `TREADLE_CHECK=1` adds to a compilation: the graph evaluated after every pass, and the native program, on
    these leaves. TD0648 names the first that changes the answer."""
    compilation, signature = executed.compilation, executed.signature
    arrays = [np.array(array) for array in executed.executable.inputs(leaves)]
    bounds = bounds_of(executed.graph)
    verdict = blame(compilation.steps, arrays, tolerance=bounds)
    name = executed.graph.name
    if verdict.step is not None:
        raise CheckFailed(f"{name}: {verdict}", code="TD0648")
    expected = evaluate(executed.graph, *arrays)
    found = executed.executable([np.array(array) for array in arrays])
    for tensor, bound, want, have in zip(signature.outputs, bounds, expected, found, strict=True):
        error = largest_difference(want, have)
        if error > bound:
            raise CheckFailed(f"{name}: native code changed {tensor.path} by {error:.3g}", code="TD0648")


def bounds_of(graph: Graph) -> list[float]:
    """How far each result may be from the reference. What integers and bools compute is exact, and so is what moves,
    chooses and converts numbers that are; where roundings may differ, the loosest of the types from there on counts."""
    bounds: dict[int, float] = {}
    for value in graph.order:
        bound = max((bounds[id(operand)] for operand in value.operands), default=0.0)
        if bound or not isinstance(value, _EXACT):
            inside = (each for body in value.bodies for each in everywhere(body))
            for each in (value, *value.operands, *inside):
                bound = max([bound, *(_BOUNDS.get(kind.dtype.name, 0.0) for kind in each.tensors)])
        bounds[id(value)] = bound
    return [bounds[id(value)] for value in graph.results]


_EXACT = (Parameter, Constant, Full, Get, Movement, Convert, Select, Comparison)
# How far a compiled program may be from the reference, relative to the largest element: orders of summation differ.
_BOUNDS = {"f64": 1e-10, "c128": 1e-10, "f32": 1e-4, "c64": 1e-4, "f16": 1e-2, "bf16": 5e-2, **dict.fromkeys(
    ("f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz", "f8e4m3b11fnuz"), 0.25)}  # fmt: skip


@contextmanager
def alarm(compilation: Compilation, seconds: float) -> Iterator[None]:
    """Say on standard error, after that many seconds, what takes so long: the stage, the pass, the op, the line."""
    thread = threading.get_ident()

    def ring() -> None:
        running = compilation.timings.running
        doing = [f"the pass {compilation.context.running}" if running == "passes" else running or "the beginning"]
        value = value_in_hand(sys._current_frames().get(thread))
        if value is not None:
            doing.append(f"at {value.name} {value.type}")
            doing += [f"of {value.location}"] if value.location is not None else []
        print(
            f"treadle: {compilation.graph.name} has been compiling for {seconds:g} s: {', '.join(doing)}",
            file=sys.stderr,
        )

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def value_in_hand(frame: FrameType | None) -> Value | None:
    """The op that the code running in `frame` is about: the innermost local variable that holds one, if any does. One
    that is being made has no type yet."""
    while frame is not None:
        locals_of = list(frame.f_locals.values())
        found = next((each for each in locals_of if isinstance(each, Value) and "type" in each.__dict__), None)
        if found is not None:
            return found
        frame = frame.f_back
    return None


def debug(executed: Executed, flags: int) -> None:
    """What `TREADLE_DEBUG` asks for, on standard error: 1 timings, 2 the program and its kernels, 4 their code."""
    compilation, name = executed.compilation, executed.graph.name
    parts = []
    if flags & 1:
        source = "found on disk" if executed.from_disk else "compiled"
        parts.append(f"treadle: {name}: {source} in {compilation.timings}\n")
        if compilation.generation:
            parts.append(f"treadle: {name}: {compilation.generation}\n")
    if flags & 2:
        parts += [f"treadle: {name}: the program\n", compilation.text("program")]
        parts += [f"treadle: {name}: its kernels\n", compilation.text("loops")]
    if flags & 4:
        parts += [f"treadle: {name}: its code for {compilation.target}\n", compilation.text("asm")]
    print("".join(part if part.endswith("\n") else part + "\n" for part in parts), end="", file=sys.stderr)


def aligned(array: Array) -> Array:
    """The array itself when its data is 64-byte aligned, else a copy that is: what kernels may rely on for
    constants."""
    if array.ctypes.data % 64 == 0 and array.flags.c_contiguous:
        return array
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    copy.flags.writeable = False
    return copy


LONG_SECONDS = 5e-6  # calls predicted to take longer let other Python threads run meanwhile
STOPPABLE_SECONDS = 1e-4  # and calls predicted to take longer than this can be stopped by Ctrl-C


def install_context(manifest: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """What a dispatch record needs beside the executable: the context of its calls, and whether they are long."""
    wanted = threads or config.current.num_threads or default_threads()
    pool = pool_address(wanted) if wanted > 1 and manifest["parallel"] else 0
    # The word that Ctrl-C sets is asked for at each call; a fixed context has none, so only long calls can be stopped.
    context = CallContext(1, wanted if pool else 1, pool or None, None)
    seconds = manifest["seconds"]
    long = seconds > STOPPABLE_SECONDS or manifest["unbounded"]
    return {
        "context": ctypes.addressof(context),
        "begin": dispatch.stoppable(context) if long else None,
        "keep": context,
        "release_gil": seconds > LONG_SECONDS or long,
    }


def pool_address(threads: int) -> int:
    """The process's thread pool, made at the first call that wants more than one thread."""
    return pool(_pool_object, threads - 1)


def _pool_object() -> bytes:
    """The thread pool's object code, from disk when it is there."""

    def text() -> str:
        from ..codegen.host import host
        from ..codegen.llvm.pool import pool_module

        return pool_module(host().triple)

    return own_object("pool", text)


def dispatch_object(numbers: Mapping[str, int]) -> bytes:
    """The dispatch routine's object code for these layouts, from disk when it is there."""

    def text() -> str:
        from ..codegen.host import host
        from ..codegen.llvm.vectorcall import dispatch_module

        return dispatch_module(host().triple, numbers)

    return own_object(f"dispatch {dispatch.fingerprint(numbers)}", text, pipeline=2)


def own_object(what: str, text: Callable[[], str], pipeline: int = 0) -> bytes:
    """Code of ours that belongs to no program: compiled for any CPU of this architecture, once per cache."""
    cache = disk_cache(config.current)
    key = hashlib.sha256(f"{compiler()} {platform.machine()} {what}".encode()).hexdigest()
    found = cache.get(key) if cache is not None else None
    if found is None:
        from ..codegen.host import host
        from ..codegen.llvm.optimize import object_code

        cpu = "x86-64" if host().arch == "x86-64" else "generic"
        found = object_code(text(), host().triple, cpu, "", pipeline=pipeline)
        if cache is not None:
            cache.put(key, found)
    return found


def compile_trace(traced: Traced) -> Any:
    """A compiled function for a trace."""
    from .compiled import Compiled

    return Compiled.of(traced)


def save(
    executed: Executed,
    path: str | Path,
    *,
    name: str | None = None,
    extra: Mapping[str, Any],
    header: bool = False,
    loader: bool = False,
) -> None:
    """Write a compiled program as a saved model, and beside it what was asked for."""
    stem = name or Path(path).stem.replace("-", "_").replace(".", "_")
    compilation = executed.compilation
    program = compilation.program
    code, features = compilation.object_code(stem)
    artifacts.write(
        path,
        object_code=code,
        manifest={**executed.manifest, **extra, "cpu_features": list(features)},
        texts={"program": compilation.text("program"), "graph": show(compilation.graph)},
        constants=[(b.label, array) for b, array in zip(program.constants, executed.constants, strict=True)],
        name=stem,
    )
    manifest = artifacts.read(path).manifest
    if header:
        Path(path).with_suffix(".h").write_text(bindings.header_source(manifest))
    if loader:
        Path(path).with_suffix(".py").write_text(bindings.loader_source(manifest, Path(path).name))


__all__ = ["Compilation", "Executed", "KernelDef", "prepare", "save", "stats"]
