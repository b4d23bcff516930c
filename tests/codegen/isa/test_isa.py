"""Every instruction, as the machine does it, against its own meaning and against NumPy.

The meaning is what the evaluator runs and what machines without the instruction are given, so native and written-out
code are checked alike.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from native import RUNNABLE, Compiled, same

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.isa.generic import DOT2_BF16, DOT2_I16, DOT4_U8I8
from treadle.codegen.llvm.emit import emit_kernel
from treadle.codegen.llvm.optimize import assembly
from treadle.ir.dims import symbol
from treadle.ir.dtypes import f32, i32, u32
from treadle.ir.errors import InvalidValue, Unsupported
from treadle.ir.loops.nodes import Call, Const, For, Kernel, Load, Param, Store

N, P, V = symbol("n"), symbol("p"), symbol("v")
RNG = np.random.default_rng(3)
COUNT = 320


def applied(instruction: isa.Instruction, lanes: int) -> Kernel:
    def at(place: object) -> Store:
        loads = [Load(param.name, (place,), param.dtype) for param in instruction.params]
        return Store("y", (place,), instruction(*loads))

    if lanes:
        trips = COUNT // lanes
        loop = For("p", 0, trips * lanes, lanes, "serial", (For("v", 0, lanes, 1, "vector", (at(P + V),), lanes),))
    else:
        loop = For("p", 0, COUNT, 1, "serial", (at(P),))
    params = tuple(Param(param.name, param.dtype, (COUNT,), "in") for param in instruction.params)
    return Kernel(f"{instruction.name}.{lanes}", (*params, Param("y", instruction.dtype, (COUNT,), "out")), (), (loop,))


def inputs(instruction: isa.Instruction) -> dict[str, np.ndarray]:
    args: dict[str, np.ndarray] = {}
    for param in instruction.params:
        bits = RNG.integers(0, 1 << 32, COUNT, dtype=np.uint64).astype(np.uint32)
        if instruction is DOT2_BF16 and param.dtype is u32:
            halves = (RNG.standard_normal(2 * COUNT) * 2.0 ** RNG.integers(-8, 8, 2 * COUNT)).astype(ml_dtypes.bfloat16)
            halves[::7] = RNG.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-39, 3e38, 1e-20], len(halves[::7]))
            bits = halves.view(np.uint32)
        elif param.dtype is f32:
            sums = RNG.standard_normal(COUNT).astype(np.float32)
            sums[::5] = RNG.choice([0.0, -0.0, np.inf, np.nan, 1e-40, 1e-44, 3e38], len(sums[::5]))
            bits = sums.view(np.uint32)
        args[param.name] = bits.view(param.dtype.numpy)
    return args


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("instruction", isa.INSTRUCTIONS.values(), ids=lambda instruction: instruction.name)
def test_native_is_the_meaning(target: str, instruction: isa.Instruction) -> None:
    widths = (0, 4, 5, 8, 16, 20, 32, 64)
    compiled = Compiled([applied(instruction, lanes) for lanes in widths], RUNNABLE[target])
    args = inputs(instruction)
    with np.errstate(all="ignore"):
        want = isa.meaning(instruction)(*args.values())
    for lanes in widths:
        found, _ = compiled(f"{instruction.name}.{lanes}", args, {})
        done = COUNT // lanes * lanes if lanes else COUNT
        agree = same(found["y"][:done], want[:done])
        assert agree.all(), (lanes, [value[:done][~agree][:3] for value in (*args.values(), found["y"], want)])


# The meanings themselves, against arithmetic that knows nothing of packed words.
def test_meanings_are_dot_products() -> None:
    for instruction, left, right, wide in (
        (DOT4_U8I8, np.uint8, np.int8, np.int64),
        (DOT2_I16, np.int16, np.int16, np.int64),
        (DOT2_BF16, ml_dtypes.bfloat16, ml_dtypes.bfloat16, np.float64),
    ):
        args = inputs(instruction)
        if instruction is DOT2_BF16:
            args["a"] = RNG.standard_normal(2 * COUNT).astype(ml_dtypes.bfloat16).view(np.uint32)
            args["b"] = RNG.standard_normal(2 * COUNT).astype(ml_dtypes.bfloat16).view(np.uint32)
            args["acc"] = RNG.standard_normal(COUNT).astype(np.float32)
        a, b = args["a"].view(left).astype(wide), args["b"].view(right).astype(wide)
        total = args["acc"].astype(wide) + (a * b).reshape(COUNT, -1).sum(1)
        found = isa.meaning(instruction)(*args.values())
        if instruction is DOT2_BF16:
            assert np.allclose(found, total, rtol=1e-6, atol=1e-6)
        else:
            assert (found == total.astype(np.int32)).all()


# The ability is what makes the difference: with it one instruction, without it none of that name.
@pytest.mark.parametrize(
    ("target", "instruction", "mnemonic"),
    [
        ("avx512+vnni+bf16", DOT4_U8I8, "vpdpbusd"),
        ("avx512+vnni+bf16", DOT2_BF16, "vdpbf16ps"),
        ("avx512", DOT2_I16, "vpmaddwd"),
        ("avx2", DOT2_I16, "vpmaddwd"),
    ],
)
def test_the_machine_instruction_is_used(target: str, instruction: isa.Instruction, mnemonic: str) -> None:
    assert MODELS[target].has(instruction.ability)
    assert not MODELS["generic"].has(instruction.ability)
    model = MODELS[target]
    text = emit_kernel(applied(instruction, 16), model, linkage="external")
    code = assembly(text, model.triple, model.llvm_cpu, model.llvm_features)
    lines = [line for line in code.splitlines() if mnemonic in line]
    assert len(lines) == 16 * 32 // model.vector_bits
    # Nothing but loads, the instruction and stores: no shuffle is left of cutting and joining.
    assert "vperm" not in code and "vinsert" not in code


def test_unknown_instructions_and_abilities_are_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        isa.named("dot9")
    assert caught.value.code == "TD0530"
    with pytest.raises(Unsupported) as caught:
        DOT4_U8I8(Const(0, i32), Const(0, i32), Const(0, i32))
    assert caught.value.code == "TD0531"
    assert isinstance(DOT4_U8I8(Const(0, i32), Const(0, u32), Const(0, u32)), Call)
    with pytest.raises(InvalidValue):
        MODELS["avx2"].has("dot_i9")
