"""Options: in Python, in the environment, and what each of them does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import treadle as td
from treadle.frontend import compile as driver
from treadle.frontend.options import from_environment
from treadle.ir.graph import Graph
from treadle.ir.ops.elementwise import Abs
from treadle.passes.manager import Context, Pipeline, graph_pass


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def python(script: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "script.py"
    file.write_text(script)
    variables = {**os.environ, "TREADLE_CACHE_DIR": str(tmp_path / "cache"), **environment}
    return subprocess.run(
        [sys.executable, str(file)], env=variables, capture_output=True, text=True, check=False, cwd=tmp_path
    )


def test_options_are_set_and_restored() -> None:
    before = td.config.max_signatures
    with td.config.set(max_signatures=3, num_threads=2) as config:
        assert config is td.config and td.config.max_signatures == 3 and td.get_num_threads() == 2
        with td.config.set(max_signatures=4):
            assert td.config.max_signatures == 4 and td.config.num_threads == 2
        assert td.config.max_signatures == 3
    assert td.config.max_signatures == before
    try:
        td.config.max_signatures = 5
        assert "max_signatures = 5" in repr(td.config)
    finally:
        td.config.max_signatures = before
    assert {"debug", "check", "set"} <= set(dir(td.config))
    assert not hasattr(td.config, "nothing")


def test_the_environment_is_read() -> None:
    options = from_environment(
        {"TREADLE_NUM_THREADS": "3", "TREADLE_CHECK": "yes", "TREADLE_CACHE": "0", "TREADLE_ALARM": "2.5", "OTHER": "1"}
    )
    assert (options.num_threads, options.check, options.cache, options.alarm) == (3, True, False, 2.5)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda: td.config.set(num_thread=1), AttributeError, "TD0601.*did you mean num_threads?"),
        (lambda: setattr(td.config, "debgu", 1), AttributeError, "TD0601.*did you mean debug?"),
        (lambda: td.config.set(num_threads="many"), ValueError, "TD0602: option num_threads is 'many', not a whole"),
        (lambda: td.config.set(num_threads=1.5), ValueError, "TD0602"),
        (lambda: td.config.set(num_threads=-1), ValueError, "TD0602.*at least 0"),
        (lambda: td.config.set(max_signatures=0), ValueError, "TD0602.*at least 1"),
        (lambda: td.config.set(check="maybe"), ValueError, "TD0602"),
        (lambda: td.set_num_threads(-1), ValueError, "TD0602"),
        (lambda: td.set_num_threads("two"), ValueError, "TD0602"),
    ],
)
def test_wrong_options_are_refused(change: Any, kind: type[Exception], said: str) -> None:
    before = td.config.current
    with pytest.raises(kind, match=said) as caught:
        change()
    assert isinstance(caught.value, td.TreadleError) and "test_api_config.py" in str(caught.value)
    assert td.config.current == before
    with pytest.raises(ValueError, match="TD0602: the environment variable TREADLE_ALARM is 'soon'"):
        from_environment({"TREADLE_ALARM": "soon"})


SCRIPT = """
import numpy as np
import treadle as td

@td.jit
def f(x):
    return np.exp(x) + 1

