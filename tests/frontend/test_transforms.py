"""Transforms as users call them: what goes in and comes out, derivatives at edges, what is refused and at whose line.

Compositions are tested in `together/test_compositions.py`, control flow in `test_lax.py`, rules in `test_custom.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td

inf, nan = math.inf, math.nan

# --- edges --------------------------------------------------------------------------------------------------------

# (what, a function of one array to one number, where, the derivative there by definition or by convention)
EDGES: dict[str, tuple[Callable[[Any], Any], list[Any], list[Any]]] = {
    "ties of max share": (np.max, [1, 3, 3, 3], [0, 1 / 3, 1 / 3, 1 / 3]),
    "ties of min share": (np.min, [1, 3, 1], [0.5, 0, 0.5]),
    "max along an axis": (lambda x: np.sum(np.max(x, axis=0) * [1, 2]), [[1, 5], [1, 4]], [[0.5, 2], [0.5, 0]]),
    "maximum with itself": (lambda x: np.sum(np.maximum(x, 0)), [-1, 0, 2], [0, 0.5, 1]),
    "relu is flat at 0": (lambda x: np.sum(td.nn.relu(x)), [-1, 0, 2], [0, 0, 1]),
    "clip at its bounds": (lambda x: np.sum(np.clip(x, 0, 1)), [-1, 0, 0.5, 1, 2], [0, 0.5, 1, 0.5, 0]),
    "absolute value": (lambda x: np.sum(np.abs(x)), [-2, 0, 3], [-1, 0, 1]),
    "steps are flat": (lambda x: np.sum(np.floor(x) + np.sign(x) + np.rint(x)), [-1.0, 0.0, 2.5], [0, 0, 0]),
    "sorting keeps the order of ties": (lambda x: np.sum(np.sort(x) * [1, 2, 3, 4]), [2, 1, 2, 1], [3, 1, 4, 2]),
    "the median of ties": (np.median, [1, 2, 2, 3], [0, 0.5, 0.5, 0]),
    "running maxima take the last": (lambda x: np.sum(np.maximum.accumulate(x)), [1, 2, 2, 0], [1, 1, 2, 0]),
    "top_k takes the first": (lambda x: np.sum(td.lax.top_k(x, 2)[0] * [1, 10]), [5, 7, 5, 5], [10, 1, 0, 0]),
    "product with a zero": (np.prod, [0, 2, 3], [6, 0, 0]),
    "product with two zeros": (np.prod, [0, 2, 0], [0, 0, 0]),
    "running product with a zero": (lambda x: np.sum(np.cumprod(x)), [2, 0, 3], [1, 8, 0]),
    "the norm at 0": (np.linalg.norm, [0, 0, 0], [0, 0, 0]),
    "norms of rows, one of which is 0": (
        lambda x: np.sum(np.linalg.norm(x, axis=1)), [[0, 0], [3, 4]], [[0, 0], [0.6, 0.8]]
    ),
    "the root of a sum of squares at 0": (lambda x: np.sqrt(np.sum(x * x)), [0, 0], [0, 0]),
    "the deviation of a constant": (np.std, [2, 2, 2], [0, 0, 0]),
    "hypot at 0": (lambda x: np.hypot(x[0], x[1]), [0, 0], [0, 0]),
    "the angle at 0": (lambda x: np.arctan2(x[0], x[1]), [0, 0], [0, 0]),
    "the root at 0": (lambda x: np.sum(np.sqrt(x)), [0, 4], [inf, 0.25]),
    "a root that is not taken": (lambda x: np.sum(np.where(x > 0, np.sqrt(x), 0)), [0, -1, 4], [0, 0, 0.25]),
    "a logarithm that is not taken": (lambda x: np.sum(np.where(x > 0, np.log(x), 0)), [0, -1, 4], [0, 0, 0.25]),
    "a quotient that is not taken": (lambda x: np.sum(np.where(x != 0, np.sin(x) / x, 1)), [0], [0]),
    "an overflow that is not taken": (
        lambda x: np.sum(np.where(x > 20, x, np.log1p(np.exp(x)))), [0, 1000, -1000], [0.5, 1, 0]
    ),
    "entropy": (lambda p: -np.sum(np.where(p > 0, p * np.log(p), 0)), [0, 1, 0.5], [0, -1, -1 - math.log(0.5)]),
    "a power that is not taken": (lambda x: np.sum(np.where(x > 0, x**0.3, 0)), [0, -1, 1], [0, 0, 0.3]),
    "a direction of nothing": (
        lambda x: np.sum(np.where(x @ x > 0, x / np.sqrt(x @ x), 0) * [1, 2]), [0, 0], [0, 0]
    ),
    "powers at 0": (lambda x: np.sum(x**0 + x**1 + x**2), [0, 2], [1, 5]),
    "zero to a power that moves": (lambda x: np.power(0.0, x[0]), [2], [0]),
    "a masked sum": (lambda x: np.sum(1 / x, where=x != 0), [0, 2], [0, -0.25]),
    "softmax over what is masked": (
        lambda x: np.sum(td.nn.softmax(np.where([True, False, True], x, -inf)) * [1, 5, 3]),
        [0, 7, 0],
        [-0.5, 0, 0.5],
    ),
    "logsumexp over what is masked": (
        lambda x: td.nn.logsumexp(np.where([True, False, True], x, -inf)), [1, 7, 1], [0.5, 0, 0.5]
    ),
    "logsumexp over nothing": (lambda x: np.where(True, 0, td.nn.logsumexp(x - inf)), [1, 2], [0, 0]),
    "logaddexp of infinities": (lambda x: np.logaddexp(x[0], -inf) + np.logaddexp(x[1] - inf, -inf), [1, 2], [1, 0.5]),
    "the variance of one": (lambda x: np.var(x), [3], [0]),
}  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_derivatives_at_edges(edge: str) -> None:
    """In both modes: a convention must not depend on the way."""
    f, at, want = EDGES[edge]
    x, expected = np.array(at, float), np.array(want, float)
    rng = np.random.default_rng(0)
    along = rng.standard_normal(x.shape)
    gradient, tangent = td.jit(lambda x, t: (td.grad(f)(x), td.jvp(f, (x,), (t,))[1]))(x, along)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            tangent, np.sum(np.where(expected == 0, 0, expected * along)), rtol=1e-12, atol=1e-12
        )


def test_masked_rows_of_attention() -> None:
    """A query that may look at nothing has the result 0 and no derivative, instead of NaN."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((3, 1, 4)) for _ in range(3))
    mask = np.array([[True, True, False], [False, False, False], [True, True, True]])

    def f(q: Any, k: Any, v: Any) -> Any:
        return np.sum(td.nn.dot_product_attention(q, k, v, mask=mask) ** 2)

    for gradient in td.jit(td.grad(f, (0, 1, 2)))(q, k, v):
        assert np.isfinite(gradient).all()
    assert not td.grad(f)(q, k, v)[1].any()


