"""What a user can get wrong while a function is traced: each is an error of ours, at their line, with one edit.

Every case says the code, the builtin it is caught as, the piece of the line under the caret, and a word of the edit.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle as td

ROOT = Path(__file__).resolve().parents[2]
X = np.arange(12, dtype="f4").reshape(3, 4)
I = np.arange(3)  # noqa: E741
TABLE = np.arange(5.0)


def raises(call: Callable[[], Any], kind: type[Exception], code: str) -> td.TreadleError:
    """The error that the call raises: of ours, of that builtin, with that code; without a frame of ours."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert isinstance(error, td.TreadleError) and error.code == code, str(error)
    text = str(error)
    assert text.startswith(f"{code}: ") and text.count("  edit: ") <= 1 and text.count("  from ") <= 3
    rooms = [str(ROOT / room) for room in ("ir", "passes", "codegen", "runtime", "frontend")]
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert not [name for name in frames if name.startswith(tuple(rooms))], "a frame of ours"
    assert not [room for room in rooms if f"{room}/" in text], "a file of ours"
    return error


def carets(error: td.TreadleError) -> list[str]:
    """What stands over each caret of the message."""
    lines = str(error).splitlines()
    return [lines[i - 1][line.index("^") :] for i, line in enumerate(lines) if line.strip() == "^"]


@dataclass
class Case:
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kind: type[Exception]
    code: str
    at: str  # what stands at the caret
    edit: str = ""


def branch(x: Any) -> Any:
    if x.sum() > 0:
        x = -x
    return x


def loop(x: Any) -> Any:
    while x.sum() > 0:
        x = x - 1
    return x


def count(x: Any, n: Any) -> Any:
    for i in range(n):
        x = x + i
    return x


def add(a: Any, b: Any) -> Any:
    return a + b


def assign(x: Any) -> Any:
    x[0] = 1
    return x


def delete(x: Any) -> Any:
    del x[0]
    return x


def sort(x: Any) -> Any:
    x.sort()
    return x


def store(x: Any) -> Any:
    TABLE[0] = x.sum()
    return x


def write(x: Any, y: Any) -> Any:
    np.add(x, 1, out=y)
    return y


def add_to_constant(x: Any) -> Any:
    y = TABLE.copy()
    y += x[0, 0]
    return y


def set_item(p: Any) -> Any:
    p["w"] = p["w"] * 2
    return p["w"].sum()


def pop_item(p: Any) -> Any:
    return p.pop("w")


def append_item(p: Any) -> Any:
    p.append(p[0])
    return p[0]


def change_constant(x: Any) -> Any:
    y = x[0, 0] + TABLE
    TABLE[0] += 1
    return y


def draw(x: Any) -> Any:
    y = x * 2
    return y + np.random.normal(size=4)  # noqa: NPY002


def unseeded(x: Any) -> Any:
    return x + np.random.default_rng().normal(size=4)


def checked(x: Any) -> Any:
    assert x.sum() > 0
    return x


