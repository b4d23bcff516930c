"""The command line: `treadle dump|diff|run|bench|ops|passes|explain|inspect|verify`.

A function is named `file.py:name`, a graph `file.graph`, a saved model `file.so`; arguments are types (`f32[1,64]`,
filled with reproducible noise) or values, see `words.py`. Every text that a command prints is one that can be read
back. A mistake is answered by one error of ours and the exit status 1; what a user's own function raises is shown with
their frames alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import shutil
import statistics
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..ir.errors import InvalidValue, TreadleError
from ..ir.graph import Graph
from ..ir.parse import parse_graph
from ..ir.program import Program
from ..ir.program_text import parse_program
from ..passes.cost import cost_of
from ..passes.pipelines import PASSES, find
from ..runtime.artifact import read
from ..runtime.errors import RuntimeFault
from . import tree
from .arguments import ShapeDtype
from .jit import Function, jit
from .options import config
from .samples import concrete
from .texts import evaluate
from .userline import as_ours, file_problem, is_internal, refine
from .words import load_function, parse_arguments

STAGES = ("graph", "program", "loops", "llvm", "asm")
LATER = ("quantize", "report", "replay")  # commands that a later version has
EXAMPLES = {
    "dump": "treadle dump net.py:block --args 'f32[4,8]' 'f32[8,3]' --after fuse",
    "diff": "treadle diff net.py:block --args 'f32[4,8]' 'f32[8,3]' --passes identities fuse",
    "run": 'treadle run net.py:loss --args \'{"w": f32[8,3], "b": f32[3]}\' @x.npy scale=0.5',
    "bench": "treadle bench net.py:block --args 'f32[512,512]' 'f32[512,512]' --threads 2",
    "ops": "treadle ops softmax",
    "passes": "treadle passes fuse",
    "explain": "treadle explain net.py:block --args 'f32[4,8]' 'f32[8,3]'",
    "inspect": "treadle inspect model.so --text graph",
    "verify": "treadle verify model.so",
}
ARGUMENTS = """\
an argument is one of
  f32[4,8]  i64[]  bf16[n,8]     a type, filled with reproducible noise; a size that is a name is 8
  3  2.5  True  None  '"text"'   a value
  @x.npy                         an array that numpy.save wrote
  '{"w": f32[4], "b": "@b.npy"}' a dict, list or tuple of these
  name=...                       any of them, by the parameter's name
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of `treadle`. Returns the exit status: 0, or 1 after an error of ours, or 2 for a bad command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in LATER:
        print(f"TD0654: treadle {words[0]} is not part of treadle {__version__}", file=sys.stderr)
        return 2
    if words and not words[0].startswith("-") and words[0] not in EXAMPLES:
        near = difflib.get_close_matches(words[0], EXAMPLES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(EXAMPLES)}"
        print(f"TD0655: no command is called {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    arguments = build_parser().parse_args(words)
    launcher = sys._getframe(1).f_code.co_filename
    try:
        with config.set():  # what a command sets holds for the command
            status: int = arguments.run(arguments) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # Who read it has gone; what Python still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeFault as fault:
        print(shown(as_ours(fault), launcher), file=sys.stderr)
    except TreadleError as error:
        print(shown(error, launcher), file=sys.stderr)
    except OSError as error:
        print(shown(file_problem(error, error.filename or ""), launcher), file=sys.stderr)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if is_internal(last.filename):
            raise  # a mistake of ours: all of it is wanted
        refine(error)
        traceback.print_exception(error)
    return 1


def shown(error: TreadleError, launcher: str) -> TreadleError:
    """The error without the line of the script that started us, which is no line of the user's."""
    if error.location is not None and error.location.file == launcher:
        error.location = None
    error.provenance = tuple(line for line in error.provenance if f"at {Path(launcher).name}:" not in line)
    return error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="treadle",
        description="Compile NumPy functions to native code, and look at it.",
        epilog="A function is named file.py:name, a graph file.graph, a saved model file.so. "
        "treadle COMMAND --help says more, and shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"treadle {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str, *, what: str = "", args: bool = False
    ) -> argparse.ArgumentParser:
        notes = f"{ARGUMENTS if args else ''}\nexample\n  {EXAMPLES[name]}"
        form = argparse.RawDescriptionHelpFormatter
        sub = commands.add_parser(name, help=text, description=text, epilog=notes.strip(), formatter_class=form)
        sub.set_defaults(run=run)
        if what:
            sub.add_argument("what", help=what)
        if args:
            sub.add_argument("--args", nargs="*", default=[], metavar="ARG", help="the function's arguments, see below")
            sub.add_argument(
                "--target", metavar="CPU", help="what to compile for: host, avx2, avx512, neon, znver4 ..."
            )
        return sub

    anything = "file.py:function, file.graph or file.so"
    dump = command("dump", run_dump, "Print what a function is at a stage, or after a pass.", what=anything, args=True)
    dump.add_argument("--stage", choices=STAGES, help="graph (as traced), program, loops, llvm or asm")
    dump.add_argument("--after", metavar="PASS", help="the graph after this pass")
    dump.add_argument("--all", action="store_true", help="the graph after every pass that changed it, with its remarks")
    dump.add_argument("--passes", metavar="LIST", help="what to run: 'identities, fuse(limit=64)'; else the default")
    dump.add_argument("--dot", metavar="FILE", help="write the graph in Graphviz form instead")

    text = "Compare two texts, or a function before and after a pass. The exit status is 1 where they differ."
    diff = command("diff", run_diff, text, what="file.py:function or a text", args=True)
    diff.add_argument("other", nargs="?", help="another text")
    diff.add_argument("--passes", nargs=2, metavar=("FROM", "TO"), help="the graph after FROM and after TO")

    text = "Run a function, a graph text or a saved model, and print the results."
    run = command("run", run_run, text, what=anything, args=True)
    run.add_argument("--reference", action="store_true", help="as Python, or by the reference interpreter, instead")
    run.add_argument("--save", metavar="FILE.npy", help="write the first result")

    text = "Time a function: median, spread, GB/s and GF/s beside the machine's limits."
    bench = command("bench", run_bench, text, what=anything, args=True)
    bench.add_argument("--rounds", type=positive, default=25, metavar="N", help="samples to take (25)")
    bench.add_argument("--threads", type=positive, default=1, metavar="N", help="the most threads of a call (1)")

    ops = command("ops", run_ops, "List the ops, or show one: its fields, rules and where they are written.")
    ops.add_argument("name", nargs="?", help="one of them, as texts call it")
    passes = command("passes", run_passes, "List the passes with what they need and give, or show one.")
    passes.add_argument("name", nargs="?", help="one of them")
    text = "What the compiler decided about a function, and why."
    command("explain", run_explain, text, what="file.py:function", args=True)
    inspect = command("inspect", run_inspect, "What a saved model holds.", what="file.so")
    inspect.add_argument("--text", metavar="NAME", help="print one of its texts: program or graph")
    inspect.add_argument("--json", action="store_true", help="print its manifest")
    command("verify", run_verify, "Check every byte of a saved model, weights included.", what="file.so")
    return parser


def positive(text: str) -> int:
    """A number of things."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def function_of(arguments: argparse.Namespace) -> Function:
    function = load_function(arguments.what)
    if not isinstance(function, Function):
        function = jit(function)
    if arguments.target:
        config.target = arguments.target
    result: Function = function
    return result


def graph_of(arguments: argparse.Namespace) -> Graph:
    """The graph of a text, or of a function traced for the arguments."""
    if arguments.what.endswith(".graph"):
        return parse_graph(Path(arguments.what).read_text())
    if arguments.what.endswith((".program", ".loops")):
        kind = "a program" if arguments.what.endswith("m") else "loops"
        raise InvalidValue(
            f"{arguments.what} is the text of {kind}, and a graph is needed",
            code="TD0604",
            edit="the .graph it was made of; of a program, `treadle run x.program --reference`",
        )
    positional, named = parse_arguments(arguments.args)
    graph: Graph = function_of(arguments).trace(*positional, **named).graph
    return graph


def compilation_of(arguments: argparse.Namespace) -> Any:
    """The compilation behind a function or a graph text; nothing is compiled that no one asks for."""
    from .compile import Compilation, target_named

    graph = graph_of(arguments)
    target = target_named(arguments.target or config.current.target)
    passes = getattr(arguments, "passes", None)
    return Compilation(graph, target, check=config.current.check, passes=passes if isinstance(passes, str) else None)


# Commands.


def run_dump(arguments: argparse.Namespace) -> None:
    wanted = [name for name in ("stage", "after", "all", "dot") if getattr(arguments, name)]
    stage = arguments.stage or "graph"
    if arguments.what.endswith(".so"):
        texts = read(arguments.what).texts
        if stage not in texts or (wanted and wanted != ["stage"]):
            raise InvalidValue(
                f"a saved model holds the texts {', '.join(sorted(texts))}, and was compiled from them long ago",
                code="TD0652",
                edit="dump the function that it was made of",
            )
        print(texts[stage], end="")
        return
    if len(wanted) > 1 and wanted != ["after", "dot"]:
        raise InvalidValue(f"--{wanted[0]} and --{wanted[1]} are two different texts", code="TD0656", edit="choose one")
    compilation = compilation_of(arguments)
    if arguments.all:
        print(compilation.graph, end="")
        for step in compilation.steps:
            print(f"\n# {step}")
            for remark in step.remarks:
                print(f"#   {remark}")
            if step.changed:
                print(step.after, end="")
        return
    if arguments.passes is not None and stage == "graph" and not arguments.after:
        graph = compilation.optimized
    else:
        graph = compilation.after(arguments.after) if arguments.after else compilation.graph
    if arguments.dot:
        Path(arguments.dot).write_text(dot(graph))
        return
    print(graph if stage == "graph" else compilation.text(stage), end="")


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
        if arguments.args or arguments.passes:
            raise InvalidValue("two texts have no arguments and no passes", code="TD0656", edit="leave --args out")
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
    results = results_of(arguments)
    for path, leaf in tree.paths(results, "result"):
        array = np.asarray(leaf)
        print(f"{path}: {array.dtype}{list(array.shape)}")
        print(array)
    if arguments.save:
        np.save(arguments.save, np.asarray(tree.leaves(results)[0]))


def results_of(arguments: argparse.Namespace) -> Any:
    positional, named = parse_arguments(arguments.args)
    given = concrete(positional)
    if arguments.what.endswith(".so"):
        from .load import load

        if arguments.reference:
            raise InvalidValue("a saved model has native code alone", code="TD0656", edit="leave --reference out")
        return load(arguments.what)(*given, **filled(named))
    if arguments.what.endswith(".graph"):
        from .compile import prepare

        graph = graph_of(arguments)
        values = values_for(graph, given, named)
        return evaluate(graph, *values) if arguments.reference else prepare(graph).executable(values)
    if arguments.what.endswith(".program") and arguments.reference:
        program = parse_program(Path(arguments.what).read_text())
        return evaluate(program, *values_for(program, given, named))
    if arguments.what.endswith((".program", ".loops")):
        graph_of(arguments)
    function = function_of(arguments)
    call = function.state.fn if arguments.reference else function
    return call(*given, **filled(named))


def filled(named: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(named, concrete(list(named.values())), strict=True))


def values_for(graph: Graph | Program, given: list[Any], named: Mapping[str, Any]) -> list[Any]:
    """What a graph is called with: the given arrays, or noise where none were given."""
    if named:
        raise InvalidValue("the parameters of a text are given by position", code="TD0656", edit="leave the names out")
    kinds = graph.param_types if isinstance(graph, Graph) else [buffer.type for buffer in graph.inputs]
    return given or concrete([ShapeDtype(kind.shape, kind.dtype) for kind in kinds])


def run_bench(arguments: argparse.Namespace) -> None:
    config.num_threads = arguments.threads
    call, program, sizes = timed_call(arguments)
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


def timed_call(arguments: argparse.Namespace) -> tuple[Callable[[], Any], Program, dict[str, int]]:
    """What is to be called again and again, its program, and the sizes that the program leaves open."""
    positional, named = parse_arguments(arguments.args)
    values, by_name = concrete(positional), filled(named)
    if arguments.what.endswith(".so"):
        from .load import load

        model = load(arguments.what)
        signature = model.executable.signature
        sizes = signature.solve([np.shape(leaf) for leaf in model.leaves_of(*values, **by_name)])
        program = parse_program(model.texts["program"])
        names = [dim.name for dim in signature.dims]
        return lambda: model(*values, **by_name), program, dict(zip(names, sizes, strict=True))
    if arguments.what.endswith(".graph"):
        from .compile import prepare

        graph = graph_of(arguments)
        given = values_for(graph, values, named)
        executed = prepare(graph)
        return lambda: executed.executable(given), executed.compilation.program, executed.sizes(given)
    function = function_of(arguments)
    executed = function.compile(*values, **by_name).executed
    return lambda: function(*values, **by_name), executed.compilation.program, {}


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

    if arguments.name:
        print(describe(arguments.name))
        return
    width = min(shutil.get_terminal_size((100, 0)).columns, 120)
    for line in overview().splitlines():
        print(textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def run_passes(arguments: argparse.Namespace) -> None:
    if arguments.name:
        from .op_table import place

        each = find(arguments.name)
        story = (sys.modules[each.run.__module__].__doc__ or each.doc).strip()
        print(f"{each.spelling}\n  {place(each.run)}\n\n{story}")
        for title, forms in (("needs", each.needs), ("gives", each.gives), ("breaks", each.breaks)):
            for form in forms:
                print(f"\n{title} {form.name}: {form.sentence}")
        for option in dataclasses.fields(each.options) if each.options is not None else ():
            print(f"\noption {option.name} = {getattr(each.options, option.name)}")
        return
    for each in PASSES.values():
        words = [
            f"needs {', '.join(map(str, each.needs))}" if each.needs else "",
            f"gives {', '.join(map(str, each.gives))}" if each.gives else "",
        ]
        print(f"{each.name:<16} {each.doc}  {'; '.join(filter(None, words))}".rstrip())


def run_explain(arguments: argparse.Namespace) -> None:
    function = function_of(arguments)
    positional, named = parse_arguments(arguments.args)
    function.compile(*positional, **named)
    print(function.explain())


def run_inspect(arguments: argparse.Namespace) -> None:
    model = read(arguments.what)
    if arguments.text:
        if arguments.text not in model.texts:
            raise InvalidValue(
                f"no text {arguments.text!r}; there are {', '.join(model.texts)}",
                code="TD0652",
                edit="choose one of these",
            )
        print(model.texts[arguments.text], end="")
    elif arguments.json:
        print(json.dumps(model.manifest, indent=1, sort_keys=True))
    else:
        print("\n".join(described(model.manifest, {name: len(text) for name, text in model.texts.items()})))


def described(manifest: Mapping[str, Any], texts: Mapping[str, int]) -> list[str]:
    """What a model takes, gives, holds and needs, for reading."""

    def typed(row: Mapping[str, Any]) -> str:
        return f"{row['dtype']}[{','.join(map(str, row['shape']))}]"

    def sized(size: Any) -> str:
        return f"{size} bytes" if isinstance(size, int) else f"{size} bytes, by the sizes of a call"

    lines = [
        f"{manifest['name']}: {manifest.get('function', manifest['name'])}, saved by treadle "
        f"{manifest.get('treadle', '?')} for {manifest['machine']} (format {manifest['format']})"
    ]
    for title in ("inputs", "outputs"):
        lines += [f"{title}:", *(f"  {row['path']}: {typed(row)}" for row in manifest[title])]
    for dim in manifest["dims"]:
        most = "" if dim["high"] is None else f", at most {dim['high']}"
        multiple = f", a multiple of {dim['multiple_of']}" if dim["multiple_of"] > 1 else ""
        lines.append(f"size {dim['name']}: at least {dim['low']}{most}{multiple}")
    for argument, result in manifest["donated"]:
        row, taken = manifest["outputs"][result], manifest["inputs"][argument]
        lines.append(f"donated: {row['path']} takes the memory of {taken['path']}")
    lines.append(f"constants: {len(manifest['constants'])} arrays, {manifest['weights_bytes']} bytes")
    lines.append(f"scratch: {sized(manifest['arena_bytes'])} (lower bound {manifest['lower_bound']})")
    lines.append(f"kernels: {manifest['kernels']}")
    for site, row in enumerate(manifest["failures"], 1):
        where = f", {Path(row['place'][0]).name}:{row['place'][1]}" if row.get("place") else ""
        lines.append(f"failure {site}: {row['kind']} {row['code']}: {row['message']}{where}")
    lines.append(f"texts: {', '.join(f'{name} ({size} bytes)' for name, size in texts.items())}")
    lines += textwrap.wrap(f"CPU features: {' '.join(manifest['cpu_features'])}", 100, subsequent_indent="  ")
    return lines


def run_verify(arguments: argparse.Namespace) -> None:
    read(arguments.what).verify()
    print(f"{arguments.what}: every byte is as written")


if __name__ == "__main__":
    sys.exit(main())
