"""What a compiled function answers: its texts at every stage, its costs, its memory, its times, its cache."""

from __future__ import annotations

import dataclasses
import pickle
import platform
from typing import Any

import numpy as np
import pytest

import treadle as td
from treadle.ir.loops.parse import parse_kernels
from treadle.ir.program_text import parse_program
from treadle.ir.target import parse
from treadle.runtime import cpu


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@td.jit
def net(w: Any, x: Any) -> Any:
    h = np.tanh(x @ w)
    return h.sum(axis=1), h


W, X = noise(7, 5), noise(3, 7)


# Each stage is a text, the same by each way to it; what is printed can be read back.
def test_every_stage_is_a_text() -> None:
    lowered = net.lower(W, X)
    compiled = lowered.compile()
    for stage in ("graph", "graph:fuse", "program", "loops", "llvm", "asm"):
        assert lowered.as_text(stage) == compiled.as_text(stage) == net.compile(W, X).as_text(stage)
    graph = td.parse(lowered.as_text("graph"))
    assert str(graph) == lowered.as_text("graph") == str(net.trace(W, X).graph) == str(net.trace(W, X))
    for found, expected in zip(td.evaluate(graph, W, X), net(W, X), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert str(td.parse(lowered.as_text("graph:fuse"))) == lowered.as_text("graph:fuse")
    assert str(parse_program(lowered.as_text("program"))) == lowered.as_text("program")
    assert parse_kernels(lowered.as_text("loops"))
    assert net.inspect_llvm(W, X) == lowered.as_text("llvm") and "define" in lowered.as_text("llvm")
    assert net.inspect_asm(W, X) == lowered.as_text("asm") and "ret" in lowered.as_text("asm")


def test_results_are_those_of_the_function() -> None:
    compiled = net.compile(W, X)
    total, h = compiled(W, X)
    np.testing.assert_allclose(h, np.tanh(X @ W), rtol=1e-5)
    outs = (np.empty_like(total), np.empty_like(h))
    for threads in (None, 1, 2):
        result = compiled(W, X, out=outs, threads=threads)
        assert result[0] is outs[0] and result[1] is outs[1]
        np.testing.assert_array_equal(result[0], total)
    np.testing.assert_array_equal(compiled(w=W, x=X)[0], total)
    np.testing.assert_array_equal(net.lower(W, X).compile()(W, X)[0], total)


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda c: c(W), TypeError, "TD0620"),
        (lambda c: c(W, X, y=X), TypeError, "TD0601"),
        (lambda c: c(W, [X]), TypeError, "TD0642"),
        (lambda c: c(W, X.astype("f8")), TypeError, "TD0942: x: expected float32"),
        (lambda c: c(W, X[:2]), ValueError, "TD0943: x: expected float32"),
        (lambda c: c(W, X, threads=0), ValueError, "TD0625"),
        (lambda c: c(W, X, out=W), TypeError, "TD0641"),
        (lambda c: c.as_text("grph"), ValueError, "TD0631"),
        (lambda c: c.as_text("graph:fuze"), ValueError, "TD0630"),
        (lambda c: c.save("/nowhere/model.so"), FileNotFoundError, "TD0653: /nowhere/model.so"),
        (lambda c: c.save("model.so", headers=True), TypeError, "TD0601.*did you mean header"),
        (lambda c: c.save("model.so", name="a b"), ValueError, "TD0552"),
        (lambda c: c.memory_analysis({"B": 3}), ValueError, "TD0646"),
        (lambda c: c.profile(W), TypeError, "TD0620"),
        (lambda c: td.jit(lambda x: c(W, x))(X), TypeError, "TD0647"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, kind: type[Exception], code: str) -> None:
    with pytest.raises(kind, match=code) as caught:
        call(net.compile(W, X))
    assert isinstance(caught.value, td.TreadleError)
    assert "test_api_compiled.py" in str(caught.value) and "^" in str(caught.value), "the user's line"


