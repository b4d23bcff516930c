"""Derivatives that the user writes: they are taken instead of ours, compose like ours, and are held to what they stand
for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle as td

X = np.array([0.3, -0.8, 1.4])
Y = np.array([0.5, 0.9, -0.2])


@td.custom_jvp
def thrice(x: Any, y: Any) -> Any:
    """sin(x) * y, with three times its slope in x and five times that in y, so that one sees whose rule was taken."""
    return np.sin(x) * y


@thrice.defjvp
def thrice_rule(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return thrice(x, y), 3 * np.cos(x) * y * dx + 5 * np.sin(x) * dy


@td.custom_vjp
def backward(x: Any, y: Any) -> Any:
    return np.sin(x) * y


def backward_ahead(x: Any, y: Any) -> Any:
    return backward(x, y), {"x": x, "y": y}


def backward_rule(kept: Any, cotangent: Any) -> Any:
    return 3 * np.cos(kept["x"]) * kept["y"] * cotangent, 5 * np.sin(kept["x"]) * cotangent


backward.defvjp(backward_ahead, backward_rule)

both = pytest.mark.parametrize("f", [thrice, backward], ids=["jvp", "vjp"])


@both
def test_a_rule_is_taken(f: Any) -> None:
    """In both modes, whichever way the rule goes: a rule backward is turned round where forward mode asks."""
    value, (gx, gy) = td.jit(td.value_and_grad(lambda x, y: np.sum(f(x, y)), (0, 1)))(X, Y)
    np.testing.assert_allclose(value, np.sum(np.sin(X) * Y))
    np.testing.assert_allclose(gx, 3 * np.cos(X) * Y)
    np.testing.assert_allclose(gy, 5 * np.sin(X))
    value, tangent = td.jit(lambda x, y: td.jvp(f, (x, y), (y, x)))(X, Y)
    np.testing.assert_allclose(value, np.sin(X) * Y)
    np.testing.assert_allclose(tangent, 3 * np.cos(X) * Y * Y + 5 * np.sin(X) * X)


@both
def test_rules_are_differentiated(f: Any) -> None:
    """The second derivative is that of the rule, forward over reverse and reverse over reverse."""
    expected = np.diag(-3 * np.sin(X) * Y)
    np.testing.assert_allclose(td.hessian(lambda x: np.sum(f(x, Y)))(X), expected, atol=1e-15)
    np.testing.assert_allclose(td.jacrev(td.grad(lambda x: np.sum(f(x, Y))))(X), expected, atol=1e-15)


def test_a_rule_may_use_its_function() -> None:
    """The rule's own call is differentiated by the rule again: each derivative has three times the slope."""

    @td.custom_jvp
    def f(x: Any) -> Any:
        return np.exp(x)

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        value = f(*primals)
        return value, 3 * value * tangents[0]

    second = td.grad(lambda x: np.sum(td.grad(lambda x: np.sum(f(x)))(x)))
    np.testing.assert_allclose(second(X), 9 * np.exp(X))


@both
def test_rules_under_vmap(f: Any) -> None:
    """All combinations of what is mapped; the gradient by what is not mapped is summed over the batch."""
    xs, ys = np.stack([X, Y, -X]), np.stack([Y, X, X])
    rows = [(x, Y) for x in xs]
    found = td.vmap(td.grad(lambda x, y: np.sum(f(x, y)), (0, 1)), (0, None))(xs, Y)
    for k, (x, y) in enumerate(rows):
        np.testing.assert_allclose(found[0][k], 3 * np.cos(x) * y)
        np.testing.assert_allclose(found[1][k], 5 * np.sin(x))
    shared = td.grad(lambda y: np.sum(td.vmap(f, (0, None))(xs, y)))(Y)
    np.testing.assert_allclose(shared, 5 * np.sum(np.sin(xs), axis=0))
    moved = td.vmap(lambda x, y: td.jvp(f, (x, y), (y, x))[1])(xs, ys)
    np.testing.assert_allclose(moved, 3 * np.cos(xs) * ys * ys + 5 * np.sin(xs) * xs)


@both
def test_rules_in_loops(f: Any) -> None:
    """The body of a scan is differentiated like anything else."""

    def loop(x: Any) -> Any:
        return np.sum(td.lax.scan(lambda c, y: (f(c, y), ()), x, np.stack([Y, Y]))[0])

    def mean(x: Any) -> Any:
        inner = np.sin(x) * Y
        return 3 * np.cos(inner) * Y * 3 * np.cos(x) * Y

    np.testing.assert_allclose(td.grad(loop)(X), mean(X))


def test_a_rule_backward_need_not_be_linear() -> None:
    """Clipping a gradient: backward alone, which is what such rules are for. Forward it is refused, with the reason."""

    @td.custom_vjp
    def clipped(x: Any) -> Any:
        return x

    clipped.defvjp(lambda x: (x, None), lambda kept, cotangent: (np.clip(cotangent, -0.1, 0.1),))
    np.testing.assert_allclose(td.grad(lambda x: np.sum(clipped(x) * Y))(X), np.clip(Y, -0.1, 0.1))
    with pytest.raises(td.TreadleError, match="TD0225") as caught:
        td.jit(lambda x: td.jvp(clipped, (x,), (x,)))(X)
    assert "td.custom_jvp" in str(caught.value)


