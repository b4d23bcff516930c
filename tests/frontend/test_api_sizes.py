"""Symbolic sizes: one program for all of them, and what is promised of a size is kept or refused."""

from __future__ import annotations

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
