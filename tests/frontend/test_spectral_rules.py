"""Derivatives of eigh, svd and pinv against differences of NumPy: of what does not depend on the signs and phases that
decompositions choose, for square, tall and wide matrices, real and complex, in batches, twice, at equal values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td


def drawn(shape: tuple[int, ...], kind: str, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    return x + 1j * rng.normal(size=shape) if kind == "complex" else x


def slope(f: Callable[[Any], Any], x: Any, along: Any) -> Any:
    return (f(x + 1e-6 * along) - f(x - 1e-6 * along)) / 2e-6


def check(f: Callable[[Any], Any], x: Any, *, twice: bool = False) -> None:
    """Both modes in one program, and the second derivative along a direction."""
    along = drawn(x.shape, "complex" if np.iscomplexobj(x) else "real", 7)
    want = slope(f, x, along)
    pushed, pulled = td.jit(lambda x: (td.jvp(f, (x,), (along,))[1], td.grad(f)(x)))(x)
    np.testing.assert_allclose(pushed, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose((pulled * along).sum().real, want, rtol=1e-6, atol=1e-7)
    if twice:
        first = td.jit(lambda x: td.jvp(f, (x,), (along,))[1])
        second = td.jit(lambda x: td.jvp(first, (x,), (along,))[1])(x)
        np.testing.assert_allclose(second, slope(first, x, along), rtol=1e-4, atol=1e-5)


def of_eigen(a: Any) -> Any:
    """Values, and projections on vectors: a sign or phase cannot be seen in them."""
    values, vectors = np.linalg.eigh(a + np.swapaxes(a, -1, -2).conj())
    seen = np.abs(vectors) ** 2
    return np.sin(values).sum() + (seen @ np.arange(a.shape[-1])).dot(1.0 + np.arange(a.shape[-1]) ** 2)


def of_singular(a: Any) -> Any:
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    k = np.arange(1.0, s.shape[-1] + 1)
    first = np.abs((u * np.exp(-k)) @ vh) ** 2  # phases of u and v cancel
    seen = (np.abs(u) ** 2 @ k).dot(np.arange(u.shape[0])) + (np.abs(vh.T) ** 2 @ k).dot(np.arange(vh.shape[1]) ** 2)
    return np.sin(s).sum() + first[0].sum() + 0.1 * seen


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_eigen(kind: str) -> None:
    check(of_eigen, drawn((3, 3), kind), twice=kind == "complex")


@pytest.mark.parametrize(("shape", "kind"), [((3, 3), "real"), ((4, 3), "complex"), ((2, 4), "real")])
def test_singular(shape: tuple[int, int], kind: str) -> None:
    check(of_singular, drawn(shape, kind), twice=shape == (2, 4))


@pytest.mark.parametrize("shape", [(4, 3), (2, 4)])
def test_what_is_made_of_singular_values(shape: tuple[int, int]) -> None:
    y = drawn(shape[::-1], "real", 1)

    def f(a: Any) -> Any:
        norms = np.linalg.norm(a, "nuc") + np.linalg.norm(a, 2)
        return (np.linalg.pinv(a) * y).sum() + norms + np.linalg.svd(a, compute_uv=False)[0] ** 2

    check(f, drawn(shape, "real"))


def test_a_pseudo_inverse_of_less_than_full_rank() -> None:
    """Along changes that keep the rank: a product of a tall and a wide matrix."""
    tall, wide = drawn((4, 2), "real"), drawn((2, 3), "real", 1)
    check(lambda t: (np.linalg.pinv(t @ wide) * drawn((3, 4), "real", 2)).sum(), tall)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("shape", [(4, 3), (3, 4)])
def test_least_squares(shape: tuple[int, int], kind: str) -> None:
    """The solution, what is left of a tall system, by the matrix and by the right side."""
    right = drawn((shape[0], 2), kind, 1)

    def f(a: Any) -> Any:
        found, left, *_ = np.linalg.lstsq(a, right)
        return (np.abs(found) ** 2).sum() + left.sum()

    check(f, drawn(shape, kind))
    a = drawn(shape, kind)
    check(lambda b: (np.abs(np.linalg.lstsq(a, b)[0]) ** 2 * np.arange(1.0, shape[1] + 1)[:, None]).sum(), right)


def test_batches() -> None:
    """The gradient of the sum of singular values is U Vh, of each matrix; under vmap as in NumPy's own batches."""
    xs = drawn((3, 3, 3), "real")

    def total(x: Any) -> Any:
        return np.linalg.svd(x, compute_uv=False).sum()

    stacked, mapped = td.jit(lambda xs: (td.grad(total)(xs), td.vmap(td.grad(total))(xs)))(xs)
    for one, other, x in zip(stacked, mapped, xs, strict=True):
        u, _, vh = np.linalg.svd(x)
        np.testing.assert_allclose(one, u @ vh, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(other, u @ vh, rtol=1e-9, atol=1e-10)


def test_equal_values() -> None:
    """Vectors of equal values are any; what does not depend on the choice has its derivative, and nothing is NaN."""

    def f(a: Any) -> Any:
        w, v = np.linalg.eigh(a)
        return ((v * w**2) @ v.T)[0, 2] + w.sum()

    slopes, flat = td.jit(lambda x: (td.grad(f)(x), td.grad(lambda a: np.linalg.norm(a, "nuc"))(x * 0)))(
        np.diag([2.0, 2.0, 5.0])
    )
    np.testing.assert_allclose(slopes + slopes.T - 2 * np.eye(3), [[0, 0, 7], [0, 0, 0], [7, 0, 0]], atol=1e-12)
    assert np.isfinite(flat).all()


def test_vectors_beyond_the_values_have_none() -> None:
    """A basis of the rest is any basis."""
    with pytest.raises(td.TreadleError, match="full_matrices=False") as caught:
        td.grad(lambda a: np.linalg.svd(a)[0].sum())(drawn((4, 3), "real"))
    assert caught.value.code == "TD0709"
