"""Eigenvalues and singular values by rotations: small residuals and orthonormal vectors, whatever the matrix is like.

The promise is LAPACK's: a few roundings of the matrix's norm, times a slow function of its size. NumPy's values are the
oracle of the values, the definition that of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tracing import run

import treadle as td

KINDS = ("f4", "f8", "c8", "c16")


def matrices(n: int, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Hermitian ones: of no pattern, with equal eigenvalues, singular, graded, at the ends of the range."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, n)) + (1j * rng.normal(size=(n, n)) if kind.kind == "c" else 0)
    q = np.linalg.qr(a)[0]
    far = 1e30 if kind in (np.dtype("f4"), np.dtype("c8")) else 1e200

    def of(values: np.ndarray) -> np.ndarray:
        return ((q * values) @ q.conj().T).astype(kind)

    yield "plain", (a + a.conj().T).astype(kind)
    yield "unit", np.eye(n, dtype=kind)
    yield "zero", np.zeros((n, n), kind)
    yield "clusters", of(np.repeat([1.0, 1.0 + 1e-5], [n - n // 2, n // 2]))
    yield "rank one", of(np.arange(n) == 0)
    yield "graded", of(10.0 ** -np.arange(n))
    yield "large", ((a + a.conj().T) * far).astype(kind)
    yield "little", ((a + a.conj().T) / far).astype(kind)


def check_eigen(a: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> None:
    n, eps = len(a), np.finfo(a.real.dtype).eps
    size = np.abs(a).max() or 1
    a, values = a / size, values / size
    norm = np.linalg.norm(a) or 1
    assert np.linalg.norm(a @ vectors - vectors * values) <= 4 * n * eps * norm
    assert np.linalg.norm(vectors.conj().T @ vectors - np.eye(n)) <= 4 * n * eps
    assert np.all(np.diff(values) >= 0)


def check_singular(a: np.ndarray, u: np.ndarray, values: np.ndarray, vh: np.ndarray) -> None:
    k, eps = max(a.shape), np.finfo(a.real.dtype).eps
    size = np.abs(a).max() or 1
    a, values = a / size, values / size
    norm = np.linalg.norm(a) or 1
    count = len(values)
    assert np.linalg.norm((u[:, :count] * values) @ vh[:count] - a) <= 4 * k * eps * norm
    assert np.linalg.norm(u.conj().T @ u - np.eye(u.shape[1])) <= 4 * k * eps
    assert np.linalg.norm(vh @ vh.conj().T - np.eye(len(vh))) <= 4 * k * eps
    exact = np.linalg.svd(a.astype("c16"), compute_uv=False)
    assert np.max(np.abs(values - exact), initial=0) <= 4 * eps * norm
    assert np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("dtype", KINDS)
def test_hermitian(dtype: str) -> None:
    for n in (1, 2, 3, 6):
        for _, a in matrices(n, dtype):
            check_eigen(a, *run(lambda x: tuple(np.linalg.eigh(x)), a))


@pytest.mark.parametrize("dtype", KINDS)
def test_singular_values(dtype: str) -> None:
    for n in (1, 2, 5):
        for _, a in matrices(n, dtype):
            wide, tall = a[: n // 2 + 1], a[:, : n // 2 + 1]
            for part, full in ((a, True), (wide, True), (tall, True), (tall, False)):
                check_singular(part, *run(lambda x, full=full: tuple(np.linalg.svd(x, full)), part))


# The same as machine code, one program for all matrices of a kind.
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_compiled(dtype: str) -> None:
    eigen, singular = (td.jit(f) for f in (lambda x: np.linalg.eigh(x), lambda x: np.linalg.svd(x[:, :7])))
    for _, a in matrices(12, dtype):
        check_eigen(a, *eigen(a))
        check_singular(a[:, :7], *singular(a))


# A matrix with a NaN, or an infinity, ends, and shows it.
def test_no_number() -> None:
    a = np.array([[1.0, np.nan], [np.nan, 2.0]])
    for x in (a, np.where(np.isnan(a), np.inf, a)):
        assert not np.isfinite(td.jit(lambda x: np.linalg.eigvalsh(x))(x)).all()
        assert not np.isfinite(td.jit(lambda x: np.linalg.svdvals(x))(x)).all()


# vmap is a stack, and a stack goes on until its last matrix is done.
def test_batches() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3, 3))
    a = a + a.swapaxes(1, 2)
    a[1] = np.eye(3)
    expected = np.linalg.eigvalsh(a)
    np.testing.assert_allclose(td.jit(lambda x: np.linalg.eigvalsh(x))(a), expected, atol=1e-13)
    np.testing.assert_allclose(td.vmap(lambda x: np.linalg.eigvalsh(x))(a), expected, atol=1e-13)


# The basis of a tall matrix takes no more room than the matrix.
def test_tall_matrices() -> None:
    a = np.random.default_rng(0).normal(size=(3000, 3))
    compiled = td.jit(lambda x: np.linalg.qr(x)).compile(a)
    q, upper = compiled(a)
    np.testing.assert_allclose(q @ upper, a, atol=1e-12)
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * a.nbytes
    x, _, rank, _ = td.jit(lambda a, b: np.linalg.lstsq(a, b))(a, a @ np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(x, [1, 2, 3], rtol=1e-12)
    assert rank == 3
