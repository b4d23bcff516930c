"""Positions: sizes and indices as i64 values, and the vector loop in which they may differ between lanes.

A position is a polynomial over loop variables, let-bound integers and sizes. Variables whose number is known while
writing (unrolled ones) go into the coefficients; the rest is summed from the outermost level inwards, so that what an
outer loop fixes is computed outside the inner one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.classes import dataclass
from ...ir.dims import Atom, Dim, bounds
from ...ir.dtypes import i64
from ...ir.errors import Unsupported
from ...ir.target import Target
from . import casts, scalars
from .writer import Needs, Value, Writer, integer

Term = tuple[tuple[str, ...], int]
Plan = tuple[tuple[Term, ...], int]  # an offset in elements: terms and a constant


@dataclass(frozen=True)
class Lanes:
    """The vector loop being written: its variable is start + step * lane."""

    var: str
    count: int
    start: Value
    step: int


class Positions(Writer):
    """Names and what they are bound to, on top of the writer."""

    def __init__(self, target: Target, needs: Needs) -> None:
        super().__init__(target, needs)
        self.env: dict[str, Value] = {}
        self.vector: Lanes | None = None
        # Offsets of accesses, by node of the kernel: an unrolled body asks for the same one many times.
        self.plans: dict[int, Plan] = {}

    def lookup(self, name: str) -> Value:
        found = self.env.get(name)
        if found is None:
            raise Unsupported(f"{name} is not bound where it is used", code="TD0510")
        if found.dtype is not i64:
            found = casts.cast(self, found, i64)
        return found

    def index(self, dim: Dim) -> Value:
        """A position or size as an i64: a vector where it moves with the vector loop."""
        if isinstance(dim, int):
            return integer(dim)
        lanes = self.vector
        constant = dim.constant
        groups: dict[int, list[Value]] = {}
        for coefficient, factors in self.reduced(dim.terms, lanes):
            if not factors:
                constant += coefficient
                continue
            term = self.product(factors)
            if coefficient != 1:
                term = self.mul(term, integer(coefficient))
            groups.setdefault(term.level + (1000 if term.lanes else 0), []).append(term)
        total: Value | None = None
        for level in sorted(groups):
            for term in groups[level]:
                total = term if total is None else self.add(total, term)
        if total is None:
            return integer(constant)
        return self.add(total, integer(constant)) if constant else total

    def reduced(self, terms: Sequence[Term], lanes: Lanes | None) -> list[tuple[int, list[Value]]]:
        """Each term as its integer and the values it multiplies; names that are known numbers go into the integer."""
        result = []
        for factors, coefficient in terms:
            values: list[Value] = []
            for factor in factors:
                value = self.factor(factor, lanes)
                if value.number is not None:
                    coefficient *= value.number
                else:
                    values.append(value)
            if coefficient:
                result.append((coefficient, values))
        return result

    def factor(self, factor: str, lanes: Lanes | None) -> Value:
        if isinstance(factor, Atom):
            return self.atom(factor)
        if lanes is not None and factor == lanes.var:
            return self.lane_positions(lanes)
        return self.lookup(factor)

    def lane_positions(self, lanes: Lanes) -> Value:
        iota = self.iota(lanes.count, lanes.step)
        return iota if lanes.start.number == 0 else self.add(self.splat(lanes.start, lanes.count), iota)

    def product(self, factors: Sequence[Value]) -> Value:
        if len(factors) == 1:
            return factors[0]
        ordered = sorted(factors, key=lambda value: (value.lanes, value.level))
        result = ordered[0]
        for value in ordered[1:]:
            result = self.mul(result, value)
        return result

    def atom(self, atom: Atom) -> Value:
        operands = [self.index(operand) for operand in atom.operands]
        if atom.kind in ("min", "max"):
            result = operands[0]
            for value in operands[1:]:
                result = scalars.binary(self, atom.kind, result, value)
            return result
        x, y = operands
        if x.number is not None and y.number is not None and y.number:
            return integer(x.number // y.number if atom.kind == "floordiv" else x.number % y.number)
        least, _ = bounds(atom.operands[0])
        if least is not None and least >= 0 and y.number is not None and y.number > 0:
            return self.op("udiv" if atom.kind == "floordiv" else "urem", x, y)
        return scalars.binary(self, atom.kind, x, y)
