"""Sizes: what is written reads back, equal sizes are equal numbers, nothing is claimed that a value refutes.

The oracle is Python's own integer arithmetic: hypothesis draws expression trees, which are computed once with
sizes and once with plain ints.
"""

import copy
import operator
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from treadle.ir.dims import (
    DimName,
    SymbolicDim,
    bounds,
    ceildiv,
    evaluate,
    exact_div,
    floordiv,
    known_equal,
    known_le,
    known_lt,
    known_positive,
    linear,
    maximum,
    minimum,
    mod,
    multiple,
    names,
    parse,
    product,
    shortest,
    show,
    substitute,
    symbol,
)
from treadle.ir.errors import ArithmeticFault, InvalidValue, ParseError, TreadleError

B, T, W, i, j = (symbol(name) for name in "BTWij")
NAMES = ("B", "T", "W")

OPERATORS = {
    "+": (operator.add, operator.add),
    "-": (operator.sub, operator.sub),
    "*": (operator.mul, operator.mul),
    "//": (floordiv, operator.floordiv),
    "%": (mod, operator.mod),
    "min": (minimum, min),
    "max": (maximum, max),
}

# A divisor is a number or a size that is positive for positive names; anything else may stand anywhere.
numbers = st.integers(-7, 12)
divisors = st.one_of(
    st.integers(1, 9),
    st.integers(-9, -1),
    st.sampled_from(NAMES),
    st.tuples(st.just("+"), st.sampled_from(NAMES), st.integers(1, 4)),
    st.tuples(st.just("*"), st.sampled_from(NAMES), st.integers(2, 3)),
)


def trees_of(*operators, divisors=divisors):
    return st.recursive(
        st.one_of(numbers, st.sampled_from(NAMES)),
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(operators), inner, inner),
            st.tuples(st.sampled_from(("//", "%")), inner, divisors),
        ),
        max_leaves=10,
    )


trees = trees_of("+", "-", "*", "min", "max")
values = st.fixed_dictionaries({name: st.integers(1, 40) for name in NAMES})


def as_dim(tree):
    if isinstance(tree, tuple):
        return OPERATORS[tree[0]][0](as_dim(tree[1]), as_dim(tree[2]))
    return symbol(tree) if isinstance(tree, str) else tree


def as_int(tree, at):
    if isinstance(tree, tuple):
        return OPERATORS[tree[0]][1](as_int(tree[1], at), as_int(tree[2], at))
    return at[tree] if isinstance(tree, str) else tree


