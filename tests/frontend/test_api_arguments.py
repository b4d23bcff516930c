"""What may be an argument or a result: containers, Python numbers, static values, arrays of any kind and library."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import treadle as td


def noise(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass
class Layer:
    w: Any
    name: str = "layer"


class Box:
    def __init__(self, item: Any, label: str) -> None:
        self.item, self.label = item, label


td.tree.register(Box, lambda box: ((box.item,), box.label), lambda label, items: Box(items[0], label))


# Every container goes in and comes out as what it is, nested in any way, on the complete path and on the fast one.
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, y: {"x": x, "y": y},
        lambda x, y: [x, [y]],
        lambda x, y: (x, (y,)),
        lambda x, y: Pair(x, y),
        lambda x, y: Layer([x, y]),
        lambda x, y: Box({"x": x, "y": y}, "label"),
        lambda x, y: OrderedDict(y=x, x=y),
        lambda x, y: {"p": Pair([x], {"y": (y, None)}), "l": Layer(x), 3: Box(y, "b")},
    ],
    ids=["dict", "list", "tuple", "NamedTuple", "dataclass", "registered", "OrderedDict", "nested"],
)
def test_containers_go_in_and_out(wrap: Any) -> None:
    x, y = noise(3), noise(4)
    f = td.jit(_doubled)
    given = wrap(x, y)
    for _ in range(3):
        result = f(given)
        assert td.tree.structure(result) == td.tree.structure(given)
        for found, leaf in zip(td.tree.leaves(result), td.tree.leaves(given), strict=True):
            if isinstance(leaf, np.ndarray):
                np.testing.assert_array_equal(found, leaf * 2)
    assert f.n_compiles == 1


def _doubled(tree: Any) -> Any:
    match tree:
        case dict():
            return type(tree)((key, _doubled(value)) for key, value in tree.items())
        case Pair():
            return Pair(*map(_doubled, tree))
        case list() | tuple():
            return type(tree)(map(_doubled, tree))
        case Layer():
            return Layer(_doubled(tree.w))
        case Box():
            return Box(_doubled(tree.item), tree.label)
    return None if tree is None else tree * 2


# The order in which a dict was filled is no part of its structure.
def test_dicts_with_the_same_keys_are_one_signature() -> None:
    f = td.jit(lambda d: d["a"] - d["b"])
    x, y = noise(3), noise(3) + 1
    np.testing.assert_array_equal(f({"a": x, "b": y}), x - y)
    np.testing.assert_array_equal(f({"b": y, "a": x}), x - y)
    assert f.n_compiles == 1


# Python numbers are data, weak in promotion as NumPy has them: their value does not recompile, their kind does.
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("number", [3, 2.5, 1 + 2j])
def test_python_numbers_are_weak(dtype: str, number: Any) -> None:
    f = td.jit(lambda x, s: x * s)
    x = np.arange(4).astype(dtype)
    for s in (number, number + 1):
        result = f(x, s)
        assert result.dtype == (x * s).dtype
        np.testing.assert_allclose(result, x * s, rtol=1e-6)
    assert f.n_compiles == 1


class Mode(enum.Enum):
    ADD = "add"
    SUB = "sub"


# These steer the trace by themselves: a new value is a new program, a known one is found again.
@pytest.mark.parametrize(
    ("fn", "values"),
    [
        (lambda x, flag: x + 1 if flag else x - 1, [True, False]),
        (lambda x, name: {"up": x + 1, "down": x - 1}[name], ["up", "down"]),
        (lambda x, mode: x + 1 if mode is Mode.ADD else x - 1, [Mode.ADD, Mode.SUB]),
        (lambda x, y: x + 1 if y is None else x - 1, [None, "y"]),
        (lambda x, dtype: x.astype(dtype), [np.dtype("f8"), np.dtype("f2")]),
        (lambda x, dtype: x.astype(dtype), [np.float64, np.float16, ml_dtypes.bfloat16]),
        (lambda x, fn: fn(x), [np.abs, np.square, abs]),
        (lambda x, index: x[index], [slice(0, 2), slice(1, 3)]),
    ],
    ids=["bool", "str", "enum", "None", "dtype", "scalar type", "callable", "slice"],
)
def test_static_by_default(fn: Any, values: list[Any]) -> None:
    f = td.jit(fn)
    x = noise(4)
    for _ in range(3):
        for value in values:
            result, expected = f(x, value), fn(x, value)
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected)
    assert f.n_compiles == len(values)


# What is static by itself is so inside containers, too: a flag in a dict steers the trace.
def test_static_values_in_containers() -> None:
    @td.jit
    def f(config: dict[str, Any], x: Any) -> Any:
        y = x * config["scale"]
        for name in config["then"]:
            y = {"exp": np.exp, "neg": np.negative}[name](y)
        return y if config["on"] else x

    x = noise(4)
    for _ in range(2):
        for on in (True, False):
            for then in (("exp",), ("neg", "exp")):
                config = {"scale": 2.0, "then": list(then), "on": on}
                np.testing.assert_allclose(f(config, x), f.__wrapped__(config, x), rtol=1e-6)
    assert f.n_compiles == 4
    f({"scale": 5.0, "then": ["exp"], "on": True}, x)
    assert f.n_compiles == 4, "the scale is data"
    assert "'on': True" in f.explain()


# 1, 1.0 and True are equal to Python and trace differently.
def test_static_values_are_told_apart_by_type() -> None:
    f = td.jit(lambda x, n: x * n, static_argnames="n")
    x = np.arange(3, dtype=np.int8)
    assert [f(x, n).dtype for n in (1, 1.0, True)] == [np.int8, np.float64, np.int8]
    assert f.n_compiles == 3


def test_static_by_name_and_by_number() -> None:
    def power(x: Any, n: int, m: int = 1) -> Any:
        for _ in range(n + m):
            x = x * 2
        return x

    x = noise(3)
    for options in ({"static_argnames": ("n", "m")}, {"static_argnums": (1, 2)}, {"static_argnums": [-1, -2]}):
        f = td.jit(power, **options)
        np.testing.assert_array_equal(f(x, 2, m=2), power(x, 2, m=2))
        np.testing.assert_array_equal(f(x, 2), power(x, 2))
        assert f.n_compiles == 2


TABLE = np.arange(4.0)


# A default that was not given is the function's own, hence known while tracing: no second signature, and it may steer.
def test_defaults_are_the_functions_own() -> None:
    @td.jit
    def f(x: Any, n: int = 3, scale: float = 2.0, table: Any = TABLE) -> Any:
        for _ in range(n):
            x = x * scale
        return x + table

    x = noise(4, dtype="float64")
    for _ in range(3):
        np.testing.assert_array_equal(f(x), f.__wrapped__(x))
    np.testing.assert_array_equal(f(x, scale=3.0), f.__wrapped__(x, scale=3.0))
    assert f.n_compiles == 2


def test_variable_arguments() -> None:
    @td.jit
    def f(*args: Any, flip: bool = False, **kwargs: Any) -> Any:
        total = sum(args[1:], args[0])
        return -(total + kwargs["more"]) if flip else total + kwargs["more"]

    x, y = noise(3), noise(3) + 1
    for _ in range(3):
        np.testing.assert_array_equal(f(x, y, more=x), x + y + x)
        np.testing.assert_array_equal(f(x, more=y, flip=True), -(x + y))
    assert f.n_compiles == 2


# Strided, reversed, big-endian, misaligned, read-only and memory-mapped arrays, NumPy scalars and lists of arrays.
def test_arrays_of_every_kind(tmp_path: Any) -> None:
    f = td.jit(lambda x: x * 2 + 1)
    x = noise(6, 4)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.save(tmp_path / "x.npy", x)
    kinds = {
        "strided": x[::2, 1:3],
        "reversed": x[::-1, ::-1],
        "transposed": x.T,
        "Fortran": np.asfortranarray(x),
        "stretched": np.broadcast_to(x[0], (3, 4)),
        "big-endian": x.astype(">f4"),
        "misaligned": np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32),
        "read-only": frozen,
        "memory-mapped": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "scalar": x[0, 0],
        "0-d": x[0, 0, ...],
        "empty": x[:0],
    }
    for name, array in kinds.items():
        before = array.copy()
        for _ in range(3):
            result = f(array)
            assert isinstance(result, np.ndarray) and result.dtype == np.float32, name
            np.testing.assert_array_equal(result, array * 2 + 1, err_msg=name)
            assert not np.shares_memory(result, array), name
        np.testing.assert_array_equal(array, before, err_msg=name)


class Lender:
    """The least another library does: it lends its memory by DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_dlpack_goes_in_and_out() -> None:
    f = td.jit(lambda x, y: x @ y)
    x, y = noise(3, 4), noise(4, 2)
    for _ in range(3):
        result = f(Lender(x), y)
        np.testing.assert_allclose(result, x @ y, rtol=1e-5)
    lent = np.from_dlpack(result)
    assert np.shares_memory(lent, result), "results are lent on without a copy"
    assert f.n_compiles == 1
    np.testing.assert_array_equal(f.compile(x, y)(Lender(x), Lender(y)), result)