# --- complex numbers ----------------------------------------------------------------------------------------------

Z = np.array([0.3 + 0.7j, -1.1 + 0.2j, 0.5 - 0.9j])
ANALYTIC: dict[str, Callable[[Any], Any]] = {
    "square": lambda z: z * z,
    "exponential": lambda z: np.exp(1j * z),
    "quotient": lambda z: z / (1 + z * z),
    "root": np.sqrt,
    "sine": lambda z: np.sin(z) * np.conj(3 - 2j),
}
REAL_VALUED: dict[str, Callable[[Any], Any]] = {
    "modulus": lambda z: np.sum(np.abs(z)),
    "squares": lambda z: np.sum(np.abs(z) ** 2),
    "a part": lambda z: np.sum(np.real(z * z) + np.imag(np.exp(z))),
    "with the conjugate": lambda z: np.real(np.sum(z * np.conj(z) * (1 + 2j))),
    "the angle": lambda z: np.sum(np.angle(z)),
    "the norm": np.linalg.norm,
}


def parts(f: Callable[[Any], Any], z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """df/dx and df/dy of a function of z = x + iy, by differences."""
    h = 1e-5

    def by(step: complex) -> np.ndarray:
        found = []
        for i in range(len(z)):
            e = np.zeros_like(z)
            e[i] = step
            found.append((f(z + e) - f(z - e)) / (2 * h))
        return np.array(found)

    return by(h), by(h * 1j)


@pytest.mark.parametrize("name", REAL_VALUED)
def test_gradients_by_complex_numbers(name: str) -> None:
    """Of a real function: df/dx - i df/dy, as JAX has it; a step against its conjugate descends."""
    f = REAL_VALUED[name]
    dx, dy = parts(f, Z)
    gradient = td.jit(td.grad(f))(Z)
    assert gradient.dtype == np.complex128
    np.testing.assert_allclose(gradient, dx - 1j * dy, rtol=1e-8, atol=1e-8)
    assert f(Z - 1e-4 * np.conj(gradient)) < f(Z)


@pytest.mark.parametrize("name", ANALYTIC)
def test_analytic_functions_have_one_derivative(name: str) -> None:
    """Tangents are multiplied by it, and so are cotangents, without a conjugate."""
    f = ANALYTIC[name]
    slope = parts(f, Z)[0].diagonal()
    t = np.array([1 - 2j, 0.5j, 2.0])
    value, tangent = td.jvp(f, (Z,), (t,))
    np.testing.assert_allclose(value, f(Z), rtol=1e-14)
    np.testing.assert_allclose(tangent, slope * t, rtol=1e-8)
    (cotangent,) = td.vjp(f, Z)[1](t)
    np.testing.assert_allclose(cotangent, slope * t, rtol=1e-8)


def test_real_parameters_of_complex_functions() -> None:
    """Where the argument is real, so is its gradient."""
    x = np.array([0.3, 1.2])
    gradient = td.grad(lambda x: np.sum(np.abs(np.exp(1j * x) + x) ** 2))(x)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, -2 * x * np.sin(x) + 2 * np.cos(x) + 2 * x, rtol=1e-12)