# Texts are the contract with every file that prints a type; each must be the one spelling of its value.
@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (2 * B + 1, "2*B + 1"),
        ((W + 2) // 3, "(W + 2) // 3"),
        (minimum(B, 10), "min(B, 10)"),
        (B % 4, "B % 4"),
        (maximum(T, B), "max(B, T)"),
        ((4 * B + 3) // 4, "B"),
        ((4 * B + 1) % 4, "1"),
        ((B * T + 1) * (B * T - 1), "B*B*T*T - 1"),
        (3 - B, "3 - B"),
        (-(B // 2), "-(B // 2)"),
        (2 * (B // 2) * T, "2*T*(B // 2)"),
        (minimum(minimum(B, T), 10), "min(B, T, 10)"),
        ((i // 3) // 4, "i // 12"),
        ((i % 8) // 4, "(i // 4) % 2"),
        (maximum(W - 3, 0), "max(W, 3) - 3"),
        ((W + 2 * 1 - 3) // 2 + 1, "(W + 1) // 2"),
        (5 % B, "5 % B"),
    ],
)
def test_shown_and_read_back(dim, text):
    assert show(dim) == text
    assert parse(text) == dim


# Identities a shape rule or a schedule leans on: without them equal shapes would be refused as different.
@pytest.mark.parametrize(
    ("left", "right"),
    [
        (4 * (i // 4) + i % 4, i),
        (12 * (i // 12) + 4 * (i // 4 % 3) + i % 4, i),
        (B - 4 * (B // 4), B % 4),
        (B + (-B) % 4, 4 * ceildiv(B, 4)),
        (-((-B) // 4), ceildiv(B, 4)),
        ((B * T + i) // T, B + i // T),
        ((2 * W + 4) // (2 * T), (W + 2) // T),
        ((B * W) // (B * T), W // T),
        (minimum(i + 4, B) - i, minimum(4, B - i)),
        (minimum(1, B - minimum(1, B)), minimum(B, 2) - minimum(B, 1)),
        (minimum(2 * B, 2 * T), 2 * minimum(B, T)),
        (minimum(B, B + T), B),
        (maximum(B, 0), B),
        (B // -3, (-B) // 3),
        ((i % 12) % 4, i % 4),
        (T * (i // T) + i % T, i),
        ((B + 1) * (i // (B + 1)) + i % (B + 1), i),
    ],
)
def test_known_identities(left, right):
    assert left == right
    assert hash(left) == hash(right)
    assert known_equal(left, right)


# The one promise behind all others: arithmetic on sizes is arithmetic on the numbers they stand for.
@given(trees, values)
def test_evaluation_commutes_with_every_operator(tree, at):
    dim = as_dim(tree)
    assert evaluate(dim, at) == as_int(tree, at)
    assert substitute(dim, at) == as_int(tree, at)
    assert type(substitute(dim, at)) is int


# Names may be zero (an empty batch); only divisors may not.
@given(st.fixed_dictionaries({name: st.integers(0, 3) for name in NAMES}), trees)
def test_zero_sizes(at, tree):
    try:
        expected = as_int(tree, at)
    except ZeroDivisionError:
        return
    try:
        assert evaluate(as_dim(tree), at) == expected
    except ArithmeticFault:
        # B // (x // B) may be asked of what Python multiplied by zero first: refused, never wrong.
        assert 0 in at.values()


# The normal form does not depend on the way a sum or product was built, so equality can be trusted.
@given(trees, trees, trees)
def test_ring_laws(a, b, c):
    a, b, c = as_dim(a), as_dim(b), as_dim(c)
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0
    assert a + b - b == a
    assert hash(a + b) == hash(b + a)


# Equality must never claim too much: sizes with one normal form are one number everywhere.
@given(trees, trees, values)
def test_equal_sizes_are_equal_numbers(a, b, at):
    if as_dim(a) == as_dim(b):
        assert as_int(a, at) == as_int(b, at)


# Files hold sizes as text: reading back gives the very same normal form. The examples are what once did not:
# extrema inside extrema, remainders of numbers, a remainder whose sign was shown in another normal form.
@given(trees)
@example(("min", 1, ("-", "B", ("min", 1, "B"))))
@example(("-", "B", ("min", ("%", 8, ("*", "B", 2)), -2)))
@example(("//", ("%", ("-", "B", "T"), 4), 2))
@example(("-", ("%", ("%", "T", 2), 12), ("%", "T", 6)))
@example(("//", ("%", ("%", "T", 2), 6), 3))
def test_text_round_trip(tree):
    dim = as_dim(tree)
    assert parse(show(dim)) == dim
    assert show(parse(show(dim))) == show(dim)
    # The text is Python: evaluating it as such is a second reader.
    if names(dim):
        at = {"B": 5, "T": 3, "W": 11}
        assert eval(show(dim), {"min": min, "max": max}, at) == evaluate(dim, at)


# Planning relies on bounds being true; that they are tight is only hoped for, that they hold is tested.
@given(trees, values, st.data())
def test_bounds_hold(tree, at, data):
    known = {}
    for name in NAMES:
        if data.draw(st.booleans()):
            step = data.draw(st.sampled_from((1, 2, 5)))
            at[name] = max(at[name] // step, 1) * step
            low = data.draw(st.integers(1, at[name]))
            high = data.draw(st.one_of(st.none(), st.integers(at[name], 60)))
            known[name] = DimName(name, low, high, step)
    dim = as_dim(tree)
    value = as_int(tree, at)
    low, high = bounds(dim, known)
    assert low is None or low <= value
    assert high is None or value <= high
    divisor = multiple(dim, known)
    assert value % divisor == 0 if divisor else value == 0


# A promise may also say that a name is negative (a loop that starts before its array): outside min, max and
# divisors the normal form assumes nothing about signs.
@given(trees_of("+", "-", "*", divisors=st.sampled_from((1, 2, 3, 4, 12, -2, -5))), st.data())
def test_bounds_hold_for_negative_names(tree, data):
    at = {name: data.draw(st.integers(-9, 9)) for name in NAMES}
    known = {name: DimName(name, data.draw(st.integers(-12, value))) for name, value in at.items()}
    value = as_int(tree, at)
    assert evaluate(as_dim(tree), at) == value
    low, high = bounds(as_dim(tree), known)
    assert low is None or low <= value
    assert high is None or value <= high


# Replacing a name by a size and then evaluating is evaluating with the size's value.
@given(trees, trees, values)
def test_substitution(tree, replacement, at):
    inner = as_int(replacement, at)
    if inner >= 1:
        replaced = substitute(as_dim(tree), {"B": as_dim(replacement)})
        assert evaluate(replaced, at) == as_int(tree, {**at, "B": inner})


# A quotient that is claimed exact multiplies back; a product always divides.
@given(trees, trees)
def test_exact_division(a, b):
    a, b = as_dim(a), as_dim(b)
    quotient = exact_div(a, b)
    if quotient is not None:
        assert quotient * b == a
    if b != 0:
        assert exact_div(a * b, b) == a


def test_exact_division_refuses_what_leaves_a_remainder():
    assert exact_div(B * T + T, T) == B + 1
    assert exact_div(B * B - 1, B - 1) == B + 1
    assert exact_div(B + 1, 2) is None
    assert exact_div(B + 1, T) is None
    assert exact_div(6, 4) is None
    assert exact_div(B, 0) is None


# Splitting an index into slope and rest is what vectorizing and pointer arithmetic start from.
@given(trees)
def test_linear_reconstructs(tree):
    dim = as_dim(tree)
    parts = linear(dim, "B")
    if parts is not None:
        slope, rest = parts
        assert "B" not in names(slope) and "B" not in names(rest)
        assert slope * B + rest == dim


# The comparisons a planner asks, with and without promises; unknown is False both ways.
def test_comparisons():
    assert known_le(B, B + T) and not known_lt(B, B + T)
    assert known_lt(B, B + T + 1)
    assert not known_le(T, B * T)
    assert known_le(T, B * T, {"B": DimName("B", 1)})
    assert known_le(minimum(B, 10), B) and known_le(minimum(B, 10), 10)
    assert known_le(4 * (B // 4), B) and known_le(B // 4, B)
    assert known_le(B, 4 * ceildiv(B, 4))
    assert known_le(minimum(4 * i + 4, B), minimum(4 * i + 8, B))
    assert not known_le(B, T) and not known_le(T, B)
    assert known_positive(B + 1) and not known_positive(B)
    assert known_positive(B, {"B": DimName("B", 1, 8)})
    assert bounds(B * T, {"B": DimName("B", 1, 8), "T": DimName("T", 2, 4)}) == (2, 32)
    assert bounds((-B) % 4) == (0, 3)
    assert bounds(3 - B, {"B": DimName("B", 1, None, 4)}) == (None, -1)


def test_divisibility():
    assert multiple(6 * B + 4) == 2
    assert multiple(0) == 0
    assert multiple(B * T, {"B": DimName("B", multiple_of=8), "T": DimName("T", multiple_of=3)}) == 24
    assert multiple(B // 4, {"B": DimName("B", multiple_of=8)}) == 2
    assert multiple(4 * (B // 4)) == 4
    assert multiple(minimum(B, 32), {"B": DimName("B", multiple_of=8)}) == 8


# A known size is a plain int everywhere, so nothing pays for symbols that are not there.
def test_ints_stay_ints():
    for dim in (B - B, 0 * B, B // B, B % B, (4 * B + 1) % 4, minimum(3, 4), product((2, 3))):
        assert type(dim) is int
    assert type(substitute(B, {"B": 3})) is int
    assert product(()) == 1 and product((B, 2, T)) == 2 * B * T
    assert type(np.int64(2) * B) is SymbolicDim and np.int64(2) * B == 2 * B == B * np.int64(2)


# A size in a concrete array's shape, in `if`, in range: refused with the edit, by the class users expect.
@pytest.mark.parametrize(
    "use", [int, float, bool, operator.index, range, lambda dim: np.zeros((dim, 3)), lambda dim: [1, 2][dim]]
)
def test_not_an_int(use):
    with pytest.raises(TypeError) as caught:
        use(B)
    error = caught.value
    assert isinstance(error, TreadleError) and error.code == "TD0201" and error.edit


# What is left of an even size behind its half is the other half; of a size that may be odd it is not.
def test_promised_divisors_shorten():
    n, half = symbol("n"), symbol("n") // 2
    even = {"n": DimName("n", multiple_of=4)}
    assert shortest(n - half, even) == half
    assert shortest(n - half + B, even) == half + B
    assert shortest(2 * half, even) == n or evaluate(shortest(2 * half, even), {"n": 8}) == 8
    for same in (n - half, n - n // 8, n, B - half, 7):
        assert shortest(same, {"n": DimName("n", multiple_of=3)}) == same
    for dim in (n - half, n * n - n // 4, 3 * n - n // 2 * 6, n // 2 + n // 4 - n):
        found = shortest(dim, even)
        assert all(evaluate(found, {"n": v}) == evaluate(dim, {"n": v}) for v in range(0, 40, 4))


def test_refusals():
    for divide in (lambda: B // 0, lambda: B % 0, lambda: ceildiv(B, 0), lambda: evaluate(1 // B, {"B": 0})):
        with pytest.raises(ArithmeticFault, match="divided by zero"):
            divide()
    with pytest.raises(InvalidValue, match="no value was given"):
        evaluate(B + T, {"B": 1})
    with pytest.raises(InvalidValue, match="cannot name a size"):
        symbol("2x")
    with pytest.raises(InvalidValue, match="no value of the size B"):
        DimName("B", 5, 7, 4)
    with pytest.raises(TypeError):
        B < T  # noqa: B015
    with pytest.raises(TypeError):
        B + 1.5


@pytest.mark.parametrize("text", ["", "B +", "2B", "min(B", "B ** 2", "(B", "B)", "min()", "B / 2", "B°", "(" * 5000])
def test_texts_that_are_not_sizes(text):
    with pytest.raises(ParseError):
        parse(text)


# Compiled functions are pickled with their types, and copies must compare equal to what is in caches.
def test_copies_are_equal():
    for dim in (B + 1, (W + 2) // 3 * T, minimum(B, T % 4)):
        assert copy.deepcopy(dim) == dim
        assert pickle.loads(pickle.dumps(dim)) == dim
        assert {dim: 1}[parse(show(dim))] == 1


# Deep sums are what long loop nests and concatenations build; nothing here may recurse per term.
def test_long_sums():
    total = 0
    for k in range(2000):
        total = total + symbol(f"n{k}")
    assert len(names(total)) == 2000
    assert parse(show(total)) == total
