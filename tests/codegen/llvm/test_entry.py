"""The entry and the C interface: programs as data, compiled, called through ctypes as C would."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from native import RUNNABLE, Context

from treadle.codegen.cpus import MODELS
from treadle.codegen.host import host
from treadle.codegen.llvm.emit import Module
from treadle.codegen.llvm.entry import (
    NO_MEMORY,
    STOPPED,
    Count,
    Entry,
    Interface,
    Loop,
    Move,
    Place,
    Require,
    Run,
    Step,
    Switch,
    Times,
    add_entry,
    add_interface,
)
from treadle.codegen.llvm.optimize import object_code
from treadle.codegen.llvm.pool import pool_module
from treadle.ir.dims import Dim, symbol
from treadle.ir.dtypes import bool_, f32, i32, i64
from treadle.ir.errors import CheckFailed
from treadle.ir.loops.nodes import MOST_FOUND, Binary, Cast, Const, Fail, For, Index, Kernel, Load, Param, Stmt, Store
from treadle.runtime.elf import undefined_symbols
from treadle.runtime.loader import BLOCK_OPERATIONS, CLOSED_LIST, LoadedObject, load

N, P, S = symbol("n"), symbol("p"), symbol("s")
targets = pytest.mark.parametrize("target", RUNNABLE)


def each(*body: Stmt) -> tuple[Stmt, ...]:
    return (For("p", 0, N, 1, "serial", body),)


def at(name: str) -> Load:
    return Load(name, (P,), f32)


ADD = Kernel(
    "add",
    (Param("x", f32, (N,), "in"), Param("y", f32, (N,), "in"), Param("z", f32, (N,), "out")),
    ("n",),
    each(Store("z", (P,), Binary("add", at("x"), at("y")))),
)
DOUBLE = Kernel(
    "double", (Param("x", f32, (N,), "inout"),), ("n",), each(Store("x", (P,), Binary("add", at("x"), at("x"))))
)
# Fails at site 2 where an element is negative, at site 1 where one is above 100; tells where, and the element.
CHECK = Kernel(
    "check",
    (Param("x", f32, (N,), "in"),),
    ("n",),
    each(
        Fail(Binary("lt", at("x"), Const(0.0, f32)), 2, (Index(P), Cast(at("x"), i64))),
        Fail(Binary("gt", at("x"), Const(100.0, f32)), 1, (Index(P), Cast(at("x"), i64))),
    ),
)
LESS = Kernel(
    "less",
    (Param("x", f32, (1,), "in"), Param("limit", f32, (1,), "in"), Param("flag", bool_, (1,), "out")),
    (),
    (Store("flag", (0,), Binary("lt", Load("x", (0,), f32), Load("limit", (0,), f32))),),
)
KERNELS = (ADD, DOUBLE, CHECK, LESS)


def buffer(index: int, offset: Dim = 0) -> Place:
    return Place("buffer", index, offset)


def arena(offset: Dim) -> Place:
    return Place("arena", 0, offset)


class Program:
    """A compiled entry, called with NumPy arrays."""

    def __init__(
        self,
        target: str,
        dims: tuple[str, ...],
        arena_bytes: Dim,
        *body: Step,
        requires: tuple[Require, ...] = (),
        times: Times | None = None,
    ) -> None:
        module = Module(RUNNABLE[target])
        for kernel in KERNELS:
            module.add(kernel)
        add_entry(module, Entry(dims, body, arena_bytes, requires, times))
        model = RUNNABLE[target]
        code = object_code(module.text(), model.triple, model.llvm_cpu, model.llvm_features)
        self.loaded = load(code, closed_list=frozenset((*BLOCK_OPERATIONS, "clock_gettime")))

    def arena_bytes(self, *dims: int) -> int:
        function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self.loaded.address("treadle_arena_bytes"))
        return function((ctypes.c_int64 * max(1, len(dims)))(*dims))

    def __call__(self, arrays: list[np.ndarray], *dims: int, stop: int = 0) -> int:
        size = self.arena_bytes(*dims)
        scratch = np.full(size + 64, 0xEE, np.uint8)
        word = ctypes.c_int32(stop)
        context = Context(1, 1, None, ctypes.addressof(word))
        function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)(self.loaded.address("treadle_entry"))
        pointers = (ctypes.c_void_p * max(MOST_FOUND, len(arrays)))(*[array.ctypes.data for array in arrays])
        values = (ctypes.c_int64 * max(1, len(dims)))(*dims)
        status = function(pointers, values, scratch.ctypes.data, ctypes.addressof(context))
        assert (scratch[size:] == 0xEE).all()
        self.told = list((ctypes.c_int64 * MOST_FOUND).from_buffer(pointers))
        return status


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Calls in a row, through the arena, whose slots lie at offsets that depend on the dims.
@targets
def test_calls_through_the_arena(target: str) -> None:
    program = Program(
        target,
        ("s", "n"),
        4 * N + 64,
        Run("add", (buffer(0), buffer(1), arena(64)), (N,)),
        Run("double", (arena(64),), (N,)),
        Run("add", (arena(64), buffer(0), buffer(2)), (N,)),
    )
    x, y, z = floats(1, 2, 3), floats(10, 20, 30), np.zeros(3, np.float32)
    assert program.arena_bytes(7, 3) == 76
    assert program([x, y, z], 7, 3) == 0
    assert z.tolist() == [23, 46, 69]


# A loop reads and writes one step of a stacked array at a time, upwards or downwards.
@targets
@pytest.mark.parametrize("reverse", [False, True])
def test_scans(target: str, reverse: bool) -> None:
    program = Program(
        target,
        ("n", "s"),
        4 * N,
        Move(buffer(0), arena(0), 4 * N),
        Count(
            "p",
            S,
            (
                Run("add", (arena(0), buffer(1, 4 * N * P), buffer(2, 4 * N * P)), (N,)),
                Move(buffer(2, 4 * N * P), arena(0), 4 * N),
            ),
            reverse,
        ),
    )
    start, steps = floats(1, 2), np.arange(8, dtype=np.float32).reshape(4, 2)
    out = np.zeros((4, 2), np.float32)
    assert program([start, steps, out], 2, 4) == 0
    order = steps[::-1] if reverse else steps
    want = start + np.cumsum(order, axis=0)
    assert (out == (want[::-1] if reverse else want)).all()
    assert program([start, steps, out], 2, 0) == 0


@targets
def test_while(target: str) -> None:
    program = Program(
        target,
        (),
        64,
        Loop((Run("less", (buffer(0), buffer(1), arena(8))),), arena(8), (Run("double", (buffer(0),), (1,)),)),
    )
    for limit, want in [(100.0, 128.0), (1.0, 1.0), (0.5, 1.0)]:
        x = floats(1)
        assert program([x, floats(limit)]) == 0
        assert x[0] == want


# A number outside the branches takes the nearest one.
@targets
@pytest.mark.parametrize("dtype", [bool_, i32, i64], ids=str)
def test_switch(target: str, dtype: object) -> None:
    branches = tuple((Run("double", (buffer(1, 4 * number),), (1,)),) for number in range(3))
    program = Program(target, (), 0, Switch(buffer(0), str(dtype), branches), Run("double", (buffer(1, 12),), (1,)))
    for given, taken in [(0, 0), (1, 1)] if dtype is bool_ else [(-3, 0), (0, 0), (1, 1), (2, 2), (9, 2)]:
        x = floats(1, 1, 1, 1)
        assert program([np.array([given], dtype.numpy), x]) == 0  # type: ignore[attr-defined]
        want = [1, 1, 1, 2]
        want[taken] = 2
        assert x.tolist() == want


# The smallest site over all calls is reported, each call's sites behind its own first one; execution goes on.
@targets
def test_failure_sites(target: str) -> None:
    program = Program(
        target,
        ("n",),
        0,
        Run("check", (buffer(0),), (N,), first_site=4),
        Run("check", (buffer(1),), (N,), first_site=0),
        Run("double", (buffer(0),), (N,)),
    )
    good, low, high = floats(1, 2), floats(1, -2), floats(101, 3)
    for (x, y), want in zip(itertools.product((good, low, high), repeat=2), (0, 2, 1, 6, 2, 1, 5, 2, 1)):
        given = x.copy()
        assert program([given, y.copy()], 2) == want
        assert (given == 2 * x).all()
        if want:
            told = {2: (1, -2), 1: (0, 101), 6: (1, -2), 5: (0, 101)}[want]
            assert tuple(program.told[:2]) == told


# What is required of the dims is checked before anything runs: the first that does not hold is reported, and no array
# is touched.
@targets
def test_requirements(target: str) -> None:
    requires = (Require(3, N, 7), Require(N + 1, 2 * S, 8))
    program = Program(target, ("s", "n"), 0, Run("double", (buffer(0),), (N,)), requires=requires)
    for s, n, want in ((2, 3, 0), (9, 2, 7), (1, 3, 8), (0, 0, 7)):
        x = floats(*range(1, n + 1))
        given = x.copy()
        assert program([given], s, n) == want
        assert (given == (x if want else 2 * x)).all()


# Each run with a timer adds its nanoseconds and one to its row, which is zero at first; runs in a loop add up.
@targets
def test_times(target: str) -> None:
    program = Program(
        target,
        ("n",),
        0,
        Run("double", (buffer(0),), (N,), timer=0),
        Count("i", 5, (Run("double", (buffer(0),), (N,), timer=1),)),
        Run("double", (buffer(0),), (N,)),
        times=Times(1, 2),
    )
    x, table = floats(1, 2), np.full((2, 2), 99, np.int64)
    for _ in range(2):
        x[:] = (1, 2)
        assert program([x, table], 2) == 0
        assert x.tolist() == [128, 256]
        assert table[:, 1].tolist() == [1, 5] and (table[:, 0] >= 0).all()


# A loop whose condition may come from a failed call is left, for it might never end.
@targets
def test_a_failure_ends_a_while(target: str) -> None:
    forever = Loop(
        (Run("less", (buffer(0), buffer(1), arena(0))),), arena(0), (Run("check", (buffer(2),), (1,), first_site=0),)
    )
    program = Program(target, (), 64, forever)
    assert program([floats(0), floats(1), floats(-1)]) == 2


@targets
def test_stop_word(target: str) -> None:
    forever = Loop((Run("less", (buffer(0), buffer(1), arena(0))),), arena(0), (Run("double", (buffer(2),), (1,)),))
    assert Program(target, (), 64, forever)([floats(0), floats(1), floats(1)], stop=1) == STOPPED


def test_programs_that_do_not_fit_their_kernels_are_refused() -> None:
    for run in (Run("nothing", ()), Run("add", (buffer(0),), (N,)), Run("double", (buffer(0),))):
        with pytest.raises(CheckFailed) as caught:
            Program("generic", ("n",), 0, run)
        assert caught.value.code == "TD0550"


# --- the C interface --------------------------------------------------------------------------------------------------

MANIFEST = ctypes.create_string_buffer(b'{"name": "net"}')


def model(weights: np.ndarray, pool: bool) -> LoadedObject:
    target = host()
    module = Module(target)
    for kernel in KERNELS:
        module.add(kernel)
    body = (
        Run("add", (buffer(0), buffer(2), arena(0)), (N,)),
        Run("check", (arena(0),), (N,)),
        Run("add", (arena(0), buffer(3), buffer(1)), (N,)),
    )
    add_entry(module, Entry(("n",), body, 4 * N))
    add_interface(module, Interface("net", 1, 1, (0, 64), ("too large\nnet.py:3", 'below "zero"\nnet.py:4')), pool=pool)
    text = module.text()
    if pool:
        text += pool_module(target.triple, embed=True)
    code = object_code(text, target.triple, target.llvm_cpu, target.llvm_features)
    ours = {"treadle_weights": weights.ctypes.data, "treadle_manifest": ctypes.addressof(MANIFEST)}
    return load(code, symbols=ours)


def aligned(count: int) -> np.ndarray:
    raw = np.zeros(count * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * 4].view(np.float32)


def test_names_in_c() -> None:
    loaded = model(aligned(32), pool=False)
    text = ctypes.CFUNCTYPE(ctypes.c_char_p)(loaded.address("net_manifest"))
    assert text() == b'{"name": "net"}'
    error = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int32)(loaded.address("net_error"))
    assert [error(site) for site in (0, 1, 2)] == [b"", b"too large\nnet.py:3", b'below "zero"\nnet.py:4']
    assert [error(site) for site in (STOPPED, NO_MEMORY)] == [b"stopped", b"out of memory"]
    assert {error(site) for site in (3, 100, -7)} == {b"unknown failure"}


@pytest.mark.parametrize("pool", [False, True])
def test_run_from_c(pool: bool) -> None:
    weights = aligned(32)
    weights[:3], weights[16:19] = [1, 2, 3], [100, 200, 300]
    loaded = model(weights, pool)
    if pool:
        loaded.keep_forever()  # its threads sleep in this code
    run = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4, ctypes.c_int32)(loaded.address("net_run"))
    size = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(loaded.address("net_arena_bytes"))
    dims = (ctypes.c_int64 * 1)(3)
    assert size(dims) == 12
    for scratch in (None, aligned(16)):
        for threads in (0, 1, 2):
            x, y = floats(10, 20, 30), np.zeros(3, np.float32)
            inputs, outputs = (ctypes.c_void_p * 1)(x.ctypes.data), (ctypes.c_void_p * 1)(y.ctypes.data)
            given = None if scratch is None else scratch.ctypes.data
            assert run(inputs, outputs, dims, given, threads) == 0
            assert y.tolist() == [111, 222, 333]
    x = floats(10, -20, 30)
    assert run((ctypes.c_void_p * 1)(x.ctypes.data), outputs, dims, None, 1) == 2


# An artifact needs libc and nothing else; what is ours to supply is named ours.
def test_what_a_model_leaves_undefined() -> None:
    for name in ("generic", "avx512", "neon"):
        target = MODELS[name]
        module = Module(target)
        module.add(ADD)
        add_entry(module, Entry(("n",), (Run("add", (buffer(0), buffer(2), buffer(1)), (N,)),), 0))
        add_interface(module, Interface("net", 1, 1, (0,), ()), pool=True)
        text = module.text() + pool_module(target.triple, embed=True)
        code = object_code(text, target.triple, target.llvm_cpu, target.llvm_features)
        allowed = {*CLOSED_LIST, "treadle_weights", "treadle_manifest"}
        assert set(undefined_symbols(code)) <= allowed


def test_names_that_are_not_c_are_refused() -> None:
    with pytest.raises(CheckFailed) as caught:
        add_interface(Module(MODELS["generic"]), Interface("my-net", 0, 0, (), ()), pool=False)
    assert caught.value.code == "TD0552"
