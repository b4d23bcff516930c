"""The fast way from a call to a program: what it takes, what it leaves to the complete way, and what it must
not leak.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import inspect
import itertools
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.codegen.llvm.optimize import object_code
from treadle.codegen.llvm.vectorcall import dispatch_module
from treadle.runtime import arena, dispatch, elf, loader, scratch
from treadle.runtime import record as records
from treadle.runtime.dispatch import Dispatched, Scratch, Unavailable, callable_type
from treadle.runtime.executable import CallContext, Executable
from treadle.runtime.record import (
    CallOf,
    DictOf,
    Fixed,
    Leaf,
    ListOf,
    Number,
    Out,
    Output,
    Record,
    TupleOf,
    Unservable,
    assemble,
)
from treadle.runtime.signature import Dim, Signature, Tensor

TRIPLE = f"{platform.machine()}-unknown-linux-gnu"
F32, F64, I64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
Array = np.ndarray[Any, Any]

# Programs, by the native ABI. Inputs and outputs have four f32 unless said otherwise.
PROGRAMS = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; out = in0 + in1, of dims[0] elements
define i32 @add_dims(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
entry:
  %n = load i64, ptr %dims
  %r = call i32 @add_some(ptr %buffers, i64 %n)
  ret i32 %r
}

define i32 @add(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  %r = call i32 @add_some(ptr %buffers, i64 4)
  ret i32 %r
}

define internal i32 @add_some(ptr %buffers, i64 %n) nounwind {
entry:
  %x = load ptr, ptr %buffers
  %y.place = getelementptr ptr, ptr %buffers, i64 1
  %y = load ptr, ptr %y.place
  %z.place = getelementptr ptr, ptr %buffers, i64 2
  %z = load ptr, ptr %z.place
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %each ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %each, label %end
each:
  %x.place = getelementptr float, ptr %x, i64 %i
  %y.i.place = getelementptr float, ptr %y, i64 %i
  %z.i.place = getelementptr float, ptr %z, i64 %i
  %x.i = load float, ptr %x.place
  %y.i = load float, ptr %y.i.place
  %sum = fadd float %x.i, %y.i
  store float %sum, ptr %z.i.place
  %next = add i64 %i, 1
  br label %loop
end:
  ret i32 0
}

; the status is the i32 in the only constant: buffers are one output, then it
define i32 @fail(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  %place = getelementptr ptr, ptr %buffers, i64 1
  %constant = load ptr, ptr %place
  %status = load i32, ptr %constant
  ret i32 %status
}

; waits until the i64 in its input is not 0, and copies it to the output
define i32 @wait(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
entry:
  %x = load ptr, ptr %buffers
  %z.place = getelementptr ptr, ptr %buffers, i64 1
  %z = load ptr, ptr %z.place
  br label %loop
loop:
  %v = load atomic i64, ptr %x seq_cst, align 8
  %zero = icmp eq i64 %v, 0
  br i1 %zero, label %loop, label %end
end:
  store i64 %v, ptr %z
  ret i32 0
}

; where the scratch is and what the context is, as two i64
define i32 @told(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  %z = load ptr, ptr %buffers
  %second = getelementptr i64, ptr %z, i64 1
  store ptr %arena, ptr %z
  store ptr %context, ptr %second
  ret i32 0
}

; the second of three inputs
define i32 @copy_second(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  %x.place = getelementptr ptr, ptr %buffers, i64 1
  %x = load ptr, ptr %x.place
  %z.place = getelementptr ptr, ptr %buffers, i64 3
  %z = load ptr, ptr %z.place
  call void @llvm.memcpy.p0.p0.i64(ptr %z, ptr %x, i64 16, i1 false)
  ret i32 0
}

; 16 bytes of the input
define i32 @copy(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  %x = load ptr, ptr %buffers
  %z.place = getelementptr ptr, ptr %buffers, i64 1
  %z = load ptr, ptr %z.place
  call void @llvm.memcpy.p0.p0.i64(ptr %z, ptr %x, i64 16, i1 false)
  ret i32 0
}

; adds 1.0 to a donated f32[4], which is the first of two inputs, and the output
define i32 @increase(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  %x = load ptr, ptr %buffers
  %z.place = getelementptr ptr, ptr %buffers, i64 2
  %z = load ptr, ptr %z.place
  %v = load <4 x float>, ptr %x, align 4
  %w = fadd <4 x float> %v, splat (float 1.0)
  store <4 x float> %w, ptr %z, align 4
  ret i32 0
}

; the first eight bytes of each input, of which there are as many as the context's address says
define i32 @first_words(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
entry:
  %n = ptrtoint ptr %context to i64
  %z.place = getelementptr ptr, ptr %buffers, i64 %n
  %z = load ptr, ptr %z.place
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %each ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %each, label %end
each:
  %x.place = getelementptr ptr, ptr %buffers, i64 %i
  %x = load ptr, ptr %x.place
  %word = load i64, ptr %x, align 1
  %word.place = getelementptr i64, ptr %z, i64 %i
  store i64 %word, ptr %word.place
  %next = add i64 %i, 1
  br label %loop
end:
  ret i32 0
}

; for an input that begins with 0 nothing; else waits for the stop word
define i32 @until_stopped(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
entry:
  %x = load ptr, ptr %buffers
  %forever = load i64, ptr %x
  %short = icmp eq i64 %forever, 0
  br i1 %short, label %end, label %prepare
prepare:
  %stop.place = getelementptr i8, ptr %context, i64 16
  %stop = load ptr, ptr %stop.place
  br label %loop
loop:
  %word = load atomic i32, ptr %stop monotonic, align 4
  %run = icmp eq i32 %word, 0
  br i1 %run, label %loop, label %stopped
stopped:
  ret i32 -1
end:
  ret i32 0
}

; nothing, for the tests that look at the arguments or the sizes only
define i32 @nothing(ptr %buffers, ptr %dims, ptr %arena, ptr %context) nounwind {
  ret i32 0
}

define i64 @sixty_four(ptr %dims) nounwind {
  ret i64 64
}

define i64 @as_dims(ptr %dims) nounwind {
  %n = load i64, ptr %dims
  ret i64 %n
}
"""


def compile_routine(numbers: Mapping[str, int]) -> bytes:
    return object_code(dispatch_module(TRIPLE, numbers), TRIPLE, "", "", pipeline=2)


class Function(Dispatched):
    """A compiled function, as the frontend would have it."""

    __slots__ = ()

    def method(self) -> str:
        return "of the class"


NATIVE = callable_type(Function, compile_routine)
CODE = loader.load(object_code(PROGRAMS, TRIPLE, "", ""))


class Slow:
    """The complete way, in tests: it notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **keywords: Any) -> str:
        self.calls.append((args, keywords))
        return "slow"


def tensors(*specs: Any) -> list[Tensor]:
    """Four f32 for None, else (dtype, shape)."""
    return [
        Tensor(f"t{i}", *((F32, (4,)) if spec is None else (np.dtype(spec[0]), spec[1])))
        for i, spec in enumerate(specs)
    ]


def record(
    program: str,
    inputs: list[Tensor],
    outputs: list[Tensor],
    args: tuple[Any, ...],
    result: Any = None,
    *,
    dims: tuple[Dim, ...] = (),
    donated: tuple[tuple[int, int], ...] = (),
    **fields: Any,
) -> Record:
    def failed(status: int, found: int) -> Any:
        return ("failed", status)

    fields.setdefault("failed", failed)
    return Record(
        Signature(inputs, outputs, dims, donated),
        args,
        Output(0) if result is None else result,
        CODE.address(program),
        fields.pop("arena_bytes", 0),
        keep=CODE,
        **fields,
    )


def function(*records: Record, slow: Callable[..., Any] | None = None) -> Any:
    made = NATIVE(Slow() if slow is None else slow)
    for one in records:
        made.install(one)
    return made


def adder(**fields: Any) -> Any:
    return function(record("add", tensors(None, None), tensors(None), (Leaf(0), Leaf(1)), **fields))


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    return np.ones(shape or (4,), dtype)


ADD_OUT = record("add", tensors(None, None), tensors(None), (Leaf(0), Leaf(1)), keywords=(("out", Out(0)),))


# ---- what is served ----------------------------------------------------------------------------------------


def test_the_native_type_is_what_these_tests_run_on() -> None:
    """On this interpreter and this NumPy the routine must be had: everything below would pass without it."""
    assert NATIVE.routine is not None
    assert NATIVE.__flags__ & 1 << 11  # HAVE_VECTORCALL


def test_a_call_that_matches_runs_the_program_on_fresh_memory() -> None:
    """The plain promise: NumPy's answer, a new array each time, nothing asked of the complete way."""
    f = adder()
    x, y = np.arange(4, dtype=np.float32), ones()
    first, second = f(x, y), f(x, y)
    assert type(first) is np.ndarray and first.dtype is F32
    assert np.array_equal(first, x + y) and np.array_equal(second, x + y)
    assert not np.shares_memory(first, second)
    assert not f.slow.calls


