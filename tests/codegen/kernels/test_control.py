"""Control flow both ways: as one kernel, and as loops of the program with calls inside.

The oracles are the graph's evaluator, the naive nests, and each way for the other: a step rounds alike in both, so
their results are the same bits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kernel_cases import check, two_threads
from native import RUNNABLE
from table import BY_OP, Sample

import treadle as td
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.frontend import compile as driver
from treadle.frontend.options import config
from treadle.ir.evaluate import evaluate, solve_dims
from treadle.ir.graph import Graph
from treadle.ir.loops.build import walk
from treadle.ir.loops.nodes import Alloc, While
from treadle.ir.ops.control import Group
from treadle.ir.program import Loop, Switch
from treadle.ir.program import While as Repeated
from treadle.passes.fuse import fuse
from treadle.passes.manager import Pipeline
from treadle.passes.pipelines import DEFAULT

WHOLE = "avx512" if "avx512" in RUNNABLE else next(iter(RUNNABLE), "generic")
OPS = ("switch", "while", "scan")
# Carrying another dtype makes another kernel of the same form: those rows are compiled once, with the whole op table.
ROWS = [row for op in OPS for row in BY_OP[op] if not row.label.split()[-1].startswith(("f8", "i", "u", "c", "b"))]


def groups_with_loops(graph: Graph) -> Iterator[Group]:
    for value in graph.ops:
        if isinstance(value, Group) and any(inner.bodies for inner in value.body.ops):
            yield value


def compiled(graph: Graph, target: str = WHOLE) -> driver.Executed:
    return driver.prepare(graph, options=config.current.changed(target=target, cache=False))


def is_looped(executed: driver.Executed) -> bool:
    """Whether there is a loop or a branch among the program's statements."""
    return any(isinstance(s, Loop | Repeated | Switch) for s in driver.statements_of(executed.compilation.program.body))


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on no control op becomes one kernel."""
    passes = tuple(each.with_options(loop_ops=0) if each.name == "fuse" else each for each in DEFAULT.passes)

    def change() -> None:
        monkeypatch.setattr(driver, "DEFAULT", Pipeline("apart", passes))

    return change


# One kernel: the evaluator, the naive nests, the loops of every model target, and their machine code to the last bit.
@pytest.mark.parametrize("row", ROWS[::2], ids=str)
def test_kernels(row: Sample) -> None:
    graph, args, sizes = row.build(), [np.asarray(x) for x in row.arrays()], dict(row.sizes)
    solve_dims(graph, args, sizes)
    grouped = compiled(graph).compilation.optimized
    for group in groups_with_loops(grouped):
        given = evaluate(graph.with_results(group.args), *args, dims=sizes) if group.args else ()
        check(group.body, *given, sizes=sizes, ulp=256)


# And the same op as loops of the program: bit for bit what the kernel gives.
@pytest.mark.parametrize("row", ROWS[1::2], ids=str)
def test_both_ways_agree(row: Sample, apart: Callable[[], None]) -> None:
    graph, args = row.build(), [np.asarray(x) for x in row.arrays()]
    whole = compiled(graph)
    apart()
    looped = compiled(graph)
    assert not list(groups_with_loops(looped.compilation.optimized))
    for one, other, want in zip(
        whole.executable(args), looped.executable(args), evaluate(graph, *args, dims=row.sizes), strict=True
    ):
        np.testing.assert_array_equal(one, other, err_msg=str(row))
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-5)


# What decides: small bodies of known sizes are kernels, others loops of the program.
def test_which_way() -> None:
    def network(n: int, steps: int) -> Any:
        def f(w: Any, h: Any, xs: Any) -> Any:
            return td.lax.scan(lambda h, x: (np.tanh(h @ w + x), ()), h, xs)[0]

        shapes = ((n, n), (n, n), (steps, n, n))
        rng = np.random.default_rng(0)
        return f, [(rng.standard_normal(s) / n).astype("f4") for s in shapes]

    for n, looped in ((16, False), (112, True)):
        f, args = network(n, 3)
        found = td.jit(f).compile(*args)
        assert is_looped(found.executed) is looped
        h = args[1].astype("f8")
        for x in args[2].astype("f8"):
            h = np.tanh(h @ args[0].astype("f8") + x)
        np.testing.assert_allclose(found(*args), h, rtol=1e-4, atol=1e-5)


# The carry lies in the result's own memory and is overwritten in place: a step copies nothing.
def test_nothing_is_copied() -> None:
    def f(c: Any, xs: Any) -> Any:
        return td.lax.scan(lambda c, x: (np.tanh(c + x), c * 2), c, xs)

    found = td.jit(f).compile(np.ones(24, "f4"), np.ones((6, 24), "f4"))
    (kernel,) = found.executed.compilation.kernels.values()
    assert [s for s in walk(kernel.body) if isinstance(s, Alloc) and s.memory == "stack"] == []


# A result that a later op of the step still needs as it was, is not overwritten too early.
def test_what_is_still_read_stays() -> None:
    def f(a: Any, b: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            a, b = carry
            new = np.sin(a) + x
            return (new, np.sum(new * a) + b), a - new

        return td.lax.scan(step, (a, b), xs)

    rng = np.random.default_rng(0)
    a, b, xs = rng.standard_normal(5), np.float64(0.5), rng.standard_normal((7, 5))
    (last, total), stacked = td.jit(f)(a, b, xs)
    want_a, want_b, rows = a, b, []
    for x in xs:
        new = np.sin(want_a) + x
        rows.append(want_a - new)
        want_a, want_b = new, np.sum(new * want_a) + want_b
    np.testing.assert_allclose(last, want_a, rtol=1e-12)
    np.testing.assert_allclose(total, want_b, rtol=1e-12)
    np.testing.assert_allclose(stacked, rows, rtol=1e-12)


# Thousands of steps: rounds, after each of which the loop looks whether it is to stop; and sizes known at run time.
@pytest.mark.parametrize("steps", [1023, 1024, 1025, 5000])
def test_long_loops(steps: int) -> None:
    def f(c: Any, xs: Any) -> Any:
        return td.lax.scan(lambda c, x: (c * np.float32(0.5) + x, c), c, xs)

    xs = np.random.default_rng(0).standard_normal(steps).astype("f4")
    found = td.jit(f).compile(np.float32(1), td.ShapeDtype(("T",), "float32"))
    (kernel,) = found.executed.compilation.kernels.values()
    assert any(isinstance(s, While) for s in walk(kernel.body))
    last, rows = found(np.float32(1), xs)
    c, want = np.float32(1), []
    for x in xs:
        want.append(c)
        c = np.float32(np.float64(c) * 0.5 + np.float64(x))
    np.testing.assert_array_equal(rows, want)
    assert last == c
    fixed = td.jit(f)(np.float32(1), xs)
    np.testing.assert_array_equal(fixed[1], want)


def pick(table: Any, where: Any) -> Any:
    def outer(total: Any, row: Any) -> Any:
        def inner(c: Any, i: Any) -> Any:
            return c + np.take(table, i), i  # the user's line

        c, _ = td.lax.scan(inner, total, row)
        return c, c

    return td.lax.scan(outer, np.float64(0), where)


# An index outside in some step of an inner loop: IndexError with the user's line, and the next call is right.
@pytest.mark.parametrize("as_kernel", [True, False])
def test_failures_inside(as_kernel: bool, apart: Callable[[], None]) -> None:
    if not as_kernel:
        apart()
    table, where = np.arange(5.0), np.arange(12).reshape(4, 3) % 5
    f = td.jit(pick)
    assert is_looped(f.compile(table, where).executed) is not as_kernel
    for place in ((0, 0), (1, 2), (3, 1)):
        wrong = where.copy()
        wrong[place] = 7
        with pytest.raises(IndexError) as caught:
            f(table, wrong)
        assert "TD0170" in str(caught.value) and "the user's line" in str(caught.value)
        np.testing.assert_allclose(f(table, where)[0], table[where].sum())


# A branch that is not taken does not fail.
def test_failures_in_branches() -> None:
    def f(p: Any, table: Any, i: Any) -> Any:
        return td.lax.cond(p, lambda t: np.take(t, i), lambda t: t[0], table)

    table = np.arange(5.0)
    assert td.jit(f)(False, table, 99) == 0
    with pytest.raises(IndexError, match="TD0170"):
        td.jit(f)(True, table, 99)


ENDLESS = """
import os, signal, threading, time
import numpy as np
import treadle as td
from treadle.frontend import compile as driver

