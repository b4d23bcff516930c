"""The command line: `treadle dump|diff|run|bench|ops|passes|explain|inspect|verify`.

A function is named `file.py:name`, a graph `file.graph`, a saved model `file.so`; arguments are types (`f32[1,64]`,
filled with reproducible noise) or `@file.npy`. Every text that a command prints is one that can be read back.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..ir.errors import InvalidValue, TreadleError
from ..ir.evaluate import evaluate
from ..ir.graph import Graph
from ..ir.parse import Reader, parse_graph
from ..ir.program import Program
from ..ir.program_text import parse_program
from ..passes.cost import cost_of
from ..passes.pipelines import PASSES, find
from ..runtime.artifact import read
from ..runtime.errors import RuntimeFault
from .arguments import ShapeDtype
from .jit import Function, jit
from .options import config
from .samples import concrete

STAGES = ("graph", "program", "loops", "llvm", "asm")
LATER = ("quantize", "report", "replay")  # commands that a later version has


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of `treadle`. Returns the exit status: 0, or 1 after an error of ours, or 2 for a bad command."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in LATER:
        print(f"TD0654: treadle {words[0]} is not part of treadle {__version__}", file=sys.stderr)
        return 2
    arguments = build_parser().parse_args(words)
    try:
        status: int = arguments.run(arguments) or 0
        return status
    except TreadleError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except RuntimeFault as fault:
        print(fault, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"TD0653: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="treadle", description="Compile NumPy functions to native code, and look at it."
    )
    parser.add_argument("--version", action="version", version=f"treadle {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def what(sub: argparse.ArgumentParser, *, args: bool = True) -> None:
        sub.add_argument("what", help="file.py:function, file.graph or file.so")
        if args:
            sub.add_argument("--args", nargs="*", default=[], metavar="ARG", help="f32[1,64], i64[] or @file.npy")
            sub.add_argument("--target", help="what to compile for: host, avx2, x86-64:znver4+..., ...")

    dump = command("dump", run_dump, "Print what a function is at a stage, or after a pass.")
    what(dump)
    dump.add_argument("--stage", choices=STAGES, default="graph")
    dump.add_argument("--after", metavar="PASS", help="the graph after this pass")
    dump.add_argument("--all", action="store_true", help="after every pass that changed something, with its remarks")
    dump.add_argument("--passes", metavar="LIST", help="what to run: 'identities, fuse(limit=64)'; else the default")
    dump.add_argument("--dot", metavar="FILE", help="write the graph in Graphviz form")

    diff = command("diff", run_diff, "Compare two texts, or a function before and after a pass.")
    diff.add_argument("what", help="file.graph or file.py:function")
    diff.add_argument("other", nargs="?", help="another text")
    diff.add_argument("--args", nargs="*", default=[], metavar="ARG")
    diff.add_argument("--target")
    diff.add_argument("--passes", nargs=2, metavar=("FROM", "TO"), help="two passes of the pipeline")

    run = command("run", run_run, "Run a function, a graph text or a saved model, and print the results.")
    what(run)
    run.add_argument("--reference", action="store_true", help="by the reference interpreter instead of native code")
    run.add_argument("--save", metavar="FILE.npy", help="write the first result")

    bench = command("bench", run_bench, "Time a function: median, spread, GB/s and GF/s beside the machine's limits.")
    what(bench)
    bench.add_argument("--rounds", type=int, default=25)
    bench.add_argument("--threads", type=int, default=1)

    ops = command("ops", run_ops, "List the ops, or show one: its fields, rules and where they are written.")
    ops.add_argument("name", nargs="?")
    passes = command("passes", run_passes, "List the passes with what they need and give.")
    passes.add_argument("name", nargs="?")
    explain = command("explain", run_explain, "What the compiler decided about a function, and why.")
    what(explain)
    inspect = command("inspect", run_inspect, "What a saved model holds.")
    inspect.add_argument("what", help="file.so")
    inspect.add_argument("--text", help="print one of its texts: program or graph")
    verify = command("verify", run_verify, "Check every byte of a saved model, weights included.")
    verify.add_argument("what", help="file.so")
    return parser


# What the words of a command line mean.


def load_function(spec: str) -> Callable[..., Any]:
    """The function of `file.py:name`. TD0650 when the file or the name is not there."""
    if spec.endswith((".so", ".graph")) and Path(spec).exists():
        raise InvalidValue(
            f"{spec} is not a function of a Python file",
            code="TD0650",
            edit="dump, run and bench take it, too; inspect shows what a saved model holds",
        )
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not file or not path.exists():
        raise InvalidValue(f"no file {file or spec!r}; a function is named file.py:name", code="TD0650")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise InvalidValue(f"{file} is not a Python file", code="TD0650")
    module = importlib.util.module_from_spec(found)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        near = difflib.get_close_matches(name, public, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(public) or 'no function'}"
        raise InvalidValue(f"{file} has no {name!r}; {hint}", code="TD0650")
    function: Callable[..., Any] = getattr(module, name)
    return function


def parse_argument(text: str) -> Any:
    """A type, `@file.npy`, or a Python number."""
    if text.startswith("@"):
        return np.load(text[1:], allow_pickle=False)
    if "[" in text:
        kind = Reader(text, {}).tensor_type()
        return ShapeDtype(kind.shape, kind.dtype)
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise InvalidValue(f"{text!r} is neither a type (f32[4]), a number nor @file.npy", code="TD0651") from None


def function_of(arguments: argparse.Namespace) -> Function:
    function = load_function(arguments.what)
    if not isinstance(function, Function):
        function = jit(function)
    if arguments.target:
        config.target = arguments.target
    result: Function = function
    return result


def compilation_of(arguments: argparse.Namespace) -> Any:
    """The compilation behind a function or a graph text; nothing is compiled that no one asks for."""
    from .compile import Compilation, target_named

    if arguments.what.endswith(".graph"):
        graph = parse_graph(Path(arguments.what).read_text())
    else:
        graph = function_of(arguments).trace(*map(parse_argument, arguments.args)).graph
    target = target_named(arguments.target or config.current.target)
    passes = getattr(arguments, "passes", None)
    return Compilation(graph, target, check=config.current.check, passes=passes if isinstance(passes, str) else None)


# Commands.


def run_dump(arguments: argparse.Namespace) -> None:
    if arguments.what.endswith(".so"):
        texts = read(arguments.what).texts
        if arguments.stage not in texts or arguments.after or arguments.all or arguments.dot:
            raise InvalidValue(
                f"a saved model holds the texts {', '.join(sorted(texts))}, and was compiled from them long ago",
                code="TD0652",
                edit="dump the function that it was made of",
            )
        print(texts[arguments.stage], end="")
        return
    compilation = compilation_of(arguments)
    if arguments.dot:
        Path(arguments.dot).write_text(dot(compilation.graph))
        return
    if arguments.all:
        print(compilation.graph, end="")
        for step in compilation.steps:
            print(f"\n# {step}")
            for remark in step.remarks:
                print(f"#   {remark}")
            if step.changed:
                print(step.after, end="")
        return
    if arguments.passes is not None and arguments.stage == "graph" and not arguments.after:
        print(compilation.optimized, end="")
        return
    print(compilation.text(f"graph:{arguments.after}" if arguments.after else arguments.stage), end="")


def dot(graph: Graph) -> str:
    """The graph in Graphviz form, through networkx."""
    import networkx as nx

    picture: nx.DiGraph[int] = nx.DiGraph(name=graph.name)
    numbers = {id(value): i for i, value in enumerate(graph.order)}
    for value in graph.order:
        label = getattr(value, "label", None) or value.name
        picture.add_node(
            numbers[id(value)], label=f"{label}\n{value.type}", shape="box" if value.operands else "ellipse"
        )
        for operand in value.operands:
            picture.add_edge(numbers[id(operand)], numbers[id(value)])
    lines = [f'digraph "{graph.name}" {{', "  node [fontname=monospace];"]
    for node, data in picture.nodes(data=True):
        text = str(data["label"]).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'  n{node} [label="{text}", shape={data["shape"]}];')
    lines += [f"  n{a} -> n{b};" for a, b in picture.edges]
    lines += [
        f'  r{i} [label="result {i}", shape=plaintext]; n{numbers[id(v)]} -> r{i};' for i, v in enumerate(graph.results)
    ]
    return "\n".join([*lines, "}", ""])


def run_diff(arguments: argparse.Namespace) -> int:
    if arguments.other:
        before, after = Path(arguments.what).read_text(), Path(arguments.other).read_text()
        title = (arguments.what, arguments.other)
    else:
        compilation = compilation_of(arguments)
        first, last = arguments.passes or ("", compilation.steps[-1].name.split("(")[0])
        before = compilation.text(f"graph:{first}" if first else "graph")
        after = compilation.text(f"graph:{last}")
        title = (first or "traced", last)
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), *title, lineterm=""))
    print("\n".join(lines) if lines else "(no difference)")
    return 1 if lines else 0


def run_run(arguments: argparse.Namespace) -> None:
    values = concrete([parse_argument(text) for text in arguments.args])
    if arguments.what.endswith(".so"):
        from .load import load

        results = load(arguments.what)(*values)
    elif arguments.what.endswith(".graph"):
        from .compile import prepare

        graph = parse_graph(Path(arguments.what).read_text())
        given = values or concrete([ShapeDtype(kind.shape, kind.dtype) for kind in graph.param_types])
        results = evaluate(graph, *given) if arguments.reference else prepare(graph).executable(given)
    else:
        function = function_of(arguments)
        if arguments.reference:
            results = function.state.fn(*values)
        else:
            results = function(*values)
    from . import tree

    for path, leaf in tree.paths(results, "result"):
        array = np.asarray(leaf)
        print(f"{path}: {array.dtype}{list(array.shape)}")
        print(array)
    if arguments.save:
        np.save(arguments.save, np.asarray(tree.leaves(results)[0]))


def run_bench(arguments: argparse.Namespace) -> None:
    values = concrete([parse_argument(text) for text in arguments.args])
    config.num_threads = arguments.threads
    call, program, sizes = timed_call(arguments, values)
    for _ in range(3):
        call()
    samples = time_calls(call, arguments.rounds)
    median = statistics.median(samples)
    low, high = np.percentile(samples, [10, 90])
    print(f"{program.name}: {show_time(median)} median of {len(samples)} ({show_time(low)} to {show_time(high)})")
    cost = cost_of(program, sizes)
    wide = any(buffer.type.dtype.name in ("f64", "c128") for buffer in (*program.inputs, *program.outputs))
    compare(cost.flops / median, "GF/s", "fma f64" if wide else "fma f32", "multiply-adds in registers")
    compare(cost.bytes / median, "GB/s", "triad nt", "streams through memory")


def timed_call(arguments: argparse.Namespace, values: list[Any]) -> tuple[Callable[[], Any], Program, dict[str, int]]:
    """What is to be called again and again, its program, and the sizes that the program leaves open."""
    if arguments.what.endswith(".so"):
        from .load import load

        model = load(arguments.what)
        signature = model.executable.signature
        sizes = signature.solve([np.shape(leaf) for leaf in model.leaves_of(*values)])
        names = [dim.name for dim in signature.dims]
        return lambda: model(*values), parse_program(model.texts["program"]), dict(zip(names, sizes, strict=True))
    if arguments.what.endswith(".graph"):
        from .compile import prepare

        graph = parse_graph(Path(arguments.what).read_text())
        given = values or concrete([ShapeDtype(kind.shape, kind.dtype) for kind in graph.param_types])
        executed = prepare(graph)
        return lambda: executed.executable(given), executed.compilation.program, {}
    function = function_of(arguments)
    program = function.compile(*values).executed.compilation.program
    return lambda: function(*values), program, {}


def compare(rate: float, unit: str, limit: str, words: str) -> None:
    """A rate beside what this machine reaches in a loop that does nothing else."""
    from .limits import rate as measured

    most = measured(limit)
    print(f"  {rate / 1e9:8.2f} {unit}, {rate / most:6.1%} of the {most / 1e9:.0f} of one thread's {words}")


def time_calls(call: Callable[[], Any], rounds: int, least: float = 0.01) -> list[float]:
    """Seconds per call, one figure a round, each round repeated until it lasts `least` seconds."""
    start = time.perf_counter()
    call()
    repeats = max(1, int(least / max(time.perf_counter() - start, 1e-9)))
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        samples.append((time.perf_counter() - start) / repeats)
    return samples


def show_time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def run_ops(arguments: argparse.Namespace) -> None:
    from .op_table import describe, overview

    print(describe(arguments.name) if arguments.name else overview())


def run_passes(arguments: argparse.Namespace) -> None:
    if arguments.name:
        each = find(arguments.name)
        print(f"{each.spelling}\n\n{(each.run.__doc__ or '').strip()}")
        return
    for each in PASSES.values():
        forms = [
            f"needs {', '.join(map(str, each.needs))}" if each.needs else "",
            f"gives {', '.join(map(str, each.gives))}" if each.gives else "",
        ]
        print(f"{each.name:<16} {each.doc}  {'; '.join(filter(None, forms))}".rstrip())


def run_explain(arguments: argparse.Namespace) -> None:
    function = function_of(arguments)
    function.compile(*map(parse_argument, arguments.args))
    print(function.explain())


def run_inspect(arguments: argparse.Namespace) -> None:
    model = read(arguments.what)
    if arguments.text:
        if arguments.text not in model.texts:
            raise InvalidValue(f"no text {arguments.text!r}; there are {', '.join(model.texts)}", code="TD0652")
        print(model.texts[arguments.text], end="")
        return
    manifest = dict(model.manifest)
    constants = manifest.pop("constants", [])
    failures = manifest.pop("failures", [])
    for side in ("inputs", "outputs"):
        print(f"{side}:")
        for row in manifest.pop(side):
            print(f"  {row['path'] or 'result'}: {row['dtype']}[{','.join(map(str, row['shape']))}]")
    print(f"constants: {len(constants)} arrays, {manifest.get('weights_bytes', 0)} bytes")
    print(f"failure sites: {len(failures)}")
    print(f"texts: {', '.join(f'{name} ({len(text)} bytes)' for name, text in model.texts.items())}")
    for name, value in sorted(manifest.items()):
        print(f"{name}: {json.dumps(value)}")


def run_verify(arguments: argparse.Namespace) -> None:
    read(arguments.what).verify()
    print(f"{arguments.what}: every byte is as written")


if __name__ == "__main__":
    sys.exit(main())