class Subclass(np.ndarray[Any, Any]):
    pass


def unaligned() -> Array:
    return np.frombuffer(bytearray(17), np.uint8, 16, 1).view(np.float32)


@pytest.mark.parametrize(
    "args",
    [
        (ones(),),
        (ones(), ones(), ones()),
        (ones(dtype=np.float64), ones()),
        (ones(), ones(dtype=np.int32)),
        (ones(5), ones()),
        (ones(1), ones()),
        (ones(4, 1), ones()),
        (ones(), np.float32(1)),
        (ones(8)[::2], ones()),
        (ones().view(Subclass), ones()),
        (ones().astype(">f4"), ones()),
        (unaligned(), ones()),
        (np.ma.masked_array(ones()), ones()),
        ([1.0] * 4, ones()),
        (ones(), None),
        (),
    ],
    ids=range(16),
)
def test_any_difference_takes_the_complete_way_with_the_very_same_arguments(args: tuple[Any, ...]) -> None:
    """Each case differs from the signature in one respect that native code would misread."""
    f = adder()
    assert f(*args) == "slow"
    ((seen, keywords),) = f.slow.calls
    assert len(seen) == len(args) and all(a is b for a, b in zip(seen, args)) and not keywords


def test_unexpected_keywords_take_the_complete_way() -> None:
    """It knows how to refuse them with a did-you-mean."""
    f = adder()
    x = ones()
    assert f(x, y=x) == "slow"
    assert f(x, x, threads=2) == "slow"
    assert [sorted(keywords) for _, keywords in f.slow.calls] == [["y"], ["threads"]]


def test_keywords_are_told_apart_by_spelling_and_order_not_by_the_calling_code() -> None:
    """Every call site has a tuple of names of its own; the strings in it are the same."""
    f = function(
        record("add", tensors(None, None), tensors(None), (Leaf(0),), keywords=(("y", Leaf(1)),)),
    )
    x, y = ones(), 2 * ones()
    assert (f(x, y=y) == 3).all()
    assert (eval("f(x, y=y)", {"f": f, "x": x, "y": y}) == 3).all()
    assert (f(*(x,), y=y) == 3).all()
    assert not f.slow.calls
    assert f(x, z=y) == "slow" and f(y=y, x=x) == "slow"


def test_two_orders_of_keywords_are_two_signatures() -> None:
    """The routine reads arguments by place, so a record fits one order only."""
    inputs, outputs = tensors(None, None), tensors(None)
    f = function(
        record("add", inputs, outputs, (), keywords=(("x", Leaf(0)), ("y", Leaf(1)))),
        record("add", inputs, outputs, (), keywords=(("y", Leaf(1)), ("x", Leaf(0)))),
    )
    assert (f(x=ones(), y=ones()) == 2).all() and (f(y=ones(), x=ones()) == 2).all()
    assert not f.slow.calls


def test_a_dtype_that_is_equal_but_another_object_is_served() -> None:
    """Unpickled arrays, which is what worker processes get, have dtypes of their own."""
    f = adder()
    x = pickle.loads(pickle.dumps(ones(), protocol=2))
    assert (f(x, ones()) == 2).all()
    own = np.ndarray((4,), np.dtype(np.float32, copy=True, align=True), ones())
    assert own.dtype is not F32
    assert (f(own, ones()) == 2).all()
    assert not f.slow.calls


def test_zero_sizes_and_zero_rank_are_arrays_like_others() -> None:
    """Their memory may be anywhere and their flags are all set."""
    f = function(record("nothing", tensors((F32, (0, 3)), (F64, ())), tensors((F32, (0, 3))), (Leaf(0), Leaf(1))))
    assert f(np.empty((0, 3), np.float32), np.array(2.0)).shape == (0, 3)
    assert not f.slow.calls
    assert f(np.empty((0, 4), np.float32), np.array(2.0)) == "slow"


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float16, np.bool_, np.complex128])
def test_every_element_type_is_told_from_the_others(dtype: Any) -> None:
    """Extension dtypes are registered while running; their numbers are as good as NumPy's own."""
    size = 16 // np.dtype(dtype).itemsize
    f = function(record("copy", tensors((dtype, (size,))), tensors((dtype, (size,))), (Leaf(0),)))
    x = np.ones(size, dtype)
    y = f(x)
    assert y.dtype == x.dtype and np.array_equal(y, x)
    assert f(np.ones(size, np.uint8)) == "slow"
    assert len(f.slow.calls) == 1


# ---- containers --------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


NESTED = (DictOf(("a", "b"), (Leaf(0), ListOf((Leaf(1), TupleOf((Leaf(2),)))))), TupleOf((Leaf(3), Leaf(4)), Pair))


def nested(order: str = "ab") -> tuple[dict[str, Any], Pair]:
    params = {"a": ones(), "b": [ones(), (ones(),)]}
    return {key: params[key] for key in order}, Pair(ones(), ones())


def test_nested_containers_are_opened_natively() -> None:
    """Parameters come as trees; each exact dict, list, tuple and named tuple is walked in place."""
    f = function(record("nothing", tensors(*[None] * 5), tensors(None), NESTED))
    assert f(*nested()).shape == (4,)
    assert not f.slow.calls


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        params, pair = nested()
        replaced = change(params)
        return (params if replaced is None else replaced), pair

    return make


@pytest.mark.parametrize(
    "make",
    [
        lambda: nested("ba"),
        changed(lambda p: p.pop("b") and None),
        changed(lambda p: p.update(c=ones())),
        changed(lambda p: p["b"].append(ones())),
        changed(lambda p: p["b"].pop() and None),
        changed(lambda p: p.update(b=tuple(p["b"]))),
        changed(lambda p: p["b"].__setitem__(1, list(p["b"][1]))),
        changed(lambda p: p["b"].__setitem__(1, ())),
        changed(lambda p: OrderedDict(p)),
        changed(lambda p: {"a": p["a"], "c": p["b"]}),
        changed(lambda p: {1: p["a"], "b": p["b"]}),
        changed(lambda p: {b"a": p["a"], "b": p["b"]}),
        lambda: (nested()[0], tuple(nested()[1])),
        lambda: (nested()[0], [*nested()[1]]),
        lambda: (list(nested()[0].values()), nested()[1]),
    ],
    ids=range(15),
)
def test_another_structure_takes_the_complete_way(make: Callable[[], tuple[Any, Any]]) -> None:
    """Same arrays, other containers: kinds, lengths, keys and their order all belong to the signature."""
    f = function(record("nothing", tensors(*[None] * 5), tensors(None), NESTED))
    assert f(*make()) == "slow"


def test_keys_are_compared_by_spelling_when_they_are_other_strings() -> None:
    """Keys that were computed, or read from a file, are not the literals of the program."""
    f = function(record("nothing", tensors(*[None] * 5), tensors(None), NESTED))
    params, pair = nested()
    computed = {"".join(["", key]) + "": value for key, value in params.items()}
    long = function(
        record("nothing", tensors(None), tensors(None), (DictOf(("layer_1 weights", 7), (Leaf(0), Fixed(None))),))
    )
    assert f(computed, pair).shape == (4,)
    key = "_".join(["layer", "1 weights"])
    assert key is not sys.intern("layer_1 weights")
    assert long({key: ones(), 7: None}).shape == (4,)
    assert not f.slow.calls and not long.slow.calls