def test_torch_tensors_go_in_and_out() -> None:
    torch = pytest.importorskip("torch")
    f = td.jit(lambda x: x * 2)
    x = torch.arange(6.0).reshape(2, 3)
    for each in (x, x.T, x[:, ::2]):
        assert torch.equal(torch.from_dlpack(f(each)), each * 2)
    for each in (x.to(torch.bfloat16), x.to(torch.bfloat16).T):
        result = f(each)
        assert result.dtype == ml_dtypes.bfloat16
        assert torch.equal(torch.from_numpy(result.view(np.int16)).view(torch.bfloat16), each * 2)


# What the array protocol of another library gives is copied where it cannot be lent.
def test_objects_with_an_array_protocol() -> None:
    class Holder:
        def __init__(self, array: np.ndarray) -> None:
            self.__array_interface__ = array.__array_interface__
            self.array = array

    x = noise(5)
    np.testing.assert_array_equal(td.jit(np.negative)(Holder(x)), -x)


# Outside a trace the same functions compute at once, on NumPy arrays.
def test_eager_use() -> None:
    x = noise(3, 4)
    softmax = td.nn.softmax(x, axis=-1)
    assert isinstance(softmax, np.ndarray)
    np.testing.assert_allclose(softmax, td.jit(lambda x: td.nn.softmax(x, axis=-1))(x), rtol=1e-6)
    np.testing.assert_array_equal(td.numpy.take(x, [0, 2], axis=0), x[[0, 2]])
    assert td.lax.scan(lambda c, a: (c + a, c), np.float32(0), x[0])[0] == pytest.approx(x[0].sum(), rel=1e-6)