def test_a_static_argument_of_another_value_is_refused() -> None:
    f = td.jit(lambda x, n: x * n, static_argnames="n")
    compiled = f.compile(X, 2)
    np.testing.assert_array_equal(compiled(X, 2), X * 2)
    with pytest.raises(TypeError, match=r"TD0642: .*compiled for n=2, this is 3"):
        compiled(X, 3)


def test_analyses() -> None:
    compiled = net.compile(W, X)
    cost = compiled.cost_analysis()
    assert sorted(cost) == ["bytes accessed", "flops", "transcendentals"]
    assert cost["flops"] >= 2 * 3 * 7 * 5 and cost["transcendentals"] == 15
    memory = compiled.memory_analysis()
    assert [field.name for field in dataclasses.fields(memory)] == [
        "argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes", "alias_size_in_bytes",
        "generated_code_size_in_bytes", "lower_bound_in_bytes",
    ]  # fmt: skip
    assert memory.argument_size_in_bytes == W.nbytes + X.nbytes
    assert memory.output_size_in_bytes == 3 * 4 + 15 * 4
    assert 0 <= memory.lower_bound_in_bytes <= memory.temp_size_in_bytes
    assert memory.alias_size_in_bytes == 0 < memory.generated_code_size_in_bytes


# The profile times every call of a kernel, inside of loops too, and knows whose line it is.
def test_profile_by_line() -> None:
    @td.jit
    def f(w: Any, x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            c = np.sort(c @ w, axis=0)
            return c, c.sum()

        return td.lax.scan(step, x, None, length=4)

    # Steps so big that the loop is one of the program, with calls inside.
    w, x = noise(128, 128), noise(128, 128)
    compiled = f.compile(w, x)
    profile = compiled.profile(w, x, calls=3)
    text = str(profile)
    assert len(profile.rows) == compiled.as_text("program").count("call ")
    assert any(row.times == 4 for row in profile.rows), text
    assert all(row.seconds >= 0 for row in profile.rows) and sum(row.seconds for row in profile.rows) <= profile.seconds
    assert any(line.startswith("test_api_compiled.py:") for line, _ in profile.by_line())
    assert "kernel" in text and "GB/s" in text and "(outside of kernels)" in text
    np.testing.assert_array_equal(compiled(w, x)[1], f(w, x)[1])


def test_a_profile_leaves_donated_arguments_alone() -> None:
    x = noise(100)
    before = x.copy()
    profile = td.jit(lambda x: x + 1, donate_argnums=0).compile(x).profile(x)
    np.testing.assert_array_equal(x, before)
    assert profile.calls == 10 and len(profile.rows) == 1


# Calls that alternate between several signatures are all served natively, behind which no lookup is counted.
def test_many_signatures_are_served() -> None:
    f = td.jit(lambda x: x + 1)
    xs = [noise(n, 2) for n in range(1, 10)]
    for _ in range(2):
        for x in xs:
            f(x)
    before = f.cache_info().hits
    for _ in range(3):
        for x in xs:
            np.testing.assert_array_equal(f(x), x + 1)
    assert f.cache_info().hits == before


# One program per signature, found again; how many are kept is bounded, and the one used longest ago goes first.
def test_the_cache_is_bounded() -> None:
    f = td.jit(lambda x: x + 1)
    with td.config.set(max_signatures=3):
        for n in (1, 2, 3, 1, 4):
            f.compile(noise(n, 2))
        info = f.cache_info()
        assert (info.misses, info.maxsize, info.currsize) == (f.n_compiles, 3, 3) == (4, 3, 3)
        f.compile(noise(3, 2))
        f.compile(noise(4, 2))
        assert f.n_compiles == 4
        f.compile(noise(2, 2))
        assert f.n_compiles == 5, "was dropped"
        for n in (1, 2, 3, 4):
            f(noise(n, 2))
        f(noise(1, 2))
        assert f.n_compiles == 9, "what is dropped is not kept by the native call either"
    f.clear_cache()
    assert f.cache_info().currsize == 0
    f(noise(1, 2))
    assert f.n_compiles == 10


# Why it was compiled again is the first thing that differs, named by its path.
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((X,), (X[:2],), "x is f32[2,7] and was f32[3,7]"),
        ((X,), (X.astype("f8"),), "x is f64[3,7] and was f32[3,7]"),
        (({"a": X},), ({"a": X[0]},), "x['a'] is f32[7] and was f32[3,7]"),
        (([X],), ((X,),), "the arguments are"),
        ((X, 1), (X, 1.5), "s is a Python float and was a Python int"),
        ((X, True), (X, False), "s is False and was True"),
        ((X, "a"), (X, 2.0), "the arguments are"),
    ],
)
def test_explain_says_why(first: Any, second: Any, said: str) -> None:
    f = td.jit(lambda x, s=None: x)
    f(*first)
    f(*second)
    assert said in f.explain()


