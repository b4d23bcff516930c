"""Every function on every model target: the same loops, the same bits, and no library behind them.

The evaluator and the machine code were written apart from the same loops, so each is the other's oracle; the bounds
are measured elsewhere, on one target, which this makes the measure of all.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from measure import Native, map_kernel, special
from native import RUNNABLE, Compiled, same

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels.transcendental import WRITERS, open_math
from treadle.codegen.llvm.emit import Module
from treadle.codegen.llvm.optimize import object_code
from treadle.ir.dtypes import DType, bf16, f16, f32, real_of
from treadle.ir.loops.check import check
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import Kernel
from treadle.runtime.elf import undefined_symbols
from treadle.runtime.loader import BLOCK_OPERATIONS

Array = np.ndarray[Any, Any]
# In vectors as wide as the target's registers: code for narrower ones grows with the ratio, and takes as long to make.
WIDTH = {"generic": 16, "neon": 16, "avx2": 32}
# What AVX-512 may have besides are products of short types: of use to half floats at most.
TARGETS = [name for name in MODELS if name != "avx512+vnni+bf16"]


def points(dtype: DType, which: int) -> Array:
    """Special values, and every exponent with random fractions."""
    rng = np.random.default_rng(which)
    part = real_of(dtype) if dtype.kind == "complex" else dtype
    if part.kind == "uint":
        return rng.integers(0, 1 << 64, 300, dtype=np.uint64)
    if part.bits == 16:
        return rng.permutation(np.arange(1 << 16, dtype=np.uint16)).view(part.numpy)  # all of them
    bits = rng.integers(0, 1 << part.bits, 600, dtype=np.uint64).astype(f"u{part.bytes}").view(part.numpy)
    values = np.concatenate([special(part.numpy.type), bits, rng.normal(size=200).astype(part.numpy)])
    if dtype.kind != "complex":
        return rng.permutation(values) if which else values
    made = np.empty(values.size, dtype.numpy)
    made.real, made.imag = rng.permutation(values), rng.permutation(values)
    return made


def arguments(kernel: Kernel) -> dict[str, Array]:
    given = [param for param in kernel.params if param.role == "in"]
    return {param.name: points(param.dtype, number) for number, param in enumerate(given)}


@functools.cache
def kernels(target: str) -> dict[str, Kernel]:
    width = WIDTH.get(target, 64)
    made = [open_math(map_kernel(op, dtype, width), MODELS[target]) for op, dtype in WRITERS]
    return {kernel.name: kernel for kernel in made}


@functools.cache
def evaluated(name: str) -> Array:
    kernel = kernels("avx512")[name]
    args = arguments(kernel)
    with np.errstate(all="ignore"):
        written, failure = evaluate(kernel, args, {"N": args["x"].size}, isa.meanings())
    assert failure is None
    return written["z"]


# What a function is written in depends on no target, and is well formed.
def test_one_form() -> None:
    for name, kernel in kernels("avx512").items():
        check(kernel)
        op, dtype = next(key for key in WRITERS if f"{key[0]}_{key[1]}" == name)
        assert all(open_math(map_kernel(op, dtype), target) == kernel for target in MODELS.values())


@functools.cache
def compiled(target: str) -> Compiled:
    return Compiled(list(kernels(target).values()), MODELS[target])


# All of C's mathematics may be missing where a model is loaded.
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_undefined(target: str) -> None:
    if target in RUNNABLE:
        code = compiled(target).code
    else:
        module, model = Module(MODELS[target]), MODELS[target]
        for kernel in kernels(target).values():
            module.add(kernel, linkage="external")
        code = object_code(module.text(), model.triple, model.llvm_cpu, model.llvm_features)
    assert set(undefined_symbols(code)) <= set(BLOCK_OPERATIONS)


@pytest.mark.parametrize("target", [name for name in TARGETS if name in RUNNABLE])
def test_same_bits(target: str) -> None:
    for name, kernel in kernels(target).items():
        args = arguments(kernel)
        found = compiled(target)(name, args, {"N": args["x"].size})[0]["z"]
        agree = same(found, evaluated(name))
        assert agree.all(), (name, [x[~agree][:3] for x in args.values()], found[~agree], evaluated(name)[~agree])


# Half floats are computed in f32 and rounded once.
@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_half_floats(dtype: DType) -> None:
    target = list(RUNNABLE)[-1]
    for op, wide in WRITERS:
        if wide is not f32:
            continue
        short = Native(op, dtype, RUNNABLE[target])
        args = list(arguments(short.kernel).values())
        long = Native(op, f32, RUNNABLE[target])
        with np.errstate(all="ignore"):
            wanted = long(*[x.astype(np.float32) for x in args]).astype(dtype.numpy)
        assert same(short(*args), wanted).all(), op