def test_arguments_that_are_not_differentiated() -> None:
    """They come first in the rules; integers among the others have no tangent, and None is a zero."""

    @td.custom_vjp
    def scaled(x: Any, n: Any) -> Any:
        return x * n

    scaled.defvjp(lambda x, n: (x * n, n), lambda n, c: (7 * c * n, None))
    np.testing.assert_allclose(td.grad(lambda x: np.sum(scaled(x, np.arange(3))))(X), 7 * np.arange(3.0))

    def powered(n: int, x: Any) -> Any:
        return x**n

    forward = td.custom_jvp(powered, nondiff_argnums=(0,))
    forward.defjvp(lambda n, primals, tangents: (primals[0] ** n, 11 * tangents[0]))
    np.testing.assert_allclose(td.grad(lambda x: np.sum(forward(3, x)))(X), 11 * np.ones(3))
    turned = td.custom_vjp(powered, nondiff_argnums=(0,))
    turned.defvjp(lambda n, x: (x**n, x), lambda n, x, c: (n * c,))
    np.testing.assert_allclose(td.grad(lambda x: np.sum(turned(3, x)))(X), 3 * np.ones(3))


def test_rules_by_argument() -> None:
    @td.custom_jvp
    def f(x: Any, y: Any) -> Any:
        return x * y

    f.defjvps(lambda t, value, x, y: 2 * t * y, None)
    gx, gy = td.grad(lambda x, y: np.sum(f(x, y)), (0, 1))(X, Y)
    np.testing.assert_allclose(gx, 2 * Y)
    np.testing.assert_allclose(gy, np.zeros(3))


def test_trees_go_through_rules() -> None:
    @td.custom_vjp
    def f(tree: Any) -> Any:
        return {"sum": tree["a"] + tree["b"][0], "number": 2}

    f.defvjp(lambda tree: (f(tree), ()), lambda kept, c: ({"a": c["sum"], "b": (4 * c["sum"],)},))
    found = td.grad(lambda t: np.sum(f(t)["sum"] * Y))({"a": X, "b": (X,)})
    np.testing.assert_allclose(found["a"], Y)
    np.testing.assert_allclose(found["b"][0], 4 * Y)


def test_without_a_trace_nothing_is_added() -> None:
    assert thrice(0.5, 2.0) == np.sin(0.5) * 2.0
    np.testing.assert_array_equal(backward(X, Y), np.sin(X) * Y)


def test_texts_do_not_know_rules() -> None:
    """What is left of a function with a rule, when its trace has ended, is the function."""
    graph = td.jit(lambda x: thrice(x, x)).trace(X).graph
    assert [op.name for op in graph.ops] == ["sin", "mul"]


def refused(f: Any, code: str, *says: str) -> None:
    with pytest.raises(td.TreadleError) as caught:
        td.jit(td.grad(lambda x: np.sum(f(x))))(X)
    assert caught.value.code == code
    assert caught.value.location is not None and caught.value.location.file == __file__
    for words in (*says, "edit: "):
        assert words in str(caught.value), str(caught.value)