# A jitted function inside another is part of its trace: one program, static arguments and bound constants included.
def test_jitted_functions_inside_of_traces() -> None:
    @td.jit(static_argnames="n")
    def inner(x: Any, n: int, w: Any) -> Any:
        for _ in range(n):
            x = x * 2 + w
        return x

    bound = inner.bind(w=np.float32(3))
    outer = td.jit(lambda x: inner(x, 2, x) + bound(x, n=1))
    x = noise(4)
    np.testing.assert_allclose(outer(x), ((x * 2 + x) * 2 + x) + (x * 2 + 3), rtol=1e-6)
    assert inner.n_compiles == bound.n_compiles == 0 and outer.n_compiles == 1
    np.testing.assert_array_equal(td.jit(td.jit(np.exp))(x), np.asarray(td.jit(np.exp)(x)))
    np.testing.assert_allclose(td.grad(td.jit(lambda x: (x * x).sum()))(x), 2 * x, rtol=1e-6)

    @td.jit
    def nested(x: Any, y: Any) -> Any:
        @td.jit
        def closure(z: Any) -> Any:
            return z * x  # of the outer trace

        return closure(y) + closure(np.float32(2))

    np.testing.assert_allclose(nested(x, x + 1), (x + 1) * x + 2 * x, rtol=1e-6)


def test_results_that_are_not_computed() -> None:
    x = noise(3)
    result = td.jit(lambda x: {"x": x, "again": x, "number": 3, "flag": True, "none": None, "const": np.arange(2)})(x)
    np.testing.assert_array_equal(result["x"], x)
    assert not np.shares_memory(result["x"], x) and not np.shares_memory(result["x"], result["again"])
    assert result["number"].dtype == np.int64 and result["flag"].dtype == np.bool_ and result["none"] is None
    np.testing.assert_array_equal(result["const"], np.arange(2))
    assert td.jit(lambda x: None)(x) is None
