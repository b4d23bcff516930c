"""Sizes: ints, and polynomials with integer coefficients over names and the atoms floordiv, mod, min and max.

A known size is a Python int everywhere; only a size that mentions a name is a `SymbolicDim`. Both are written
with the same operators, so a shape rule or an index is spelt once. Two symbolic sizes are equal when their
normal forms are:

- a polynomial is the sorted tuple of its monomials and a constant, so equality of polynomials is decided;
- `a % b` is kept as `a - b*(a // b)` and shown as `a % b` again, so `4*(i // 4) + i % 4` is `i`;
- `a // b` carries out whatever is a multiple of b, joins nested divisions, and divides by common factors;
- `min` and `max` are flat, sorted, moved to the least coefficients, without operands that cannot win.

Between different atoms, identities that need more than this (`x // 2 + (x + 1) // 2` is `x`) are not known:
equality is sound always and complete for polynomials. Division rounds down, as in Python and NumPy.

A name stands for an integer >= 0 (so `max(B, 0)` is `B`), and a divisor for an integer that is not 0. What
may be negative must not be a name under `min` or `max` nor in a divisor; elsewhere a `DimName` with a negative
`low` is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from keyword import iskeyword
from math import gcd, inf, lcm
from operator import index as as_index
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from .classes import dataclass
from .errors import ArithmeticFault, InvalidValue, ParseError, TypeMismatch

Kind = Literal["floordiv", "mod", "min", "max"]
Monomial: TypeAlias = tuple[str, ...]  # factors in sorted order, repeated for powers; () is never stored
Term: TypeAlias = tuple[Monomial, int]


class Atom(str):
    """A factor that is not a name. It is its own text, which its operands' normal form decides."""

    __slots__ = ("kind", "operands")
    kind: Kind
    operands: tuple[Dim, ...]

    def __new__(cls, kind: Kind, operands: tuple[Dim, ...]) -> Atom:
        if kind == "floordiv":
            text = f"{_operand(operands[0])} // {_operand(operands[1])}"
        elif kind == "mod":
            text = f"{_operand(operands[0])} % {_operand(operands[1])}"
        else:
            text = f"{kind}({', '.join(map(show, operands))})"
        self = str.__new__(cls, text)
        self.kind = kind
        self.operands = operands
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Atom, (self.kind, self.operands)