def test_looking_into_a_dict_runs_no_code_of_the_user() -> None:
    """A key's `__eq__` could change the very containers that are being read."""

    class Key:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

    f = function(record("nothing", tensors(None), tensors(None), (DictOf(("a",), (Leaf(0),)),)))
    assert f({Key(): ones()}) == "slow"


class Attributes:
    """Its `__dict__` shares its keys with those of other instances."""


def forms(x: Array, y: Array) -> dict[str, dict[Any, Any]]:
    """The dict {"a": x, "b": y}, kept by Python in different ways."""
    one, other = Attributes(), Attributes()
    one.a = other.a = x
    one.b = other.b = y
    again = {"z": x, "a": x, "b": y}
    del again["z"]
    replaced = {"a": y, "b": x}
    replaced["a"], replaced["b"] = x, y
    wide: dict[Any, Any] = {f"k{i}": x for i in range(300)}
    for key in tuple(wide):
        del wide[key]
    wide.update(a=x, b=y)
    numbered: dict[Any, Any] = {1: x, "a": x, "b": y}
    del numbered[1]
    return {
        "literal": {"a": x, "b": y},
        "copy": {"a": x, "b": y}.copy(),
        "zipped": dict(zip("ab", (x, y), strict=True)),
        "attributes": vars(one),
        "one deleted": again,
        "replaced": replaced,
        "many deleted": wide,
        "numbered": numbered,
    }


@functools.cache
def asking() -> type[Any]:
    """The native type with the routine of a process whose dicts are not kept in the known way."""
    code = loader.load(compile_routine({**dispatch.measure(), "dict_direct": 0}))
    return dispatch.make_type(Function, dispatch.Routine(code))


@pytest.mark.parametrize("kind", [lambda: NATIVE, asking], ids=["in place", "asking"])
@pytest.mark.parametrize("form", forms(ones(), ones()))
def test_dicts_however_python_keeps_them(kind: Callable[[], type[Any]], form: str) -> None:
    """Read in place where that is known to be right, entry by entry elsewhere; the same arrays either way."""
    x, y = ones(), 2 * ones()
    tree = (DictOf(("a", "b"), (Leaf(0), Leaf(1))), Leaf(2))
    served = kind()(Slow())
    served.install(record("copy_second", tensors(None, None, None), tensors(None), tree))
    np.testing.assert_array_equal(served(forms(x, y)[form], ones()), y)
    assert not served.slow.calls
    assert served(forms(x, ones(5))[form], ones()) == "slow"


def test_dicts_are_known_here() -> None:
    """On the Pythons that we test with the short way is taken; otherwise the test above would test one way twice."""
    assert dispatch.measure()["dict_direct"] == 1


@pytest.mark.parametrize("field", dispatch.DICT_LAYOUT)
def test_dicts_of_another_layout_are_asked(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Another version may move a field: that is found without reading what is no dict's, and costs only time."""
    monkeypatch.setitem(dispatch.DICT_LAYOUT, field, dispatch.DICT_LAYOUT[field] + (1 if "keys_k" in field else 8))
    assert dispatch.measure()["dict_direct"] == 0


def test_many_leaves() -> None:
    """A model's parameters: more than fit a small frame."""
    count = 1000
    keys = tuple(f"p{i}" for i in range(count))
    f = function(
        record(
            "nothing",
            tensors(*[None] * count),
            tensors(None),
            (DictOf(keys, tuple(Leaf(i) for i in range(count))),),
        )
    )
    params = {key: ones() for key in keys}
    assert f(params).shape == (4,)
    params["p999"] = ones(5)
    assert f(params) == "slow"


# ---- numbers and fixed arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype", "good", "bad"),
    [
        (float, "f8", [0.0, -0.0, 1e300, float("inf"), float("nan")], [1, True, np.float64(1), "1", None]),
        (float, "f4", [0.1, -2.5], [1, np.float32(1)]),
        (int, "i8", [0, -1, 2**63 - 1, -(2**63)], [2**63, 1.0, True, np.int64(1)]),
        (int, "i4", [2**31 - 1, -(2**31)], [2**31, -(2**31) - 1]),
        (int, "u1", [0, 255], [256, -1]),
        (int, "u8", [0, 2**63 - 1], [-1]),
        (bool, "?", [True, False], [1, 0, np.True_]),
        (complex, "c16", [1 + 2j, -0j], [1.0]),
        (np.float32, "f4", [np.float32(0.1)], [0.1, np.float64(0.1), ones()]),
        (np.int8, "i1", [np.int8(-128)], [1]),
        (np.complex128, "c16", [np.complex128(1 - 2j)], [1j]),
    ],
    ids=str,
)
def test_numbers_are_written_as_the_program_reads_them(
    kind: type[Any], dtype: str, good: list[Any], bad: list[Any]
) -> None:
    """Exactly that type and in range, else the complete way: it converts or refuses as NumPy does."""
    wanted = np.dtype(dtype)
    size = 16 // wanted.itemsize
    f = function(record("copy", tensors((wanted, ())), tensors((wanted, (size,))), (Number(0, kind),)))
    for value in good:
        seen = f(value)[0]
        assert np.array_equal(seen, np.array(value, wanted), equal_nan=True)
        assert np.signbit(seen.real) == np.signbit(np.array(value, wanted).real)
    assert not f.slow.calls
    for value in bad:
        assert f(value) == "slow", value


class Enumerated:
    """Compared by identity, like the members of an enum. Its name in test ids must not be its address."""

    def __repr__(self) -> str:
        return "member"


MEMBER = Enumerated()
NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "same", "others"),
    [
        ("axis", "".join(["ax", "is"]), ["axes", b"axis", None]),
        (7, int("7"), [8, True, 7.0, np.int64(7), 10**30]),
        (10**6, int("1000000"), [10**6 + 1]),
        (1, 1, [True, 1.0]),
        (0.0, float("0"), [-0.0, 0, False, 1e-300]),
        (NAN, float("nan"), [0.0]),
        (True, True, [1, False, np.True_]),
        (None, None, [False, 0, "None"]),
        (MEMBER, MEMBER, [Enumerated()]),
        (np.float32, np.float32, [np.float64, F32]),
    ],
    ids=str,
)
def test_fixed_arguments_are_the_value_the_program_was_made_for(value: Any, same: Any, others: list[Any]) -> None:
    """An equal value of another type may mean another program: True is no axis 1, -0.0 is not 0.0."""
    f = function(record("nothing", tensors(None), tensors(None), (Leaf(0), Fixed(value))))
    assert f(ones(), value).shape == (4,) and f(ones(), same).shape == (4,)
    assert not f.slow.calls
    for other in others:
        assert f(ones(), other) == "slow", other


# ---- any structure, against a matcher in Python --------------------------------------------------------------

# A tree of arguments: what it is, and its parts. Arrays have eight bytes at least, so that the program can read them.
ARRAYS = [("array", dtype, shape) for dtype in ("f4", "i4", "f8") for shape in ((2,), (1, 2), (3,))]
SINGLE = st.sampled_from(
    [*ARRAYS, ("number", float), ("number", int), ("fixed", None), ("fixed", 1), ("fixed", True), ("fixed", "a")]
)
TREES = st.recursive(
    SINGLE,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["tuple", "list"]), st.lists(inner, max_size=3).map(tuple)),
        st.tuples(st.just("pair"), st.tuples(inner, inner)),
        st.lists(st.sampled_from(["a", "b", 3]), unique=True, max_size=3).flatmap(
            lambda keys: st.tuples(st.just("dict"), st.tuples(*[inner] * len(keys)), st.just(tuple(keys)))
        ),
    ),
    max_leaves=8,
)