f(np.ones(3, np.float32))
"""


# 1 says where the time went, 2 shows the program and its loops, 4 the machine code; the sum shows all of it.
@pytest.mark.parametrize("flags", [0, 1, 2, 4, 7])
def test_debug_shows_on_standard_error(flags: int, tmp_path: Path) -> None:
    run = python(SCRIPT, tmp_path, TREADLE_DEBUG=str(flags))
    assert run.returncode == 0 and run.stdout == ""
    assert ("treadle: f: compiled in" in run.stderr and "codegen" in run.stderr) == bool(flags & 1)
    assert ("program f:" in run.stderr and "kernel " in run.stderr) == bool(flags & 2)
    assert ("\tret" in run.stderr) == bool(flags & 4)
    if flags == 1:
        assert "treadle: f: found on disk in" in python(SCRIPT, tmp_path, TREADLE_DEBUG="1").stderr
    assert (run.stderr == "") == (flags == 0)


# Under TREADLE_CHECK a pass that changes the answer is named, with what it did; without it nobody would know.
def test_check_names_the_pass_that_changed_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    @graph_pass()
    def magnitude(graph: Graph, cx: Context) -> Graph:
        """Changes the answer."""
        return Graph(graph.name, graph.params, tuple(Abs(value) for value in graph.results), graph.dims)

    monkeypatch.setattr(
        driver, "DEFAULT", Pipeline("wrong", (*driver.DEFAULT.passes[:-1], magnitude, driver.DEFAULT.passes[-1]))
    )
    x = noise(5)
    with (
        td.config.set(check=True, cache=False),
        pytest.raises(ValueError, match=r"TD0648: .*magnitude changed the answer"),
    ):
        td.jit(lambda x: np.sin(x) * 2)(x)


# Where a compilation takes long, it is said what takes so long: the pass, the op and the user's line.
def test_the_alarm_names_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    td.jit(lambda x: np.cbrt(x))(noise(5))  # what a process does once is done
    said: list[str] = []
    # Not capsys: asked again and again, it empties what the alarm's thread writes meanwhile.
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)

    @graph_pass()
    def endless(graph: Graph, cx: Context) -> Graph:
        """Goes on until the alarm has rung."""
        for _value in graph.ops:
            while not said:
                said.extend(line for line in written.getvalue().splitlines(keepends=True) if line.endswith("\n"))
        return graph

    monkeypatch.setattr(
        driver, "DEFAULT", Pipeline("slow", (*driver.DEFAULT.passes[:-1], endless, driver.DEFAULT.passes[-1]))
    )
    with td.config.set(alarm=0.5, cache=False):
        td.jit(lambda x: np.cbrt(x))(noise(5))
    assert (
        len(said) == 1
        and "has been compiling for 0.5 s: the pass endless, at cbrt f32[5], of test_api_config" in said[0]
    )


# The alarm looks from another thread, in the middle of anything: also at an op that is being made.
def test_the_alarm_passes_over_what_is_half_made() -> None:
    def making() -> FrameType:
        half = object.__new__(Abs)
        assert not half.__dict__
        return sys._getframe()

    assert driver.value_in_hand(making()) is None


def test_check_compares_native_code_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from treadle.frontend import compile as module

    monkeypatch.setattr(module, "evaluate", lambda graph, *args: (np.float32(1) + np.exp(args[0]) * 2,))
    with td.config.set(check=True), pytest.raises(ValueError, match=r"TD0648: .*native code changed result by"):
        td.jit(lambda x: np.exp(x) + 1)(noise(5))


# What only converts and moves is exact: an f32 that was not rounded to bf16 is found, though bf16 is coarse. Where sums
# round otherwise, the type of the sum counts and not that of another result.
def test_check_holds_each_result_to_its_own_type() -> None:
    def f(x: Any, y: Any) -> Any:
        return x.astype("bf16").astype("f4"), y @ y, np.exp(x.astype("bf16")), (x > 1).sum(), (y * 2).astype("bf16")

    graph = td.jit(f).trace(noise(4), noise(4, 4).astype("f8")).graph
    assert driver.bounds_of(graph) == [0.0, 1e-10, 5e-2, 0.0, 5e-2]
    x = np.array([257.0, 1.0], "f4")
    with td.config.set(check=True):
        np.testing.assert_array_equal(td.jit(lambda x: x.astype("bf16").astype("f4").T)(x), [256, 1])


def test_check_finds_a_rounding_that_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "evaluate", lambda graph, x: (x,))
    with td.config.set(check=True), pytest.raises(ValueError, match=r"TD0648: .*native code changed result by"):
        td.jit(lambda x: x.astype("bf16").astype("f4"))(np.array([257.0, 1.0], "f4"))


def test_check_leaves_right_programs_alone() -> None:
    def f(x: Any, i: Any) -> Any:
        return np.sort(x @ x.T, axis=1)[i], x.sum(axis=0), (x > 0).any()

    x, i = noise(6, 6), np.array([1, 2])
    with td.config.set(check=True):
        g = td.jit(f)
        for _ in range(2):
            for found, expected in zip(g(x, i), f(x, i), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5)
        h = td.jit(f, donate_argnums=0, donate="try")
        h(x.copy(), i)
        g.compile(td.ShapeDtype(("B", 6), "float32"), td.ShapeDtype((3,), "int64"))  # noise may be out of range
        with pytest.raises(IndexError, match="TD0170"):
            g(x, i + 9)


# A captured array that has changed is noticed, whether it came by closure or by bind.
def test_check_notices_changed_captures() -> None:
    table = noise(4)

    def closure(x: Any) -> Any:
        return x + table

    for f in (td.jit(closure), td.jit(lambda table, x: x + table).bind(table)):
        x = noise(4)
        expected = x + table
        for _ in range(3):
            f(x)
        table += 1
        np.testing.assert_array_equal(f(x), expected)
        with td.config.set(check=True):
            with pytest.raises(ValueError, match=r"TD0645: the array table has changed") as caught:
                f(x)
            assert "edit: pass it as an argument" in str(caught.value)
            f.clear_cache()
            np.testing.assert_array_equal(f(x), x + table)
        table -= 1


# The number of threads may change between calls, and does not change the bits.
def test_threads_change_no_bits() -> None:
    f = td.jit(lambda x: np.tanh(x @ x.T).sum(axis=1))
    x = noise(300, 300)
    compiled = f.compile(x)
    expected = compiled(x, threads=1)
    before = td.config.num_threads
    try:
        for n in (1, 2, 3):
            td.set_num_threads(n)
            assert td.get_num_threads() == n
            for _ in range(2):
                np.testing.assert_array_equal(f(x), expected)
    finally:
        td.set_num_threads(before)
    assert td.get_num_threads() >= 1
    np.testing.assert_array_equal(td.jit(f.__wrapped__, threads=1)(x), expected)
    np.testing.assert_array_equal(compiled(x, threads=2), expected)


def test_the_environment_says_how_many_threads(tmp_path: Path) -> None:
    script = (
        "import treadle as td; print(td.get_num_threads()); td.set_num_threads(0); print(td.get_num_threads() >= 1)"
    )
    assert python(script, tmp_path, TREADLE_NUM_THREADS="5").stdout.split() == ["5", "True"]
    broken = python(script, tmp_path, TREADLE_NUM_THREADS="five")
    assert "TD0602: the environment variable TREADLE_NUM_THREADS is 'five'" in broken.stderr


def test_a_misspelt_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(AttributeError, match=r"TD0600: treadle has no 'vmpa'(?s:.*)did you mean td\.vmap\?"):
        td.vmpa  # noqa: B018
    with pytest.raises(AttributeError, match=r"TD0600: treadle\.onnx is not part of treadle"):
        td.onnx  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="TD0600"):
        import treadle.onnx  # noqa: F401
