"""The command line on a real file: each command prints what it says, each mistake is one line with an edit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import treadle as td
from treadle.frontend.cli import load_function, main, parse_argument
from treadle.ir.loops.parse import parse_kernels
from treadle.ir.parse import parse_graph

SOURCE = """
import numpy as np
def block(x, w):
    h = np.maximum(x @ w, 0)
    return np.exp(h).sum(axis=1)
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


def test_diff(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", net, *ARGS]) == 1
    assert "+++ fuse" in capsys.readouterr().out
    a = tmp_path / "a.graph"
    a.write_text("graph f(%x: f32[]) -> f32[]:\n  return %x\n")
    assert "(no difference)" in run(capsys, "diff", str(a), str(a))


def test_dot(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "dump", net, *ARGS, "--dot", str(tmp_path / "net.dot"))
    text = (tmp_path / "net.dot").read_text()
    assert text.startswith('digraph "block"') and "->" in text


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


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Elementwise: " in run(capsys, "ops")
    assert "ir/ops/elementwise.py:" in run(capsys, "ops", "tanh")
    assert "fuse" in run(capsys, "passes")
    assert "limit" in run(capsys, "passes", "fuse") or "Group" in run(capsys, "passes", "fuse")


# Each mistake of a command line is answered in one line that says what would be right.
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dump", "nowhere.py:f"], "TD0650"),
        (["ops", "tanhh"], "did you mean tanh?"),
        (["passes", "fuze"], "TD0304"),
        (["inspect", "nowhere.so"], "nowhere.so"),
    ],
)
def test_mistakes(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error


def test_misspelt_functions(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", net.replace(":block", ":blok")]) == 1
    assert "did you mean block?" in capsys.readouterr().err


def test_arguments() -> None:
    assert parse_argument("f32[1,B]").shape[0] == 1
    assert parse_argument("3") == 3 and parse_argument("2.5") == 2.5


# The passes of one dump are chosen and set on its command line, as they print.
def test_dump_of_chosen_passes(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "dump", net, *ARGS, "--passes", "expand, fuse(limit=1)")
    assert text.count(" = group ") == text.count("body = graph") > 2
    assert "# fuse(limit=1): " in run(capsys, "dump", net, *ARGS, "--passes", "expand, fuse(limit=1)", "--all")
    assert main(["dump", net, *ARGS, "--passes", "fuse(limit='x')"]) == 1
    assert "TD0301" in capsys.readouterr().err