def specified(tree: Any, inputs: list[Tensor]) -> Any:
    """The tree as the record has it, its inputs numbered in passing."""
    match tree:
        case ("array", dtype, shape):
            inputs.append(Tensor("x", np.dtype(dtype), shape))
            return Leaf(len(inputs) - 1)
        case ("number", kind):
            inputs.append(Tensor("x", np.dtype(kind), ()))
            return Number(len(inputs) - 1, kind)
        case ("fixed", value):
            return Fixed(value)
        case ("dict", parts, keys):
            return DictOf(keys, tuple(specified(part, inputs) for part in parts))
        case (name, parts):
            items = tuple(specified(part, inputs) for part in parts)
            return {"tuple": TupleOf(items), "list": ListOf(items), "pair": TupleOf(items, Pair)}[name]
    raise AssertionError(tree)


def example(tree: Any, serial: Iterator[int]) -> Any:
    """An argument that fits the tree, with contents of its own."""
    match tree:
        case ("array", dtype, shape):
            return np.full(shape, next(serial), dtype)
        case ("number", kind):
            return kind(next(serial))
        case ("fixed", value):
            return value
        case ("dict", parts, keys):
            return {key: example(part, serial) for key, part in zip(keys, parts)}
        case (name, parts):
            items = [example(part, serial) for part in parts]
            return {"tuple": tuple, "list": list, "pair": lambda items: Pair(*items)}[name](items)
    raise AssertionError(tree)


def matched(tree: Any, value: Any) -> list[bytes] | None:
    """What the program is to see of the argument: eight bytes of each input; None if it does not fit."""
    match tree:
        case ("array", dtype, shape):
            fits = type(value) is np.ndarray and value.dtype == dtype and value.shape == shape
            return [value.tobytes()[:8]] if fits else None
        case ("number", kind):
            return [np.array(value, kind).tobytes()] if type(value) is kind else None
        case ("fixed", wanted):
            return [] if type(value) is type(wanted) and value == wanted else None
        case ("dict", parts, keys):
            if type(value) is not dict or tuple(value) != keys:
                return None
            found = [matched(part, value[key]) for key, part in zip(keys, parts)]
        case (name, parts):
            kind = {"tuple": tuple, "list": list, "pair": Pair}[name]
            if type(value) is not kind or len(value) != len(parts):
                return None
            found = [matched(part, item) for part, item in zip(parts, value)]
        case _:
            raise AssertionError(tree)
    return None if None in found else [word for words in found if words is not None for word in words]


@given(st.lists(TREES, min_size=1, max_size=3), st.lists(TREES, min_size=1, max_size=3), st.data())
def test_a_call_is_served_exactly_when_its_structure_matches(
    trees: list[Any], others: list[Any], data: st.DataObject
) -> None:
    """Random signatures against random arguments, some of which fit in all places but one."""
    inputs: list[Tensor] = []
    specs = tuple(specified(tree, inputs) for tree in trees)
    f = function(record("first_words", inputs, tensors((I64, (len(inputs),))), specs, context=len(inputs)))
    serial = itertools.count(1)
    good = [example(tree, serial) for tree in trees]
    strange = [example(tree, serial) for tree in others]
    mixed = list(good)
    mixed[data.draw(st.integers(0, len(good) - 1))] = strange[0]
    for args in (good, strange, mixed):
        found = [matched(tree, value) for tree, value in zip(trees, args)]
        answer = f(*args)
        if len(args) != len(trees) or None in found:
            assert isinstance(answer, str)
        else:
            assert answer.tobytes() == b"".join(word for words in found if words is not None for word in words)


# ---- symbolic sizes ----------------------------------------------------------------------------------------


def test_dims_follow_from_the_arguments_and_reach_the_program() -> None:
    """One program for all sizes; its outputs are as large as the arguments make them."""
    f = function(
        record(
            "add_dims",
            tensors((F32, ("B",)), (F32, ("B",))),
            tensors((F32, ("B",))),
            (Leaf(0), Leaf(1)),
            dims=(Dim("B", 1, 1000, 2),),
        )
    )
    for size in (2, 4, 1000):
        x = np.arange(size, dtype=np.float32)
        assert np.array_equal(f(x, x), x + x)
    assert not f.slow.calls
    for size, other in ((0, 0), (3, 3), (1002, 1002), (4, 6)):
        assert f(ones(size), ones(other)) == "slow", (size, other)


def test_sizes_that_are_formulas_are_checked() -> None:
    """Wherever the dims get their value, in whatever order the arguments come."""
    f = function(
        record(
            "nothing",
            tensors((F32, ("2*B + 1", 3)), (F32, ("B", "T", "B")), (F32, ("min(B, T)",))),
            tensors((F32, ("B*T", "max(B, T, 3) - 1"))),
            (Leaf(0), Leaf(1), Leaf(2)),
            dims=(Dim("T"), Dim("B")),
        )
    )
    assert f(ones(11, 3), ones(5, 2, 5), ones(2)).shape == (10, 4)
    assert f(ones(1, 3), ones(0, 2, 0), np.ones(0, np.float32)).shape == (0, 2)
    assert not f.slow.calls
    assert f(ones(12, 3), ones(5, 2, 5), ones(2)) == "slow"
    assert f(ones(11, 3), ones(5, 2, 4), ones(2)) == "slow"
    assert f(ones(11, 3), ones(5, 2, 5), ones(5)) == "slow"
    assert f(ones(11, 4), ones(5, 2, 5), ones(2)) == "slow"


FORMULAS = st.recursive(
    st.sampled_from(["A", "B"]) | st.integers(-9, 9).map(lambda n: f"({n})"),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.sampled_from(["//", "%"]), st.integers(1, 7)).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        inner.map(lambda t: f"(-{t})"),
    ),
    max_leaves=6,
)


@given(FORMULAS, st.integers(0, 40), st.integers(0, 40))
def test_formulas_have_pythons_value(formula: str, a: int, b: int) -> None:
    """Division rounds down and the remainder is never negative, unlike the machine's. Python is the oracle."""
    value = eval(formula, {"A": a, "B": b, "min": min, "max": max})
    if not 0 <= value <= 10**4:
        return
    f = function(
        record(
            "nothing",
            tensors((F32, ("A",)), (F32, ("B",))),
            tensors((F32, (formula,))),
            (Leaf(0), Leaf(1)),
            dims=(Dim("A"), Dim("B")),
        )
    )
    assert f(np.ones(a, np.float32), np.ones(b, np.float32)).shape == (value,)
    assert not f.slow.calls


def test_a_size_that_divides_by_zero_takes_the_complete_way() -> None:
    """It says so with the values; the machine would trap."""
    f = function(record("nothing", tensors((F32, ("B", "4 // B"))), tensors(None), (Leaf(0),), dims=(Dim("B"),)))
    assert f(np.ones((2, 2), np.float32)).shape == (4,)
    assert f(np.ones((0, 2), np.float32)) == "slow"


def test_an_output_whose_size_would_be_negative_takes_the_complete_way() -> None:
    """A window that is larger than what it slides over: it knows the argument's name."""
    f = function(record("nothing", tensors((F32, ("W",))), tensors((F32, ("W - 2",))), (Leaf(0),), dims=(Dim("W"),)))
    assert f(ones(2)).shape == (0,)
    assert not f.slow.calls
    assert f(ones(1)) == "slow"


# ---- out and donation --------------------------------------------------------------------------------------


def test_out_is_filled_and_returned() -> None:
    """As NumPy's own functions do it; and without allocating."""
    f = function(ADD_OUT)
    x, out = ones(), np.zeros(4, np.float32)
    assert f(x, x, out=out) is out
    assert (out == 2).all()
    assert not f.slow.calls


def read_only() -> Array:
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "out",
    [read_only(), np.zeros(5, np.float32), np.zeros(4), np.zeros(8, np.float32)[::2], None, [0.0] * 4],
    ids=range(6),
)
def test_an_out_that_cannot_be_written_directly_takes_the_complete_way(out: Any) -> None:
    """Read-only, other sizes, dtypes or layouts: it copies, or refuses by name."""
    assert function(ADD_OUT)(ones(), ones(), out=out) == "slow"