CASES = {
    # shapes
    "stretch": Case(lambda x: x + x.T, (X,), ValueError, "TD0817", "x + x.T", "x[:, None]"),
    "matmul": Case(lambda x: x @ x, (X,), ValueError, "TD0824", "x @ x", "x.T instead of x"),
    "matmul of no transpose": Case(
        lambda x: x @ np.ones((5, 2)), (X,), ValueError, "TD0824", "x @ np", "4 on axis 0 of np.ones((5, 2))"
    ),
    "reshape, nearly": Case(lambda x: x.reshape(3, 5), (X,), ValueError, "TD0823", "x.reshape", "(3, -1) instead"),
    "index": Case(lambda x: x[7], (X,), IndexError, "TD0818", "x[7]", "from -3 to 2"),
    "no place": Case(lambda x: np.take(x[:0], [0], 0, mode="clip"), (X,), IndexError, "TD0818", "np.take", "elements"),
    "known places": Case(lambda x: np.take(x, [0, 9], 1), (X,), IndexError, "TD0818", "np.take", "from -4 to 3"),
    "vmap": Case(lambda x, w: td.vmap(add)(x, w), (X, X[:2]), ValueError, "TD0711", "td.vmap", "in_axes"),
    "concatenate": Case(
        lambda x: np.concatenate([x, x.T]), (X,), ValueError, "TD0144", "np.concatenate", "the same size"
    ),
    "reshape": Case(lambda x: x.reshape(5, -1), (X,), ValueError, "TD0823", "x.reshape", "divide 12"),
    "axis": Case(lambda x: x.sum(axis=2), (X,), IndexError, "TD0822", "x.sum", "from -2 to 1"),
    "stack": Case(lambda x: np.stack([x, x.T]), (X,), ValueError, "TD0822", "np.stack", "np.concatenate"),
    # dtypes
    "shift of floats": Case(lambda x: x << 1, (X,), TypeError, "TD0816", "x << 1"),
    "object inside": Case(lambda x: x + np.array([object()]), (X,), TypeError, "TD0101", "x + np.array"),
    "ragged inside": Case(lambda x: [[1, 2], [3]] * x, (X,), ValueError, "TD0819", "[[1, 2], [3]] * x", "one length"),
    "masked inside": Case(lambda x: x + np.ma.array(X), (X,), TypeError, "TD0820", "x + np.ma", "filled"),
    "bits of floats": Case(lambda x: x & 1, (X,), TypeError, "TD0816", "x & 1", "integers or bools"),
    "remainder of complex": Case(lambda x: (x * 1j) % 2, (X,), TypeError, "TD0816", "(x * 1j) % 2", "x.real"),
    "no number": Case(lambda x: x.astype(object), (X,), TypeError, "TD0101", "x.astype", "np.float64"),
    # arguments that NumPy refuses, too
    "square": Case(lambda x: np.linalg.inv(x), (X,), ValueError, "TD0824", "np.linalg.inv", "x.T @ x"),
    "no matrix": Case(lambda x: np.linalg.inv(x[0]), (X,), ValueError, "TD0824", "np.linalg.inv", "np.diag(x)"),
    "rows of a system": Case(
        lambda x: np.linalg.lstsq(x, x[:2]), (X,), ValueError, "TD0824", "np.linalg.lstsq", "as many rows"
    ),
    "squeeze": Case(lambda x: np.squeeze(x, 0), (X,), ValueError, "TD0822", "np.squeeze", "x.take(0, 0)"),
    "repeats": Case(lambda x: np.repeat(x, [1, 2], 0), (X,), ValueError, "TD0822", "np.repeat", "3 places of axis 0"),
    "split": Case(lambda x: np.split(x, 2), (X,), ValueError, "TD0822", "np.split", "np.array_split"),
    "padding below 0": Case(lambda x: np.pad(x, -1), (X,), ValueError, "TD0822", "np.pad", "x[1:-1]"),
    "one pair below 0": Case(lambda x: np.pad(x, ((0, 0), (1, -1))), (X,), ValueError, "TD0822", "np.pad", "a slice"),
    "interpolation": Case(
        lambda x: np.interp(x[0], x[1], x[1, :3]), (X,), ValueError, "TD0822", "np.interp", "a value for each"
    ),
    "cross": Case(lambda x: np.cross(x, x), (X,), ValueError, "TD0824", "np.cross", "axisa="),
    "norm": Case(lambda x: np.fft.fft(x, norm="a"), (X,), ValueError, "TD0822", "np.fft.fft", "ortho"),
    "einsum": Case(lambda x: np.einsum("i,j", x, x), (X,), ValueError, "TD0824", "np.einsum", "a label for each axis"),
    "einsum of two sizes": Case(
        lambda x: np.einsum("ij,jk,kl", x, x.T, x[:2]), (X,), ValueError, "TD0824", "np.einsum", "of its own"
    ),
    # values that are not known
    "if": Case(branch, (X,), TypeError, "TD0801", "x.sum() > 0", "np.where"),
    "while": Case(loop, (X,), TypeError, "TD0801", "x.sum() > 0", "td.lax.while_loop"),
    "and": Case(
        lambda x: x if x.sum() > 0 and x.sum() < 9 else -x, (X,), TypeError, "TD0801", "x.sum() > 0", "np.where"
    ),
    "assert": Case(checked, (X,), TypeError, "TD0801", "assert x.sum() > 0", "outside"),
    "max": Case(lambda x: max(x[0, 0], x[1, 1]), (X,), TypeError, "TD0801", "max(", "np.maximum(x[0, 0], x[1, 1])"),
    "in": Case(lambda x: 3 in x, (X,), TypeError, "TD0801", "3 in x", ".any()"),
    "int": Case(lambda x: np.zeros(int(x.sum())), (X,), TypeError, "TD0802", "int(x.sum())", "static_argnames"),
    "float": Case(lambda x: float(x.sum()), (X,), TypeError, "TD0802", "float(", "astype(float)"),
    "math": Case(lambda x: math.sqrt(x.sum()), (X,), TypeError, "TD0802", "math.sqrt", "np.sqrt"),
    "item": Case(lambda x: x.sum().item(), (X,), TypeError, "TD0802", "x.sum().item", "leave out"),
    "format": Case(lambda x: f"{x:.3f}", (X,), TypeError, "TD0802", "", "print"),
    "range": Case(count, (X, 3), TypeError, "TD0803", "range(n)", "td.lax.fori_loop"),
    "index of a list": Case(lambda x, i: [x, x][i], (X, 1), TypeError, "TD0803", "[x, x][i]", "td.numpy.asarray"),
    "index of a constant": Case(
        lambda i: TABLE[i], (1,), TypeError, "TD0800", "TABLE[i]", "td.numpy.asarray(TABLE)[i]"
    ),
    "np.array": Case(lambda x: np.array([x, x]), (X,), TypeError, "TD0800", "np.array", "np.stack"),
    "mask": Case(lambda x: x[x > 0], (X,), TypeError, "TD0811", "x[x > 0]", "np.where"),
    "nonzero": Case(lambda x: np.nonzero(x), (X,), TypeError, "TD0811", "np.nonzero", "np.where"),
    "hash": Case(lambda x: {x: 1}, (X,), TypeError, "TD0814", "{x: 1}", "key on"),
    "len": Case(lambda x: len(x[0, 0]), (X,), TypeError, "TD0804", "len("),
    "memory": Case(lambda x: x.ctypes, (X,), TypeError, "TD0815", "x.ctypes"),
    "attribute": Case(lambda x: x.nothing, (X,), AttributeError, "TD0825", "x.nothing"),
    "save": Case(lambda x: np.save("x.npy", x), (X,), TypeError, "TD0800", "np.save", "save what"),
    # writing
    "assignment": Case(assign, (X,), TypeError, "TD0805", "x[0] = 1", "x = x.at[i].set(v)"),
    "deletion": Case(delete, (X,), TypeError, "TD0805", "x[0]", "np.delete"),
    "in place": Case(sort, (X,), TypeError, "TD0805", "x.sort()", "x = np.sort(x)"),
    "store into a constant": Case(store, (X,), TypeError, "TD0806", "TABLE[0] =", ".at[i].set(v)"),
    "out=": Case(write, (X, X), TypeError, "TD0806", "np.add", "bind the result"),
    "in place on a constant": Case(add_to_constant, (X,), TypeError, "TD0806", "y += x[0, 0]", "bind the result"),
    "set in an argument": Case(set_item, ({"w": X},), TypeError, "TD0628", 'p["w"] * 2', "return the new value"),
    "removed from an argument": Case(pop_item, ({"w": X},), TypeError, "TD0628", "def pop_item", "copy"),
    "appended to an argument": Case(append_item, ([X],), TypeError, "TD0628", "def append_item", "copy"),
    "a constant changed meanwhile": Case(change_constant, (X,), ValueError, "TD0629", "x[0, 0] + TABLE", "argument"),
    # what is no function, no array, no number
    "branches that are arrays": Case(
        lambda x: td.lax.cond(x.sum() > 0, x, -x), (X,), TypeError, "TD0624", "td.lax.cond", "np.where(pred, a, b)"
    ),
    "switch of arrays": Case(
        lambda x: td.lax.switch(x[0, 0].astype(int), [x, -x]), (X,), TypeError, "TD0624", "td.lax.switch", "np.select"
    ),
    "operands of scan exchanged": Case(
        lambda x: td.lax.scan(x[0], lambda c, r: (c, r), x), (X,), TypeError, "TD0624", "td.lax.scan", "scan(f, init"
    ),
    "start of while first": Case(
        lambda x: td.lax.while_loop(x, lambda c: c, lambda c: c), (X,), TypeError, "TD0624", "td.lax.while", "(cond, b"
    ),
    "bounds of fori last": Case(
        lambda x: td.lax.fori_loop(lambda i, c: c, x, 0, 3), (X,), TypeError, "TD0624", "td.lax.fori", "(lower, upper"
    ),
    "nothing": Case(lambda x: td.nn.relu6(None), (X,), TypeError, "TD0831", "td.nn.relu6", "return a result"),
    "nothing beside it": Case(lambda x: td.nn.mse(x, None), (X,), TypeError, "TD0831", "td.nn.mse", "return a result"),
    "an array as an axis": Case(
        lambda x: td.nn.softmax(x, axis=np.ones(2)), (X,), TypeError, "TD0812", "td.nn.softmax", "give an int"
    ),
    # the rest
    "random": Case(draw, (X,), TypeError, "TD0809", "y + np.random.normal", "td.random"),
    "no seed": Case(unseeded, (X,), TypeError, "TD0809", "np.random.default_rng()", "give it a seed"),
    "index out of range": Case(lambda x: x[3], (X,), IndexError, "TD0818", "x[3]"),
    "index out of range, behind": Case(lambda x: x[:, -5], (X,), IndexError, "TD0818", "x[:, -5]"),
    "too many indices": Case(lambda x: x[0, 0, 0], (X,), IndexError, "TD0818", "x[0, 0, 0]"),
    "negative power": Case(lambda i: i**-1, (I,), ValueError, "TD0130", "i**-1", "float"),
    "result": Case(lambda x: (x, object()), (X,), TypeError, "TD0808", "", "return arrays"),
    "keyword of ours": Case(lambda x: td.nn.softmax(x, axs=0), (X,), TypeError, "TD0601", "td.nn.softmax"),
    "name of ours": Case(lambda x: td.numpy.sofmax(x), (X,), AttributeError, "TD0600", "td.numpy.sofmax"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mistake_is_answered_at_its_line(case: Case) -> None:
    f = td.jit(case.fn)
    error = raises(lambda: f(*case.args), case.kind, case.code)
    assert carets(error)[0].startswith(case.at), str(error)
    assert error.location is not None and error.location.file == __file__
    assert case.edit in (error.edit or ""), str(error)
    # Nothing is lost: the arguments are as they were, and the next call of anything works.
    assert f.n_compiles == 0 and f.cache_info().currsize == 0
    np.testing.assert_array_equal(X, np.arange(12, dtype="f4").reshape(3, 4))
    np.testing.assert_array_equal(td.jit(np.negative)(X), -X)


# What the user's own code raises comes as it is, with their frames alone.
def test_errors_of_the_users_are_left_alone() -> None:
    def wrong(p: Any) -> Any:
        try:
            return p["v"]
        except KeyError as error:
            raise RuntimeError("no v") from error

    with pytest.raises(RuntimeError, match="no v") as caught:
        td.jit(wrong)({"w": X})
    assert isinstance(caught.value.__cause__, KeyError)
    names = [Path(frame.filename).name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert set(names) == {Path(__file__).name}


# A traced array that outlives its trace is named with the line that made it, wherever it turns up.
@pytest.mark.parametrize(
    "use",
    [
        lambda t: t + 1,
        lambda t: np.add(X, t),
        lambda t: np.asarray(t),
        lambda t: bool(t),
        lambda t: td.jit(lambda x: x + t)(X),
        lambda t: td.jit(lambda x: t)(X),
        lambda t: td.jit(lambda x: x * 2)(t),
        lambda t: td.jit(lambda p: p["w"])({"w": t}),
        lambda t: td.grad(lambda x: (x * t).sum())(X),
        lambda t: td.nn.softmax(t),
    ],
)
def test_a_leaked_array_is_named(use: Callable[[Any], Any]) -> None:
    kept: list[Any] = []

    @td.jit
    def leak(x: Any) -> Any:
        kept.append(x * 2)
        return x

    leak(X)
    with pytest.raises(TypeError, match=r"TD0807: a traced f32\[3,4\], made at test_errors_tracing.py") as caught:
        use(kept[0])
    assert isinstance(caught.value, td.TreadleError)
    assert "kept.append(x * 2)" in str(caught.value) and "edit: return it" in str(caught.value)
    assert "traced" in repr(kept[0]), "it can be printed"


# Text of a graph that does not read: the line, the column, and what was expected there.
@pytest.mark.parametrize(
    ("text", "line", "column", "expected"),
    [
        ("graph f(%x: f32[3]) -> f32[3]:\n  %0 = addd %x, %x : f32[3]\n  return %0\n", 2, 8, "did you mean 'add'?"),
        ("graph f(%x: f32[3] -> f32[3]:\n  return %x\n", 1, 20, "expected ',' or ')'"),
        ("graph f(%x: f33[3]) -> f32[3]:\n  return %x\n", 1, 13, "expected"),
        ("graph f(%x: f32[3]) -> f32[3]:\n  return %y\n", 2, 10, "%y"),
        ("graph f(%x: f32[3]) -> f32[3]:\n", 2, 1, "expected"),
        ("", 1, 1, "expected"),
    ],
)
def test_a_text_that_does_not_read(text: str, line: int, column: int, expected: str) -> None:
    error = raises(lambda: td.parse(text), ValueError, error_code(text))
    assert f"line {line}, column {column}" in str(error) and expected in str(error), str(error)
    assert "td.parse(text)" in str(error)


def error_code(text: str) -> str:
    with pytest.raises(td.TreadleError) as caught:
        td.parse(text)
    assert "TD0260" <= caught.value.code <= "TD0269"
    return caught.value.code


def test_what_is_no_text_and_no_graph() -> None:
    raises(lambda: td.parse(3), TypeError, "TD0603")
    raises(lambda: td.evaluate("graph", X), TypeError, "TD0603")
    graph = td.jit(lambda x: x * 2).trace(X).graph
    raises(lambda: td.evaluate(graph), TypeError, "TD0104")
    raises(lambda: td.evaluate(graph, X.astype("f8")), TypeError, "TD0103")
    raises(lambda: td.evaluate(graph, X[0]), ValueError, "TD0102")
