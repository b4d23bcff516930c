"""Random kernels that keep every rule, with arguments to run them on: what the tests of the loops share.

Positions are made to stay inside (`i % n`, `min(i, n - 1)`, constants), so a kernel from here must be accepted by
`check`, survive printing and parsing, and evaluate without an error. A NaN's sign is nobody's promise, so functions
that would show it (`signbit`, `copysign`, bits) are applied to arguments only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from treadle.ir import dtypes as d
from treadle.ir.dims import Dim, minimum, symbol
from treadle.ir.dtypes import DType
from treadle.ir.loops import scalars
from treadle.ir.loops.build import Builder, lit
from treadle.ir.loops.check import accepts
from treadle.ir.loops.nodes import (
    BINARY,
    COMPARISONS,
    MATH,
    MATH_BINARY,
    UNARY,
    Alloc,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Fma,
    Index,
    Kernel,
    Load,
    Param,
    Select,
    Table,
    Unary,
    Var,
)

INSTRUCTIONS = {"twice": lambda x: x + x}
_TESTS = ("isnan", "isinf", "isfinite", "signbit")
_SHOWS_SIGN = ("signbit", "copysign")
_SAME_BITS = {32: (d.i32, d.u32, d.f32), 16: (d.i16, d.u16, d.f16, d.bf16), 64: (d.i64, d.u64, d.f64), 8: (d.i8, d.u8)}


@dataclass
class Sample:
    kernel: Kernel
    args: dict[str, np.ndarray[Any, Any]]
    dims: dict[str, int]


@dataclass
class _Inside:
    """What a statement may use: loop variables, lets, buffers that hold something, buffers it may write."""

    loops: list[Dim] = field(default_factory=list)
    lets: list[Var] = field(default_factory=list)
    readable: list[Param | Alloc | Table] = field(default_factory=list)
    writable: list[Param | Alloc] = field(default_factory=list)

    def copy(self) -> _Inside:
        return _Inside(list(self.loops), list(self.lets), list(self.readable), list(self.writable))


class _Maker:
    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.builder = Builder("made", dims=("N", "M"))
        self.params: list[Param] = []

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.draw(st.integers(0, len(choices) - 1))]

    def chance(self, of: int) -> bool:
        return bool(self.draw(st.integers(0, of - 1)) == 0)

    # Positions and scalars.

    def place(self, extent: Dim, inside: _Inside) -> Dim:
        if not inside.loops or self.chance(4):
            return 0 if not isinstance(extent, int) or self.chance(2) else self.draw(st.integers(0, extent - 1))
        moving: Dim = self.pick(inside.loops) * self.pick((1, 1, 2, 3)) + self.draw(st.integers(0, 3))
        return moving % extent if self.chance(2) else minimum(moving, extent - 1)

    def places(self, buffer: Param | Alloc | Table, inside: _Inside) -> tuple[Dim, ...]:
        shape: tuple[Dim, ...] = (len(buffer.values),) if isinstance(buffer, Table) else buffer.shape
        return tuple(self.place(extent, inside) for extent in shape)

    def const(self, dtype: DType) -> Const:
        if dtype is d.bool_:
            return Const(self.draw(st.booleans()), dtype)
        if dtype.is_integer:
            least = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
            return Const(self.draw(st.integers(least, least + (1 << dtype.bits) - 1) | st.integers(0, 9)), dtype)
        number = st.floats(width=64) | st.sampled_from((0.0, -0.0, 1.0, -1.5, 0.1, float("inf"), float("nan")))
        if dtype.kind == "complex":
            return lit(complex(self.draw(number), self.draw(number)), dtype)
        return lit(self.draw(number), dtype)

    def leaf(self, dtype: DType, inside: _Inside, *, argument: bool = False) -> Expr:
        choices: list[Expr] = []
        for buffer in inside.readable:
            given = isinstance(buffer, Param) and buffer.role == "in"
            if buffer.dtype is dtype and (given or not argument):
                choices.append(Load(buffer.name, self.places(buffer, inside), dtype))
        if not argument:
            choices += [let for let in inside.lets if let.dtype is dtype]
            if dtype is d.i64 and inside.loops:
                choices.append(Index(self.pick(inside.loops) * 2 + self.draw(st.integers(0, 2))))
                choices.append(Index(self.pick(inside.loops)))
        if not choices or self.chance(3):
            return self.const(dtype)
        return self.pick(choices)

    def scalar(self, dtype: DType, inside: _Inside, depth: int) -> Expr:
        if depth == 0 or self.chance(4):
            return self.leaf(dtype, inside)
        deeper = depth - 1
        match self.draw(st.integers(0, 7)):
            case 0:
                return self.cast(dtype, inside, deeper)
            case 1:
                condition = self.scalar(d.bool_, inside, deeper)
                return Select(condition, self.scalar(dtype, inside, deeper), self.scalar(dtype, inside, deeper))
            case 2 if dtype.kind == "float":
                return Fma(*[self.scalar(dtype, inside, deeper) for _ in range(3)])
            case 3 if dtype in (d.f32, d.i64, d.u8):
                return Call("twice", (self.scalar(dtype, inside, deeper),), dtype)
            case 4 | 5:
                return self.unary(dtype, inside, deeper)
            case _:
                return self.binary(dtype, inside, deeper)

    def cast(self, dtype: DType, inside: _Inside, depth: int) -> Expr:
        alike = [other for other in _SAME_BITS.get(dtype.bits, ()) if other is not dtype]
        if dtype in _SAME_BITS.get(dtype.bits, ()) and alike and self.chance(3):
            return Cast(self.leaf(self.pick(alike), inside, argument=True), dtype, True)
        return Cast(self.scalar(self.pick(d.ARITHMETIC), inside, depth), dtype)

    def unary(self, dtype: DType, inside: _Inside, depth: int) -> Expr:
        if dtype is d.bool_ and self.chance(2):
            other = self.pick(d.FLOATS)
            op = self.pick(_TESTS)
            x = self.leaf(other, inside, argument=True) if op == "signbit" else self.scalar(other, inside, depth)
            return Unary(op, x)
        if dtype in (d.f32, d.f64) and self.chance(4):
            return Unary(self.pick(("real", "imag", "abs")), self.scalar(d.complex_of(dtype), inside, depth))
        ops = [op for op in (*UNARY, *MATH) if accepts(op, dtype) and op not in (*_TESTS, "real", "imag")]
        if dtype.kind == "complex":
            ops.remove("abs")
        return Unary(self.pick(ops), self.scalar(dtype, inside, depth)) if ops else self.leaf(dtype, inside)

    def binary(self, dtype: DType, inside: _Inside, depth: int) -> Expr:
        if dtype is d.bool_ and self.chance(2):
            other = self.pick((d.bool_, *d.REALS))
            x, y = self.scalar(other, inside, depth), self.scalar(other, inside, depth)
            return Binary(self.pick(COMPARISONS), x, y)
        if dtype.kind == "complex" and self.chance(4):
            part = d.real_of(dtype)
            return Binary("complex", self.scalar(part, inside, depth), self.scalar(part, inside, depth))
        ops = [op for op in (*BINARY, *MATH_BINARY) if accepts(op, dtype) and op not in (*COMPARISONS, "complex")]
        op = self.pick(ops)
        y = self.leaf(dtype, inside, argument=True) if op in _SHOWS_SIGN else self.scalar(dtype, inside, depth)
        return Binary(op, self.scalar(dtype, inside, depth), y)

    # Statements.

    def statements(self, inside: _Inside, depth: int) -> None:
        for _ in range(self.draw(st.integers(1, 4))):
            self.statement(inside, depth)

    def statement(self, inside: _Inside, depth: int) -> None:
        b = self.builder
        match self.draw(st.integers(0, 9)):
            case 0 | 1:
                inside.lets.append(b.let("t", self.scalar(self.pick(d.ARITHMETIC), inside, 3)))
            case 2:
                made = b.alloc(
                    "a", self.pick(d.DTYPES), (self.draw(st.integers(1, 3)),), self.pick(("stack", "registers"))
                )
                with b.unrolled("u", made.shape[0]) as u:
                    b.store(made, (u,), self.const(made.dtype))
                if made.memory == "stack":
                    inside.readable.append(made)
                    inside.writable.append(made)
            case 3:
                told = [self.scalar(d.i64, inside, 1) for _ in range(self.draw(st.integers(0, 3)))]
                b.fail(self.scalar(d.bool_, inside, 2), self.draw(st.integers(1, 5)), *told)
            case 4 | 5 if depth:
                stop = self.pick((0, 1, 5, 9, symbol("N"), symbol("M"), *inside.loops))
                start, step = self.draw(st.integers(0, 1)), self.draw(st.integers(1, 2))
                with b.loop("i", stop, start=start, step=step) as i:
                    deeper = inside.copy()
                    deeper.loops.append(i)
                    self.statements(deeper, depth - 1)
            case 6 if depth:
                with b.if_(self.scalar(d.bool_, inside, 2)):
                    self.statements(inside.copy(), depth - 1)
                if self.chance(2):
                    with b.else_():
                        self.statements(inside.copy(), depth - 1)
            case 7 if depth:
                self.repeated(inside, depth)
            case 8 if inside.loops == [] and depth:
                self.mapped(inside)
            case _:
                if inside.writable:
                    target = self.pick(inside.writable)
                    value = self.scalar_or_storage(target.dtype, inside)
                    b.store(target, self.places(target, inside), value, stream=self.chance(5))

    def scalar_or_storage(self, dtype: DType, inside: _Inside) -> Expr:
        if dtype.kind == "float8":
            return Cast(self.scalar(d.f32, inside, 2), dtype) if self.chance(2) else self.leaf(dtype, inside)
        return self.scalar(dtype, inside, 4)

    def repeated(self, inside: _Inside, depth: int) -> None:
        """A do loop that ends: it counts in a buffer that nothing else can write."""
        b = self.builder
        counter = b.alloc("c", d.i32, (), "stack")
        b.store(counter, (), Const(0, d.i32))
        with b.do() as again:
            self.statements(inside.copy(), depth - 1)
            b.store(counter, (), Binary("add", Load(counter.name, (), d.i32), Const(1, d.i32)))
            more = Binary("lt", Load(counter.name, (), d.i32), Const(self.draw(st.integers(0, 3)), d.i32))
            again(Binary("and", more, self.scalar(d.bool_, inside, 1)))

    def mapped(self, inside: _Inside) -> None:
        """A parallel or vector loop over the first axis of an output, which it does not read."""
        b = self.builder
        targets = [param for param in self.params if param.role == "out" and len(param.shape) >= 1]
        if not targets:
            return
        target = self.pick(targets)
        extent = target.shape[0]
        vector = isinstance(extent, int) and self.chance(2)
        lanes = extent + self.draw(st.integers(0, 1)) if vector and isinstance(extent, int) else 0
        with b.loop("p", extent, kind="vector" if vector else "parallel", lanes=lanes) as p:
            deeper = inside.copy()
            deeper.loops.append(p)
            deeper.readable = [buffer for buffer in deeper.readable if buffer is not target]
            rest = [self.place(dim, _Inside()) for dim in target.shape[1:]]
            b.store(target, (p, *rest), self.scalar_or_storage(target.dtype, deeper))


def random_array(seed: int, dtype: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Small numbers, zeros of both signs, infinities, NaN and what does not fit."""
    generator = np.random.default_rng(seed)
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        wide = generator.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)
        return np.where(generator.random(shape) < 0.7, wide % dtype.numpy.type(7), wide).astype(dtype.numpy)
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e30, 3e-40, 0.5])

    def numbers() -> np.ndarray[Any, Any]:
        plain = generator.normal(size=shape) * 10.0 ** generator.integers(-3, 4, shape)
        return np.where(generator.random(shape) < 0.3, generator.choice(special, shape), plain)

    if dtype.kind == "complex":
        mixed = np.empty(shape, np.complex128)
        mixed.real, mixed.imag = numbers(), numbers()
        with np.errstate(all="ignore"):
            return mixed.astype(dtype.numpy)
    if dtype is d.bool_:
        return np.asarray(generator.random(shape) < 0.5)
    with np.errstate(all="ignore"):
        return np.asarray(scalars.cast(numbers(), dtype))


