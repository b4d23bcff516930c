"""The command line on a real file: each command prints what it says, each mistake is one line with an edit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import treadle as td
from treadle.frontend.cli import build_parser, main
from treadle.frontend.words import load_function, parse_argument, parse_arguments
from treadle.ir.loops.parse import parse_kernels
from treadle.ir.loops.text import show
from treadle.ir.parse import parse_graph

SOURCE = """
import numpy as np
def block(x, w):
    h = np.maximum(x @ w, 0)
    return np.exp(h).sum(axis=1)

def layer(params, x, *, mode="plain", scale=1.0):
    y = (x @ params["w"] + params["b"]) * scale
    return {"y": -y if mode == "negated" else y}

def row(x, i):
    return x[i] * 2

def broken(x):
    raise LookupError("of the user's own")

NUMBER = 3
"""
ARGS = ["--args", "f32[4,8]", "f32[8,3]"]


@pytest.fixture
def net(tmp_path: Path) -> str:
    file = tmp_path / "net.py"
    file.write_text(SOURCE)
    return f"{file}:block"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


# What dump prints as a graph can be read back, after every pass.
def test_dump_graphs(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "dump", net, *ARGS)
    assert "@net.py:4" in text and "dot" in text
    parse_graph(text)
    parse_graph(run(capsys, "dump", net, *ARGS, "--after", "fuse"))
    assert run(capsys, "dump", net, *ARGS, "--after", "cleanup:2") == run(
        capsys, "dump", net, *ARGS, "--after", "constants"
    )
    every = run(capsys, "dump", net, *ARGS, "--all")
    assert "# fuse" in every and "(unchanged)" in every


@pytest.mark.parametrize("target", ["host", "avx2", "avx512", "neon", "generic"])
def test_dump_stages(net: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "call" in run(capsys, "dump", net, *ARGS, "--target", target, "--stage", "program")
    assert len(parse_kernels(run(capsys, "dump", net, *ARGS, "--target", target, "--stage", "loops"))) >= 1
    assert "define" in run(capsys, "dump", net, *ARGS, "--target", target, "--stage", "llvm")
    assert "ret" in run(capsys, "dump", net, *ARGS, "--target", target, "--stage", "asm")


# A text that dump wrote is a starting point of its own.
def test_texts_are_starting_points(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "block.graph"
    file.write_text(run(capsys, "dump", net, *ARGS))
    compiled = run(capsys, "run", str(file))
    reference = run(capsys, "run", str(file), "--reference")
    assert compiled.splitlines()[0] == reference.splitlines()[0] == "result[0]: float32[4]"
    assert "call" in run(capsys, "dump", str(file), "--stage", "program")


def test_run_and_save(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.ones((4, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    target = tmp_path / "y.npy"
    run(capsys, "run", net, "--args", f"@{tmp_path / 'x.npy'}", "f32[8,3]", "--save", str(target))
    assert np.load(target).shape == (4,)


# Every text of treadle's reads back: those of programs and loops as well, from what dump printed.
def test_texts_of_programs_and_loops(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("program", "loops"):
        (tmp_path / f"net.{stage}").write_text(run(capsys, "dump", net, *ARGS, "--stage", stage))
    program = td.parse("# a remark\n" + (tmp_path / "net.program").read_text())
    assert str(program) == (tmp_path / "net.program").read_text()
    kernels = td.parse((tmp_path / "net.loops").read_text())
    assert "\n".join(map(show, kernels)) == (tmp_path / "net.loops").read_text()
    x, w = np.ones((4, 8), np.float32), np.full((8, 3), 0.25, np.float32)
    np.testing.assert_allclose(td.evaluate(program, x, w)[0], np.exp(x @ w).sum(axis=1), rtol=1e-5)
    np.save(tmp_path / "y.npy", 0)
    text = ["run", str(tmp_path / "net.program"), "--reference", "--save", str(tmp_path / "y.npy")]
    run(capsys, *text)
    found = np.load(tmp_path / "y.npy")
    run(capsys, "run", net, *ARGS, "--save", str(tmp_path / "y.npy"))
    np.testing.assert_allclose(found, np.load(tmp_path / "y.npy"), rtol=1e-5)


# What a text is not for is refused by name.
@pytest.mark.parametrize("words", [["run", "x.loops"], ["run", "x.program"], ["run", "x.loops", "--reference"]])
def test_texts_that_do_not_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert "TD0604: x." in capsys.readouterr().err


def test_programs_without_their_constants() -> None:
    program = td.parse(td.jit(lambda x: x + np.arange(900.0)).lower(np.ones(900)).as_text("program"))
    with pytest.raises(ValueError, match="TD0604"):
        td.evaluate(program, np.ones(900))


def test_diff(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", net, *ARGS]) == 1
    assert "+++ fuse" in capsys.readouterr().out
    assert main(["diff", net, *ARGS, "--passes", "identities", "fuse"]) == 1
    assert capsys.readouterr().out.startswith("--- identities\n+++ fuse\n")
    assert "(no difference)" in run(capsys, "diff", net, *ARGS, "--passes", "expand", "cleanup")
    a = tmp_path / "a.graph"
    a.write_text("graph f(%x: f32[]) -> f32[]:\n  return %x\n")
    assert "(no difference)" in run(capsys, "diff", str(a), str(a))


def test_dot(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "dump", net, *ARGS, "--dot", str(tmp_path / "net.dot"))
    text = (tmp_path / "net.dot").read_text()
    assert text.startswith('digraph "block"') and "->" in text
    run(capsys, "dump", net, *ARGS, "--after", "fuse", "--dot", str(tmp_path / "net.dot"))
    assert "group" in (tmp_path / "net.dot").read_text()


# A function, a graph text and a saved model are timed alike, beside what the machine can do.
def test_bench(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, model = tmp_path / "block.graph", tmp_path / "block.so"
    graph.write_text(run(capsys, "dump", net, *ARGS))
    open_sizes = (td.ShapeDtype(("n", 8), "float32"), td.ShapeDtype((8, 3), "float32"))
    td.jit(load_function(net)).compile(*open_sizes).save(model)
    for words in ([net, *ARGS], [str(graph)], [str(model), *ARGS]):
        first, flops, streams = run(capsys, "bench", *words, "--rounds", "2").splitlines()
        assert first.startswith("block: ") and "median of 2" in first
        assert "GF/s" in flops and "%" in flops and "GB/s" in streams and "%" in streams
    assert run(capsys, "dump", str(model), "--stage", "program").startswith("program block:")


def test_explain(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "kernels" in run(capsys, "explain", net, *ARGS)


# What a saved model cannot answer, and what this version does not do, is said by name.
def test_what_is_refused(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "block.so"
    td.jit(load_function(net)).compile(np.ones((4, 8), "f4"), np.ones((8, 3), "f4")).save(model)
    for words, code in ((["dump", str(model), "--stage", "asm"], "TD0652"), (["explain", str(model)], "TD0650")):
        assert main(words) == 1
        assert capsys.readouterr().err.startswith(code)
    for name in ("quantize", "report", "replay"):
        assert main([name, "x"]) == 2
        assert capsys.readouterr().err == f"TD0654: treadle {name} is not part of treadle {td.__version__}\n"


# What a saved model takes, gives, holds and needs; the same as JSON.
def test_inspect_and_verify(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "row.so")
    td.jit(load_function(net.replace(":block", ":row"))).compile(td.ShapeDtype(("n", 8), "float32"), 1).save(model)
    text = run(capsys, "inspect", model)
    assert text.startswith(f"row: row, saved by treadle {td.__version__} for ")
    for line in ("  x: f32[n,8]", "  i: i64[]", "  result: f32[8]", "size n: at least 0", "kernels: 1"):
        assert line in text.splitlines()
    assert "failure 1: IndexError TD0170" in text and "net.py:12" in text
    manifest = json.loads(run(capsys, "inspect", model, "--json"))
    assert {"inputs", "outputs", "dims", "cpu_features", "treadle", "format"} <= set(manifest)
    parse_graph(run(capsys, "inspect", model, "--text", "graph"))
    assert main(["inspect", model, "--text", "nothing"]) == 1
    assert "there are program, graph" in capsys.readouterr().err
    assert run(capsys, "verify", model) == f"{model}: every byte is as written\n"
    data = bytearray(Path(model).read_bytes())
    data[len(data) // 2] ^= 1
    Path(model).write_bytes(data)
    assert main(["verify", model]) == 1
    assert "TD0965" in capsys.readouterr().err


# The help of each command shows its arguments and an example that works.
def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        [],
        ["dump"],
        ["diff"],
        ["run"],
        ["bench"],
        ["ops"],
        ["passes"],
        ["explain"],
        ["inspect"],
        ["verify"],
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        text = capsys.readouterr().out
        assert (end.value.code == 0 and ("example" in text) == bool(words)) or not words
        assert all(len(line) <= 110 for line in text.splitlines())
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"treadle {td.__version__}\n"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Elementwise: " in run(capsys, "ops")
    assert "ir/ops/elementwise.py:" in run(capsys, "ops", "tanh")
    assert "fuse" in run(capsys, "passes")
    about = run(capsys, "passes", "fuse")
    assert "passes/fuse.py:" in about and "option limit = " in about and "needs EXPANDED: " in about


# Each mistake of a command line is answered by one error that says what would be right, and by the exit status.
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dump", "nowhere.py:f"], "TD0650: no file 'nowhere.py'"),
        (["dump", "NET"], "TD0650: "),
        (["dump", "NET:blok"], "did you mean block?"),
        (["dump", "NET:NUMBER"], "TD0650: NET:NUMBER is of type int"),
        (["run", "NET:block"], "TD0620: block: missing a required argument: 'x'\n  edit: it takes (x, w)"),
        (["run", "NET:block", "--args", "f33[4]", "3"], "TD0261: line 1, column 1"),
        (["run", "NET:block", "--args", "f32[4", "3"], "TD0651: 'f32[4'"),
        (["run", "NET:block", "--args", "double", "3"], "double is a name"),
        (["run", "NET:block", "--args", "@nowhere.npy", "3"], "TD0653: nowhere.npy: No such file"),
        (["run", "NET:block", "--args", "@NET", "3"], "TD0651: NET is not an array"),
        (["run", "NET:block", "--args", "f32[4,8]", "f32[9,3]"], "x @ w"),
        (["run", "NET:row", "--args", "f32[4,8]", "7"], "TD0170: gather: index 7 is outside axis 0 of size 4"),
        (["run", "NET:block", *ARGS, "--target", "neoon"], "did you mean neon?"),
        (["dump", "NET:block", *ARGS, "--after", "fuze"], "TD0630: no pass 'fuze' in this pipeline; it has expand"),
        (["dump", "NET:block", *ARGS, "--after", "fuse", "--stage", "asm"], "TD0656: --stage and --after"),
        (["dump", "NET:block", *ARGS, "--all", "--dot", "x"], "TD0656"),
        (["diff", "NET", "NET", *ARGS], "TD0656: two texts"),
        (["explain", "NET"], "TD0650"),
        (["ops", "tanhh"], "did you mean tanh?"),
        (["passes", "fuze"], "TD0304"),
        (["inspect", "nowhere.so"], "TD0653: nowhere.so: No such file"),
        (["inspect", "NET"], "TD0962: NET is refused: it is not a model file"),
        (["verify", "NET"], "TD0962"),
    ],
)
def test_mistakes(
    words: list[str], expected: str, net: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = net.removesuffix(":block")
    monkeypatch.chdir(Path(file).parent)
    assert main([word.replace("NET", file) for word in words]) == 1
    error = capsys.readouterr().err
    assert expected.replace("NET", file) in error and "Traceback" not in error, error
    assert error.count("  edit: ") <= 1 and "test_cli.py" not in error, (
        "the line that called main is none of the user's"
    )


@pytest.mark.parametrize("words", [["dupm", "x"], ["nonsense"], ["bench", "x", "--rounds", "0"], ["dump"], []])
def test_bad_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(words)
    except SystemExit as end:  # argparse's way
        status = int(str(end.code))
    assert status == 2
    error = capsys.readouterr().err
    assert ("did you mean dump?" in error) == (words[:1] == ["dupm"])


# What the user's function raises is theirs, with their frames alone; a file that does not parse shows its line.
def test_errors_of_the_users(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", net.replace(":block", ":broken"), "--args", "f32[2]"]) == 1
    error = capsys.readouterr().err
    assert "LookupError: of the user's own" in error and "frontend/" not in error
    (tmp_path / "wrong.py").write_text("def f(x)\n    return x\n")
    assert main(["run", f"{tmp_path / 'wrong.py'}:f"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("TD0650: ") and "wrong.py:1" in error and "def f(x)" in error and "importlib" not in error


# What a command sets, like its target, holds for the command.
def test_a_command_leaves_the_options_alone(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = td.config.current
    run(capsys, "dump", net, *ARGS, "--target", "neon", "--stage", "asm")
    run(capsys, "bench", net, *ARGS, "--rounds", "1", "--threads", "2")
    assert td.config.current == before


# Containers, named arguments and texts are written as Python writes them.
def test_arguments_of_every_kind(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = net.replace(":block", ":layer")
    np.save(tmp_path / "b.npy", np.full(3, 7, "f4"))
    params = f'{{"w": f32[8,3], "b": "@{tmp_path / "b.npy"}"}}'
    plain = run(capsys, "run", layer, "--args", params, "f32[4,8]")
    assert plain.startswith("result['y']: float32[4, 3]")
    assert (
        run(capsys, "run", layer, "--args", params, "f32[4,8]", "--reference").splitlines()[0] == plain.splitlines()[0]
    )
    negated = run(capsys, "run", layer, "--args", params, "f32[4,8]", 'mode="negated"', "scale=1.0")
    assert negated != plain and negated.replace("-", "").split() != []
    assert "exp" not in run(capsys, "dump", layer, "--args", params, "x=f32[n,8]", 'mode="negated"')
    assert "layer(params, x, *, mode='plain', scale=1.0)" in run(capsys, "explain", layer, "--args", params, "f32[4,8]")


def test_arguments() -> None:
    assert parse_argument("i64[]").shape == () and parse_argument("f32[2*B + 1,3]").shape[1] == 3
    tree = parse_argument('[{"a": f32[3], "b": (bool[], -2.5)}, None, True, "text"]')
    assert tree[0]["a"] == td.ShapeDtype((3,), "f4") and tree[0]["b"] == (td.ShapeDtype((), bool), -2.5)
    assert tree[1:] == [None, True, "text"]
    assert parse_arguments(["3", "n=4", 'm="x=y"']) == ([3], {"n": 4, "m": "x=y"})
    for wrong in ("__import__('os')", "f32", "1 +", "{1}", "x.y", "[f32[3]"):
        with pytest.raises(ValueError, match="TD0"):
            parse_argument(wrong)
    assert parse_argument("f32[1,B]").shape[0] == 1
    assert parse_argument("3") == 3 and parse_argument("2.5") == 2.5


# The passes of one dump are chosen and set on its command line, as they print.
def test_dump_of_chosen_passes(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "dump", net, *ARGS, "--passes", "expand, fuse(limit=1)")
    assert text.count(" = group ") == text.count("body = graph") > 2
    assert "# fuse(limit=1): " in run(capsys, "dump", net, *ARGS, "--passes", "expand, fuse(limit=1)", "--all")
    assert main(["dump", net, *ARGS, "--passes", "fuse(limit='x')"]) == 1
    assert "TD0301" in capsys.readouterr().err


# The page of the command line is its reference: what it does not name, nobody finds.
def test_every_command_and_option_is_on_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    for name, parser in commands.items():
        assert f"treadle {name}" in page or f"`{name}`" in page, name
        for action in parser._actions:
            assert action.help, (name, action.dest)
            options = [option for option in action.option_strings if option.startswith("--") and option != "--help"]
            assert [option for option in options if option not in page] == [], name