# --- what goes in and comes out -----------------------------------------------------------------------------------

P = {"w": np.array([0.5, -1.0]), "b": (np.array(2.0),)}
X = np.array([1.0, 3.0])


def model(p: Any, x: Any) -> Any:
    return np.sum(np.sin(p["w"] * x)) * p["b"][0]


def test_gradients_have_the_structure_of_their_argument() -> None:
    gradient = td.grad(model)(P, X)
    assert gradient.keys() == {"w", "b"} and isinstance(gradient["b"], tuple)
    np.testing.assert_allclose(gradient["w"], np.cos(P["w"] * X) * X * 2, rtol=1e-12)
    np.testing.assert_allclose(gradient["b"][0], np.sum(np.sin(P["w"] * X)), rtol=1e-12)
    assert gradient["b"][0].shape == ()


def test_arguments_by_number() -> None:
    by_x = td.grad(model, 1)(P, X)
    by_last = td.grad(model, -1)(P, X)
    both = td.grad(model, (0, 1))(P, X)
    np.testing.assert_array_equal(by_x, by_last)
    np.testing.assert_array_equal(both[1], by_x)
    assert isinstance(both, tuple) and both[0].keys() == {"w", "b"}


def test_what_is_carried_along() -> None:
    """`has_aux`: the function's second result comes out as it is."""

    def f(x: Any) -> Any:
        return np.sum(x * x), {"twice": 2 * x, "name": 7}

    gradient, aux = td.grad(f, has_aux=True)(X)
    np.testing.assert_array_equal(gradient, 2 * X)
    np.testing.assert_array_equal(aux["twice"], 2 * X)
    (value, aux), gradient = td.value_and_grad(f, has_aux=True)(X)
    assert value == 10 and aux["name"] == 7
    value, pull, aux = td.vjp(f, X, has_aux=True)
    np.testing.assert_array_equal(pull(1.0)[0], 2 * X)
    value, tangent, aux = td.jvp(f, (X,), (X,), has_aux=True)
    assert tangent == 20


def test_pullbacks_and_linear_maps() -> None:
    def f(p: Any, x: Any) -> Any:
        return {"a": p["w"] * x, "b": p["b"][0]}

    value, pull = td.vjp(f, P, X)
    gp, gx = pull({"a": np.array([1.0, 10.0]), "b": np.array(3.0)})
    np.testing.assert_array_equal(gp["w"], X * [1, 10])
    assert gp["b"][0] == 3
    np.testing.assert_array_equal(gx, P["w"] * [1, 10])
    value, linear = td.linearize(lambda x: np.sin(x), X)
    np.testing.assert_allclose(linear(2 * X), np.cos(X) * 2 * X, rtol=1e-12)
    np.testing.assert_allclose(value, np.sin(X), rtol=1e-15)


