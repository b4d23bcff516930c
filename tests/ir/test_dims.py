"""Sizes: what is written reads back, equal sizes are equal numbers, and nothing is claimed that a value refutes."""

import pytest

from treadle.ir.dims import maximum, minimum, parse, show, symbol

B, T, W = symbol("B"), symbol("T"), symbol("W")


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
    ],
)
def test_shown_and_read_back(dim, text):
    assert show(dim) == text
    assert parse(text) == dim