def test_rules_that_do_not_fit() -> None:
    """The leaf, what it is and what it must be, at the line of the rule."""

    def forward_rule(rule: Any) -> Any:
        f = td.custom_jvp(lambda x: {"a": x * 2})
        f.defjvp(rule)
        return lambda x: f(x)["a"]

    def backward_pair(ahead: Any, back: Any) -> Any:
        f = td.custom_vjp(lambda x: x * 2)
        f.defvjp(ahead, back)
        return f

    refused(forward_rule(lambda p, t: ({"a": p[0]}, {"a": t[0][:2]})), "TD0708", "tangent", "['a'] is f64[2], f64[3]")
    refused(forward_rule(lambda p, t: ({"a": p[0]}, t[0])), "TD0708", "tangent", "structure")
    refused(forward_rule(lambda p, t: ({"a": p[0][0]}, {"a": t[0]})), "TD0708", "value", "f64[], f64[3]")
    refused(forward_rule(lambda p, t: p[0]), "TD0708", "(value, tangent)")
    refused(backward_pair(lambda x: x, lambda k, c: (c,)), "TD0708", "(value, residuals)")
    refused(backward_pair(lambda x: (x, x), lambda k, c: c), "TD0708", "a tuple of 1")
    refused(backward_pair(lambda x: (x, x), lambda k, c: (c[0],)), "TD0708", "cotangent 0", "f64[], f64[3]")
    refused(backward_pair(lambda x: (x[:1], x), lambda k, c: (c,)), "TD0708", "value", "f64[1], f64[3]")
    narrow, whole = X.astype("f4"), np.ones(3, int)
    refused(forward_rule(lambda p, t: ({"a": p[0]}, {"a": t[0] * 1j})), "TD0708", "tangent", "c128[3], f64[3]")
    refused(forward_rule(lambda p, t: ({"a": p[0]}, {"a": whole})), "TD0708", "i64[3], f64[3]", ".astype('float64')")
    refused(forward_rule(lambda p, t: ({"a": narrow}, {"a": t[0]})), "TD0708", "value", "f32[3], f64[3]", ".astype")
    refused(forward_rule(lambda p, t: ({"a": None}, {"a": t[0]})), "TD0708", "value", "{'a': None}", "{'a': f64[3]}")
    refused(forward_rule(lambda p, t: ({"a": p[0]}, {"a": "t"})), "TD0708", "tangent", "['a'] is no array")
    refused(forward_rule(lambda p, t: ({"a": p[0]}, {"a": t[0]}, 0)), "TD0708", "(value, tangent)")
    refused(forward_rule(lambda p: p), "TD0708", "takes (primals, tangents)")
    ahead = lambda x: (x * 2, x)  # noqa: E731
    refused(backward_pair(ahead, lambda k, c: (narrow,)), "TD0708", "cotangent 0", "f32[3], f64[3]", ".astype")
    refused(backward_pair(ahead, lambda k, c: (whole,)), "TD0708", "cotangent 0", "i64[3], f64[3]", ".astype")
    refused(backward_pair(ahead, lambda k, c: ((c,),)), "TD0708", "cotangent 0", "structure (*,)")
    refused(backward_pair(ahead, lambda k, c: (c, c)), "TD0708", "a tuple of 1", "a tuple of 2")
    refused(backward_pair(ahead, lambda k, c: None), "TD0708", "a tuple of 1", "returns None")
    refused(backward_pair(ahead, lambda c: (c,)), "TD0708", "takes (residuals, cotangent)")
    refused(backward_pair(lambda x: (narrow, x), lambda k, c: (c,)), "TD0708", "value", "f32[3], f64[3]")
    refused(backward_pair(lambda x: ((x,), x), lambda k, c: (c,)), "TD0708", "value", "structure (*,)")
    refused(backward_pair(lambda x, y: (x, y), lambda k, c: (c,)), "TD0708", "takes (x)", "'y'")
    refused(td.custom_vjp(lambda x: x), "TD0706", "defvjp")
    refused(td.custom_jvp(lambda x: x), "TD0706", "defjvp")


def test_rules_may_give_arrays_that_are_known() -> None:
    """A derivative that does not depend on anything is an array of NumPy's like any other."""
    known = np.array([1.0, 2.0, 3.0])
    f = td.custom_vjp(lambda x: x * known)
    f.defvjp(lambda x: (x * known, None), lambda kept, c: (known,))
    np.testing.assert_array_equal(td.grad(lambda x: np.sum(f(x)))(X), known)
    g = td.custom_jvp(lambda x: known)
    g.defjvp(lambda p, t: (known, np.zeros(3)))
    np.testing.assert_array_equal(td.jvp(g, (X,), (X,))[1], np.zeros(3))


def test_rules_by_argument_that_do_not_fit() -> None:
    """One for each argument; what they give is looked for in the rules of the user's."""
    product, twice = td.custom_jvp(lambda x, y: x * y), td.custom_jvp(lambda x: x * 2)
    product.defjvps(lambda t, value, x, y: t * y)
    twice.defjvps(lambda t, value, x: t[:1])
    refused(lambda x: product(x, x), "TD0708", "1 rules for 2 arguments", "product.defjvps(lambda")
    refused(twice, "TD0708", "f64[1], f64[3]", "twice.defjvps(lambda")


def test_arguments_that_a_rule_cannot_name() -> None:
    f = td.custom_vjp(lambda n, x: x**n, nondiff_argnums=(2,))
    f.defvjp(lambda n, x: (x**n, x), lambda n, x, c: (c,))
    refused(lambda x: f(3, x), "TD0705", "number 2", "nondiff_argnums")
    with pytest.raises(td.TreadleError, match="TD0705"):
        td.custom_jvp(lambda x: x, nondiff_argnums=("x",))  # type: ignore[arg-type]


def test_rules_must_be_linear() -> None:
    """A rule forward that squares its tangent has no transpose."""
    f = td.custom_jvp(lambda x: x)
    f.defjvp(lambda p, t: (p[0], t[0] * t[0]))
    refused(f, "TD0340", "linear")


def test_rules_see_their_arguments_alone() -> None:
    """A function may close over a traced array; its rule may not, and none flows to what is closed over."""

    def by_rule(w: Any) -> Any:
        f = td.custom_jvp(lambda x: x)
        f.defjvp(lambda p, t: (p[0], t[0] * w))
        return td.grad(lambda x: np.sum(f(x)))(w)

    def by_body(w: Any) -> Any:
        f = td.custom_jvp(lambda x: x * w)
        f.defjvp(lambda p, t: (p[0], t[0]))
        return f(np.ones(3))

    refused(by_rule, "TD0707", "argument")
    refused(by_body, "TD0344", "argument")
    assert td.jit(by_body)(X).tolist() == X.tolist()