def test_an_out_that_overlaps_an_argument_takes_the_complete_way() -> None:
    """The program writes while it still reads; only memory that lies apart may be given to it."""
    f = function(ADD_OUT)
    memory = np.arange(16, dtype=np.float32)
    x = memory[4:8]
    for start in range(13):
        out = memory[start : start + 4]
        apart = start <= 0 or start >= 8
        answer = f(x, ones(), out=out)
        assert (answer is out) if apart else (answer == "slow"), start


def test_two_outs_must_lie_apart_from_each_other() -> None:
    """Results never share memory."""
    f = function(
        record(
            "nothing",
            tensors(None),
            tensors(None, None),
            (Leaf(0),),
            TupleOf((Output(0), Output(1))),
            keywords=(("out", TupleOf((Out(0), Out(1)))),),
        )
    )
    one, two = ones(), ones()
    result = f(ones(), out=(one, two))
    assert result[0] is one and result[1] is two
    assert not f.slow.calls
    assert f(ones(), out=(one, one)) == "slow"
    memory = ones(6)
    assert f(ones(), out=(memory[:4], memory[2:])) == "slow"


def test_a_donated_arguments_own_array_is_the_result() -> None:
    """Its memory is taken over: no allocation, no copy; another argument that shares it would be read too late."""
    f = function(
        record("increase", tensors(None, None), tensors(None), (Leaf(0), Leaf(1)), donated=((0, 0),)),
    )
    x, y = ones(), ones()
    assert f(x, y) is x
    assert (x == 2).all() and (y == 1).all()
    assert not f.slow.calls
    assert f(x, x) == "slow"
    assert f(read_only(), y) == "slow"


# ---- results -----------------------------------------------------------------------------------------------


def test_results_come_in_the_structure_of_the_function() -> None:
    """Whatever the user's function returned when it was traced."""
    tree = DictOf(
        ("t", "l", "n", "f"),
        (
            TupleOf((Output(1), TupleOf(()))),
            ListOf((Output(0), Fixed("text"))),
            CallOf(Pair, (Output(2), Fixed(None))),
            Output(3, scalar=True),
        ),
    )
    f = function(
        record(
            "nothing",
            tensors(None),
            tensors((F32, (1,)), (F32, (2,)), (F32, (3,)), (I64, ())),
            (Leaf(0),),
            tree,
        )
    )
    result = f(ones())
    assert list(result) == ["t", "l", "n", "f"]
    assert result["t"][0].shape == (2,) and result["t"][1] == ()
    assert result["l"][0].shape == (1,) and result["l"][1] == "text"
    assert type(result["n"]) is Pair and result["n"].left.shape == (3,) and result["n"].right is None
    assert type(result["f"]) is np.int64
    assert not f.slow.calls


def test_an_output_of_rank_zero_stays_an_array_unless_a_scalar_is_asked_for() -> None:
    """Both habits exist; a scalar of a higher rank is no scalar."""
    for shape, scalar, kind in (((), False, np.ndarray), ((), True, np.float64), ((1,), True, np.ndarray)):
        f = function(record("nothing", tensors(None), tensors((F64, shape)), (Leaf(0),), Output(0, scalar)))
        assert type(f(ones())) is kind


def test_outputs_that_are_not_in_the_result_are_given_back() -> None:
    """A function may drop what its program makes."""
    f = function(record("nothing", tensors(None), tensors(None, None), (Leaf(0),), Fixed(None)))
    assert f(ones()) is None


def test_a_constructor_that_raises_raises_from_the_call() -> None:
    """The result's own class may refuse; nothing else may be left over."""

    def refuse(*items: Any) -> Any:
        raise LookupError("no")

    f = function(
        record(
            "nothing",
            tensors(None),
            tensors(None, None),
            (Leaf(0),),
            TupleOf((Output(0), ListOf((Fixed(MEMBER), CallOf(refuse, (Output(1),)))))),
        )
    )
    x = ones()
    before = sys.getrefcount(MEMBER), sys.getrefcount(F32), sys.getrefcount(x)
    for _ in range(100):
        with pytest.raises(LookupError):
            f(x)
    assert (sys.getrefcount(MEMBER), sys.getrefcount(F32), sys.getrefcount(x)) == before


def test_large_outputs_come_from_the_arena() -> None:
    """Fresh large memory costs more in page faults than most programs cost in work."""
    memory = arena.Arena()
    size = records.LARGE_BYTES // 4 + 1
    for outputs in ([(F32, (size,))], [(F32, ("B",))]):
        symbolic = isinstance(outputs[0][1][0], str)
        f = function(
            record(
                "nothing",
                tensors((F32, ("B",)) if symbolic else None),
                tensors(*outputs),
                (Leaf(0),),
                memory=memory,
                dims=(Dim("B"),) if symbolic else (),
            )
        )
        x = ones(size) if symbolic else ones()
        result = f(x)
        assert result.shape == (size,) and result.ctypes.data % 64 == 0
        assert memory.used_bytes >= 4 * size
        del result
        assert memory.used_bytes == 0
        if symbolic:
            assert f(ones(3)).base is None
        assert not f.slow.calls


@pytest.mark.parametrize(
    ("wrong", "error"), [(ValueError("full"), ValueError), ("text", RuntimeError), (np.zeros(3, np.int8), RuntimeError)]
)
def test_an_allocator_that_fails_raises_from_the_call(wrong: Any, error: type[Exception]) -> None:
    """Out of memory is the usual reason. It must not be taken for a mismatch, nor leave anything held."""

    class Broken(arena.Arena):
        def array(self, shape: Any, dtype: Any) -> Any:
            if isinstance(wrong, Exception):
                raise wrong
            return wrong

    size = records.LARGE_BYTES
    scratch = Scratch()
    f = function(
        record(
            "nothing",
            tensors(None),
            tensors(None, (F32, (size,))),
            (ListOf((Leaf(0),)),),
            memory=Broken(),
            scratch=scratch,
            arena_bytes=CODE.address("sixty_four"),
        )
    )
    x = ones()
    before = sys.getrefcount(x)
    for _ in range(10):
        with pytest.raises(error):
            f([x])
    assert sys.getrefcount(x) == before
    assert scratch.reserve(100)
    assert not f.slow.calls


# ---- failures ----------------------------------------------------------------------------------------------


def failing(status: int, failed: Callable[[int, int], Any]) -> tuple[Any, Any]:
    word = ctypes.c_int32(status)
    one = record("fail", [], tensors(None), (Fixed(None),), failed=failed, constants=(ctypes.addressof(word),))
    return function(one), word


def test_a_failure_of_the_program_is_told_with_its_status() -> None:
    """Sites from 1, and -1 for a program that was stopped; what is raised is not the routine's business."""
    seen: list[int] = []

    def failed(status: int, found: int) -> str:
        seen.append(status)
        # The head of the buffers: the second is the constant.
        assert ctypes.c_int64.from_address(found + 8).value == ctypes.addressof(word)
        if status == 3:
            raise IndexError("index 9 is out of range   at net.py:12")
        return "answered"

    f, word = failing(0, failed)
    assert f(None).shape == (4,)
    word.value = 2
    assert f(None) == "answered"
    word.value = -1
    assert f(None) == "answered"
    word.value = 3
    with pytest.raises(IndexError, match=r"net\.py:12"):
        f(None)
    assert seen == [2, -1, 3]
    assert not f.slow.calls


# ---- scratch, the context, the GIL -------------------------------------------------------------------------


def told(**fields: Any) -> Any:
    return function(
        record("told", [], tensors((I64, (2,))), (Fixed(None),), arena_bytes=CODE.address("sixty_four"), **fields)
    )


def test_the_program_gets_scratch_and_context() -> None:
    """Memory that is large enough, aligned, and whose address stays; and the context's address."""
    scratch = Scratch()
    f = told(scratch=scratch, context=4711)
    first, second = f(None), f(None)
    assert np.array_equal(first, second)
    assert first[0] % 64 == 0 and first[0] != 0 and first[1] == 4711
    assert scratch.nbytes >= 64


