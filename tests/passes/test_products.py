"""Products with one vector are sums of products: the same numbers for any layout, batch and size, and what reads a
matrix of its own is one kernel. `products.text` shows what is made; the oracle here is NumPy in more digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td

Array = np.ndarray[Any, Any]

CASES: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...], tuple[int, ...]]] = {
    "rows": (lambda a, x: a @ x, (33, 70), (70,)),
    "columns": (lambda a, x: x @ a, (70, 33), (70,)),
    "many columns": (lambda a, x: x @ a, (400, 400), (400,)),
    "two vectors": (lambda a, x: a @ x, (1000,), (1000,)),
    "one element": (lambda a, x: a @ x, (1, 1), (1,)),
    "nothing to sum": (lambda a, x: a @ x, (5, 0), (0,)),
    "no rows": (lambda a, x: a @ x, (0, 5), (5,)),
    "one row": (lambda a, x: x @ a.T, (33, 70), (1, 70)),
    "one column": (lambda a, x: a @ x, (33, 70), (70, 1)),
    "a layer of one example": (lambda a, x: np.maximum(x @ a.T + 1, 0), (33, 70), (1, 70)),
    "heads": (lambda a, x: np.einsum("hd,thd->ht", x, a), (50, 3, 16), (3, 16)),
    "values of heads": (lambda a, x: np.einsum("ht,thd->hd", x, a), (300, 3, 160), (3, 300)),
    "two contracted axes": (lambda a, x: np.einsum("abc,ca->b", a, x), (5, 6, 7), (7, 5)),
    "axes in another order": (lambda a, x: np.einsum("abcd,bd->ca", a, x), (5, 6, 7, 8), (6, 8)),
    "a vector that is computed": (lambda a, x: a @ np.tanh(x), (64, 64), (64,)),
    "a matrix that is computed": (lambda a, x: np.maximum(a, 0) @ x, (64, 64), (64,)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "float16", "complex64"])
@pytest.mark.parametrize("name", CASES)
def test_products_with_a_vector(name: str, dtype: str) -> None:
    function, *shapes = CASES[name]
    if dtype == "int32" and "vector that is computed" in name:
        dtype = "float64"
    if dtype == "complex64" and ("computed" in name or "layer" in name):
        dtype = "float32"
    rng = np.random.default_rng(len(name))
    a, x = (rng.integers(-3, 4, shape).astype(dtype) for shape in shapes)
    rounding = 1e-2 if dtype == "float16" else 1e-5
    wide = np.result_type(a, np.float64) if a.dtype.kind != "i" else a.dtype
    found = td.jit(function)(a, x)
    expected = np.asarray(function(a.astype(wide), x.astype(wide)))
    assert found.dtype == function(a, x).dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-3 if dtype == "float16" else 2e-6, atol=rounding)


# Sizes that are known only at the call, all of one kernel; and derivatives, whose products are with vectors again.
def test_symbolic_sizes_and_derivatives() -> None:
    specs = td.ShapeDtype(("m", "n"), "float32"), td.ShapeDtype(("n",), "float32")
    compiled = td.jit(lambda a, x: a @ np.tanh(x)).lower(*specs).compile()
    rng = np.random.default_rng(0)
    for m, n in ((1, 1), (3, 50), (64, 64), (0, 4), (4, 0), (200, 17)):
        a, x = rng.standard_normal((m, n)).astype("f4"), rng.standard_normal(n).astype("f4")
        np.testing.assert_allclose(compiled(a, x), a.astype(float) @ np.tanh(x.astype(float)), atol=1e-4)
    a, x = rng.standard_normal((40, 40)), rng.standard_normal(40)
    by_a, by_x = td.jit(td.grad(lambda a, x: (np.sin(a @ x) ** 2).sum(), argnums=(0, 1)))(a, x)
    slope = np.sin(2 * (a @ x))
    np.testing.assert_allclose(by_a, np.outer(slope, x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(by_x, a.T @ slope, rtol=1e-12, atol=1e-12)


# What makes the vector is no part of the kernel that reads it once for each row, nor for each few columns.
@pytest.mark.parametrize("function", [lambda w, x: w @ np.tanh(x), lambda w, x: np.exp(x) @ w])
def test_a_vector_is_computed_once(function: Callable[[Any, Any], Any]) -> None:
    program = td.jit(function).lower(np.zeros((512, 512), "f4"), np.zeros(512, "f4")).as_text("program")
    kernels = program.split("  kernel ")[1:]
    makes = [kernel for kernel in kernels if " = tanh " in kernel or " = exp " in kernel]
    assert len(kernels) == 2 and len(makes) == 1 and " = sum " not in makes[0]
