"""Derivatives of eigenvectors and singular vectors, from the decomposition at hand: no sweep is taken apart.

With A = V diag(w) V*, a small change E of A turns V by V (F o V* E V), where F has 1 / (w_j - w_i); the values change
by the diagonal of V* E V (Giles, "Collected matrix derivative results", 2008; for singular values Townsend,
"Differentiating the singular value decomposition", 2016). Values that are equal leave it open how their vectors turn:
then they do not, so that what does not depend on the choice has its derivative, and nothing is NaN.
"""

from __future__ import annotations

from ...ir.ops import elementwise as e
from ...ir.value import Full, Mul, Value
from ..arrays import broadcast, convert, expand
from ..tracer import unwrap, wrap
from .linear import matmul
from .solve import adjoint, diagonal_of


def product(*factors: Value) -> Value:
    found, *rest = factors
    for factor in rest:
        found = unwrap(matmul(wrap(found), wrap(factor)))
    return found


def _real(x: Value) -> Value:
    return e.Real(x) if x.dtype.kind == "complex" else x


def _rows(numbers: Value, x: Value) -> Value:
    """Number i along row i of matrices like `x`."""
    return convert(broadcast(expand(numbers, (x.rank - 1,)), x.shape), x.dtype)


def _columns(numbers: Value, x: Value) -> Value:
    return convert(broadcast(expand(numbers, (x.rank - 2,)), x.shape), x.dtype)


def reciprocal(x: Value) -> Value:
    """1 / x, and 0 where x is 0."""
    none = e.Eq(x, Full(0, x.tensor))
    return e.Select(none, Full(0, x.tensor), 1.0 / e.Select(none, Full(1, x.tensor), x))


def eigen(values: Value, vectors: Value, change: Value) -> tuple[Value, Value]:
    """How eigenvalues and eigenvectors of a Hermitian matrix change with it."""
    inner = product(adjoint(vectors), change, vectors)
    gaps = _columns(values, inner) - _rows(values, inner)
    return _real(diagonal_of(inner)), product(vectors, Mul(reciprocal(gaps), inner))


def singular(u: Value, values: Value, v: Value, change: Value) -> tuple[Value, Value, Value]:
    """How the thin U, the singular values and the thin V change with the matrix U diag(s) V*."""
    inner = product(adjoint(u), change, v)
    right, left = _columns(values, inner), _rows(values, inner)
    turns = reciprocal((right + left) * (right - left))
    by_right, by_left = Mul(inner, right), Mul(inner, left)
    du = product(u, Mul(turns, by_right + adjoint(by_right)))
    dv = product(v, Mul(turns, by_left + adjoint(by_left)))
    inverse = reciprocal(values)
    if u.dtype.kind == "complex":
        # The phases of a pair of vectors turn together; all of it is given to u.
        phase = Mul(diagonal_of((inner - adjoint(inner)) * 0.5), convert(inverse, u.dtype))
        du = du + Mul(u, broadcast(expand(phase, (u.rank - 2,)), u.shape))
    if u.shape[-2] != u.shape[-1]:
        du = du + _outside(u, product(change, v), inverse)
    if v.shape[-2] != v.shape[-1]:
        dv = dv + _outside(v, product(adjoint(change), u), inverse)
    return du, _real(diagonal_of(inner)), dv


def _outside(basis: Value, x: Value, inverse: Value) -> Value:
    """The part of `x` that the basis does not reach, each column divided by its singular value."""
    return Mul(x - product(basis, adjoint(basis), x), _columns(inverse, x))


def pseudo_inverse(x: Value, inverse: Value, change: Value) -> Value:
    """How the pseudo-inverse changes, while the rank stays (Golub and Pereyra, 1973)."""
    turned = adjoint(change)
    both = product(inverse, adjoint(inverse))
    first = -product(inverse, change, inverse)
    second = product(both, turned)
    second = second - product(second, x, inverse)
    third = product(turned, adjoint(inverse), inverse)
    third = third - product(inverse, x, third)
    return first + second + third


def least_squares(x: Value, inverse: Value, b: Value, found: Value, change: Value, change_b: Value) -> Value:
    """How the pseudo-inverse times b changes, `found` being that: products with vectors, none of two matrices."""
    turned = adjoint(change)
    outside = product(inverse, product(adjoint(inverse), product(turned, b - product(x, found))))
    inside = product(turned, product(adjoint(inverse), found))
    inside = inside - product(inverse, product(x, inside))
    return product(inverse, change_b - product(change, found)) + outside + inside


__all__ = ["eigen", "least_squares", "product", "pseudo_inverse", "reciprocal", "singular"]