def test_scratch_in_use_or_too_small_takes_the_complete_way() -> None:
    """Its own, that is; waiting could deadlock."""
    scratch = Scratch()
    f = function(
        record(
            "nothing",
            tensors((F32, ("B",))),
            tensors(None),
            (Leaf(0),),
            dims=(Dim("B"),),
            scratch=scratch,
            arena_bytes=CODE.address("as_dims"),
        )
    )
    assert scratch.reserve(100)
    assert f(ones(100)).shape == (4,)
    assert f(ones(101)) == "slow"
    assert scratch.reserve(101)
    assert f(ones(101)).shape == (4,)
    routine = NATIVE.routine
    assert routine.take(scratch.address)
    assert not routine.take(scratch.address)
    assert f(ones(1)) == "slow"
    assert not scratch.trim() and not scratch.reserve(1000)
    routine.give(scratch.address)
    assert f(ones(1)).shape == (4,)
    assert scratch.trim() and scratch.nbytes == 0
    assert f(ones(1)) == "slow"


def test_a_program_may_ask_for_its_context_at_each_call() -> None:
    """Long programs get a stop word that was set to zero for this very call."""
    answers: Iterator[Any] = itertools.count(100)
    f = told(scratch=Scratch(), begin=lambda: next(answers))
    assert [f(None)[1], f(None)[1]] == [100, 101]
    for wrong, error in ((iter([]), StopIteration), (iter(["no"]), TypeError)):
        answers = wrong
        with pytest.raises(error):
            f(None)
    answers = itertools.count(7)
    assert f(None)[1] == 7


def waiting(**fields: Any) -> Any:
    return function(
        record("wait", tensors((I64, ())), tensors((I64, ())), (ListOf((Leaf(0),)),), release_gil=True, **fields)
    )


def test_other_threads_run_while_a_long_program_does() -> None:
    """It waits for what only another Python thread writes."""
    f = waiting()
    flag = np.zeros((), np.int64)
    timer = threading.Timer(0.01, lambda: flag.fill(9))
    timer.start()
    assert f([flag]) == 9
    timer.join()
    assert not f.slow.calls


def test_what_was_found_in_a_container_lives_until_the_program_ends() -> None:
    """Another thread may replace it there meanwhile; the program would go on reading freed memory."""
    f = waiting()
    flag = np.zeros((), np.int64)
    container = [flag]
    gone = weakref.ref(flag)
    address = flag.ctypes.data
    seen: list[bool] = []

    def other() -> None:
        container[0] = ones()
        gc.collect()
        seen.append(gone() is not None)
        ctypes.c_int64.from_address(address).value = 5

    timer = threading.Timer(0.01, other)
    del flag
    timer.start()
    assert f(container) == 5
    timer.join()
    assert seen == [True]
    assert gone() is None


def test_a_record_that_is_replaced_while_it_runs_lives_until_it_ends() -> None:
    """Another thread may compile further signatures of the same function."""
    flag = np.zeros((), np.int64)
    keep = Enumerated()
    gone = weakref.ref(keep)
    f = NATIVE(Slow())
    f.install(
        record(
            "wait",
            tensors((I64, ())),
            tensors((I64, ())),
            (Leaf(0),),
            release_gil=True,
            failed=functools.partial(lambda keep, status, found: None, keep),
        )
    )
    del keep
    seen: list[bool] = []

    def other() -> None:
        f.forget()
        gc.collect()
        seen.append(gone() is not None)
        flag.fill(1)

    timer = threading.Timer(0.01, other)
    timer.start()
    assert f(flag) == 1
    timer.join()
    assert seen == [True]
    gc.collect()
    assert gone() is None
    assert f(flag) == "slow"


def test_scratch_is_taken_by_one_call_at_a_time() -> None:
    """A second thread in the same function goes the complete way; nobody waits, nobody shares."""
    f = waiting(scratch=Scratch(), arena_bytes=CODE.address("sixty_four"))
    flag = np.zeros((), np.int64)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(f([flag])))
    thread.start()
    while not f.slow.calls:
        f([np.ones((), np.int64)])
    flag.fill(3)
    thread.join()
    assert answers == [3]


