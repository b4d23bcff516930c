"""Engines in processes of their own: what is asked of them, and what happens where one is missing, fails or dies.

NumPy is the engine here, so that these tests need no peer. What a time is does not matter."""

from __future__ import annotations

import json
import os
import textwrap

import pytest
from harness import rounds
from harness.command import main
from harness.engines import environment
from harness.lines import Chapter, Line
from harness.rounds import Session, Settings

QUICK = Settings(rounds=2, least=1e-5, patience=60.0)

CHAPTER = """
    import os
    import sys

    import numpy as np

    from harness.lines import Chapter, at_most, call, normal

    CHAPTER = Chapter("small")

    def crash(numpy):
        print("about to end", file=sys.stderr)
        os._exit(3)

    def refuse(numpy):
        raise ValueError("not this one")

    def missing(numpy):
        import no_such_package

    plain = dict(arguments=lambda: [normal(8), normal(8, seed=1)])
    CHAPTER.line("sum", treadle=lambda td: td.jit(lambda a, b: a + b), numpy=lambda np: np.add, **plain)
    CHAPTER.line("into", out=True, numpy=lambda np: np.add, **plain)
    CHAPTER.line("crash", numpy=crash, **plain)
    CHAPTER.line("refuse", numpy=refuse, **plain)
    CHAPTER.line("missing", numpy=missing, **plain)
    CHAPTER.line(
        "difference",
        figure=lambda two, one: (two - one) * 0 + 7,
        numpy=lambda np: [call("f(1); f(1)", 2, f=np.abs), call("f(1)", f=np.abs)],
    )
    CHAPTER.line("value", way="value", unit="ulp", bar=at_most(2), treadle=lambda: 1.5, numpy=lambda: 1 / 0)
    CHAPTER.line("fresh", way="process", treadle=lambda: os.getpid(), numpy=lambda: 2.0)
    CHAPTER.line("noisy", treadle=lambda td: (print("x" * 100_000), lambda: 1)[1])
    CHAPTER.line("threads", numpy=lambda np: call("f", f=os.environ["OMP_NUM_THREADS"]))
    CHAPTERS = (CHAPTER,)
"""


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """A `lines` package of the test's own, found by the workers before the real one."""
    (tmp_path / "lines.py").write_text(textwrap.dedent(CHAPTER))
    monkeypatch.setattr(rounds, "HERE", os.pathsep.join([str(tmp_path), str(rounds.HERE)]))
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path / "cache"))
    found: dict[str, object] = {}
    exec(compile(textwrap.dedent(CHAPTER), "lines.py", "exec"), found)
    return found["CHAPTERS"]


def line(chapters: tuple[Chapter, ...], name: str) -> Line:
    return next(each for each in chapters[0].lines if each.name == name)


def test_a_line(chapters):
    """Both engines give a sample in every round, and the same digest of the result."""
    with Session(QUICK) as session:
        found = session.measure(line(chapters, "sum"))
    ours, numpy = found.columns
    assert (ours.state, numpy.state) == ("ready", "ready")
    assert len(ours.samples) == len(numpy.samples) == 2
    assert ours.digest == numpy.digest != []


def test_an_engine_that_dies_loses_its_column_only(chapters):
    """The next line finds a new process."""
    with Session(QUICK) as session:
        dead = session.measure(line(chapters, "crash")).columns[0]
        alive = session.measure(line(chapters, "into")).columns[0]
    assert dead.state == "failed"
    assert "status 3" in dead.note
    assert "about to end" in dead.note
    assert len(alive.samples) == 2


def test_failures_and_missing_packages_are_told_apart(chapters):
    with Session(QUICK) as session:
        refused = session.measure(line(chapters, "refuse")).columns[0]
        missing = session.measure(line(chapters, "missing")).columns[0]
    assert (refused.state, refused.note) == ("failed", "ValueError: not this one")
    assert missing.state == "absent"
    assert "no_such_package" in missing.note


def test_an_engine_that_is_not_installed():
    """It is asked once, and said so for each line."""
    with Session(QUICK) as session:
        session.absent["torch"] = "No module named 'torch'"
        other = Line("other", {"torch": len})
        assert session.measure(other).columns[0].state == "absent"


def test_figures_of_several_calls(chapters):
    with Session(QUICK) as session:
        assert session.measure(line(chapters, "difference")).columns[0].samples == [7.0, 7.0]


def test_values_and_fresh_processes(chapters):
    """A value is taken once; a fresh process once a round, and it is another one each time."""
    with Session(QUICK) as session:
        value = session.measure(line(chapters, "value"))
        fresh = session.measure(line(chapters, "fresh"))
    assert value.columns[0].samples == [1.5]
    assert value.columns[1].state == "failed"
    assert "ZeroDivisionError" in value.columns[1].note
    assert len(set(fresh.columns[0].samples)) == 2


def test_what_an_engine_prints_is_no_answer(chapters):
    with Session(QUICK) as session:
        assert len(session.measure(line(chapters, "noisy")).columns[0].samples) == 2


def test_an_engine_that_hangs_is_given_up():
    """Here `Process.read` waits for an answer that nobody asked for."""
    with Session(Settings(patience=30.0)) as session:
        process = session.process("numpy", 1)
        process.patience = 0.2
        with pytest.raises(rounds.Gone, match=r"no answer within 0\.2 s"):
            process.read()
        assert process.child.poll() is not None


def test_the_environment_of_an_engine():
    """As many threads as the line wants, nothing that spins, and only one processor for one thread."""
    one, two = environment(1, 0), environment(2, None)
    assert (one["OMP_NUM_THREADS"], two["MKL_NUM_THREADS"]) == ("1", "2")
    assert one["KMP_BLOCKTIME"] == "0"
    assert (one["BENCH_PROCESSOR"], two["BENCH_PROCESSOR"]) == ("0", "")


def test_the_command(chapters, tmp_path, capsys):
    """Table, JSON and comparison, end to end; the exit status says whether treadle's lines were measured."""
    out = tmp_path / "out"
    quick = ["--rounds", "2", "--least", "1e-5", "--no-limits", "--out", str(out)]
    assert main([*quick, "--only", "sum,value"], chapters) == 0
    said = capsys.readouterr().out
    assert "met" in said
    assert "numpy failed: ZeroDivisionError" in said
    run = json.loads((out / "latest.json").read_text())
    assert list(run["lines"]) == ["sum", "value"]
    assert run["lines"]["value"]["bar"] == {"text": "at most 2 ulp", "met": True, "have": 1.5, "want": 2}
    assert len(run["lines"]["sum"]["engines"]["numpy"]["samples"]) == 2
    assert run["versions"]["numpy"]
    assert main([*quick, "--only", "value", "--compare", str(out / "latest.json")], chapters) == 0
    assert "within the spread" in capsys.readouterr().out
    assert main(["--only", "no such line"], chapters) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_limits_are_measured(threads):
    """Each limit of this machine is a positive rate, or the machine has no such instruction."""
    with Session(QUICK) as session:
        found = list(session.limits(["fma f32", "dot i8"], [threads], 1))
    for _, _, column in found:
        assert column.state == "absent" or (column.state == "ready" and column.samples[0] > 0)
