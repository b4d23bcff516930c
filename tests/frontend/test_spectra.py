"""Fourier transforms of every kind of length, against NumPy's: by a matrix, split in factors, by Bluestein's chirp."""

from __future__ import annotations

import numpy as np
import pytest
from tracing import run

import treadle as td
from treadle.frontend.functions.spectra import _roots
from treadle.ir.dtypes import c128
from treadle.ir.errors import TreadleError

# Short, prime, a power of two, highly composite, a long prime, products of long primes.
LENGTHS = (*range(1, 41), 64, 67, 97, 128, 134, 210, 256, 360, 509, 1000, 1009, 37 * 41, 4096)


def noise(*shape: int, dtype: str = "f8") -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def close(got: np.ndarray, expected: np.ndarray, n: int) -> None:
    """Each of the log n steps adds about one rounding of the root mean square."""
    size = np.sqrt(np.mean(np.abs(expected) ** 2))
    bound = (4 + 2 * np.log2(n + 1)) * np.finfo(got.dtype).eps * size
    assert np.max(np.abs(got - expected)) <= bound


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_lengths(dtype: str) -> None:
    for n in LENGTHS:
        x = noise(n, dtype=dtype)
        exact = np.fft.fft(x.astype("f8"))
        got = run(lambda v: np.fft.fft(v), x)
        assert got.dtype == (np.complex64 if dtype == "f4" else np.complex128)
        close(got, exact, n)
        close(run(lambda v: np.fft.ifft(v), x), np.fft.ifft(x.astype("f8")), n)


@pytest.mark.parametrize("n", [12, 97, 1000, 1009])
def test_compiled(n: int) -> None:
    x = noise(3, n) + 1j * noise(3, n)[::-1]
    close(td.jit(lambda v: np.fft.fft(v))(x), np.fft.fft(x), n)
    close(td.jit(lambda v: np.fft.irfft(np.fft.rfft(v.real), n))(x), x.real, n)


# Roots of unity at quarter turns have no rounding error of pi in them, and long turns cost no digits.
def test_roots_are_exact() -> None:
    np.testing.assert_array_equal(_roots(np.arange(-4, 9), 4, c128), np.array([1, 1j, -1, -1j] * 4)[:13])
    many = np.arange(0, 10**15, 10**15 // 97)
    turns = np.array([int(k) % 1009 for k in many]) / np.longdouble(1009)
    angle = 2 * np.arctan2(np.longdouble(0), np.longdouble(-1)) * turns
    exact = np.cos(angle).astype("f8") + 1j * np.sin(angle).astype("f8")
    np.testing.assert_allclose(_roots(many, 1009, c128), exact, rtol=0, atol=2.3e-16)


# A transform is linear: its tangent is that of the tangent, and over a batch it is that of each.
def test_derivative_and_batch() -> None:
    x, t = noise(6, 10) + 0j, noise(6, 10)[::-1] * 1j
    found = td.jvp(lambda v: np.fft.fft(v), (x,), (t,))
    np.testing.assert_allclose(found[1], np.fft.fft(t), atol=1e-13)
    np.testing.assert_allclose(td.vmap(lambda v: np.fft.fft(v))(x), np.fft.fft(x), atol=1e-13)
    # Parseval: the sum of |X|^2 is n times that of x^2, so its slope is 2 n x.
    slope = td.grad(lambda v: np.sum(np.real(np.fft.fft(v) * np.conj(np.fft.fft(v)))))(x.real)
    np.testing.assert_allclose(slope, 2 * 10 * x.real, atol=1e-12)


REFUSED = {
    "a size with a name": (lambda x, t: np.fft.fft(x), "TD0201"),
    "no points": (lambda x, t: np.fft.fft(t, 0), "TD0822"),
    "a norm that does not exist": (lambda x, t: np.fft.fft(t, norm="none"), "TD0822"),
    "complex numbers": (lambda x, t: np.fft.rfft(t * 1j), "TD0816"),
    "a place to write into": (lambda x, t: np.fft.fft(t, out=np.zeros(3, complex)), "TD0806"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, code = REFUSED[name]
    with pytest.raises(TreadleError) as caught:
        td.jit(function).trace(td.ShapeDtype(("N",), "f8"), noise(3))
    assert caught.value.code == code
    assert "REFUSED" not in str(caught.value) and "lambda x, t: np.fft" in str(caught.value)