def test_explain_names_passes_and_kernels() -> None:
    text = net.explain() if net.n_compiles else (net(W, X), net.explain())[1]
    assert "net(w, x)" in text and "kernels" in text and "fuse" in text and "lower bound" in text


def test_functions_pickle_with_their_settings() -> None:
    again = pickle.loads(pickle.dumps(td.jit(_scaled, static_argnames="n").bind(w=W)))
    np.testing.assert_array_equal(again(X, n=2), _scaled(W, X, 2))


def _scaled(w: Any, x: Any, n: int) -> Any:
    return (x * n)[:, :5] + w[:3]


# What the decorator returns looks like the function.
def test_it_looks_like_the_function() -> None:
    @td.jit
    def documented(x: Any) -> Any:
        """Its text."""
        return x

    assert documented.__name__ == "documented" and documented.__doc__ == "Its text."
    assert documented.__wrapped__(3) == 3 and documented.__module__ == __name__
    assert repr(documented) == "<treadle.jit of documented(x)>"
    assert td.jit(threads=1)(documented.__wrapped__)(X).shape == X.shape


# Any target can be looked at; only what runs here can be called, and the reason is named.
@pytest.mark.parametrize("target", ["avx2", "neon", "generic", "x86-64:avx512+vnni"])
def test_other_targets_can_be_read(target: str) -> None:
    f = td.jit(lambda x: np.exp(x) + 1, target=target)
    text = f.inspect_asm(X)
    assert ("fmla" in text or "v0.4s" in text) == (target == "neon")
    assert f.compile(X).memory_analysis().generated_code_size_in_bytes > 0


def test_a_program_for_another_machine_is_not_called(tmp_path: Any) -> None:
    f = td.jit(lambda x: np.exp(x) + 1, target="neon" if platform.machine() == "x86_64" else "avx2")
    compiled = f.compile(X)
    for call in (f, compiled):
        with pytest.raises(ValueError, match=r"TD0643.* was compiled for .* this machine is"):
            call(X)
    compiled.save(tmp_path / "other.so")
    with pytest.raises(ValueError, match="TD0966"):
        td.load(tmp_path / "other.so")
    with pytest.raises(ValueError, match=r"TD0644(?s:.*)did you mean neon\?"):
        td.jit(np.exp, target="neoon")(X)


# What counts is what the code uses: a feature of the target that it has no use for is not asked of the machine.
def test_a_cpu_without_the_features_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "reported", lambda: frozenset(map(cpu.kernel_name, parse("x86-64:avx2").features)))
    for target in ("x86-64:avx512", "x86-64:avx512+xop"):
        with pytest.raises(ValueError, match=r"TD0643.*this CPU lacks .*avx512f|TD0643.*this machine is") as raised:
            td.jit(np.exp, target=target)(X)
        assert "xop" not in str(raised.value).partition("this CPU lacks")[2]