@pytest.mark.parametrize("jacobian", [td.jacfwd, td.jacrev, td.jacobian])
def test_jacobians(jacobian: Any) -> None:
    """Result axes first, then the argument's, for each leaf of one and of the other."""

    def f(p: Any) -> Any:
        return {"outer": np.outer(p["w"], p["w"]), "sum": np.sum(p["w"]) * p["b"][0]}

    found = jacobian(f)(P)
    w = P["w"]
    eye = np.eye(2)
    np.testing.assert_allclose(found["outer"]["w"], np.einsum("ik,j->ijk", eye, w) + np.einsum("i,jk->ijk", w, eye))
    assert found["outer"]["b"][0].shape == (2, 2)
    np.testing.assert_allclose(found["sum"]["w"], [2, 2])
    several = jacobian(lambda x, y: x * y[0], (0, 1))(X, np.ones(1))
    assert several[0].shape == (2, 2) and several[1].shape == (2, 1)


def test_hessians() -> None:
    found = td.hessian(model)(P, X)
    w = P["w"]
    np.testing.assert_allclose(found["w"]["w"], np.diag(-np.sin(w * X) * X * X * 2), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found["w"]["b"][0], np.cos(w * X) * X, rtol=1e-12)
    assert found["b"][0]["w"].shape == (2,)


def test_axes_of_batches() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    found = td.vmap(np.dot, in_axes=(1, 0))(a, b[:, :2])
    np.testing.assert_array_equal(found, [a[:, i] @ b[i, :2] for i in range(3)])
    np.testing.assert_array_equal(td.vmap(lambda x: x * 2, in_axes=-1, out_axes=1)(a), a * 2)
    np.testing.assert_array_equal(td.vmap(lambda x: x, out_axes=-1)(a), a.T)
    mixed = td.vmap(lambda t: t["x"] + t["y"][0], in_axes=({"x": 0, "y": None},))({"x": a, "y": (1.0,)})
    np.testing.assert_array_equal(mixed, a + 1)
    two = td.vmap(lambda x: (x, 1.0, x[0]), out_axes=(1, None, 0))(a)
    assert two[0].shape == (3, 2) and two[1] == 1.0 and two[2].tolist() == [0, 3]
    np.testing.assert_array_equal(td.vmap(lambda: np.ones(2), axis_size=3)(), np.ones((3, 2)))
    keyword = td.vmap(lambda x, y: x + y, in_axes=(0,))(a, y=a)
    np.testing.assert_array_equal(keyword, 2 * a)
    nested = td.vmap(td.vmap(lambda x, y: x * y, (None, 0)), (0, None))(a[0], a[1])
    np.testing.assert_array_equal(nested, np.outer(a[0], a[1]))


def test_contractions_of_batches_stay_contractions() -> None:
    """One product with a larger operand, or one with a batch axis; the number of ops does not know the batch's size."""
    weights, rows = np.ones((3, 4)), np.ones((5, 3))

    def counted(f: Any, *args: Any) -> list[str]:
        return [op.name for op in td.jit(f).trace(*args).graph.ops]

    shared = counted(td.vmap(lambda x, w: x @ w, (0, None)), rows, weights)
    own = counted(td.vmap(lambda x, w: x @ w), rows, np.ones((5, 3, 4)))
    assert shared.count("dot") == own.count("dot") == 1
    assert len(counted(td.vmap(td.grad(lambda x: np.sum(np.tanh(x @ weights)))), np.ones((5, 3)))) == len(
        counted(td.vmap(td.grad(lambda x: np.sum(np.tanh(x @ weights)))), np.ones((5000, 3)))
    )


def test_constants_do_not_move() -> None:
    def f(x: Any) -> Any:
        return np.sum(td.stop_gradient(x) * x)

    np.testing.assert_array_equal(td.grad(f)(X), X)
    np.testing.assert_array_equal(td.jvp(f, (X,), (X,))[1], np.sum(X * X))
    tree = td.stop_gradient({"a": X})
    assert tree["a"] is X


