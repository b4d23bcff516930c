"""The loops that measure the machine do what they say: the instructions are there, and the sums are right."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from treadle.codegen.cpus import MODELS, cpu, names
from treadle.codegen.host import host
from treadle.codegen.llvm import limits
from treadle.codegen.llvm.optimize import assembly, object_code
from treadle.runtime import arena, loader

TARGETS = {**MODELS, **{name: cpu(name) for name in names()}}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_can_be_measured(name):
    """LLVM accepts the module of each target, and what it leaves undefined is nothing."""
    target = TARGETS[name]
    assert object_code(limits.module(target), target.triple, target.llvm_cpu, target.llvm_features)


@pytest.mark.parametrize(
    ("kind", "instruction"),
    [("fma f32", "vfmadd"), ("fma f64", "vfmadd"), ("dot i8", "vpdpbusd"), ("dot bf16", "vdpbf16ps")],
)
def test_register_loops_stay_in_registers(kind, instruction):
    """One instruction for each running sum, and no load or store inside the loop: it would be no peak."""
    target = cpu("znver4")
    given = limits.dot(kind, target)
    assert given is not None
    text = f'target triple = "{target.triple}"\n' + limits.register_loop("f", given, limits.accumulators(target))
    found = assembly(text, target.triple, target.llvm_cpu, target.llvm_features)
    body = found[found.index(instruction) :]
    loop = body[: body.index("\tj")]
    assert loop.count(instruction) == limits.accumulators(target)
    assert "(%r" not in loop


@pytest.mark.parametrize("name", ["triad", "triad_nt", "read"])
def test_memory_loops_compute_what_they_say(name):
    """Against NumPy, on arrays of a few turns."""
    target = host()
    text = limits.module(target)
    loaded = loader.load(object_code(text, target.triple, target.llvm_cpu, target.llvm_features))
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 3)(loaded.address(name))
    count = 8 * target.vector_bits // 32 * 5
    a, b, c = (np.ndarray((count,), np.float32, arena.shared().take(4 * count)) for _ in range(3))
    b[:], c[:] = np.arange(count), np.arange(count)[::-1]
    function(count, a.ctypes.data, b.ctypes.data, c.ctypes.data)
    if name == "read":
        assert a[: 8 * target.vector_bits // 32].sum() == b.sum()
    else:
        np.testing.assert_array_equal(a, b + 3 * c)


def test_work_is_counted_as_instructions_do_it():
    """A multiply-add of 16 lanes is 32 operations, a dot product of 64 bytes 128."""
    target = cpu("znver4")
    assert [limits.dot(kind, target).work for kind in ("fma f32", "fma f64", "dot i8", "dot bf16")] == [
        32,
        16,
        128,
        64,
    ]
