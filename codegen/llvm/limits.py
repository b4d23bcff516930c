"""Loops of multiply-adds that never leave the registers, and loops over memory that do nothing else.

What a machine reaches in them is what it can do at most: `treadle bench` and `benchmarks/` measure others against it.
They are written as LLVM text, apart from the emitter, so that a fault there cannot lower the bar.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.target import Target


@dataclass(frozen=True)
class Dot:
    """An instruction that multiplies and adds in registers."""

    accumulator: str  # LLVM's type of the running sum
    factor: str  # and of each factor
    function: str
    work: int  # operations of one instruction


def accumulators(target: Target) -> int:
    """Enough running sums to hide the latency of two pipes, and two registers left for the factors."""
    return 24 if target.vector_registers >= 32 else 12


def dot(kind: str, target: Target) -> Dot | None:
    """The widest instruction of that kind, or None where the machine has none."""
    bits = target.vector_bits
    x86, features = target.arch == "x86-64", target.features
    match kind:
        case "fma f32":
            return Dot(f"<{bits // 32} x float>", "", f"llvm.fma.v{bits // 32}f32", bits // 16)
        case "fma f64":
            return Dot(f"<{bits // 64} x double>", "", f"llvm.fma.v{bits // 64}f64", bits // 32)
        case "dot i8" if x86 and ("avx512vnni" in features or "avxvnni" in features):
            wide = bits if "avx512vnni" in features else 256
            name = f"llvm.x86.avx512.vpdpbusd.{wide}"
            return Dot(f"<{wide // 32} x i32>", f"<{wide // 8} x i8>", name, wide // 4)
        case "dot i8" if not x86 and "dotprod" in features:
            return Dot("<4 x i32>", "<16 x i8>", "llvm.aarch64.neon.sdot.v4i32.v16i8", 32)
        case "dot bf16" if x86 and "avx512bf16" in features:
            name = f"llvm.x86.avx512bf16.dpbf16ps.{bits}"
            return Dot(f"<{bits // 32} x float>", f"<{bits // 16} x bfloat>", name, bits // 8)
        case "dot bf16" if not x86 and "bf16" in features:
            return Dot("<4 x float>", "<8 x bfloat>", "llvm.aarch64.neon.bfdot.v4f32.v8bf16", 16)
    return None


def register_loop(name: str, given: Dot, count: int) -> str:
    """`void name(i64 turns, ptr seeds)`: `count` independent running sums, one instruction each in every turn."""
    total = given.accumulator
    factor = given.factor or total
    fused = not given.factor  # llvm.fma takes the factors first; the dot products take the sum first
    lines = [
        f"define void @{name}(i64 %turns, ptr %seeds) nounwind {{",
        "entry:",
        f"  %x = load {factor}, ptr %seeds, align 64",
        "  %y.place = getelementptr i8, ptr %seeds, i64 64",
        f"  %y = load {factor}, ptr %y.place, align 64",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]",
    ]
    # All start at zero: what the sums become has no influence on the time.
    lines += [f"  %a{k} = phi {total} [ zeroinitializer, %entry ], [ %b{k}, %loop ]" for k in range(count)]
    for k in range(count):
        taken = f"{total} %a{k}, {total} %x, {total} %y" if fused else f"{total} %a{k}, {factor} %x, {factor} %y"
        lines.append(f"  %b{k} = call {total} @{given.function}({taken})")
    lines += [
        "  %i.next = add i64 %i, 1",
        "  %more = icmp slt i64 %i.next, %turns",
        "  br i1 %more, label %loop, label %end",
        "end:",
        "  %out = getelementptr i8, ptr %seeds, i64 128",
    ]
    # Stored one beside the other: a sum that nobody reads would be no work.
    for k in range(count):
        lines += [
            f"  %o{k} = getelementptr {total}, ptr %out, i64 {k}",
            f"  store {total} %b{k}, ptr %o{k}, align 16",
        ]
    types = f"{total}, {total}, {total}" if fused else f"{total}, {factor}, {factor}"
    return "\n".join([*lines, "  ret void", "}", f"declare {total} @{given.function}({types})", ""])


def triad_loop(name: str, lanes: int, hint: str) -> str:
    """`void name(i64 n, ptr a, ptr b, ptr c)`: a = b + 3 c over n floats, 4 vectors a turn; `hint` ends each store."""
    vector = f"<{lanes} x float>"
    three = ", ".join(["float 3.0"] * lanes)
    lines = [
        f"define void @{name}(i64 %n, ptr %a, ptr %b, ptr %c) nounwind {{",
        "entry:",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]",
    ]
    for k in range(4):
        lines.append(f"  %j{k} = add i64 %i, {k * lanes}")
        lines += [f"  %{array}{k}.place = getelementptr float, ptr %{array}, i64 %j{k}" for array in "abc"]
        lines += [
            f"  %b{k} = load {vector}, ptr %b{k}.place, align 64",
            f"  %c{k} = load {vector}, ptr %c{k}.place, align 64",
            f"  %r{k} = call {vector} @llvm.fma.v{lanes}f32({vector} %c{k}, {vector} <{three}>, {vector} %b{k})",
            f"  store {vector} %r{k}, ptr %a{k}.place, align 64{hint}",
        ]
    return "\n".join([*lines, *_turn(4 * lanes), "  ret void", "}", ""])


def read_loop(name: str, lanes: int) -> str:
    """`void name(i64 n, ptr out, ptr b, ptr c)`: adds up n floats of b in 8 running sums."""
    vector = f"<{lanes} x float>"
    lines = [
        f"define void @{name}(i64 %n, ptr %out, ptr %b, ptr %c) nounwind {{",
        "entry:",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]",
        *(f"  %s{k} = phi {vector} [ zeroinitializer, %entry ], [ %t{k}, %loop ]" for k in range(8)),
    ]
    for k in range(8):
        lines += [
            f"  %j{k} = add i64 %i, {k * lanes}",
            f"  %b{k}.place = getelementptr float, ptr %b, i64 %j{k}",
            f"  %b{k} = load {vector}, ptr %b{k}.place, align 64",
            f"  %t{k} = fadd {vector} %s{k}, %b{k}",
        ]
    stores = [
        line
        for k in range(8)
        for line in (f"  %o{k} = getelementptr {vector}, ptr %out, i64 {k}", f"  store {vector} %t{k}, ptr %o{k}")
    ]
    return "\n".join([*lines, *_turn(8 * lanes), *stores, "  ret void", "}", ""])


def _turn(step: int) -> list[str]:
    return [
        f"  %i.next = add i64 %i, {step}",
        "  %more = icmp slt i64 %i.next, %n",
        "  br i1 %more, label %loop, label %end",
        "end:",
    ]


NAMES = {
    "fma f32": "fma_f32", "fma f64": "fma_f64", "dot i8": "dot_i8", "dot bf16": "dot_bf16", "triad": "triad",
    "triad nt": "triad_nt", "read": "read",
}  # fmt: skip
MEMORY = ("triad", "triad nt", "read")


def module(target: Target) -> str:
    """All limits that this target has, as one module of LLVM text."""
    lanes = target.vector_bits // 32
    parts = [f'target triple = "{target.triple}"', ""]
    for kind in NAMES:
        given = dot(kind, target)
        if given is not None:
            parts.append(register_loop(NAMES[kind], given, accumulators(target)))
    parts += [
        triad_loop("triad", lanes, ""),
        triad_loop("triad_nt", lanes, ", !nontemporal !0"),
        read_loop("read", lanes),
    ]
    fma = f"declare <{lanes} x float> @llvm.fma.v{lanes}f32(<{lanes} x float>, <{lanes} x float>, <{lanes} x float>)"
    if fma not in "\n".join(parts):
        parts.append(fma)
    return "\n".join([*parts, "!0 = !{i32 1}", ""])