def test_closures_are_differentiated() -> None:
    """An inner derivative reads what the outer function computes, and the outer one sees through it."""

    def outer(y: Any) -> Any:
        z = y * y
        return np.sum(td.grad(lambda x: np.sum(x * x * z))(X))

    np.testing.assert_allclose(td.grad(outer)(X), 2 * X * 2 * X, rtol=1e-12)


def test_functions_do_not_retrace() -> None:
    traces = []

    def f(x: Any) -> Any:
        traces.append(1)
        return np.sum(x * x)

    gradient = td.grad(f)
    for _ in range(3):
        gradient(X)
    assert len(traces) == 1


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(call: Callable[[], Any], code: str, *says: str, line: str) -> None:
    with pytest.raises(td.TreadleError) as caught:
        call()
    error = caught.value
    assert error.code == code, str(error)
    assert error.location is not None and error.location.file == __file__, str(error)
    for words in (*says, line, "edit: "):
        assert words in str(error), str(error)


def test_gradients_need_one_real_number() -> None:
    for f, found, edit in (
        (lambda x: x * 2, "f64[2]", "td.jacrev"),
        (lambda x: np.sum(x).astype(int), "i64[]", ".astype(np.float64)"),
        (lambda x: np.sum(x) > 1, "bool[]", ".astype(np.float64)"),
        (lambda x: np.sum(x) * 1j, "c128[]", "np.real"),
        (lambda x: (np.sum(x), x), "(f64[], f64[2])", "has_aux=True"),
        (lambda x: {"loss": np.sum(x)}, "{'loss': f64[]}", "value['loss']"),
        (lambda x: [np.sum(x)], "[f64[]]", "value[0]"),
        (lambda x: None, "None", "return the number"),
        (lambda x: "loss", "'loss'", "return the number"),
    ):
        refused(lambda f=f: td.grad(f)(X), "TD0701", found, edit, line="td.grad(f)(X)")
        refused(lambda f=f: td.value_and_grad(f)(X), "TD0701", found, line="td.value_and_grad(f)(X)")
        refused(lambda f=f: td.jit(lambda x: td.grad(f)(x))(X), "TD0701", found, line="td.grad(f)(x)")
    refused(lambda: td.grad(lambda x: ([x.sum()], 1), has_aux=True)(X), "TD0701", "[f64[]]", line="td.grad")


def test_jacobians_are_of_floats() -> None:
    """A whole number does not move; a matrix of zeros in the place of its derivative would look like one."""
    for jacobian in (td.jacrev, td.jacfwd):
        refused(lambda j=jacobian: j(lambda x: x.astype(int))(X), "TD0701", "i64[2]", ".astype", line="j(lambda x")
        refused(
            lambda j=jacobian: j(lambda x: {"y": x, "best": np.argmax(x)})(X), "TD0701", "['best'] is i64[]", "has_aux",
            line="j(lambda x",
        )  # fmt: skip
    rows, best = td.jacrev(lambda x: (x * x, np.argmax(x)), has_aux=True)(X)
    np.testing.assert_array_equal(rows, np.diag(2 * X))
    assert best == 1


def test_only_functions_are_transformed() -> None:
    for call in (
        lambda: td.grad(X), lambda: td.value_and_grad(3), lambda: td.vmap(X), lambda: td.jacrev(X),
        lambda: td.checkpoint(X), lambda: td.jvp(X, (X,), (X,)), lambda: td.vjp(X, X), lambda: td.linearize(X, X),
        lambda: td.custom_jvp(X), lambda: td.custom_vjp(np.sin).defvjp(X, X), lambda: td.hessian(X),
    ):  # fmt: skip
        refused(call, "TD0624", "function", line="lambda: td.")


def test_gradients_need_floats() -> None:
    refused(lambda: td.grad(np.sum)(np.arange(3)), "TD0702", "i64[3]", ".astype", line="td.grad(np.sum)")
    refused(
        lambda: td.grad(lambda t: np.sum(t["a"]))({"a": X, "n": np.arange(2)}), "TD0702", "['n']", "i64[2]",
        line="td.grad",
    )  # fmt: skip