def test_many_threads_call_one_function() -> None:
    """Served or not, every answer is right."""
    f = function(
        record(
            "add",
            tensors(None, None),
            tensors(None),
            (ListOf((Leaf(0), Leaf(1))),),
            release_gil=True,
            scratch=Scratch(),
            arena_bytes=CODE.address("sixty_four"),
        ),
        slow=lambda pair: pair[0] + pair[1],
    )
    wrong: list[Any] = []

    def work(number: int) -> None:
        x = np.full(4, number, np.float32)
        for i in range(3000):
            y = np.full(4, i, np.float32)
            if not np.array_equal(f([x, y]), x + y):
                wrong.append((number, i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- references --------------------------------------------------------------------------------------------


def counts(*objects: Any) -> list[int]:
    return [sys.getrefcount(x) for x in objects]


def test_calls_leave_every_reference_count_as_it_was() -> None:
    """One reference lost or kept per call ends the process after a while; on 3.11 even None's can run out."""
    slow = Slow()
    f = function(
        record("add", tensors(None, None), tensors(None), (Leaf(0), Leaf(1))),
        ADD_OUT,
        record(
            "nothing",
            tensors(None, (F64, ())),
            tensors(None, (I64, ())),
            (
                DictOf(
                    ("a", "b"),
                    (ListOf((Leaf(0),)), TupleOf((Number(1, float), Fixed(None), Fixed("text")))),
                ),
            ),
            DictOf(("r", "s"), (ListOf((Output(0), Fixed(None))), TupleOf((Output(1, True),)))),
            release_gil=True,
        ),
        record("fail", [], tensors(None), (Fixed(None),), constants=(ctypes.addressof(one := ctypes.c_int32(1)),)),
        slow=lambda *args, **keywords: None,
    )
    x, y, out = ones(), ones(), ones()
    tree = {"a": [x], "b": (2.5, None, "text")}
    watched = (x, y, out, tree, tree["a"], tree["b"], F32, F64, I64, f, slow, MEMBER, True, one)

    def all_ways() -> None:
        f(x, y)
        assert f(x, y, out=out) is out
        assert list(f(tree)) == ["r", "s"]
        assert f(None) == ("failed", 1)
        f(x, y, out=x)  # overlaps
        f(x)  # too few
        f({"a": [x], "b": (2, None, "text")})
        f(x, other=y)

    all_ways()
    before, none = counts(*watched), sys.getrefcount(None)
    for _ in range(3000):
        all_ways()
    assert counts(*watched) == before
    assert abs(sys.getrefcount(None) - none) < 100


def test_calls_keep_no_memory() -> None:
    """What reference counts of known objects cannot show: arrays, tuples and numbers made on the way."""
    f = function(
        record(
            "nothing",
            tensors((F32, ("B",))),
            tensors((F32, ("B",)), (I64, ()), (F32, ("B", "3"))),
            (ListOf((Leaf(0),)),),
            TupleOf((Output(0), Output(1, True), ListOf((Output(2),)))),
            dims=(Dim("B"),),
            begin=lambda: 10**15,
            release_gil=True,
        )
    )
    x = ones()
    for _ in range(100):
        f([x])
    before = sys.getallocatedblocks()
    for _ in range(5000):
        f([x])
    assert sys.getallocatedblocks() - before < 200
    assert not f.slow.calls


# ---- the object --------------------------------------------------------------------------------------------


@pytest.fixture(params=["native", "plain"])
def kind(request: pytest.FixtureRequest) -> type[Any]:
    """With the routine and without: what users see is the same."""
    return NATIVE if request.param == "native" else dispatch.make_type(Function, None)


def test_it_behaves_as_a_function_object(kind: type[Any]) -> None:
    """Attributes, names, signatures, documentation: what decorators and tools rely on."""

    def original(x, *, y=2):  # type: ignore[no-untyped-def]
        """What it does."""
        return x + y

    f = functools.update_wrapper(kind(original), original)
    assert f(1) == 3 and f(1, y=5) == 6
    assert f.__name__ == "original" and f.__doc__ == "What it does." and f.__wrapped__ is original
    assert str(inspect.signature(f)) == "(x, *, y=2)"
    assert callable(f) and isinstance(f, Function) and isinstance(f, Dispatched)
    assert f.method() == "of the class" and f.slow is original
    f.extra = 1
    assert f.__dict__["extra"] == 1 and vars(f) is f.__dict__
    assert type(f).__name__ == "Function" and type(f).__module__ == __name__
    assert type(f).__doc__ == Function.__doc__
    f.slow = lambda *args: args
    assert f(1, 2) == (1, 2)
    assert hash(f) == hash(f) and f == f and {f: 1}[f] == 1


def test_decorators_that_copy_attributes_leave_it_its_own_way(kind: type[Any]) -> None:
    """`functools.update_wrapper` copies one function's dict into another's."""
    f = kind(lambda: "f")
    g = functools.update_wrapper(kind(lambda: "g"), f)
    assert g() == "g" and f() == "f"
    assert f.__dict__ == {}


def test_it_binds_as_a_method(kind: type[Any]) -> None:
    """`@td.jit` in a class body: called on an instance it gets it first; read from the class it is itself."""

    class Model:
        f = kind(lambda *args, **keywords: (args, keywords))

    model = Model()
    assert Model.f is Model.__dict__["f"]
    assert model.f(1, k=2) == ((model, 1), {"k": 2})
    bound = model.f
    assert bound.__self__ is model and bound(3) == ((model, 3), {})
    assert functools.partial(Model.f, 1)(2) == ((1, 2), {})


def test_a_method_call_is_served(kind: type[Any]) -> None:
    """The instance is a fixed argument of the record, by identity."""

    class Model:
        pass

    model = Model()
    f = kind(Slow())
    f.install(record("nothing", tensors(None), tensors(None), (Fixed(model), Leaf(0))))
    Model.f = f  # type: ignore[attr-defined]
    answer = model.f(ones())
    assert answer.shape == (4,) if kind is NATIVE else answer == "slow"
    assert Model().f(ones()) == "slow"


def test_it_dies_with_its_last_reference(kind: type[Any]) -> None:
    """And weak references learn of it: caches are keyed by functions."""
    f = kind(Slow())
    f.attribute = ones()
    gone, attribute = weakref.ref(f), weakref.ref(f.attribute)
    assert gone() is f
    del f
    assert gone() is None and attribute() is None


def test_cycles_through_every_reference_are_collected(kind: type[Any]) -> None:
    """The complete way closes over the function, the record's callables too, and users store it on itself."""
    for way in ("slow", "dict", "record"):
        f = kind(Slow())
        if way == "slow":
            f.slow = functools.partial(lambda f, *args: None, f)
        elif way == "dict":
            f.itself = f
        else:
            failed = functools.partial(lambda f, status, found: None, f)
            for _ in range(dispatch.SLOTS):
                f.install(record("nothing", tensors(None), tensors(None), (Leaf(0),), failed=failed))
            del failed
        gone = weakref.ref(f)
        del f
        gc.collect()
        assert gone() is None, way


def test_an_instance_that_was_never_made_complete_raises(kind: type[Any]) -> None:
    """`__new__` alone, as copy and pickle do: no crash."""
    f = kind.__new__(kind)
    with pytest.raises((RuntimeError, AttributeError)):
        f(1)


def test_the_native_type_cannot_be_subclassed() -> None:
    """A subclass would be called through the slower protocol, and could be laid out otherwise."""
    with pytest.raises(TypeError):
        type("Sub", (NATIVE,), {})


def test_a_base_with_storage_of_its_own_is_refused() -> None:
    """The instance's memory is laid out here."""

    class Stored(Dispatched):
        pass

    with pytest.raises(TypeError, match="__slots__"):
        callable_type(Stored, compile_routine)


def of_sizes(*sizes: int) -> list[Record]:
    return [record("nothing", tensors((F32, (n,))), tensors((F32, (n,))), (Leaf(0),)) for n in sizes]


def test_sixteen_signatures_are_served_and_a_later_one_replaces_the_oldest() -> None:
    """Alternating between many sizes is common, and must not end on the complete way."""
    sizes = range(1, 1 + dispatch.SLOTS)
    assert len(sizes) == 16
    f = function(*of_sizes(*sizes))
    assert all(f(ones(size)).shape == (size,) for size in (*sizes, *reversed(sizes)))
    one_more = of_sizes(99)[0]
    for _ in sizes:
        f.install(one_more)
    assert f(ones(1)) == "slow"
    assert all(f(ones(size)).shape == (size,) for size in (*sizes[1:], 99))
    f.forget()
    assert f(ones(2)) == "slow"
    f.install(one_more)
    assert f(ones(99)).shape == (99,)


def test_more_signatures_than_places_do_not_throw_each_other_out() -> None:
    """In turn, each would be the oldest when it is called again: none would ever be served."""
    sizes = range(1, 5 + dispatch.SLOTS)
    records = of_sizes(*sizes)
    f = function(*records[: dispatch.SLOTS])
    rounds = 20
    for _ in range(rounds):
        for size, each in zip(sizes, records):
            if isinstance(f(ones(size)), str):
                f.install(each)
    # The 4 that have no place, and the few that lose theirs.
    assert len(f.slow.calls) < rounds * 8


def test_the_complete_way_may_install_the_record_that_serves_the_next_call() -> None:
    """That is how records come to be."""

    def slow(x: Array) -> str:
        f.install(record("copy", tensors(None), tensors(None), (Leaf(0),)))
        return "compiled"

    f = function(slow=slow)
    assert f(ones()) == "compiled"
    assert (f(ones()) == 1).all()


def test_the_same_record_again_changes_nothing() -> None:
    """The complete way offers one after each of its calls; it must not push the other signatures out."""
    one = record("add", tensors(None, None), tensors(None), (Leaf(0), Leaf(1)))
    f = function(one)
    x = ones()
    sizes = range(1, dispatch.SLOTS)
    for other in of_sizes(*sizes):
        f.install(other)
    for _ in range(2 * dispatch.SLOTS):
        f.install(one._replace(failed=lambda status, found: None, args=(Leaf(0), Leaf(1))))
    assert (f(x, x) == 2).all() and all(f(ones(size)).shape == (size,) for size in sizes)
    assert not f.slow.calls


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Leaf(0), Leaf(0), True),
        (Leaf(0), Leaf(1), False),
        (Leaf(0), Out(0), False),
        (Number(0, float), Number(0, int), False),
        (Fixed(1), Fixed(True), False),
        (Fixed(0.0), Fixed(-0.0), False),
        (Fixed("axis"), Fixed("".join(["ax", "is"])), True),
        (Fixed(ones()), Fixed(ones()), False),
        (TupleOf((Leaf(0),)), ListOf((Leaf(0),)), False),
        (TupleOf((Leaf(0), Leaf(1))), TupleOf((Leaf(0), Leaf(1)), Pair), False),
        (DictOf(("a",), (Fixed(None),)), DictOf(("a",), (Fixed(None),)), True),
        (DictOf(("a",), (Fixed(None),)), DictOf(("b",), (Fixed(None),)), False),
        (DictOf(("a",), (Fixed(None),)), DictOf(("a",), (Fixed(0),)), False),
    ],
    ids=range(13),
)
def test_forms_are_compared_without_comparing_what_users_pass(one: Any, other: Any, same: bool) -> None:
    """Their `==` may mean anything, and 1 == True."""

    base = record("nothing", tensors(None), tensors(None), ())

    def made(*trees: Any, keywords: tuple[tuple[str, Any], ...] = ()) -> Record:
        return base._replace(args=trees, keywords=keywords)

    assert records.same_form(made(one), made(other)) is same
    assert records.same_form(made(keywords=(("k", one),)), made(keywords=(("k", other),))) is same
    assert not records.same_form(made(one), made(one, one))
    assert not records.same_form(made(keywords=(("k", one),)), made(keywords=(("j", one),)))


# ---- with the complete way of the runtime ----------------------------------------------------------------------


