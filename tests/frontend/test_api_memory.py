"""Whose memory is whose: results share nothing, `out=` is filled, a donated array comes back as its result."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import treadle as td


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


# Whatever a function returns twice, or returns of its arguments, is memory of its own, on every path.
def test_results_share_memory_with_nothing() -> None:
    f = td.jit(lambda x, y: (x, x, x.T, x[1:], x.reshape(-1), x + y, y))
    x, y = noise(3, 4), noise(3, 4)
    for _ in range(3):
        results = f(x, y)
        for a, b in combinations([x, y, *results], 2):
            assert (a is x and b is y) or not np.shares_memory(a, b)


def test_out_is_filled_and_returned() -> None:
    @td.jit
    def f(x: Any) -> Any:
        return {"sum": x.sum(axis=0), "parts": (x * 2, x + 1)}

    x = noise(3, 4)
    parts = (np.empty_like(x), None)
    for _ in range(3):
        result = f(x, out={"sum": np.empty(4, "f4"), "parts": parts})
        assert result["parts"][0] is parts[0] and result["parts"][1] is not None
        np.testing.assert_array_equal(parts[0], x * 2)
        np.testing.assert_allclose(result["sum"], x.sum(axis=0), rtol=1e-6)
    target = np.empty_like(x)
    g = td.jit(np.negative)
    for call in (g, g.compile(x)):
        for _ in range(3):
            assert call(x, out=target) is target
            np.testing.assert_array_equal(target, -x)


# An array that receives a result may be any array: strided, big-endian, and may overlap what is read.
@pytest.mark.parametrize("shift", [-3, 0, 1, 5])
def test_out_may_overlap_the_arguments(shift: int) -> None:
    f = td.jit(lambda x: x[::-1] * 2 + x)
    room = noise(64)
    for _ in range(3):
        x, target = room[8:40], room[8 + shift : 40 + shift]
        expected = x[::-1] * 2 + x
        assert f(x, out=target) is target
        np.testing.assert_array_equal(target, expected)


def test_out_of_any_strides() -> None:
    f = td.jit(lambda x: x * 2)
    x = noise(4, 4)
    for target in (np.empty((8, 8), "f4")[::2, ::-2], np.empty((4, 4), ">f4"), np.empty((4, 4), "f4").T, x[::-1]):
        expected = x * 2
        f(x, out=target)
        np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize(
    ("out", "kind", "said"),
    [
        (np.empty((3, 4)), TypeError, "TD0950: out for result: expected float32"),
        (np.empty((3, 5), "f4"), ValueError, "TD0950"),
        ([np.empty((3, 4), "f4")], TypeError, r"TD0641: out has the structure \[\*\], the result \*"),
        ("text", TypeError, "TD0950"),
        (np.broadcast_to(np.float32(0), (3, 4)), ValueError, "TD0950: out for result is read-only"),
    ],
)
def test_out_that_does_not_fit(out: Any, kind: type[Exception], said: str) -> None:
    f = td.jit(np.negative)
    x = noise(3, 4)
    f(x)
    with pytest.raises(kind, match=said) as caught:
        f(x, out=out)
    assert "f(x, out=out)" in str(caught.value), "the user's line"


def test_two_results_in_one_array_are_refused() -> None:
    target = np.empty(4, "f4")
    with pytest.raises(ValueError, match=r"TD0952: out for result\[1\] shares memory"):
        td.jit(lambda x: (x, -x))(noise(4), out=(target, target))


# The array object itself comes back, and its memory was not copied, on the first call and on later ones.
def test_a_donated_array_comes_back_as_its_result() -> None:
    step = td.jit(lambda state, g: {"w": state["w"] - g, "n": state["n"] + 1}, donate_argnames="state")
    state = {"w": noise(1000), "n": np.zeros(1, np.int64)}
    g = noise(1000)
    expected = state["w"].copy()
    w, where = state["w"], state["w"].ctypes.data
    for n in range(1, 5):
        state = step(state, g)
        expected = expected - g
        assert state["w"] is w and w.ctypes.data == where
        np.testing.assert_array_equal(w, expected)
        assert state["n"][0] == n
    assert step.compile(state, g).memory_analysis().alias_size_in_bytes == 4008


# A donated array that the program also reads elsewhere, or that other arguments share, is still read as it was.
def test_donation_beside_arguments_that_share_memory() -> None:
    f = td.jit(lambda x, y: (x * 2, y + 1), donate_argnums=0)
    for _ in range(3):
        room = noise(20)
        x, y = room[:10], room[5:15]
        doubled, more = x * 2, y + 1
        result = f(x, y)
        assert result[0] is x
        np.testing.assert_array_equal(result[0], doubled)
        np.testing.assert_array_equal(result[1], more)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: td.jit(lambda p: p["w"].sum(), donate_argnames="p")({"w": noise(3)}), r"TD0640: donation of p\['w'\]"),
        (lambda: td.jit(lambda x: -x, donate_argnums=0)(noise(6)[::2]), "TD0951: x is donated, but"),
        (lambda: td.jit(lambda x: -x, donate_argnums=0)(np.broadcast_to(np.float32(1), (3,))), "TD0951: x is donated"),
        (lambda: td.jit(lambda x, y: (-x, -y), donate_argnums=(0, 1))(*2 * (ONE,)), "TD0951: y is donated, but .* x"),
    ],
)
def test_donation_that_cannot_take_effect(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        call()
    text = str(caught.value)
    assert "test_api_memory.py" in text and "edit: " in text and "donate='try'" in text


ONE = noise(3)


def test_lenient_donation_does_without() -> None:
    x = noise(6)
    before = x.copy()
    f = td.jit(lambda x: (-x, x.sum()), donate_argnums=0, donate="try")
    np.testing.assert_array_equal(f(x[::2])[0], -before[::2])
    np.testing.assert_array_equal(x, before)
    assert f(x)[0] is x
    g = td.jit(lambda x: x.sum(), donate_argnums=0, donate="try")
    assert g(noise(3)) == pytest.approx(noise(3).sum(), rel=1e-6)


# Arrays reached by closure are copied by content when traced, and named by explain.
def test_captured_arrays_are_copied_and_listed() -> None:
    table = np.arange(4, dtype="f4")
    f = td.jit(lambda x: x + table)
    x = noise(4)
    expected = x + table
    f(x)
    table[:] = 0
    for _ in range(3):
        np.testing.assert_array_equal(f(x), expected)
    assert "constant: table: f32[4], 16 bytes  at test_api_memory.py" in f.explain()


def test_bound_arrays_are_constants() -> None:
    def f(params: Any, x: Any) -> Any:
        return x @ params["w"] + params["b"]

    params, x = {"w": noise(3, 2), "b": noise(2)}, noise(4, 3)
    expected = f(params, x)
    for bound in (td.jit(f).bind(params), td.jit(f).bind(params=params)):
        np.testing.assert_allclose(bound(x), expected, rtol=1e-5)
        np.testing.assert_allclose(bound(x=x), expected, rtol=1e-5)
        assert "params['w']: f32[3,2]" in bound.explain() or "f32[3,2]" in bound.explain()
        assert "(x)" in repr(bound)
        with pytest.raises(TypeError, match="TD0601"):
            bound(x, params=params)
    both = td.jit(f).bind(params).bind(x=x)
    np.testing.assert_allclose(both(), expected, rtol=1e-5)
    with pytest.raises(TypeError, match="TD0620"):
        td.jit(f).bind(params, x, x)
    with pytest.raises(ValueError, match="TD0625"):
        td.jit(f, donate_argnums=0).bind(params)


# `constant_argnames`: the content decides which program it is, and texts see a constant.
def test_constant_arguments() -> None:
    f = td.jit(lambda w, x: x @ w["w"], constant_argnames="w")
    w, x = {"w": noise(3, 2)}, noise(4, 3)
    for _ in range(2):
        np.testing.assert_allclose(f(w, x), x @ w["w"], rtol=1e-5)
    assert f.n_compiles == 1
    w["w"] += 1
    np.testing.assert_allclose(f(w, x), x @ w["w"], rtol=1e-5)
    assert f.n_compiles == 2, "another content is another program"
    assert len(f.trace(w, x).graph.params) == 1
    assert "const" in f.lower(w, x).as_text("graph")
    np.testing.assert_allclose(f.compile(w, x)(w, x), x @ w["w"], rtol=1e-5)
    assert f.cache_info().currsize == 2
    with pytest.raises(TypeError, match="TD0642"):
        f.compile(w, x)({"w": w["w"] * 2}, x)
