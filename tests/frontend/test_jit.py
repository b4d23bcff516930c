"""The decorator as users meet it: what may be an argument, what is compiled when, and what is said when it goes
wrong."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

import treadle as td


def noise(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def double(x):
    return x * 2 + 1


# The first call compiles, further ones of the signature do not; another dtype or shape does.
def test_one_program_per_signature() -> None:
    f = td.jit(double)
    x = noise(5)
    for _ in range(3):
        np.testing.assert_array_equal(f(x), double(x))
    assert f.n_compiles == 1
    f(noise(6))
    f(noise(5, dtype="float64"))
    assert f.n_compiles == 3
    assert f.cache_info().currsize == 3
    f.clear_cache()
    assert f.cache_info().currsize == 0


class Pair(NamedTuple):
    a: np.ndarray
    b: np.ndarray


@dataclass
class Layer:
    w: np.ndarray
    b: np.ndarray


# Containers go in and come out as they are, nested in any way.
def test_containers() -> None:
    @td.jit
    def f(tree, pair, layer):
        return {"sum": tree["x"][0] + tree["x"][1], "pair": Pair(pair.b, pair.a)}, [Layer(layer.b, layer.w), None]

    x, y = noise(3), noise(3) + 1
    for _ in range(2):
        named, (layer, none) = f({"x": [x, (y)]}, Pair(x, y), Layer(x, y))
        np.testing.assert_array_equal(named["sum"], x + y)
        assert type(named["pair"]) is Pair and none is None
        np.testing.assert_array_equal(named["pair"].a, y)
        np.testing.assert_array_equal(layer.w, y)


# Python numbers are traced, weak in promotion as NumPy has them, and their value does not recompile.
def test_python_numbers_are_data() -> None:
    f = td.jit(lambda x, s: x * s)
    x = noise(4)
    for s in (2.0, 3.0, 4.5):
        result = f(x, s)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, x * s)
    assert f.n_compiles == 1
    assert f(np.arange(4, dtype=np.int8), 3).dtype == np.int8


# Static arguments steer the trace; bool, str and None are static by themselves.
def test_static_arguments() -> None:
    @td.jit(static_argnames="n")
    def power(x, n, negate=False):
        y = x
        for _ in range(n - 1):
            y = y * x
        return -y if negate else y

    x = noise(4)
    np.testing.assert_allclose(power(x, 3), x**3, rtol=1e-6)
    np.testing.assert_allclose(power(x, 3, negate=True), -(x**3), rtol=1e-6)
    np.testing.assert_allclose(power(x, 2), x**2, rtol=1e-6)
    assert power.n_compiles == 3


def test_keywords_and_defaults() -> None:
    @td.jit
    def f(x, *, scale=2.0, shift=None):
        return x * scale if shift is None else x * scale + shift

    x = noise(4)
    np.testing.assert_array_equal(f(x), x * 2.0)
    np.testing.assert_array_equal(f(x, scale=3.0), x * 3.0)
    np.testing.assert_allclose(f(x, shift=x), x * 2.0 + x, rtol=1e-6)


# `out=` fills the caller's array, also when it overlaps an argument.
def test_out() -> None:
    f = td.jit(double)
    x = noise(64)
    expected = double(x)
    target = np.empty_like(x)
    for _ in range(3):
        assert f(x, out=target) is target
        np.testing.assert_array_equal(target, expected)
    shifted = noise(65)
    expected = double(shifted[:64].copy())
    f(shifted[:64], out=shifted[1:])
    np.testing.assert_array_equal(shifted[1:], expected)


# What may be done to an argument may be done to a bound one: NumPy never asks a traced index about a concrete array.
@pytest.mark.parametrize("outer", [False, True])
def test_bound_arrays_are_indexed_by_traced_ones(outer: bool) -> None:
    def embed(params: Any, tokens: Any) -> Any:
        rows = params["table"][tokens] + np.take(params["table"], tokens, axis=0)
        return rows * params["factor"] + params["more"][0]

    params = {"table": np.arange(12.0).reshape(4, 3), "factor": 2, "more": [np.ones(3)]}
    tokens = np.array([3, 0, 3])
    bound = td.jit(embed).bind(params)
    found = td.jit(lambda tokens: bound(tokens))(tokens) if outer else bound(tokens)
    np.testing.assert_array_equal(found, embed(params, tokens))
    if not outer:
        assert "params['table']" in bound.explain()


# Bound arguments become constants; they are copied, so that later writes do not reach the program.
def test_bind() -> None:
    def f(w, x):
        return x @ w

    w, x = noise(3, 2), noise(4, 3)
    g = td.jit(f).bind(w)
    expected = x @ w
    np.testing.assert_allclose(g(x), expected, rtol=1e-5)
    w[:] = 0
    np.testing.assert_allclose(g(x), expected, rtol=1e-5)
    assert "constant" in g.explain()


def test_constant_argnames() -> None:
    f = td.jit(lambda w, x: w + x, constant_argnames="w")
    x = noise(3)
    np.testing.assert_array_equal(f(x, x), x + x)
    np.testing.assert_array_equal(f(x + 1, x), x + 1 + x)
    assert f.n_compiles == 2


# A donated argument's own array object comes back as the result that took its buffer.
def test_donation() -> None:
    f = td.jit(lambda x, y: x + y, donate_argnums=0)
    x, y = noise(1000), noise(1000)
    expected = x + y
    result = f(x, y)
    assert result is x
    np.testing.assert_array_equal(result, expected)


def test_donation_that_cannot_take_effect() -> None:
    f = td.jit(lambda x: x.sum(), donate_argnums=0)
    with pytest.raises(ValueError, match="TD0640"):
        f(noise(10))
    np.testing.assert_allclose(
        td.jit(lambda x: x.sum(), donate_argnums=0, donate="try")(noise(10)), noise(10).sum(), rtol=1e-6
    )


# One program for every size of a named dim.
def test_symbolic_sizes() -> None:
    @td.jit
    def f(x):
        return (x * 2).sum(axis=1)

    compiled = f.compile(td.ShapeDtype(("B", 7), "float32"))
    for n in (0, 1, 5, 33):
        x = noise(n, 7)
        np.testing.assert_allclose(compiled(x), (x * 2).sum(axis=1), rtol=1e-5, atol=1e-6)


def test_declared_dims_are_a_contract() -> None:
    f = td.jit(double, dims={"B": (1, 8)})
    compiled = f.compile(td.ShapeDtype(("B",), "float32"))
    np.testing.assert_array_equal(compiled(noise(8)), double(noise(8)))
    with pytest.raises(ValueError, match="B = 9"):
        compiled(noise(9))


# Strided, big-endian and misaligned arrays are converted; zero-size and 0-d arrays are arrays.
def test_any_array_goes_in() -> None:
    f = td.jit(double)
    x = noise(20)
    np.testing.assert_array_equal(f(x[::2]), double(x[::2]))
    np.testing.assert_array_equal(f(x[::-1]), double(x[::-1]))
    np.testing.assert_array_equal(f(x.astype(">f4")), double(x))
    raw = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32)
    np.testing.assert_array_equal(f(raw), double(x))
    assert f(noise(0)).shape == (0,)
    assert f(np.float32(2)).shape == ()


def test_methods_and_pickles() -> None:
    class Model:
        scale = 3.0

        @td.jit
        def __call__(self, x):
            return x * 3.0

    td.tree.register(Model, lambda m: ((), None), lambda _, __: Model())
    x = noise(3)
    np.testing.assert_array_equal(Model()(x), x * 3.0)
    again = pickle.loads(pickle.dumps(td.jit(double)))
    np.testing.assert_array_equal(again(x), double(x))


def test_threads_share_a_function() -> None:
    f = td.jit(lambda x: np.tanh(x) @ x.T)
    xs = [noise(8, 16) + i for i in range(8)]
    expected = [np.tanh(x) @ x.T for x in xs]
    failures: list[str] = []

    def work(i: int) -> None:
        failures.extend(
            f"thread {i}, call {call}"
            for call in range(50)
            if not np.allclose(f(xs[i]), expected[i], rtol=1e-4, atol=1e-4)
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and f.n_compiles == 1


# A function that is gone takes its programs with it.
def test_functions_are_collected() -> None:
    f = td.jit(lambda x: x + 1)
    f(noise(3))
    reference = weakref.ref(f)
    del f
    import gc

    gc.collect()
    assert reference() is None


# The reason of a second compilation is the first thing that differs.
def test_explain() -> None:
    f = td.jit(double)
    f(noise(3))
    f(noise(4))
    assert "x is f32[4] and was f32[3]" in f.explain()


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda: td.jit(double, statc_argnums=0), TypeError, "TD0601"),
        (lambda: td.jit(double, static_argnames="y"), ValueError, "TD0601"),
        (lambda: td.jit(3), TypeError, "TD0624"),
        (lambda: td.jit(double)(), TypeError, "TD0620"),
        (lambda: td.jit(double)(noise(3), noise(3)), TypeError, "TD0620"),
        (lambda: td.jit(double)(x=noise(3), y=1), TypeError, "TD0601"),
        (lambda: td.jit(double, static_argnums=0)([1]), TypeError, "TD0621"),
        (lambda: td.jit(double)(object()), TypeError, "TD0622"),
        (lambda: td.jit(double)(np.array([object()])), TypeError, "TD0101"),
        (lambda: td.jit(double)(np.array(["a"])), TypeError, "TD0101"),
    ],
)
def test_refusals(call, kind, code) -> None:
    with pytest.raises(kind, match=code):
        call()


# Fusion once left a group without results here: an array that two concatenations share, one of them cut off.
def test_interpolation_on_a_circle() -> None:
    x, xp, fp = np.array([-10.0, 361.0]), np.array([10.0, 90.0, 200.0]), np.array([1.0, 2.0, 3.0])

    def f(x, xp, fp):
        return np.interp(x, xp, fp, period=360)

    np.testing.assert_allclose(td.jit(f)(x, xp, fp), f(x, xp, fp))


# NumPy's ufuncs have a dozen keywords whose defaults exclude each other; only their operands are arguments of a trace.
@pytest.mark.parametrize(("ufunc", "count"), [(np.exp, 1), (np.add, 2)])
def test_ufuncs_are_functions(ufunc, count):
    args = [np.arange(1.0, 5.0)] * count
    np.testing.assert_allclose(td.jit(ufunc)(*args), ufunc(*args), rtol=1e-15)


# What LLVM, networkx and rich cost to import, a process that finds its program on disk must not pay.
def test_a_warm_process_needs_no_compiler(tmp_path) -> None:
    (tmp_path / "program.py").write_text(
        "import sys, numpy as np, treadle as td\n"
        "f = td.jit(lambda x: np.exp(x) @ x + 1)\n"
        "f(np.eye(3))\n"
        "print(td.stats().disk_hits, [m for m in ('llvmlite', 'networkx', 'rich') if m in sys.modules])\n"
    )
    command = [sys.executable, str(tmp_path / "program.py")]
    environment = {**os.environ, "TREADLE_CACHE_DIR": str(tmp_path / "cache")}
    said = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [run.stdout for run in said] == ["0 ['llvmlite']\n", "1 []\n"]


# The native routine holds the arrays of a call on the stack. A call of thousands once ended in TD0992, which is never
# to be shown, instead of going on by the complete way; so did one of a saved model.
def test_thousands_of_arrays(tmp_path) -> None:
    arrays = [np.full(1, float(i)) for i in range(4000)]

    @td.jit
    def f(xs):
        return [xs[i] for i in range(0, 4000, 100)]

    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(f(arrays)), np.arange(0.0, 4000.0, 100.0))
    f.lower(arrays).compile().save(tmp_path / "f.so")
    loaded = td.load(tmp_path / "f.so")
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(loaded(arrays)), np.arange(0.0, 4000.0, 100.0))
