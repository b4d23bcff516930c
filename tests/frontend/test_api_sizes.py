"""Symbolic sizes: one program for all of them, and what is promised of a size is kept or refused."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle as td


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_one_compile_serves_every_size() -> None:
    @td.jit
    def f(w: Any, x: Any) -> Any:
        return np.tanh(x @ w).sum(axis=1), x.T

    w = noise(7, 3)
    compiled = f.compile(w, td.ShapeDtype(("B", 7), "float32"))
    for n in (0, 1, 5, 33, 5):
        x = noise(n, 7)
        for call in (compiled, f):
            total, turned = call(w, x)
            np.testing.assert_allclose(total, np.tanh(x @ w).sum(axis=1), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(turned, x.T)
    assert f.n_compiles == 1, "a call finds the program with symbolic sizes"
    assert f.cache_info().currsize == 1


# What does not fit the symbolic program gets one of its own, as if there were none.
def test_other_arguments_are_compiled_for() -> None:
    f = td.jit(lambda x, y: x + y, dims={"B": (2, 4)})
    spec = td.ShapeDtype(("B", 3), "float32")
    f.compile(spec, spec)
    for x, y, compiles in (
        (noise(3, 3), noise(3, 3), 1),
        (noise(5, 3), noise(5, 3), 2),  # not promised
        (noise(3, 3), noise(1, 3), 3),  # stretched
        (noise(3, 4), noise(3, 4), 4),  # another known size
        (noise(3, 3), 2.0, 5),
        (noise(4, 3), noise(4, 3), 5),
    ):
        np.testing.assert_array_equal(f(x, y), x + y)
        assert f.n_compiles == compiles


def test_sizes_may_be_formulas() -> None:
    f = td.jit(lambda x, y: np.concatenate([x, y[1:]]))
    compiled = f.compile(td.ShapeDtype(("B",), "float32"), td.ShapeDtype(("2*B + 1",), "float32"))
    for n in (0, 1, 9):
        x, y = noise(n), noise(2 * n + 1)
        np.testing.assert_array_equal(compiled(x, y), np.concatenate([x, y[1:]]))
    with pytest.raises(ValueError, match=r"TD0944: .*expected 2\*B \+ 1 = 7; B = 3 by x \(axis 0\)"):
        compiled(noise(3), noise(8))


# A declared size is a contract: least, greatest and divisor.
@pytest.mark.parametrize("sizes", [(2, 8), (2, 8, 2)])
def test_what_is_promised_is_kept(sizes: tuple[int, ...]) -> None:
    f = td.jit(lambda x: x * 2, dims={"B": sizes})
    compiled = f.compile(td.ShapeDtype(("B",), "float32"))
    np.testing.assert_array_equal(compiled(noise(8)), noise(8) * 2)
    for wrong in (0, 1, 9, *([3] if len(sizes) == 3 else [])):
        with pytest.raises(ValueError, match=f"TD0945: .*B = {wrong}, which was promised"):
            compiled(noise(wrong))


# An even size has two equal halves, and one that is promised to be a multiple of three has three equal thirds.
def test_parts_of_a_promised_size_are_equal() -> None:
    def halves(x: Any) -> Any:
        half = x.shape[0] // 2
        return x[:half] + x[half:]

    def thirds(x: Any) -> Any:
        third = x.shape[0] // 3
        return x[:third] + x[third : 2 * third] - x[2 * third :]

    for f, promise, sizes in ((halves, (0, 64, 2), (0, 2, 10)), (thirds, (3, 64, 6), (6, 18))):
        compiled = td.jit(f, dims={"n": promise}).compile(td.ShapeDtype(("n", 3), "float32"))
        for n in sizes:
            np.testing.assert_array_equal(compiled(noise(n, 3)), f(noise(n, 3)))
    with pytest.raises(ValueError, match="TD0817"):
        td.jit(halves, dims={"n": (0, 63, 3)}).compile(td.ShapeDtype(("n",), "float32"))


# An index that may be outside is accepted for sizes that are not known, and checked by native code before it runs: on
# the complete path, on the fast one, and in a saved model. It is then what it is in NumPy.
@pytest.mark.parametrize("index", [3, -4])
def test_a_size_that_is_too_small(tmp_path: Path, index: int) -> None:
    def fourth(x: Any) -> Any:
        return x[index] * 2

    f = td.jit(fourth)
    compiled = f.compile(td.ShapeDtype(("B",), "float32"))
    compiled.save(tmp_path / "fourth.so")
    for call in (compiled, f, f, td.load(tmp_path / "fourth.so")):
        assert call(noise(9)) == noise(9)[index] * 2
        with pytest.raises(
            IndexError,
            match=r"(?s)TD0351.*(4 <= B|0 <= B - 4).*return x\[index\] \* 2.*from the call at test_api_sizes.py",
        ):
            call(noise(3))
    assert f.n_compiles == 1


# --- what a function may do with a size that has a name ---------------------------------------------------------


# The same function on NumPy's arrays, where the size is a number, says what it is.
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * x.shape[0] ** -0.5,
        lambda x: x / x.shape[0],
        lambda x: x @ x.T / np.sqrt(x.shape[0]),
        lambda x: 0.5 * x.shape[0] + x.shape[0] ** 2 + 2 ** x.shape[1],
        lambda x: x + x.shape[0] % 2.5,
        lambda x: (1 / x.shape[0], 7 - x.size, x.shape[0] ** -1, x.nbytes / 3),
        lambda x: np.arange(5) * x.shape[0] + np.int64(3),
        lambda x: x * np.float32(x.shape[0] / 2) if isinstance(x, np.ndarray) else x * (x.shape[0] / 2),
        lambda x: x.reshape(np.prod(x.shape)),
        lambda x: x.reshape(math.prod(np.shape(x)[:2]), -1),
        lambda x: x[x.shape[0] // 2 :] + x[x.shape[0] - 1],
        lambda x: td.numpy.zeros((np.maximum(x.shape[0], 4), abs(x.shape[0]))),
        lambda x: td.numpy.zeros(np.int64(2) * x.shape[0] + divmod(x.shape[0], 3)[1]),
        lambda x: td.numpy.arange(x.shape[0]),
        lambda x: td.numpy.asarray([5, 6, 7])[x.shape[0] // 4],
        lambda x: np.where(np.equal(x.shape[0], 3), x, x + 1),
        lambda x: np.where(np.greater(x.shape[0], 3) | np.equal(x.shape[0] % 2, 0), x, x + 1),
        lambda x: np.minimum(x.shape[0], 2.5) * x,
        lambda x: (
            td.numpy.zeros((x.shape[0] >> 1, x.shape[0] << 2)) + (x.shape[0] & 3) + (2 ^ x.shape[0]) - ~x.shape[0]
        ),
        lambda x: np.sort(td.random.choice(td.random.key(0), x.shape[0], (x.shape[0],), replace=False)),
        lambda x: td.random.choice(td.random.key(0), 5, x.shape) < 5,
        lambda x: np.sort(td.random.permutation(td.random.key(0), x.shape[0])),
        lambda x: td.random.choice(td.random.key(0), x.shape[0], (4,)) < x.shape[0],
        lambda x: x * {str(x.shape): 3, "()": 4}[str(np.shape(x))],
    ],
)
def test_sizes_compute(f: Any) -> None:
    compiled = td.jit(f).compile(td.ShapeDtype(("n", 3), "float32"))
    for n in (1, 2, 3, 4, 8):
        x = noise(n, 3)
        for found, wanted in zip(_all(compiled(x)), _all(f(x)), strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def _all(result: Any) -> list[Any]:
    return [np.asarray(each) for each in result] if isinstance(result, tuple) else [np.asarray(result)]


# What all sizes answer alike is answered: by their formulas, by what is promised of a name, by divisors.
@pytest.mark.parametrize(
    ("f", "promise"),
    [
        (lambda x: x if x.shape == (x + 1).shape and x.shape != (x.shape[0], 4) else x + 1, (0, 64)),
        (lambda x: x if x.shape[0] >= 0 and x.shape[0] > -0.5 and not x.shape[0] < 0 else x + 1, (0, 64)),
        (lambda x: x if x.shape[0] > 1 and x.shape[0] and x.shape[0] != 1 else x + 1, (2, 8)),
        (lambda x: x if x.shape[0] <= 8 and max(8, x.shape[0]) == 8 else x + 1, (2, 8)),
        (lambda x: x if x.shape[0] % 2 == 0 and x.shape[0] != 3 else x + 1, (0, 64, 2)),
        (lambda x: x if 2 * x.shape[0] == 7 or x.shape[0] == 2.5 or x.shape[0] is None else x + 1, (0, 64)),
        (lambda x: x if x.shape[0] < float("inf") and x.shape[0] != float("nan") else x + 1, (0, 64)),
        (lambda x: x if x.shape[0] % 3 < 3 and x.shape[0] // 2 <= x.shape[0] else x + 1, (0, 64)),
    ],
)
def test_comparisons_that_are_known(f: Any, promise: tuple[int, ...]) -> None:
    compiled = td.jit(f, dims={"n": promise}).compile(td.ShapeDtype(("n", 3), "float32"))
    for n in (2, 4, 8):
        np.testing.assert_array_equal(compiled(noise(n, 3)), f(noise(n, 3)))


# An answer is that of Python's own numbers, for all of them.
def test_answers_hold_for_every_size() -> None:
    random = np.random.default_rng(5)
    answered = 0

    def formula(n: Any, m: Any, k: list[int]) -> Any:
        parts = (n, n * m, n // 2, n % 3, m % 4, (n + k[3]) // 3)
        return k[0] * parts[k[4]] + k[1] * parts[k[5]] + k[2]

    draws = [
        [list(map(int, random.integers((-2, -2, -5, 0, 0, 0), (3, 3, 6, 3, 6, 6)))) for _ in "ab"] for _ in "9" * 300
    ]
    signs = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)

    @td.jit
    def f(x: Any, y: Any) -> Any:
        nonlocal answered
        for a, b in draws:
            for sign in signs:
                try:
                    found = sign(formula(*x.shape, *y.shape, a), formula(*x.shape, *y.shape, b))
                except TypeError as error:
                    assert "TD0201" in str(error)
                    continue
                answered += 1
                for n in range(7):
                    for m in range(5):
                        assert sign(formula(n, m, a), formula(n, m, b)) == found, (sign, a, b, n, m)
        return x

    f.compile(td.ShapeDtype(("n",), "float32"), td.ShapeDtype(("m",), "float32"))
    assert answered > 100, "otherwise nothing was tested"


# What depends on the size is refused, at its line and with the edit. Each once gave a wrong result or a bare TypeError.
@pytest.mark.parametrize(
    ("f", "edit"),
    [
        (lambda x: x if x.shape[0] == 3 else x + 1, r"np.where(np.equal(x.shape[0], 3), x, y) or td.lax.cond("),
        (lambda x: x if x.shape[0] % 2 != 0 else x + 1, "np.not_equal(x.shape[0] % 2, 0)"),
        (lambda x: x if x.shape[0] > 3 else x + 1, "np.greater(x.shape[0], 3)"),
        (lambda x: x if x.shape == (3, 3) else x + 1, "compile for a known size"),
        (lambda x: x if np.shape(x)[0] == 3 else x + 1, "compile for a known size"),
        (lambda x: x if 3 * x.shape[1] == x.size else x + 1, "compile for a known size"),
        (lambda x: x if 4 in x.shape else x + 1, "compile for a known size"),
        (lambda x: x if x.shape[0] else x + 1, "np.not_equal(n, 0)"),
        (lambda x: x * max(x.shape[0], 2), "np.maximum(a, b), which of sizes is a size"),
        (lambda x: x + np.zeros(x.shape[0])[:, None], "td.numpy.zeros"),
        (lambda x: x + np.ones(x.shape), "td.numpy.ones"),
        (lambda x: np.arange(x.shape[0]), "td.numpy.arange"),
        (lambda x: np.array([x.shape[0], 2]), "td.numpy.array"),
        (lambda x: np.tile(np.ones(3), x.shape[0]), "td.numpy.tile"),
        (lambda x: [1, 2, 3][x.shape[0]], "td.numpy.asarray([1, 2, 3])[x.shape[0]]"),
        (lambda x: np.arange(9)[x.shape[0]], "td.numpy.asarray(np.arange(9))[x.shape[0]]"),
        (lambda x: x * math.sqrt(x.shape[0]), "np.sqrt instead of math.sqrt"),
        (lambda x: x * float(x.shape[0]), "leave out float()"),
        (lambda x: x * int(x.shape[0]), "leave out int()"),
        (lambda x: x * ([1] * x.shape[0])[0], "td.numpy.full(n, v)"),
        (lambda x: [x[i] for i in range(x.shape[0])], "td.lax.fori_loop"),
        (lambda x: x * x.shape[0].bit_length(), "compile for a known size"),
        # Found or not, it would be so for every size.
        (lambda x: x * {3: 2, 4: 5}[x.shape[0]], "str(n), its formula, as the key"),
        (lambda x: x * {3: 2, 4: 5}.get(x.shape[0], 1), "np.where(np.equal(n, m), x, y)"),
        (lambda x: x if x.shape[0] in {3, 4} else x + 1, "compile for a known size"),
        (lambda x: x * {x.shape: 2}.get((3, 3), 1), "str(n), its formula, as the key"),
        (
            lambda x: td.random.randint(td.random.key(0), (3,), 0, x.shape[0]),
            "td.random.choice(key, high - low, shape)",
        ),
        (lambda x: td.vmap(lambda row: row if x.shape[0] == 3 else row + 1)(x), "compile for a known size"),
    ],
)
def test_what_depends_on_a_size_is_refused(f: Any, edit: str) -> None:
    with pytest.raises(TypeError, match=r"TD0201: (?s:.*)the size (3\*)?n") as caught:
        td.jit(f).compile(td.ShapeDtype(("n", 3), "float32"))
    assert f"test_api_sizes.py:{f.__code__.co_firstlineno}" in str(caught.value), "the user's line"
    assert edit in str(caught.value).split("edit:")[1]


def test_edits_for_statements() -> None:
    def asserted(x: Any) -> Any:
        assert x.shape[0] % 2 == 0
        return x

    def looped(x: Any) -> Any:
        i = 1
        while i < x.shape[0]:
            i *= 2
        return x * i

    def halved(x: Any) -> Any:
        return x[: math.ceil(x.shape[0] / 2)]

    def cut(x: Any) -> Any:
        return x[: int((x.shape[0] + 1) / 2)]

    for f, edit in ((halved, "of sizes -(-x.shape[0] // 2)"), (cut, "of sizes (x.shape[0] + 1) // 2")):
        with pytest.raises(TypeError, match="TD0802") as caught:
            td.jit(f).compile(td.ShapeDtype(("n",), "float32"))
        assert edit in str(caught.value)
    for f, edit in ((asserted, "promise it"), (looped, "td.lax.while_loop")):
        with pytest.raises(TypeError, match=f"TD0201(?s:.*)edit: .*{edit}"):
            td.jit(f).compile(td.ShapeDtype(("n",), "float32"))
    promised = td.jit(asserted, dims={"n": (0, 8, 2)}).compile(td.ShapeDtype(("n",), "float32"))
    np.testing.assert_array_equal(promised(noise(4)), noise(4))


def test_sizes_that_stand_nowhere_alone_are_refused() -> None:
    f = td.jit(lambda x: x * 2)
    with pytest.raises(ValueError, match="TD0"):
        f.compile(td.ShapeDtype(("B*C",), "float32"))


# Analyses of a program with symbolic sizes are of given ones, and say which are missing.
def test_analyses_take_the_sizes() -> None:
    compiled = td.jit(lambda x: np.exp(x) @ x.T).compile(td.ShapeDtype(("B", 4), "float32"))
    assert compiled.memory_analysis({"B": 8}).argument_size_in_bytes == 8 * 4 * 4
    assert compiled.cost_analysis({"B": 8})["transcendentals"] == 8 * 4
    with pytest.raises(ValueError, match=r"TD0646.*sizes of .* are B; given: none"):
        compiled.memory_analysis()
    with pytest.raises(ValueError, match="TD0646"):
        compiled.cost_analysis({"C": 3})


@pytest.mark.parametrize(
    ("make", "kind", "code"),
    [
        (lambda: td.ShapeDtype((-1,), "float32"), ValueError, "TD0625"),
        (lambda: td.ShapeDtype((2.5,), "float32"), TypeError, "TD0625"),
        (lambda: td.ShapeDtype(("B +",), "float32"), ValueError, "TD0205"),
        (lambda: td.ShapeDtype((2,), "flot32"), TypeError, "TD0101: 'flot32' is no dtype(?s:.*)float32"),
        (lambda: td.ShapeDtype((2,), object), TypeError, "TD0101"),
        (lambda: td.ShapeDtype((2,), "float32", order="C"), TypeError, "TD0601"),
        (lambda: td.jit(np.exp)(td.ShapeDtype((2,), "float32")), TypeError, "TD0627"),
    ],
)
def test_refusals(make: Any, kind: type[Exception], code: str) -> None:
    with pytest.raises(kind, match=code) as caught:
        make()
    assert "test_api_sizes.py" in str(caught.value), "the user's line"


def test_specs_compare_and_print() -> None:
    spec = td.ShapeDtype(("B", 784), "float32")
    assert spec == td.ShapeDtype(["B", np.int64(784)], np.float32) and hash(spec) == hash(
        td.ShapeDtype(("B", 784), "f4")
    )
    assert spec != td.ShapeDtype(("C", 784), "float32") and spec.shape[1] == 784
    assert repr(spec) == "ShapeDtype(f32[B,784])"