class SymbolicDim:
    """A size that mentions at least one name. Immutable, hashable, equal by normal form; not an int.

    Build one from `symbol` with Python's operators. Sizes are compared by `known_le` and its kin, never by
    `<`, because the answer may be unknown.
    """

    # _terms and _constant are the normal form; the others are computed on first use.
    __slots__ = ("_constant", "_hash", "_names", "_terms", "_text", "_view")
    __array_ufunc__ = None  # so that numpy.int64(2) * B comes to __rmul__ and not to an object array

    _terms: tuple[Term, ...]
    _constant: int
    _hash: int | None
    _names: tuple[str, ...] | None
    _text: str | None
    _view: tuple[tuple[Term, ...], int] | None

    @property
    def terms(self) -> tuple[Term, ...]:
        """(factors, coefficient) as shown, with `mod` written as such. A factor is a name or an `Atom`."""
        return _viewed(self)[0]

    @property
    def constant(self) -> int:
        """The constant that goes with `terms`."""
        return _viewed(self)[1]

    def __add__(self, other: Dim) -> Dim:
        if type(other) is int:
            return _new(self._terms, self._constant + other) if other else self
        if type(other) is SymbolicDim:
            terms = dict(self._terms)
            for monomial, coefficient in other._terms:
                terms[monomial] = terms.get(monomial, 0) + coefficient
            return _build(terms, self._constant + other._constant)
        lifted = _lift(other)
        return NotImplemented if lifted is None else self + lifted

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        if type(other) is int:
            return _new(self._terms, self._constant - other) if other else self
        if type(other) is SymbolicDim:
            terms = dict(self._terms)
            for monomial, coefficient in other._terms:
                terms[monomial] = terms.get(monomial, 0) - coefficient
            return _build(terms, self._constant - other._constant)
        lifted = _lift(other)
        return NotImplemented if lifted is None else self - lifted

    def __rsub__(self, other: Dim) -> Dim:
        lifted = _lift(other)
        return NotImplemented if lifted is None else -self + lifted

    def __neg__(self) -> SymbolicDim:
        negated = tuple([(monomial, -coefficient) for monomial, coefficient in self._terms])
        return _new(negated, -self._constant)

    def __pos__(self) -> SymbolicDim:
        return self

    def __mul__(self, other: Dim) -> Dim:
        if type(other) is int:
            if other == 1:
                return self
            if other == 0:
                return 0
            scaled = tuple([(monomial, coefficient * other) for monomial, coefficient in self._terms])
            return _new(scaled, self._constant * other)
        if type(other) is SymbolicDim:
            terms: dict[Monomial, int] = {}
            for left, a in _all_terms(self):
                for right, b in _all_terms(other):
                    monomial = tuple(sorted(left + right)) if left and right else left or right
                    terms[monomial] = terms.get(monomial, 0) + a * b
            return _build(terms, terms.pop((), 0))
        lifted = _lift(other)
        return NotImplemented if lifted is None else self * lifted

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        lifted = _lift(other)
        return NotImplemented if lifted is None else floordiv(self, lifted)

    def __rfloordiv__(self, other: Dim) -> Dim:
        lifted = _lift(other)
        return NotImplemented if lifted is None else floordiv(lifted, self)

    def __mod__(self, other: Dim) -> Dim:
        lifted = _lift(other)
        return NotImplemented if lifted is None else mod(self, lifted)

    def __rmod__(self, other: Dim) -> Dim:
        lifted = _lift(other)
        return NotImplemented if lifted is None else mod(lifted, self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not SymbolicDim:
            return NotImplemented
        return self._constant == other._constant and self._terms == other._terms

    def __hash__(self) -> int:
        value = self._hash
        if value is None:
            value = hash((self._terms, self._constant))
            self._hash = value
        return value

    def __str__(self) -> str:
        text = self._text
        if text is None:
            text = _text_of(self)
            self._text = text
        return text

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return parse, (str(self),)

    # ndarray shapes, range() and slices ask for __index__; if and while ask for __bool__.
    def __index__(self) -> int:
        raise _unknown(self, "an integer", "keep it symbolic: treadle.numpy.zeros takes it in a shape")

    def __int__(self) -> int:
        raise _unknown(self, "an integer", "leave out int(): a size takes part in + - * // % as it is")

    def __float__(self) -> float:
        raise _unknown(self, "a number", "multiply by the size itself, not by float() of it")

    def __bool__(self) -> bool:
        raise _unknown(self, "true or false", "decide on what does not depend on it, or make the size static")


Dim: TypeAlias = int | SymbolicDim


def _unknown(dim: SymbolicDim, wanted: str, edit: str) -> TypeMismatch:
    message = f"the size {dim} is not known while tracing and was asked for as {wanted}"
    return TypeMismatch(message, code="TD0201", edit=edit)


def _lift(value: object) -> Dim | None:
    """Python ints, NumPy integers and sizes; None for what is not a size."""
    if type(value) is int or type(value) is SymbolicDim:
        return value
    if isinstance(value, SymbolicDim):
        return value
    try:
        return int(as_index(value))  # type: ignore[arg-type]
    except TypeError:
        return None


def _new(terms: tuple[Term, ...], constant: int) -> SymbolicDim:
    self = object.__new__(SymbolicDim)
    self._terms = terms
    self._constant = constant
    self._hash = self._names = self._text = self._view = None
    return self


def _build(terms: dict[Monomial, int], constant: int) -> Dim:
    kept = sorted([term for term in terms.items() if term[1]])
    return _new(tuple(kept), constant) if kept else constant


def _all_terms(dim: Dim) -> tuple[Term, ...]:
    """The normal form with its constant as the monomial ()."""
    if type(dim) is int:
        return (((), dim),) if dim else ()
    assert isinstance(dim, SymbolicDim)
    return (((), dim._constant), *dim._terms) if dim._constant else dim._terms


def _single(factor: str) -> SymbolicDim:
    return _new((((factor,), 1),), 0)


@lru_cache(maxsize=4096)
def names_size(name: str) -> bool:
    """Whether a size may be called so: an identifier, but no word of Python's, which reads the formulas of sizes."""
    return name.isidentifier() and not iskeyword(name) and name not in ("min", "max")


def symbol(name: str) -> SymbolicDim:
    """The size called `name`. TD0204 for what `names_size` does not take."""
    if not names_size(name):
        raise InvalidValue(f"{name!r} cannot name a size", code="TD0204", edit="use another identifier")
    return _single(str(name))


# --- division -----------------------------------------------------------------------------------------------


def floordiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded down."""
    if type(b) is int:
        if b == 0:
            raise _division_by_zero(a)
        if type(a) is int:
            return a // b
    return _divided(a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """What is left of a after taking out b floordiv(a, b) times; it has the sign of b."""
    return a - floordiv(a, b) * b


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up, for b > 0."""
    # Rounding keeps order, so it goes into a maximum: the steps of max(s*n - s + 1, 0) by s are n again.
    return apply("max", [floordiv(case + b - 1, b) for case in _alternatives("max", a)])


def _division_by_zero(a: Dim) -> ArithmeticFault:
    return ArithmeticFault(f"the size {show(a)} is divided by zero", code="TD0202", edit="use a divisor >= 1")


def _nearest(c: int, b: int) -> int:
    """The residue of c modulo b in (-b/2, b/2]."""
    r = c % b
    return r - b if 2 * r > b else r


@lru_cache(maxsize=1 << 14)
def _divided(a: Dim, b: Dim) -> Dim:
    if type(b) is int:
        assert isinstance(a, SymbolicDim)
        return _divided_by_int(a, b) if b > 0 else _divided_by_int(-a, -b)
    assert isinstance(b, SymbolicDim)
    if b._terms[0][1] < 0:
        a, b = -a, -b
        assert isinstance(b, SymbolicDim)
    quotient, rest = _long_division(a, b)
    if type(rest) is int and rest == 0:
        return quotient
    # What the remainder and the divisor share cancels: numbers first, then factors.
    everything = (*_all_terms(rest), *_all_terms(b))
    common = gcd(*[coefficient for _, coefficient in everything])
    shared = list(everything[0][0])
    for monomial, _ in everything[1:]:
        shared = _in_common(shared, monomial)
    if common > 1 or shared:
        return quotient + floordiv(_reduced(rest, common, shared), _reduced(b, common, shared))
    return quotient + _single(Atom("floordiv", (rest, b)))


def _divided_by_int(a: SymbolicDim, b: int) -> Dim:
    if b == 1:
        return a
    quotient: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in a._terms:
        r = _nearest(coefficient, b)
        if r:
            rest[monomial] = r
        if r != coefficient:
            quotient[monomial] = (coefficient - r) // b
    whole, constant = divmod(a._constant, b)
    outside = _build(quotient, whole)
    if not rest:
        return outside
    common = gcd(b, *rest.values())
    if common > 1:
        rest = {monomial: coefficient // common for monomial, coefficient in rest.items()}
        b //= common
        constant //= common
    # floor(-x / b) = -floor((x + b - 1) / b): of the two spellings, the one whose first term is positive.
    sign = next((coefficient for coefficient in rest.values() if 2 * abs(coefficient) != b), 1)
    if sign < 0:
        flipped = {monomial: -coefficient for monomial, coefficient in rest.items()}
        return outside - floordiv(_build(flipped, b - 1 - constant), b)
    inside = _build(rest, constant)
    assert isinstance(inside, SymbolicDim)
    nested = [atom for atom, times in _lone_factors(inside) if times in (1, -1) and _divides_by_int(atom)]
    if len(nested) == 1:
        # (x // d + y) // b = (x + d*y) // (d*b)
        atom = nested[0]
        dividend, divisor = atom.operands
        assert type(divisor) is int
        if rest[(atom,)] == 1:
            return outside + floordiv(dividend + (inside - _single(atom)) * divisor, divisor * b)
        return outside - floordiv(dividend + (b - 1 - inside - _single(atom)) * divisor, divisor * b)
    if any(isinstance(factor, Atom) for monomial in rest for factor in monomial):
        # (x % 3) // 4 is 0: remainders and extrema bound what is divided.
        low, high = bounds(inside)
        if low is not None and high is not None and low // b == high // b:
            return outside + low // b
    return outside + _single(Atom("floordiv", (inside, b)))


def _lone_factors(dim: SymbolicDim) -> list[tuple[Atom, int]]:
    """The atoms that stand as terms of their own, and how many times."""
    return [
        (monomial[0], coefficient)
        for monomial, coefficient in dim._terms
        if len(monomial) == 1 and isinstance(monomial[0], Atom)
    ]


def _in_common(left: Sequence[str], right: Sequence[str]) -> list[str]:
    remaining = list(right)
    shared = []
    for factor in left:
        if factor in remaining:
            remaining.remove(factor)
            shared.append(factor)
    return shared


def _without(monomial: Sequence[str], factors: Sequence[str]) -> Monomial | None:
    """monomial / factors, None if they are not all in it."""
    remaining = list(monomial)
    for factor in factors:
        if factor not in remaining:
            return None
        remaining.remove(factor)
    return tuple(remaining)


def _reduced(dim: Dim, common: int, shared: Sequence[str]) -> Dim:
    terms: dict[Monomial, int] = {}
    for monomial, coefficient in _all_terms(dim):
        smaller = _without(monomial, shared)
        assert smaller is not None
        terms[smaller] = coefficient // common
    return _build(terms, terms.pop((), 0))


def _leading(dim: SymbolicDim) -> Term:
    # Longer first, then text: compatible with multiplication, so long division ends.
    return max(dim._terms, key=lambda term: (len(term[0]), term[0]))


def _long_division(a: Dim, b: SymbolicDim) -> tuple[Dim, Dim]:
    """q and r with a == q*b + r, where no monomial of r holds another multiple of b's leading term."""
    lead, lead_coefficient = _leading(b)
    size = abs(lead_coefficient)
    quotient: Dim = 0
    rest = a
    settled: set[Monomial] = set()  # only asked, never iterated
    while isinstance(rest, SymbolicDim):
        candidates = [term for term in rest._terms if term[0] not in settled]
        if not candidates:
            break
        monomial, coefficient = max(candidates, key=lambda term: (len(term[0]), term[0]))
        settled.add(monomial)
        outside = _without(monomial, lead)
        multiple_of_lead = coefficient - _nearest(coefficient, size)
        if outside is None or multiple_of_lead == 0:
            continue
        times = multiple_of_lead // lead_coefficient
        step = _new(((outside, times),), 0) if outside else times
        quotient = quotient + step
        rest = rest - step * b
    return quotient, rest


def exact_div(a: Dim, b: Dim) -> Dim | None:
    """a / b where the division is provably exact, else None."""
    if type(b) is int:
        if b == 0:
            return None
        if type(a) is int:
            return a // b if a % b == 0 else None
        assert isinstance(a, SymbolicDim)
        if a._constant % b or any(coefficient % b for _, coefficient in a._terms):
            return None
        divided = tuple([(monomial, coefficient // b) for monomial, coefficient in a._terms])
        return _new(divided, a._constant // b)
    assert isinstance(b, SymbolicDim)
    quotient, rest = _long_division(a, b)
    return quotient if type(rest) is int and rest == 0 else None


# --- least and greatest -------------------------------------------------------------------------------------


def minimum(a: Dim, b: Dim) -> Dim:
    return min(a, b) if type(a) is int and type(b) is int else _extremum("min", (a, b))


def maximum(a: Dim, b: Dim) -> Dim:
    return max(a, b) if type(a) is int and type(b) is int else _extremum("max", (a, b))


@lru_cache(maxsize=1 << 12)
def _extremum(kind: Literal["min", "max"], given: tuple[Dim, ...]) -> Dim:
    flat: list[Dim] = []
    for dim in given:
        for operand in _alternatives(kind, dim):
            if operand not in flat:
                flat.append(operand)
    operands: list[Dim] = []
    for i, dim in enumerate(flat):
        rivals = (*operands, *flat[i + 1 :])
        if not any(known_le(rival, dim) if kind == "min" else known_le(dim, rival) for rival in rivals):
            operands.append(dim)
    if len(operands) == 1:
        return operands[0]
    # min(a + x, b + x) = min(a, b) + x and min(k*a, k*b) = k*min(a, b): of all spellings, the one whose
    # coefficients are least.
    least = [dict(_all_terms(dim)) for dim in operands]
    outside = {
        monomial: min(terms.get(monomial, 0) for terms in least)
        for monomial in sorted({monomial for terms in least for monomial in terms})
    }
    shift = _build(outside, outside.pop((), 0))
    moved = [dim - shift for dim in operands]
    common = gcd(*[coefficient for dim in moved for _, coefficient in _all_terms(dim)])
    scaled = [_reduced(dim, common, ()) for dim in moved]
    if any(len(_alternatives(kind, dim)) > 1 for dim in scaled):
        # The move freed an operand that is itself such an extremum: min(1, B - m) = min(1 + m, B) - m.
        return _extremum(kind, tuple(scaled)) * common + shift
    scaled.sort(key=lambda dim: (type(dim) is int, show(dim)))
    return _single(Atom(kind, tuple(scaled))) * common + shift


def _alternatives(kind: Kind, dim: Dim) -> tuple[Dim, ...]:
    """The operands of `dim` where it is k*min(...) + rest with k > 0 (max by `kind`), else itself."""
    if type(dim) is not int:
        assert isinstance(dim, SymbolicDim)
        for monomial, coefficient in dim._terms:
            factor = monomial[0]
            if len(monomial) == 1 and coefficient > 0 and isinstance(factor, Atom) and factor.kind == kind:
                rest = dim - _single(factor) * coefficient
                return tuple([rest + operand * coefficient for operand in factor.operands])
    return (dim,)


# --- what a size is made of ---------------------------------------------------------------------------------


def names(dim: Dim) -> tuple[str, ...]:
    """The names in it, sorted."""
    if type(dim) is int:
        return ()
    assert isinstance(dim, SymbolicDim)
    found = dim._names
    if found is None:
        collected: dict[str, None] = {}
        for monomial, _ in dim._terms:
            for factor in monomial:
                if isinstance(factor, Atom):
                    for operand in factor.operands:
                        collected.update(dict.fromkeys(names(operand)))
                else:
                    collected[factor] = None
        found = tuple(sorted(collected))
        dim._names = found
    return found


def apply(kind: Kind, operands: Sequence[Dim]) -> Dim:
    """The value of an atom of this kind over these operands."""
    if kind == "floordiv":
        return floordiv(operands[0], operands[1])
    if kind == "mod":
        return mod(operands[0], operands[1])
    combine = minimum if kind == "min" else maximum
    result = operands[0]
    for operand in operands[1:]:
        result = combine(result, operand)
    return result


def factor_value(factor: str) -> Dim:
    """A factor of `terms` as a size."""
    return apply(factor.kind, factor.operands) if isinstance(factor, Atom) else symbol(factor)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with some of its names replaced; an int when nothing is left unknown."""
    if type(dim) is int or not any(name in values for name in names(dim)):
        return dim
    assert isinstance(dim, SymbolicDim)
    total: Dim = dim._constant
    untouched: dict[Monomial, int] = {}
    for monomial, coefficient in dim._terms:
        product: Dim = coefficient
        kept: list[str] = []
        for factor in monomial:
            if isinstance(factor, Atom):
                if any(name in values for operand in factor.operands for name in names(operand)):
                    operands = [substitute(operand, values) for operand in factor.operands]
                    product = apply(factor.kind, operands) * product
                else:
                    kept.append(factor)
            elif factor in values:
                product = values[factor] * product
            else:
                kept.append(factor)
        if len(kept) == len(monomial):
            untouched[monomial] = coefficient
        elif kept:
            total = total + _new(((tuple(kept), 1),), 0) * product
        else:
            total = total + product
    return total + _build(untouched, 0) if untouched else total


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number that `dim` is under these values, by Python's own arithmetic."""
    if type(dim) is int:
        return dim
    assert isinstance(dim, SymbolicDim)
    total = dim._constant
    for monomial, coefficient in dim._terms:
        for factor in monomial:
            coefficient *= _evaluate_factor(factor, values)
        total += coefficient
    return total


def _evaluate_factor(factor: str, values: Mapping[str, int]) -> int:
    if isinstance(factor, Atom):
        operands = [evaluate(operand, values) for operand in factor.operands]
        if factor.kind == "min":
            return min(operands)
        if factor.kind == "max":
            return max(operands)
        if operands[1] == 0:
            raise _division_by_zero(factor.operands[0])
        return operands[0] // operands[1] if factor.kind == "floordiv" else operands[0] % operands[1]
    if factor not in values:
        raise InvalidValue(f"no value was given for the size {factor}", code="TD0203")
    return int(values[factor])


def product(dims: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


# --- text ---------------------------------------------------------------------------------------------------


def show(dim: Dim) -> str:
    return str(dim)


def _operand(dim: Dim) -> str:
    """The text as an operand of // or %: bare if it is one token or a call."""
    text = show(dim)
    bare = text.isidentifier() or text.isdigit()
    if not bare and isinstance(dim, SymbolicDim) and len(dim._terms) == 1 and dim._terms[0][0][0] == text:
        bare = text.startswith(("min(", "max("))
    return text if bare else f"({text})"


def _factor_text(factor: str, alone: bool) -> str:
    enclosed = isinstance(factor, Atom) and factor.kind in ("floordiv", "mod") and not alone
    return f"({factor})" if enclosed else str.__str__(factor)


def _text_of(dim: SymbolicDim) -> str:
    terms, constant = _viewed(dim)
    # Positive terms first, so that a size does not open with a minus where it need not.
    pieces: list[tuple[int, str]] = []
    for monomial, coefficient in terms:
        size = abs(coefficient)
        alone = size == 1 and len(monomial) == 1
        factors = sorted(monomial, key=lambda factor: isinstance(factor, Atom))  # names first
        text = "*".join([_factor_text(factor, alone) for factor in factors])
        pieces.append((coefficient, text if size == 1 else f"{size}*{text}"))
    if constant:
        pieces.append((constant, str(abs(constant))))
    ordered = [piece for piece in pieces if piece[0] > 0] + [piece for piece in pieces if piece[0] < 0]
    sign, first = ordered[0]
    if sign < 0:
        first = f"-({first})" if "//" in first or "%" in first else f"-{first}"
    return first + "".join(f" + {text}" if sign > 0 else f" - {text}" for sign, text in ordered[1:])


def _viewed(dim: SymbolicDim) -> tuple[tuple[Term, ...], int]:
    """The normal form with `a - b*(a // b)` written as `a % b` again, longest monomials first."""
    view = dim._view
    if view is None:
        terms = dict(dim._terms)
        constant = dim._constant
        floors = {
            factor: None
            for monomial in terms
            for factor in monomial
            if isinstance(factor, Atom) and factor.kind == "floordiv"
        }
        if floors:
            # Longest text first: the dividend of a division is shorter than the division.
            ordered = sorted(floors, key=lambda atom: (-len(atom), atom))
            terms[()] = constant
            for atom in ordered:
                for monomial in [monomial for monomial in terms if atom in monomial]:
                    if terms.get(monomial, 0) < 0:
                        _show_mod(terms, monomial, atom, ordered)
            constant = terms.pop(())
        kept = sorted([term for term in terms.items() if term[1]], key=lambda term: (-len(term[0]), term[0]))
        view = (tuple(kept), constant)
        dim._view = view
    return view


def _show_mod(terms: dict[Monomial, int], monomial: Monomial, atom: Atom, floors: Sequence[Atom]) -> None:
    """Where terms hold k*m*(base - part*atom), `atom` being base // part, write k*m*(base % part)."""
    dividend, divisor = atom.operands
    around = _without(monomial, (atom,))
    assert around is not None
    choices: list[tuple[Dim, Dim]] = [(dividend, divisor)]
    if type(divisor) is int:
        # x // (d*part) is also (x // d) // part, for each x // d at hand.
        for other in floors:
            step = other.operands[1]
            if type(step) is int and 1 < step < divisor and divisor % step == 0:
                choices.append((floordiv(dividend, step), divisor // step))
    for base, part in choices:
        if type(base) is int and type(part) is int:
            continue
        if part is not divisor and floordiv(base, part) != _single(atom):
            continue
        lead, size = ((), part) if type(part) is int else _leading(part)  # type: ignore[arg-type]
        outside = _without(around, lead)
        if outside is None or terms[monomial] % size:
            continue
        count = -terms[monomial] // size
        if count <= 0:
            continue
        removed: dict[Monomial, int] = {}
        for factors, coefficient in _all_terms(part):
            place = tuple(sorted((*outside, *factors, atom)))
            removed[place] = -coefficient * count
        if any(terms.get(place, 0) != coefficient for place, coefficient in removed.items()):
            continue
        added: dict[Monomial, int] = {}
        for factors, coefficient in _all_terms(base):
            added[tuple(sorted((*outside, *factors)))] = coefficient * count
        varying = [place for place in added if place != outside] or list(added)
        if not all(_holds(terms.get(place, 0), added[place]) for place in varying):
            continue
        for place, coefficient in removed.items():
            terms[place] -= coefficient
        for place, coefficient in added.items():
            terms[place] = terms.get(place, 0) - coefficient
        place = tuple(sorted((*outside, Atom("mod", (base, part)))))
        terms[place] = terms.get(place, 0) + count
        return


def _holds(whole: int, part: int) -> bool:
    return 0 < part <= whole or whole <= part < 0


_TOKEN: Final = re.compile(r"\s*(?:(?P<number>\d+)|(?P<name>[^\W\d]\w*)|(?P<sign>//|[-+*%(),])|(?P<end>\Z))")
_DEEPEST: Final = 100  # nested brackets; each costs three frames of Python's stack


def parse(text: str) -> Dim:
    """The size that `show` prints as this text."""
    return _Reader(text).whole()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.start = 0
        self.depth = 0
        self.token = ""
        self.sort = ""
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            self.start = self.at
            raise self.error("a size")
        self.sort = match.lastgroup or ""
        self.token = match[self.sort]
        self.start = match.start(self.sort)
        self.at = match.end()

    def error(self, expected: str) -> ParseError:
        return ParseError(f"size {self.text!r}, column {self.start + 1}: expected {expected}", code="TD0205")

    def accept(self, *tokens: str) -> str | None:
        if self.sort == "sign" and self.token in tokens:
            token = self.token
            self.advance()
            return token
        return None

    def whole(self) -> Dim:
        result = self.sum()
        if self.sort != "end":
            raise self.error("the end")
        return result

    def sum(self) -> Dim:
        result = self.product()
        while sign := self.accept("+", "-"):
            right = self.product()
            result = result + right if sign == "+" else result - right
        return result

    def product(self) -> Dim:
        result = self.unit()
        while sign := self.accept("*", "//", "%"):
            right = self.unit()
            if sign == "*":
                result = result * right
            else:
                result = floordiv(result, right) if sign == "//" else mod(result, right)
        return result

    def unit(self) -> Dim:
        negative = False
        while self.accept("-"):
            negative = not negative
        result = self.operand()
        return -result if negative else result

    def operand(self) -> Dim:
        token, sort = self.token, self.sort
        if sort == "number":
            self.advance()
            return int(token)
        if sort == "name":
            self.advance()
            if token in ("min", "max") and self.sort == "sign" and self.token == "(":
                return apply("min" if token == "min" else "max", self.bracket(many=True))
            return symbol(token)
        if sort == "sign" and token == "(":
            return self.bracket(many=False)[0]
        raise self.error("a number, a name or '('")

    def bracket(self, many: bool) -> list[Dim]:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(f"at most {_DEEPEST} nested brackets")
        self.accept("(")
        inside = [self.sum()]
        while many and self.accept(","):
            inside.append(self.sum())
        if not self.accept(")"):
            raise self.error("')'")
        self.depth -= 1
        return inside


# --- what is known ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DimName:
    """What a declared name promises: its values are in [low, high] and multiples of `multiple_of`."""

    name: str
    low: int = 0
    high: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        symbol(self.name)
        if self.multiple_of < 1 or (self.high is not None and self.least > self.high):
            wanted = f"in [{self.low}, {self.high}] and a multiple of {self.multiple_of}"
            raise InvalidValue(f"no value of the size {self.name} is {wanted}", code="TD0206")

    @property
    def least(self) -> int:
        """The smallest value that keeps the promise."""
        return -(-self.low // self.multiple_of) * self.multiple_of


Known: TypeAlias = Mapping[str, DimName]
NOTHING: Final[Known] = MappingProxyType({})
_Number: TypeAlias = int | float  # float only for the infinities
_Interval: TypeAlias = tuple[_Number, _Number]


def _counted(dim: Dim, known: Known) -> tuple[Dim, dict[str, int]]:
    """`dim` with every promised name as least + multiple_of*name, to count from 0; where names end."""
    ends: dict[str, int] = {}
    steps: dict[str, Dim] = {}
    for name in names(dim):
        promise = known.get(name)
        if promise is not None:
            if promise.high is not None:
                ends[name] = (promise.high - promise.least) // promise.multiple_of
            if promise.least or promise.multiple_of > 1:
                steps[name] = symbol(name) * promise.multiple_of + promise.least
    return (substitute(dim, steps) if steps else dim), ends


def bounds(dim: Dim, known: Known = NOTHING) -> tuple[int | None, int | None]:
    """The least and greatest value, None where none is known. Conservative; names not in `known` are >= 0."""
    if type(dim) is int:
        return dim, dim
    counted, ends = _counted(dim, known)
    low, high = _interval(counted, ends, 3)
    return (None if low == -inf else int(low)), (None if high == inf else int(high))


def _times(a: _Number, b: _Number) -> _Number:
    if a == 0 or b == 0:
        return 0
    if abs(a) == inf or abs(b) == inf:
        return inf if (a > 0) == (b > 0) else -inf
    return a * b


def _interval(dim: Dim, ends: Mapping[str, int], splits: int) -> _Interval:
    if type(dim) is int:
        return dim, dim
    assert isinstance(dim, SymbolicDim)
    common = gcd(*[coefficient for _, coefficient in dim._terms])
    if common > 1:
        # Rounding to integers is worth most where the coefficients are small.
        whole, constant = divmod(dim._constant, common)
        low, high = _interval(_reduced(dim - dim._constant, common, ()) + whole, ends, splits)
        return _times(low, common) + constant, _times(high, common) + constant
    terms, constant = _viewed(dim)
    low, high = _sum_interval(terms, constant, ends, splits)
    # Three spellings of the same number; each bounds it, so the tightest of their bounds holds.
    if any(_divides_by_int(factor) for monomial, _ in dim._terms for factor in monomial):
        scaled, constant, scale = _without_floors(dim)
        below, above = _sum_interval(scaled, constant, ends, splits)
        low = max(low, below if below == -inf else -(-below // scale))
        high = min(high, above if above == inf else above // scale)
    # A lower bound asks to open min before max (some case is the least), an upper bound max before min: both
    # are tried, one atom of each sort at a time.
    tried: list[bool] = []
    for monomial, coefficient in dim._terms if splits else ():
        factor = monomial[0]
        if len(monomial) == 1 and isinstance(factor, Atom) and factor.kind in ("min", "max"):
            # k*min(a, b) with k > 0 and k*max(a, b) with k < 0 are the least of the cases, else the greatest.
            least = (factor.kind == "min") == (coefficient > 0)
            if least in tried:
                continue
            tried.append(least)
            rest = dim - _single(factor) * coefficient
            opened = [rest + operand * coefficient for operand in factor.operands]
            cases = [_interval(case, ends, splits - 1) for case in opened]
            lows, highs = [case[0] for case in cases], [case[1] for case in cases]
            low = max(low, min(lows) if least else max(lows))
            high = min(high, min(highs) if least else max(highs))
    return low, high


def _divides_by_int(factor: str) -> bool:
    return isinstance(factor, Atom) and factor.kind == "floordiv" and type(factor.operands[1]) is int


def _without_floors(dim: SymbolicDim) -> tuple[tuple[Term, ...], int, int]:
    """scale*dim with x // b written as (x - x % b) / b, where x often cancels against the other terms."""
    terms = dict(_all_terms(dim))
    scale = 1
    while True:
        place = next(
            ((monomial, factor) for monomial in terms for factor in monomial if _divides_by_int(factor)),
            None,
        )
        if place is None:
            break
        monomial, factor = place
        assert isinstance(factor, Atom)
        dividend, divisor = factor.operands
        assert type(divisor) is int
        coefficient = terms.pop(monomial)
        up = divisor // gcd(divisor, coefficient)
        if up > 1:
            terms = {m: c * up for m, c in terms.items()}
            coefficient *= up
            scale *= up
        coefficient //= divisor
        around = _without(monomial, (factor,))
        assert around is not None
        for m, c in (*_all_terms(dividend), ((Atom("mod", (dividend, divisor)),), -1)):
            target = tuple(sorted((*around, *m)))
            terms[target] = terms.get(target, 0) + c * coefficient
    constant = terms.pop((), 0)
    return tuple([term for term in terms.items() if term[1]]), constant, scale


def _sum_interval(terms: Iterable[Term], constant: int, ends: Mapping[str, int], splits: int) -> _Interval:
    low: _Number = constant
    high: _Number = constant
    for monomial, coefficient in terms:
        a: _Number = coefficient
        b: _Number = coefficient
        for factor in monomial:
            c, d = _factor_interval(factor, ends, splits)
            corners = (_times(a, c), _times(a, d), _times(b, c), _times(b, d))
            a, b = min(corners), max(corners)
        low, high = low + a, high + b
    return low, high


def _factor_interval(factor: str, ends: Mapping[str, int], splits: int) -> _Interval:
    if not isinstance(factor, Atom):
        return 0, ends.get(factor, inf)
    intervals = [_interval(operand, ends, max(splits - 1, 0)) for operand in factor.operands]
    if factor.kind == "min":
        return min(low for low, _ in intervals), min(high for _, high in intervals)
    if factor.kind == "max":
        return max(low for low, _ in intervals), max(high for _, high in intervals)
    (low, high), (divisor_low, divisor_high) = intervals
    # A divisor is never 0, so one that cannot be negative is at least 1.
    divisor_low = max(divisor_low, 1) if divisor_low >= 0 else divisor_low
    if divisor_low < 0:
        return -inf, inf
    if factor.kind == "mod":
        if low >= 0 and high < divisor_low:
            return low, high
        return 0, min(divisor_high - 1, high) if low >= 0 else divisor_high - 1
    corners = [_floor(a, b) for a in (low, high) for b in (divisor_low, divisor_high)]
    return min(corners), max(corners)


def _floor(a: _Number, b: _Number) -> _Number:
    """a // b for b >= 1, where either may be infinite."""
    if abs(a) == inf:
        return 0 if b == inf and a > 0 else a if b != inf else -inf
    if b == inf:
        return 0 if a >= 0 else -1
    return a // b


def known_le(a: Dim, b: Dim, known: Known = NOTHING) -> bool:
    """Whether a <= b for all values of the names."""
    if type(a) is int and type(b) is int:
        return a <= b
    low, _ = bounds(b - a, known)
    return low is not None and low >= 0


def known_lt(a: Dim, b: Dim, known: Known = NOTHING) -> bool:
    """Whether a < b for all values of the names."""
    if type(a) is int and type(b) is int:
        return a < b
    low, _ = bounds(b - a, known)
    return low is not None and low > 0


def known_positive(dim: Dim, known: Known = NOTHING) -> bool:
    return known_lt(0, dim, known)


def known_equal(a: Dim, b: Dim) -> bool:
    """Whether the normal forms are equal."""
    return a == b


def shortest(dim: Dim, known: Known = NOTHING) -> Dim:
    """The same number in fewer terms where a promised divisor makes divisions exact: n - n // 2 is n // 2 of an even
    n."""
    best = dim
    for factor in () if type(dim) is int else [factor for monomial, _ in _all_terms(dim) for factor in monomial]:
        if not isinstance(factor, Atom) or factor.kind != "floordiv":
            continue
        whole, divisor = factor.operands
        promise = known.get(str(whole))
        if promise is not None and type(divisor) is int and promise.multiple_of % divisor == 0:
            found = substitute(dim, {promise.name: factor_value(factor) * divisor})
            best = found if len(_all_terms(found)) < len(_all_terms(best)) else best
    return best


def multiple(dim: Dim, known: Known = NOTHING) -> int:
    """The largest integer known to divide it; 0 for the constant 0."""
    if type(dim) is int:
        return abs(dim)
    return _multiple(_counted(dim, known)[0])


def _multiple(dim: Dim) -> int:
    if type(dim) is int:
        return abs(dim)
    assert isinstance(dim, SymbolicDim)
    plain = gcd(*[_term_multiple(term) for term in _all_terms(dim)])
    terms, constant = _viewed(dim)
    viewed = gcd(constant, *[_term_multiple(term) for term in terms])
    return lcm(plain, viewed)


def _term_multiple(term: Term) -> int:
    monomial, result = term
    for factor in monomial:
        if isinstance(factor, Atom):
            parts = [_multiple(operand) for operand in factor.operands]
            if factor.kind == "floordiv":
                divisor = factor.operands[1]
                result *= parts[0] // divisor if type(divisor) is int and parts[0] % divisor == 0 else 1
            else:
                result *= gcd(*parts)
    return abs(result)


def linear(dim: Dim, name: str) -> tuple[Dim, Dim] | None:
    """(slope, rest), neither with `name` in it, where dim == slope*name + rest; None if it is not so."""
    if type(dim) is int or name not in names(dim):
        return 0, dim
    assert isinstance(dim, SymbolicDim)
    slope: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in dim._terms:
        powers = 0
        for factor in monomial:
            if isinstance(factor, Atom):
                if any(name in names(operand) for operand in factor.operands):
                    return None
            elif factor == name:
                powers += 1
        if powers == 0:
            rest[monomial] = coefficient
        elif powers == 1:
            slope[tuple([factor for factor in monomial if factor != name])] = coefficient
        else:
            return None
    return _build(slope, slope.pop((), 0)), _build(rest, dim._constant)