def test_tangents_must_fit() -> None:
    f = np.sin
    refused(lambda: td.jvp(f, (X,), (X[:1],)), "TD0703", "f64[1]", "f64[2]", line="td.jvp(f, (X,), (X[:1],))")
    refused(lambda: td.jvp(f, (X,), (X.astype("f4"),)), "TD0703", "f32[2]", "f64[2]", line="td.jvp")
    refused(lambda: td.jvp(f, (X,), ((X, X),)), "TD0703", "structure", line="td.jvp")
    refused(lambda: td.jvp(f, (X,), (X, X)), "TD0703", "structure", line="td.jvp")
    refused(lambda: td.vjp(f, X)[1](np.ones(3)), "TD0703", "f64[3]", "f64[2]", line="td.vjp(f, X)[1]")
    refused(lambda: td.vjp(f, X)[1]((X,)), "TD0703", "structure", line="td.vjp")
    refused(lambda: td.vjp(f, X)[1](np.arange(2)), "TD0703", "i64[2]", "f64[2]", ".astype('float64')", line="td.vjp")
    refused(lambda: td.linearize(f, X)[1](X[:1]), "TD0703", "f64[1]", "f64[2]", line="td.linearize")
    refused(lambda: td.jvp(f, X, X), "TD0703", "ndarray", "td.jvp(f, (x,), (tx,))", line="td.jvp(f, X, X)")
    refused(lambda: td.jvp(model, (P, X), ({"w": X}, X)), "TD0703", "{'w': *}", "'b'", line="td.jvp(model")


def test_arguments_that_are_not_there() -> None:
    refused(lambda: td.grad(model, 2)(P, X), "TD0705", "number 2", line="td.grad(model, 2)")
    refused(lambda: td.grad(model, "x")(P, X), "TD0705", "argnums='x'", line='td.grad(model, "x")')
    refused(lambda: td.jacfwd(model, 0.5)(P, X), "TD0705", "argnums=0.5", line="td.jacfwd(model, 0.5)")
    refused(lambda: td.grad(model, (1, -1))(P, X), "TD0705", "(1, -1)", "twice", line="td.grad(model, (1, -1))")
    refused(lambda: td.grad(np.sum, has_aux=True)(X), "TD0704", "(value, aux)", line="td.grad")


def test_axes_that_are_not_there() -> None:
    a = np.ones((2, 3))
    refused(lambda: td.vmap(np.sum, in_axes=2)(a), "TD0712", "axis 2", "f64[2,3]", line="td.vmap")
    refused(lambda: td.vmap(np.sum, in_axes=(0, 0))(a), "TD0710", "(0, 0)", line="td.vmap")
    refused(lambda: td.vmap(lambda t: t["x"], in_axes=({"y": 0},))({"x": a}), "TD0710", "'y'", line="td.vmap")
    refused(lambda: td.vmap(np.add)(a, np.ones((3, 3))), "TD0711", "2", "3", line="td.vmap")
    refused(lambda: td.vmap(np.sum, axis_size=4)(a), "TD0711", "axis_size", "4", line="td.vmap")
    refused(lambda: td.vmap(lambda x: x, in_axes=None)(a), "TD0711", "axis_size", line="td.vmap")
    refused(lambda: td.vmap(lambda x: x, out_axes=None)(a), "TD0710", "out_axes", line="td.vmap")
    refused(lambda: td.vmap(lambda x: x, out_axes=3)(a), "TD0712", "axis 3", line="td.vmap")
    refused(lambda: td.vmap(lambda x: x, out_axes=(0, 0))(a), "TD0710", "out_axes", line="td.vmap")
    refused(lambda: td.vmap(np.sum, in_axes=0.5)(a), "TD0710", "0.5", line="td.vmap")
    refused(lambda: td.vmap(np.sum, in_axes="x")(a), "TD0710", "'x'", line="td.vmap")
    refused(lambda: td.vmap(lambda t: t[0], in_axes=((0, 0, 0),))((a, a)), "TD0710", "(0, 0, 0)", line="td.vmap")
    refused(lambda: td.vmap(lambda t: t["x"])({"x": a, "y": a.T}), "TD0711", "t['y']", "t['x']", line="td.vmap")
    refused(lambda: td.vmap(np.ones, axis_size=-1)(), "TD0711", "-1", line="td.vmap")
    refused(lambda: td.vmap(np.sum, chunk_size=1.5)(a), "TD0713", "1.5", line="td.vmap")