def press():
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)

{prologue}
def forever(x):
    return td.lax.while_loop(lambda c: c[0] >= 0, lambda c: (c[0] + 0, np.sin(c[1]) + x), (0, x))

def long(x):
    return td.lax.fori_loop(0, 1 << 60, lambda i, c: np.sin(c) + x, x)

for f in (td.jit(forever), td.jit(long)):
    f.compile(np.ones(3))
    threading.Thread(target=press, daemon=True).start()
    try:
        f(np.ones(3))
    except KeyboardInterrupt:
        print("stopped")
assert td.jit(lambda x: x + 1)(1) == 2
"""
APART = """
from treadle.passes.manager import Pipeline
from treadle.passes.pipelines import DEFAULT
driver.DEFAULT = Pipeline("apart", tuple(
    each.with_options(loop_ops=0) if each.name == "fuse" else each for each in DEFAULT.passes))
"""


# An endless while, and a loop of more steps than anybody waits for, stop on Ctrl-C, as kernels and as programs.
@pytest.mark.parametrize("prologue", ["", APART], ids=["kernel", "program"])
def test_ctrl_c(prologue: str) -> None:
    code = ENDLESS.format(prologue=prologue)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stopped\nstopped\n"


# The same kernel on every target, and on two threads: nothing in it depends on them.
def test_threads_and_targets() -> None:
    row = next(row for row in BY_OP["scan"] if row.label == "a network")
    graph, args = row.build(), row.arrays()
    (group,) = groups_with_loops(compiled(graph).compilation.optimized)
    kernels = check(group.body, *args, context=two_threads())
    assert set(kernels) == set(MODELS)
    assert choose.accepts(group.body, MODELS["neon"])
    assert fuse.options.loop_ops > 0
