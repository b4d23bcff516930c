"""Running kernels: against NumPy and plain Python, in order and in lockstep."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_kernels import INSTRUCTIONS, Sample, samples

from treadle.ir import dtypes as d
from treadle.ir.dims import symbol
from treadle.ir.errors import InvalidValue, OutOfRange, ShapeMismatch
from treadle.ir.loops.build import Builder, add, load
from treadle.ir.loops.check import check
from treadle.ir.loops.evaluate import Failure, evaluate
from treadle.ir.loops.parse import parse_kernel

Arrays = dict[str, np.ndarray[Any, Any]]


def run(text: str, dims: dict[str, int] | None = None, **args: Any) -> tuple[Arrays, Failure | None]:
    """Both ways, which must agree."""
    kernel = parse_kernel(textwrap.dedent(text))
    check(kernel)
    given = {name: np.asarray(value) for name, value in args.items()}
    plain = evaluate(kernel, given, dims or {}, lockstep=False)
    fast = evaluate(kernel, given, dims or {})
    assert plain[1] == fast[1]
    for name, array in plain[0].items():
        np.testing.assert_array_equal(array, fast[0][name])
    return fast


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


# The whole in one: parallel tiles, masked tails, register accumulators, against NumPy in f64.
def test_tiled_product() -> None:
    text = """
        kernel product(a: f32[M,K], b: f32[K,N], c: out f32[M,N]) where M, N, K:
          for i in parallel(0, M, 6):
            for j in range(0, N, 16):
              acc: registers f32[6,16]
              for r in unrolled(6):
                for l in vector(16):
                  acc[r, l] = 0.0
              for k in range(K):
                for r in unrolled(6):
                  if index(i + r) < M:
                    for l in vector(min(N, j + 16) - j, lanes=16):
                      acc[r, l] = fma(a[i + r, k], b[k, j + l], acc[r, l])
              for r in unrolled(6):
                if index(i + r) < M:
                  for l in vector(min(N, j + 16) - j, lanes=16):
                    c[i + r, j + l] = acc[r, l]
        """
    a, b = f32(13, 7), f32(7, 21)
    written, failure = run(text, {"M": 13, "N": 21, "K": 7}, a=a, b=b)
    np.testing.assert_allclose(written["c"], a.astype(np.float64) @ b, rtol=1e-5, atol=1e-6)
    assert failure is None


# Order is kept where it matters: a running sum gives what the same additions give one after another.
def test_running_sum() -> None:
    text = """
        kernel running(x: f32[3,N], y: out f32[3,N]) where N:
          for r in parallel(3):
            y[r, 0] = x[r, 0]
            for i in range(1, N):
              y[r, i] = y[r, i - 1] + x[r, i]
        """
    x = f32(3, 40)
    np.testing.assert_array_equal(run(text, {"N": 40}, x=x)[0]["y"], np.cumsum(x, axis=1, dtype=np.float32))


# A histogram: which elements meet is known only when it runs.
def test_histogram() -> None:
    text = """
        kernel histogram(x: i32[N], h: inout i64[5]) where N:
          for i in range(N):
            let b: i32 = x[i] % 5
            h[b] = h[b] + 1
        """
    for x in (np.arange(5, dtype=np.int32), np.arange(100, dtype=np.int32) ** 2):
        h = np.array([7, 0, 0, 0, 0])
        written, _ = run(text, {"N": len(x)}, x=x, h=h)
        np.testing.assert_array_equal(written["h"], np.bincount(x % 5, minlength=5) + h)
        assert h.tolist() == [7, 0, 0, 0, 0]  # what was given is not changed


# A loop that each lane leaves at another time.
def test_while() -> None:
    text = """
        kernel collatz(x: i64[N], y: out i64[N]) where N:
          for i in parallel(N):
            n: stack i64[]
            steps: stack i64[]
            n[] = x[i]
            steps[] = 0
            if n[] != 1:
              do:
                let now: i64 = n[]
                n[] = select(now % 2 == 0, now // 2, 3 * now + 1)
                steps[] = steps[] + 1
              while n[] != 1
            y[i] = steps[]
        """

    def collatz(n: int) -> int:
        return 0 if n == 1 else 1 + collatz(n // 2 if n % 2 == 0 else 3 * n + 1)

    x = np.arange(1, 30)
    assert run(text, {"N": 29}, x=x)[0]["y"].tolist() == [collatz(int(n)) for n in x]


# Ranges that depend on the loop around: lanes of different length, some empty.
def test_triangle() -> None:
    text = """
        kernel triangle(x: i32[N,N], y: out i32[N], z: inout i32[N,N]) where N:
          for i in range(N):
            s: stack i32[]
            s[] = 0
            for j in range(i, N, 2):
              s[] = s[] + x[i, j]
              z[i, j] = x[j, i]
            for j in range(i):
              z[i, j] = -1
            y[i] = s[]
        """
    x = np.arange(81, dtype=np.int32).reshape(9, 9)
    written, _ = run(text, {"N": 9}, x=x, z=np.zeros_like(x))
    assert written["y"].tolist() == [int(x[i, i::2].sum()) for i in range(9)]
    expected = [
        [int(x[j, i]) if j >= i and (j - i) % 2 == 0 else -1 if j < i else 0 for j in range(9)] for i in range(9)
    ]
    assert written["z"].tolist() == expected


# What an iteration writes, the next one reads, two loops further in: only the outer loop must keep its order.
def test_stencil_in_time() -> None:
    text = """
        kernel heat(u: inout f64[T,N]) where T, N:
          for t in range(1, T):
            for i in range(1, N - 1):
              u[t, i] = 0.5 * u[t - 1, i] + 0.25 * (u[t - 1, i - 1] + u[t - 1, i + 1])
        """
    u = np.random.default_rng(0).normal(size=(8, 12))
    expected = u.copy()
    for t in range(1, 8):
        before = expected[t - 1]
        expected[t, 1:-1] = 0.5 * before[1:-1] + 0.25 * (before[:-2] + before[2:])
    np.testing.assert_array_equal(run(text, {"T": 8, "N": 12}, u=u)[0]["u"], expected)


# Iterations meet in every way that two affine positions can; plain Python lists are the second opinion.
_POSITION = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6))
_UPDATE = st.tuples(_POSITION, _POSITION, st.integers(1, 9), st.booleans())


@given(st.lists(_UPDATE, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 6), st.integers(5, 17))
def test_dependences(updates: list[Any], outer: int, inner: int, size: int) -> None:
    k = Builder("meet")
    y = k.inout("y", d.i64, (size,))
    expected = [3 * i + 1 for i in range(size)]
    k.store(y, 0, load(y, 0))
    with k.loop("i", outer) as i, k.loop("j", inner) as j:
        for (a, b, c), (p, q, r), constant, through_let in updates:
            value = add(load(y, (p * i + q * j + r) % size), constant)
            at = (a * i + b * j + c) % size
            k.store(y, at, k.let("v", value) if through_let else value)
    for m in range(outer):
        for n in range(inner):
            for (a, b, c), (p, q, r), constant, _ in updates:
                expected[(a * m + b * n + c) % size] = expected[(p * m + q * n + r) % size] + constant
    start = np.array([3 * i + 1 for i in range(size)])
    for lockstep in (True, False):
        assert evaluate(k.finish(), {"y": start}, {}, lockstep=lockstep)[0]["y"].tolist() == expected


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """The same bits, any NaN being any other."""
    if a.dtype.kind == "c":
        return same(a.real, b.real) and same(a.imag, b.imag)
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    alike = a.view(f"u{a.dtype.itemsize}") == b.view(f"u{a.dtype.itemsize}")
    return a.dtype == b.dtype and bool(np.all(alike | ((a != a) & (b != b))))


# The promise of lockstep: the same bits and the same failure as in order, for any kernel that keeps the rules.
@given(samples())
def test_lockstep_is_in_order(sample: Sample) -> None:
    check(sample.kernel)
    fast, first = evaluate(sample.kernel, sample.args, sample.dims, INSTRUCTIONS)
    plain, second = evaluate(sample.kernel, sample.args, sample.dims, INSTRUCTIONS, lockstep=False)
    assert first == second
    for name, array in plain.items():
        assert same(array, fast[name])


# The smallest site, then the earliest iteration, whatever else fails and in which order it is found; and the numbers of
# that very failure.
def test_the_smallest_failure() -> None:
    text = """
        kernel failing(x: i32[N,6], y: out i32[N]) where N:
          for i in parallel(N):
            for j in range(6):
              fail 7 if x[i, j] < 0
              if j > 2:
                fail 4 (i64(x[i, j]), index(10 * i + j)) if x[i, j] == 5
            y[i] = 1
        """
    x = np.zeros((9, 6), np.int32)
    assert run(text, {"N": 9}, x=x)[1] is None
    x[2, 5] = -1
    x[4, 1] = -1
    assert run(text, {"N": 9}, x=x)[1] == (7, (2, 5), ())
    x[8, 3] = x[7, 4] = x[0, 1] = 5
    written, failure = run(text, {"N": 9}, x=x)
    assert failure == (4, (7, 4), (5, 74))
    assert written["y"].tolist() == [1] * 9  # execution goes on


# A wrong kernel is told where it leaves its buffer: the statement, the index and the iteration, also from lockstep.
@pytest.mark.parametrize("lockstep", [True, False])
def test_outside(lockstep: bool) -> None:
    kernel = parse_kernel("kernel k(x: f32[N], y: out f32[N]) where N:\n  for i in range(N):\n    y[i] = x[2 * i]\n")
    with pytest.raises(OutOfRange) as caught:
        evaluate(kernel, {"x": f32(9)}, {"N": 9}, lockstep=lockstep)
    assert caught.value.message == "index 2*i = 10 at i = 5 is outside axis 0 of x, of size 9, in `y[i] = x[2*i]`"
    assert caught.value.code == "TD0422"


# An index under a condition is nobody's until the condition holds.
def test_guarded() -> None:
    text = """
        kernel shift(x: f32[N], y: out f32[N]) where N:
          for i in range(N):
            if i == 0:
              y[i] = 0.0
            else:
              y[i] = x[i - 1]
        """
    x = f32(8)
    assert run(text, {"N": 8}, x=x)[0]["y"].tolist() == [0.0, *x[:-1].tolist()]


# Names in positions stand for integers from 0: the rules by which positions are simplified rest on it.
@pytest.mark.parametrize("lockstep", [True, False])
def test_negative_positions(lockstep: bool) -> None:
    text = "kernel k(t: i32[8], y: out i32[8]):\n  for i in range(8):\n    let a: i32 = t[i]\n    y[max(a, 3)] = 1\n"
    kernel = parse_kernel(text)
    with pytest.raises(OutOfRange, match="a is -2 in a position"):
        evaluate(kernel, {"t": np.array([0, 1, -2, 3, 0, 0, 0, 0], np.int32)}, {}, lockstep=lockstep)


# An instruction means what the table says it means, in either way of running.
def test_instructions() -> None:
    text = """
        kernel k(x: i8[8], y: out i32[8]):
          for i in vector(8):
            if x[i] > 2:
              y[i] = i32.square(x[i])
            else:
              y[i] = 0
        """
    kernel = parse_kernel(text)
    x = np.arange(8, dtype=np.int8) * 16
    seen: list[int] = []

    def square(value: np.ndarray) -> np.ndarray:
        seen.extend(np.atleast_1d(value).tolist())
        return value.astype(np.int32) ** 2

    for lockstep in (True, False):
        written, _ = evaluate(kernel, {"x": x}, {}, {"square": square}, lockstep=lockstep)
        assert written["y"].tolist() == [0] + [int(v) ** 2 for v in x[1:]]
    assert seen == [16, 32, 48, 64, 80, 96, 112] * 2  # and is not asked for what no lane needs
    with pytest.raises(InvalidValue, match="the instruction square has no meaning here"):
        evaluate(kernel, {"x": x}, {})


# Storage types pass through unharmed; tables are read like buffers.
def test_storage_types_and_tables() -> None:
    text = """
        kernel k(x: f8e4m3fn[N], y: out f8e4m3fn[N], z: out bf16[N]) where N:
          table t: bf16 = [0.5, 0.1, -2.0]
          for i in range(N):
            y[i] = x[i]
            z[i] = bf16(x[i]) * t[i % 3]
        """
    x = np.arange(12).astype(d.f8e4m3fn.numpy)
    written, _ = run(text, {"N": 12}, x=x)
    assert written["y"].tolist() == x.tolist()
    table = np.resize(np.array([0.5, 0.1, -2.0], d.bf16.numpy), 12)
    np.testing.assert_array_equal(written["z"], x.astype(d.bf16.numpy) * table)


# Nothing runs: no iteration, an empty axis, no array with elements.
def test_empty() -> None:
    text = """
        kernel k(x: f32[N], y: out f32[N], z: out i8[2]) where N:
          for i in parallel(N):
            y[i] = x[i]
          z[0] = 1
        """
    written, failure = run(text, {"N": 0}, x=f32(0))
    assert written["y"].shape == (0,)
    assert written["z"].tolist() == [1, 0x5A]  # what nobody wrote is garbage that shows
    assert failure is None


# More iterations than lanes: pieces, one after the other, between which order is kept.
def test_more_iterations_than_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.ir.loops.evaluate._MOST_LANES", 8)
    text = """
        kernel k(x: f32[N], y: inout f32[N]) where N:
          for i in range(N):
            for j in range(3):
              y[i] = y[i] + x[j]
            if i > 9:
              y[i] = y[i - 9]
        """
    x, y = f32(30), f32(30)
    expected = y.copy()
    for i in range(30):
        for j in range(3):
            expected[i] += x[j]
        if i > 9:
            expected[i] = expected[i - 9]
    np.testing.assert_array_equal(run(text, {"N": 30}, x=x, y=y)[0]["y"], expected)


def test_wrong_arguments() -> None:
    n = symbol("N")
    k = Builder("k", dims=("N",))
    x, y = k.input("x", d.f32, (n, 2)), k.output("y", d.f32, ())
    k.store(y, (), load(x, 0, 1))
    kernel = k.finish()
    with pytest.raises(InvalidValue, match="no value for the size N"):
        evaluate(kernel, {"x": f32(3, 2)}, {})
    with pytest.raises(InvalidValue, match="no array for x"):
        evaluate(kernel, {}, {"N": 3})
    with pytest.raises(ShapeMismatch, match=r"x is float32\[3, 2\], was given float32\[2, 3\]"):
        evaluate(kernel, {"x": f32(2, 3)}, {"N": 3})
    with pytest.raises(ShapeMismatch, match="was given float64"):
        evaluate(kernel, {"x": np.zeros((3, 2))}, {"N": 3})