def served(program: str, *, dims: tuple[Dim, ...] = (), **fields: Any) -> tuple[Any, Executable, list[Any]]:
    """A function as the frontend makes it: the complete way runs the program and then offers its record."""
    executable = Executable(
        Signature(tensors((I64, ("B",) if dims else (4,))), tensors((I64, (2,))), dims),
        CODE.address(program),
        CODE.address("as_dims" if dims else "sixty_four"),
        memory=arena.Arena(),
        keep=CODE,
    )
    slow: list[Any] = []

    def complete(x: Any) -> Any:
        slow.append(x)
        (result,) = executable([x])
        f.install(dispatch.record_of(executable, (Leaf(0),), Output(0), **fields))
        return result

    f = NATIVE(complete)
    return f, executable, slow


def test_a_program_is_served_from_its_second_call_on() -> None:
    """The first compiles and installs; failures then read as they do from the complete way."""
    f, executable, slow = served("nothing")
    x = ones(4, dtype=np.int64)
    for _ in range(3):
        assert f(x).shape == (2,)
    assert len(slow) == 1
    assert executable.scratch is not None


def test_scratch_grows_with_the_calls() -> None:
    """The complete way meets the larger size first, and makes room for it."""
    f, _, slow = served("nothing", dims=(Dim("B"),))
    assert scratch.shared().trim()
    for size, expected in ((100, 1), (100, 1), (50, 1), (10**6, 2), (10**6, 2), (100, 2)):
        assert f(ones(size, dtype=np.int64)).shape == (2,)
        assert len(slow) == expected, size


def test_a_stopped_program_raises_keyboard_interrupt_and_the_next_call_runs() -> None:
    """The stop word is cleared for each call; one that stayed set would stop every later one."""
    context = CallContext(1, 1, None, None)
    f, _, slow = served("until_stopped", release_gil=True, begin=dispatch.stoppable(context))
    x = np.array([1, 0, 0, 0], np.int64)
    f(np.zeros(4, np.int64))
    for _ in range(3):
        timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            f(x)
        timer.join()
        assert f(np.zeros(4, np.int64)).shape == (2,)
    assert len(slow) == 1
    answers: list[int] = []
    begin = dispatch.stoppable(context)
    thread = threading.Thread(target=lambda: answers.append(begin()))
    thread.start()
    thread.join()
    assert answers == [ctypes.addressof(context)] != [begin()]


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("TD0990", lambda: record("add", tensors(None, None), tensors(None), (Leaf(0),))),
        ("TD0990", lambda: record("add", tensors(None), tensors(None), (Leaf(0), Leaf(0)))),
        ("TD0991", lambda: record("add", tensors((F32, ("2*B",))), tensors(None), (Leaf(0),), dims=(Dim("B"),))),
        ("TD0992", lambda: record("add", [], tensors(None), (ListOf((Fixed(None),) * 9000),))),
        ("TD0993", lambda: record("add", [], tensors(None), ("tree",))),
        ("TD0993", lambda: record("add", [], tensors(None), (), "tree")),
        ("TD0993", lambda: record("add", [], tensors(None), (TupleOf((), list),))),
        ("TD0994", lambda: record("add", tensors((">f4", (4,))), tensors(None), (Leaf(0),))),
        ("TD0994", lambda: record("add", tensors((np.float16, ())), tensors(None), (Number(0, float),))),
        ("TD0994", lambda: record("add", tensors(None), tensors(None), (Number(0, float),))),
        (
            "TD0995",
            lambda: record(
                "add", tensors(None), tensors(None), (Leaf(0),), donated=((0, 0),), keywords=(("out", Out(0)),)
            ),
        ),
        ("TD0996", lambda: record("add", [], tensors(None), (), TupleOf((Output(0), Output(0))))),
        ("TD0997", lambda: record("add", [], tensors(None), (), arena_bytes=CODE.address("sixty_four"))),
    ],
    ids=range(13),
)
def test_what_the_tables_cannot_say_is_refused_by_name(code: str, make: Callable[[], Record]) -> None:
    """Such signatures are left to the complete way; a record that promised more would be wrong at the call."""
    with pytest.raises(Unservable) as caught:
        assemble(make())
    assert caught.value.code == code


# ---- where the routine cannot be had -----------------------------------------------------------------------


def plain_after(monkeypatch: pytest.MonkeyPatch, routine: Callable[[Mapping[str, int]], bytes]) -> str:
    """The reason given when a type is made without the routine; that type works."""
    monkeypatch.setattr(dispatch, "_loaded", None)
    monkeypatch.setattr(dispatch, "_warned", False)
    with pytest.warns(dispatch.DispatchWarning) as caught:
        kind = callable_type(Function, routine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callable_type(Function, routine)
    f = kind(Slow())
    f.install(record("add", tensors(None, None), tensors(None), (Leaf(0), Leaf(1))))
    assert f(ones(), ones()) == "slow"
    f.forget()
    assert kind.routine is None
    return str(caught[0].message)


@pytest.mark.parametrize("field", sorted(dispatch.LAYOUT))
def test_a_layout_that_is_not_as_known_is_found_before_the_routine_reads_it(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Another version may move a field; reading beside it would be silent nonsense."""
    monkeypatch.setitem(dispatch.LAYOUT, field, dispatch.LAYOUT[field] + 4)
    reason = plain_after(monkeypatch, compile_routine)
    assert "is not where it was" in reason


@pytest.mark.parametrize(
    ("attribute", "value"), [("abiflags", "t"), ("version_info", (3, 15, 0)), ("platform", "darwin")]
)
def test_other_interpreters_take_the_complete_way(monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any) -> None:
    """Free-threaded builds above all: the routine relies on the GIL."""
    monkeypatch.setattr(sys, attribute, value)
    with pytest.raises(Unavailable):
        dispatch.measure()


def test_without_a_compiler_and_a_cache_the_complete_way_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployed model runs where llvmlite is not installed."""

    def absent(numbers: Mapping[str, int]) -> bytes:
        raise ImportError("No module named 'llvmlite'")

    assert "llvmlite" in plain_after(monkeypatch, absent)


def test_a_damaged_routine_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from a cache on disk."""
    assert "BadObject" in plain_after(monkeypatch, lambda numbers: b"\x7fELF and nothing more")


def test_numpys_functions_are_checked_by_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places in NumPy's table are fixed by its ABI, but nothing else would notice."""
    monkeypatch.setattr(dispatch, "_numpy_table", lambda: None)
    with pytest.raises(Unavailable, match="NumPy"):
        dispatch.measure()


# ---- the object code ---------------------------------------------------------------------------------------


def test_the_routine_is_the_same_in_every_process_and_needs_nothing_but_block_operations() -> None:
    """It is kept on disk: no address of this process may be in it, and no library is asked for Python's functions."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_dispatch as t;"
        "sys.stdout.buffer.write(t.compile_routine(t.dispatch.measure()))"
    )
    directory = __file__.rpartition("/")[0]
    fresh = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, check=True).stdout
    mine = compile_routine(dispatch.measure())
    assert mine == fresh
    assert set(elf.undefined_symbols(mine)) <= {"memcpy", "memset", "memmove"}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_the_routine_compiles_for_both_machines(architecture: str) -> None:
    """The text has nothing of either in it."""
    triple = f"{architecture}-unknown-linux-gnu"
    code = object_code(dispatch_module(triple, dispatch.measure()), triple, "", "", pipeline=2)
    assert "treadle_dispatch_new" in elf.defined_symbols(code)


def test_the_fingerprint_changes_with_every_number() -> None:
    """A routine made for other offsets must not be found in the cache."""
    numbers = dispatch.measure()
    prints = {dispatch.fingerprint(numbers)}
    prints |= {dispatch.fingerprint({**numbers, name: value + 1}) for name, value in numbers.items()}
    assert len(prints) == len(numbers) + 1


def test_a_warm_process_needs_no_compiler() -> None:
    """The routine comes from the cache as bytes; importing the runtime's part brings no room and no llvmlite."""
    program = (
        "import sys, treadle.runtime.dispatch as d; d.measure();"
        "sys.exit(any(name in sys.modules for name in ('llvmlite', 'treadle.ir', 'treadle.codegen')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
