"""How the files beside this one write mathematics: lets, polynomials, two floats for one, the bits of a float.

A function of mathematics is written once, over a `Lets`, which collects named intermediate values and tables. The
`Builder` of kernels is one too, so a generator may call these functions in the middle of its own work. All of them are
branch-free, total and exact in what they promise on every target: `Fma` rounds once, `exponent_shift` once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from ...ir.classes import dataclass
from ...ir.dims import symbol
from ...ir.dtypes import DType, f32, f64, i32, i64
from ...ir.loops.build import Operand, add, and_, as_expr, bits, fma, gt, lit, lt, maximum, mul, select, shr, sub
from ...ir.loops.nodes import Binary, Const, Expr, Let, Load, Select, Table, Unary, Var


class Lets(Protocol):
    """What a function of mathematics needs of its surroundings: to name a value, and to keep a table."""

    def let(self, name: str, value: Operand, dtype: DType | None = None) -> Var: ...

    def table(self, name: str, dtype: DType, values: Iterable[float | int]) -> Table: ...


@dataclass(frozen=True, slots=True)
class Rare:
    """Names that have the usual values, or the unusual ones, written by `lets`, where a condition holds. In a vector
    loop the unusual ones are computed only if some lane asks for them."""

    condition: Expr
    names: tuple[str, ...]
    usual: tuple[Expr, ...]
    lets: tuple[Let, ...]
    unusual: tuple[Expr, ...]


class Written:
    """The lets and tables of one function, in order; names are numbered where they repeat."""

    def __init__(self, operands: Sequence[str] = ()) -> None:
        self.lets: list[Let | Rare] = []
        self.tables: list[Table] = []
        self._count = dict.fromkeys(operands, 1)

    def _fresh(self, base: str) -> str:
        number = self._count.get(base, 0)
        self._count[base] = number + 1
        return f"{base}_{number}" if number else base  # a name such as u8 would be a type's

    def let(self, name: str, value: Operand, dtype: DType | None = None) -> Var:
        expr = as_expr(value, dtype)
        if type(expr) is Var:
            return expr
        bound = self._fresh(name)
        self.lets.append(Let(bound, expr))
        return Var(bound, expr.dtype)

    def table(self, name: str, dtype: DType, values: Iterable[float | int]) -> Table:
        literals = tuple([_plain(lit(value, dtype)) for value in values])
        made = Table(self._fresh(name), dtype, literals)
        self.tables.append(made)
        return made

    def rarely(self, condition: Expr, usual: Sequence[Expr], write: Callable[[Lets], Sequence[Expr]]) -> list[Var]:
        outer, self.lets = self.lets, []
        unusual = tuple(write(self))
        inner, self.lets = self.lets, outer
        assert all(isinstance(let, Let) for let in inner), "what is rare holds nothing rarer"
        names = tuple([self._fresh("v") for _ in unusual])
        lets = tuple([let for let in inner if isinstance(let, Let)])
        self.lets.append(Rare(condition, names, tuple(usual), lets, unusual))
        return [Var(name, x.dtype) for name, x in zip(names, unusual)]


def rarely(b: Lets, condition: Expr, usual: Sequence[Expr], write: Callable[[Lets], Sequence[Expr]]) -> list[Var]:
    """The usual values, or those that `write` gives where the condition holds, which is seldom. Elsewhere than in a
    template both are computed."""
    if isinstance(b, Written):
        return b.rarely(condition, usual, write)
    held = b.let("rare", condition)
    return [b.let("v", select(held, x, y)) for x, y in zip(write(b), usual)]


def _plain(constant: Const) -> float | int:
    assert not isinstance(constant.value, complex)
    return constant.value


@dataclass(frozen=True, slots=True)
class Format:
    """A binary float: its integer twin, the bits of its fraction, its exponent's bias, and the number which, added to
    a small float, leaves the nearest integer in the low bits of the sum."""

    dtype: DType
    integer: DType
    fraction: int
    bias: int
    magic: float
    tiny: float  # the least normal number


F32: Final = Format(f32, i32, 23, 127, 12582912.0, 2.0**-126)
F64: Final = Format(f64, i64, 52, 1023, 6755399441055744.0, 2.0**-1022)


def format_of(x: Expr) -> Format:
    return F32 if x.dtype is f32 else F64


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c0 + c1 x + c2 x**2 + ..., one multiply-add per coefficient."""
    result: Expr = lit(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        result = fma(result, x, c)
    return result


def odd(b: Lets, x: Expr, coefficients: Sequence[float]) -> Expr:
    """x + x**3 (c0 + c1 x**2 + ...)."""
    z = b.let("z", mul(x, x))
    return fma(horner(z, coefficients), mul(x, z), x)


def at_most(limit: float, x: Expr) -> Select:
    """The lesser of x and a limit, NaN for NaN: the one instruction `min` of x86-64, whose second operand wins."""
    return select(lt(lit(limit, x.dtype), x), lit(limit, x.dtype), x)


def at_least(limit: float, x: Expr) -> Select:
    """The greater of x and a limit, NaN for NaN."""
    return select(gt(lit(limit, x.dtype), x), lit(limit, x.dtype), x)


def shifted(x: Expr, exponent: Expr) -> Binary:
    """x * 2**exponent, rounded once."""
    return Binary("exponent_shift", x, exponent)


def looked_up(table: Table, number: Var) -> Load:
    """table[number]; `number` is an integer that is always inside."""
    return Load(table.name, (symbol(number.name),), table.dtype)


def nearest(b: Lets, x: Expr, factor: float) -> tuple[Var, Var]:
    """(x * factor to the nearest integer, the same with the integer in its low bits), for |x * factor| < 2**22 (2**51).

    One multiply-add and one subtraction; beyond, and for NaN, the low bits are arbitrary.
    """
    magic = format_of(x).magic
    held = b.let("s", fma(x, factor, magic))
    return b.let("n", sub(held, magic)), held


def nearest_part(b: Lets, x: Expr, bits: int) -> tuple[Var, Var]:
    """(x to the nearest multiple of 2**-bits, the same as a count of them in its low bits): two additions."""
    magic = format_of(x).magic / 2.0**bits
    held = b.let("s", add(x, magic))
    return b.let("n", sub(held, magic)), held


def low_bits(b: Lets, held: Var, count: int) -> Var:
    """The lowest bits of what `nearest` holds: an index from 0, whatever the float was."""
    integer = format_of(held).integer
    return b.let("j", and_(bits(held, integer), (1 << count) - 1))


def piecewise(b: Lets, name: str, rows: Sequence[Sequence[float]], j: Var, t: Expr) -> Expr:
    """The polynomial of piece j at t; row k holds the coefficients of t**k."""
    *rest, last = [looked_up(b.table(f"{name}{k}", t.dtype, row), j) for k, row in enumerate(rows)]
    result: Expr = last
    for c in reversed(rest):
        result = fma(result, t, c)
    return result


def octave_piece(b: Lets, size: Expr, shift: float, cut: int) -> tuple[Var, Var]:
    """(number of a piece of f32, how far `size` lies in it): the powers of two of size + shift, each in 2**cut pieces,
    numbered by the lowest two bits of the exponent and the highest of the fraction. The first one begins at 0."""
    held = b.let("bits", bits(add(size, shift), i32))
    below = F32.fraction - cut
    piece = b.let("j", and_(shr(held, below), (4 << cut) - 1))
    # As integers, because the greater of two floats is more than one instruction.
    left = maximum(bits(sub(bits(and_(held, -(1 << below)), f32), shift), i32), 0)
    return piece, b.let("t", sub(size, bits(left, f32)))


def negated(x: Expr) -> Unary:
    return Unary("neg", x)


# --- two floats for one -----------------------------------------------------------------------------------------------


def two_sum(b: Lets, x: Expr, y: Expr) -> tuple[Var, Var]:
    """x + y exactly, as the rounded sum and what rounding lost; any order of sizes (Knuth)."""
    total = b.let("h", add(x, y))
    part = b.let("v", sub(total, x))
    return total, b.let("l", add(sub(x, sub(total, part)), sub(y, part)))


def fast_two_sum(b: Lets, x: Expr, y: Expr) -> tuple[Var, Var]:
    """The same where x is 0 or not smaller than y in size (Dekker)."""
    total = b.let("h", add(x, y))
    return total, b.let("l", sub(y, sub(total, x)))


def two_product(b: Lets, x: Expr, y: Expr) -> tuple[Var, Var]:
    """x * y exactly, but for underflow."""
    product = b.let("h", mul(x, y))
    return product, b.let("l", fma(x, y, negated(product)))
