"""What needs the numbers is refused where the user wrote it: the code, their line with a caret, and the edit.

Each case is a function as a newcomer writes it. The table says the code and a piece of the edit; the line is found in
this file. What NumPy's own protocols do not show us (`const[t]`, `np.array([t, t])`, `np.r_`, `math.sqrt`) is here too.
"""

from __future__ import annotations

import math
import operator
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

import treadle as td
from treadle.ir.errors import TreadleError

C = np.arange(12.0).reshape(3, 4)
PLACES = np.arange(5)
LIST = [1, 2, 3]
X = np.array([0.5, -1.0, 2.0, 0.1])

CASES: dict[str, tuple[Callable[..., Any], str, str]] = {}


def case(code: str, edit: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = (function, code, edit)
        return function

    return add


def expression(name: str, code: str, edit: str, function: Callable[..., Any]) -> None:
    CASES[name] = (function, code, edit)


# Elements of an array that is not there yet.
expression("index", "TD0800", "td.numpy.asarray(PLACES)[i]", lambda x, i: PLACES[i])
expression("indices", "TD0800", "td.numpy.asarray(C)[i, 0]", lambda x, i: C[i, 0])
expression("mask of a constant", "TD0800", "td.numpy.asarray(C[0])[x > 0]", lambda x, i: C[0][x > 0])
expression("list", "TD0803", "td.numpy.asarray(LIST)[i]", lambda x, i: LIST[i])
expression("slice of a constant", "TD0803", "td.lax.dynamic_slice", lambda x, i: C[i:])
expression("take", "TD0800", "td.numpy.take", lambda x, i: np.take(C, i))
expression("take method", "TD0800", "td.numpy.take(C, ...)", lambda x, i: C.take(i))
expression("dot method", "TD0800", "td.numpy.dot(C, ...)", lambda x, i: C.dot(x))
expression("array", "TD0800", "np.stack([a, b]) instead of np.array", lambda x, i: np.array([x, x]))
expression("array of mixed", "TD0800", "td.numpy.array", lambda x, i: np.array([1.0, i]))
expression("asarray", "TD0800", "td.numpy.asarray", lambda x, i: np.asarray(x))
expression("r_", "TD0800", "np.concatenate([a, b]) instead of np.r_[x, x]", lambda x, i: np.r_[x, x])
expression("c_", "TD0800", "np.column_stack", lambda x, i: np.c_[x, x])
expression("mgrid", "TD0800", "td.numpy.indices", lambda x, i: np.mgrid[0:i])
expression("full", "TD0800", "td.numpy.full", lambda x, i: np.full(3, i))
expression("arange", "TD0800", "a known size", lambda x, i: np.arange(i))
expression("scalar type", "TD0800", "x.astype(np.float32)", lambda x, i: np.float32(x))
expression("vectorize", "TD0800", "td.vmap", lambda x, i: np.vectorize(lambda v: v + 1)(x))
expression("iterator", "TD0800", "td.numpy", lambda x, i: list(np.nditer(x)))
expression("random argument", "TD0800", "td.random with a key", lambda x, i: np.random.normal(x))  # noqa: NPY002
expression("tolist", "TD0800", "return it", lambda x, i: x.tolist())
expression("save", "TD0800", "what the compiled function gives", lambda x, i: np.save("x.npy", x))
# Truth.
expression("ternary", "TD0801", "np.where", lambda x, i: x if i > 0 else -x)
expression("and", "TD0801", "td.lax.cond", lambda x, i: (x > 0) and (x < 1))
expression("not", "TD0801", "np.where", lambda x, i: not i)
expression("chain", "TD0801", "np.where", lambda x, i: 0 < x < 1)
expression("max", "TD0801", "np.where", lambda x, i: max(i, 0))
expression("in", "TD0801", "(x == item).any()", lambda x, i: 1 in x)
expression("any", "TD0801", "np.where", lambda x, i: any(x > 0))
# Numbers of Python.
expression("sqrt", "TD0802", "np.sqrt instead of math.sqrt", lambda x, i: math.sqrt(i))
expression("floor", "TD0802", "np.floor instead of math.floor", lambda x, i: math.floor(i))
expression("pow", "TD0802", "np.power instead of math.pow", lambda x, i: math.pow(i, 2))
expression("trunc", "TD0802", "np.trunc instead of math.trunc", lambda x, i: math.trunc(i))
expression("float", "TD0802", "x.astype(float)", lambda x, i: float(i))
expression("int", "TD0802", "static_argnames", lambda x, i: int(i))
expression("complex", "TD0802", "x.astype(complex)", lambda x, i: complex(i))
expression("item", "TD0802", "leave out .item()", lambda x, i: i.item())
expression("format", "TD0802", "after the call", lambda x, i: f"{i:.2f}")
expression("zeros", "TD0803", "static_argnames", lambda x, i: np.zeros(i))
expression("reshape of a constant", "TD0803", "static_argnames", lambda x, i: np.reshape(C, i))
expression("operator.index", "TD0803", "static_argnames", lambda x, i: operator.index(i))
expression("axis", "TD0812", "static_argnames", lambda x, i: x.sum(axis=i))
expression("reshape", "TD0812", "static_argnames", lambda x, i: x.reshape(i, 2))
# Writes.
expression("out", "TD0806", "x = x + t", lambda x, i: np.add(x, 1, out=np.zeros(4)))
expression("out method", "TD0806", "bind the result", lambda x, i: x.sum(out=np.zeros(())))
expression("full_like", "TD0806", "td.numpy.full_like", lambda x, i: np.full_like(C, i))
expression("add.at", "TD0806", "td.numpy.asarray(x).at[i].add(v)", lambda x, i: np.add.at(np.zeros(4), PLACES[:4], x))
expression("put", "TD0806", "x.at[i].set(v)", lambda x, i: np.put(x, 0, 1))
expression("sort method", "TD0805", "np.sort(x)", lambda x, i: x.sort())
# Shapes that depend on values.
expression("mask", "TD0811", "np.where(mask, x, 0)", lambda x, i: x[x > 0])
expression("slice", "TD0811", "td.lax.dynamic_slice", lambda x, i: x[i:])
expression("nonzero", "TD0811", "np.where(condition, x, y)", lambda x, i: np.nonzero(x))
expression("where of one", "TD0811", "np.where(condition, x, y)", lambda x, i: np.where(x > 0))
expression("unique", "TD0811", "np.sort(x)", lambda x, i: np.unique(x))
# Other things of Python's.
expression("hash", "TD0814", "a static argument", lambda x, i: {i: 1})
expression("pickle", "TD0815", "the compiled function", lambda x, i: pickle.dumps(x))
expression("dlpack", "TD0815", "the compiled function", lambda x, i: np.from_dlpack(x))
expression("masked array", "TD0820", "x.filled(v)", lambda x, i: x + np.ma.masked_array(C[0]))
expression("text", "TD0810", "outside", lambda x, i: np.strings.upper(x))
expression("eigenvalues", "TD0810", "outside", lambda x, i: np.linalg.eigvals(x.reshape(2, 2)))
expression("user's ufunc", "TD0810", "outside", lambda x, i: np.frompyfunc(abs, 1, 1)(x))


# Truth: the words of Python's that go element by element have others in NumPy.
expression("sorted", "TD0801", "np.sort(x) instead of sorted(x)", lambda x, i: sorted(x))
expression("sorted down", "TD0801", "np.sort(x)[::-1]", lambda x, i: sorted(x, reverse=True))
expression("max", "TD0801", "x.max() instead of max(x)", lambda x, i: max(x))
expression("min of two", "TD0801", "np.minimum(x[0], i) instead", lambda x, i: min(x[0], i))
expression("max of three", "TD0801", "np.stack([x[0], i, 3]).max(0)", lambda x, i: max(x[0], i, 3))
expression("any", "TD0801", "(x > 0).any() instead", lambda x, i: any(x > 0))
expression("all of a generator", "TD0801", "np.all of one whole array", lambda x, i: all(y > 0 for y in x))
expression("chain", "TD0801", "(0 < x) & (x < 1), element", lambda x, i: np.where(0 < x < 1, x, 0))
expression("and", "TD0801", "(x > 0) & (x < 1), element", lambda x, i: np.where(x > 0 and x < 1, x, 0))
expression("or of chains", "TD0801", "((0 < x) & (x < 1)) | (x == 3), element", lambda x, i: 0 < x < 1 or x == 3)
expression("and of numbers", "TD0801", "np.logical_and(x, i), element", lambda x, i: x and i)
expression("not", "TD0801", "~(x > 0), element", lambda x, i: not x > 0)
expression("not of numbers", "TD0801", "np.logical_not(x), element", lambda x, i: not x)
expression("chosen", "TD0801", "np.where((i > 0) & (i < 3), a, b)", lambda x, i: 1 if i > 0 and i < 3 else x)
expression("other ufunc", "TD0810", "outside", lambda x, i: special.expit(x))


@case("TD0801", "np.where((0 < i) & (i < 3), a, b)")
def between(x: Any, i: Any) -> Any:
    if 0 < i < 3:
        return x
    return -x


@case("TD0801", "td.lax.cond")
def branch(x: Any, i: Any) -> Any:
    if i > 0:
        return x
    return -x


@case("TD0801", "td.lax.while_loop")
def loop(x: Any, i: Any) -> Any:
    while i > 0:
        i = i - 1
    return i


@case("TD0801", "outside of the traced function")
def check(x: Any, i: Any) -> Any:
    assert i > 0
    return i


@case("TD0801", "np.where")
def match(x: Any, i: Any) -> Any:
    match i:
        case 1:
            return x
    return -x


@case("TD0803", "td.lax.fori_loop")
def count(x: Any, i: Any) -> Any:
    for _ in range(i):
        x = x + 1
    return x


@case("TD0805", "x.at[i].set(v)")
def assign(x: Any, i: Any) -> Any:
    x[0] = 1
    return x


@case("TD0805", "x.at[i].set(v)")
def assign_under_mask(x: Any, i: Any) -> Any:
    x[x > 0] = 0
    return x


@case("TD0806", ".at[i].set(v)")
def store(x: Any, i: Any) -> Any:
    a = np.zeros(4)
    a[0] = i
    return a


@case("TD0806", ".at[i].set(v)")
def store_at(x: Any, i: Any) -> Any:
    a = np.zeros(4)
    a[i] = 1
    return a


@case("TD0806", "x = x + t instead of x += t")
def add_to_constant(x: Any, i: Any) -> Any:
    a = np.zeros(4)
    a += x
    return a


@pytest.mark.parametrize("name", CASES)
def test_refused_at_the_line(name: str) -> None:
    function, code, edit = CASES[name]
    with pytest.raises(TreadleError) as caught:
        td.jit(function)(X, 2)
    error = caught.value
    assert error.code == code
    assert edit in (error.edit or "")
    text = str(error)
    assert __file__ in text
    assert "\n" in text and "^" in text  # the line, and the caret below it
    line = function.__code__.co_firstlineno
    assert error.location is not None and line <= error.location.line <= line + 5
    assert {frame.filename for frame in traceback.extract_tb(error.__traceback__)} == {__file__}


# Operands, parameters and functions are called what the user calls them.
def test_names_of_the_users() -> None:
    w = np.ones((5, 2))
    for function, message in (
        (lambda x, w: x @ w, "matmul: contracted axes differ: x has 4 (axis 1), w has 5 (axis 0)"),
        (lambda x, w: np.dot(x, w), "dot: contracted axes differ: x has 4 (axis 1), w has 5 (axis 0)"),
        (lambda x, w: special.expit(x), "expit is not traced"),
        (lambda x, w: td.vmap(lambda a, *b: a)(x, w, x), "vmap of <lambda>: axis 0 of b[0] has 5 elements, a has 3"),
    ):
        with pytest.raises(TreadleError) as caught:
            td.jit(function)(C, w)
        assert caught.value.message == message


# What looks alike and works, with NumPy's result.
WORKS: dict[str, Callable[..., Any]] = {
    "a slice helper": lambda x, i: x[np.s_[0:2]],
    "an open mesh": lambda x, i: x[np.ix_([0, 1])],
    "iteration": lambda x, i: sum([row * 2 for row in x]),
    "unpacking": lambda x, i: (lambda a, b, c, d: a + d)(*x),
    "length": lambda x, i: x * len(x),
    "a shape": lambda x, i: x.reshape(x.shape[0] // 2, -1),
    "a fill value": lambda x, i: np.full_like(x, i),
    "ends of a range": lambda x, i: np.linspace(0, i, 5),
    "a scalar of NumPy beside it": lambda x, i: np.float64(2) * x + np.float32(3) * i,
    "a constant before it": lambda x, i: C @ x,
    "a comparison with a constant": lambda x, i: C[0] == x,
    "a known mask": lambda x, i: x[np.array([True, False, True, False])],
    "a known list": lambda x, i: x[[0, 2]],
    "a polynomial": lambda x, i: np.poly1d([1, 2, 3])(x),
    "a series": lambda x, i: np.polynomial.chebyshev.chebval(x, [1, 2, 3]),
    "round": lambda x, i: round(i),
    "divmod": lambda x, i: divmod(x, 2.0),
    "sum of Python": lambda x, i: sum([x, x]),
    "zip": lambda x, i: [a * b for a, b in zip(x, C[0])],
    "reversed": lambda x, i: list(reversed(x)),
    "a generator of one's own": lambda x, i: x + np.random.default_rng(0).normal(size=4),
    "a text of it": lambda x, i: (f"{x}", x)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", WORKS)
def test_works(name: str) -> None:
    expected = WORKS[name](X, 2)
    for got, wanted in zip(td.tree.leaves(td.jit(WORKS[name])(X, 2)), td.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted)


# In-place operators bind a new array of the old dtype and shape, as NumPy would have stored it; the argument stays.
def test_in_place_operators_rebind() -> None:
    @td.jit
    def f(x: Any, n: Any) -> Any:
        y = x
        x += 1.5
        x *= n
        x //= 2
        x **= 2
        x -= np.float64(1)
        return x, y

    x = X.astype(np.float32)
    kept = x.copy()
    got, same = f(x, 3)
    expected = kept.copy()
    expected += 1.5
    expected *= 3
    expected //= 2
    expected **= 2
    expected -= np.float64(1)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(same, kept)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: operator.iadd(x, y.astype(np.float32)),  # floats into integers
        lambda x, y: operator.itruediv(x, 2),
        lambda x, y: operator.iadd(x[0], y),  # a larger shape
        lambda x, y: operator.imatmul(x, np.ones((3, 2))),
    ],
)
def test_in_place_results_that_do_not_fit(function: Callable[..., Any]) -> None:
    x, y = np.ones((3, 3), np.int32), np.ones((3, 3), np.int32)
    with pytest.raises((TypeError, ValueError)):
        function(x.copy(), y)
    with pytest.raises(TreadleError) as caught:
        td.jit(function)(x, y)
    assert caught.value.code == "TD0821"


def helper(kept: list[Any], x: Any) -> Any:
    y = x * 3
    kept.append(y)
    return y + 1


# A traced array that outlives its trace is named with the line that made it.
def test_leaked_arrays() -> None:
    kept: list[Any] = []
    td.jit(lambda x: helper(kept, x))(X)
    for use in (lambda: kept[0] + 1, lambda: np.sin(kept[0]), lambda: td.jit(lambda x: x + kept[0])(X)):
        with pytest.raises(TreadleError) as caught:
            use()
        assert caught.value.code == "TD0807"
        assert "y = x * 3" in str(caught.value)


def noise(x: Any) -> Any:
    return x + np.random.normal(size=4)  # noqa: NPY002 - found out


# The line is that of the draw, however deep it lies.
def test_random_numbers_are_located() -> None:
    def user(x: Any) -> Any:
        return sum([noise(each) for each in (x,)])

    with pytest.raises(TreadleError) as caught:
        td.jit(user)(X)
    assert caught.value.code == "TD0809"
    assert "return x + np.random.normal(size=4)" in str(caught.value)


# The user's own errors are theirs, also those that look like ours.
def test_errors_of_the_user_stay_theirs() -> None:
    def user(x: Any) -> Any:
        try:
            float(x[0])
        except TypeError:
            raise ValueError("my own") from None

    with pytest.raises(ValueError, match="my own") as caught:
        td.jit(user)(X)
    assert not isinstance(caught.value, TreadleError)


# A generator without a seed is found also where `numpy.random` is loaded by the very trace; outside of traces it is
# made as ever.
def test_a_generator_without_a_seed() -> None:
    script = (
        "import sys, numpy as np, treadle as td\n"
        "assert 'numpy.random' not in sys.modules\n"
        "try:\n"
        "    td.jit(lambda x: x + np.random.default_rng().normal(size=4))(np.ones(4))\n"
        "except td.TreadleError as error:\n"
        "    print(error.code)\n"
        "print(np.random.default_rng().normal() != np.random.default_rng().normal())\n"
        "print(td.jit(lambda x: x * 2)(np.ones(1)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:3] == ["TD0809", "True", "[2.]"]