@st.composite
def samples(draw: Callable[..., Any]) -> Sample:
    maker = _Maker(draw)
    b = maker.builder
    dims = {"N": draw(st.integers(1, 9)), "M": draw(st.integers(1, 5))}
    inside = _Inside()
    args: dict[str, np.ndarray[Any, Any]] = {}
    roles = ["in"] * draw(st.integers(1, 3)) + ["out"] + ["inout"] * draw(st.integers(0, 1))
    for role in roles:
        dtype = maker.pick(d.DTYPES)
        shape: list[Dim] = [maker.pick((1, 2, 5, 8, symbol("N"), symbol("M"))) for _ in range(draw(st.integers(0, 2)))]
        param = b.param("x" if role == "in" else "y", dtype, shape, role)
        maker.params.append(param)
        sizes = tuple(dim if isinstance(dim, int) else dims[str(dim)] for dim in shape)
        if role != "out":
            args[param.name] = random_array(draw(st.integers(0, 9999)), dtype, sizes)
            inside.readable.append(param)
        if role != "in":
            inside.writable.append(param)
    if draw(st.booleans()):
        inside.readable.append(b.table("k", d.f32, [draw(st.floats(width=32)) for _ in range(3)]))
    for param in maker.params:  # written before anything may read it
        if param.role == "out":
            b.store(param, tuple(0 for _ in param.shape), maker.const(param.dtype))
            inside.readable.append(param)
        elif param.role == "inout":
            places = maker.places(param, inside)
            b.store(param, places, maker.const(param.dtype))
    maker.statements(inside, 3)
    return Sample(b.finish(), args, dims)
