"""How far each function of mathematics may be from the truth: the one table, which tests and docs read.

Errors count in units in the last place of the exact result, of f32 and of f64; of complex numbers, in units of the
larger part of the result. Half floats are computed in f32 and rounded, which adds half a unit of theirs. Where a
function has zeros at which larger terms cancel, the error is small only beside those terms: there `floor` counts, below
which the units of a result are no finer than those of the floor. A result that overflows is infinite, one that
underflows is rounded like any other, and NaN, infinities and signs of zero are NumPy's; none of that is in the numbers.
"""

from __future__ import annotations

from typing import Final

from ...ir.classes import dataclass
from ...ir.dtypes import DType, c64, f32


@dataclass(frozen=True, slots=True)
class Bound:
    """Units in the last place for f32 and f64, and below which size of the result f64's units stay those of it."""

    f32: float
    f64: float
    floor: float = 0.0

    def of(self, dtype: DType) -> float:
        return self.f32 if dtype in (f32, c64) else self.f64


BOUNDS: Final[dict[str, Bound]] = {
    "exp": Bound(1.0, 1.0),
    "exp2": Bound(1.0, 1.0),
    "expm1": Bound(1.5, 2.0),
    "log": Bound(1.0, 1.0),
    "log2": Bound(0.51, 0.6),
    "log10": Bound(0.51, 0.6),
    "log1p": Bound(0.51, 1.0),
    "rsqrt": Bound(1.5, 1.5),
    "cbrt": Bound(0.51, 0.51),
    "sin": Bound(2.2, 1.8),
    "cos": Bound(2.2, 1.8),
    "tan": Bound(0.51, 2.0),
    "asin": Bound(2.4, 2.0),
    "acos": Bound(1.2, 1.2),
    "atan": Bound(2.2, 2.0),
    "sinh": Bound(1.7, 1.5),
    "cosh": Bound(1.5, 1.5),
    "tanh": Bound(1.6, 2.8),
    "asinh": Bound(0.51, 1.6),
    "acosh": Bound(0.51, 2.0),
    "atanh": Bound(0.51, 1.6),
    "erf": Bound(2.5, 2.0),
    "erfc": Bound(2.4, 4.0),
    "normal_cdf": Bound(2.2, 4.0),
    "times_normal_cdf": Bound(2.2, 4.5),
    "erfinv": Bound(2.8, 2.5),
    "lgamma": Bound(0.51, 3.0, floor=32.0),
    "digamma": Bound(0.51, 4.0, floor=8.0),
    "logistic": Bound(2.2, 2.0),
    "softplus": Bound(0.51, 1.6),
    "pow": Bound(0.6, 1.0),
    "atan2": Bound(0.51, 2.0),
    "hypot": Bound(0.51, 1.2),
    "logaddexp": Bound(0.51, 2.0, floor=1.0),
    "logaddexp2": Bound(0.51, 2.0, floor=1.0),
}

# Of c64 and c128. The angle of exp2 is exact up to imaginary parts of 2**20. The error of a power of c128 is so many
# units for every 1 of |y log x|, of which it is the exponential; of a whole power for every product, of |y|.
COMPLEX_BOUNDS: Final[dict[str, Bound]] = {
    "abs": Bound(0.51, 1.2),
    "div": Bound(3.0, 3.0),
    "exp": Bound(0.51, 2.0),
    "exp2": Bound(0.51, 2.0),
    "expm1": Bound(0.51, 3.0),
    "log": Bound(0.51, 2.0),
    "log2": Bound(0.51, 2.5),
    "log10": Bound(0.51, 2.5),
    "log1p": Bound(0.51, 2.5),
    "sqrt": Bound(0.51, 2.0),
    "rsqrt": Bound(0.51, 5.0),
    "sin": Bound(0.51, 3.0),
    "cos": Bound(0.51, 3.0),
    "tan": Bound(0.51, 4.0),
    "asin": Bound(0.51, 4.5),
    "acos": Bound(0.51, 4.5),
    "atan": Bound(0.51, 4.0),
    "sinh": Bound(0.51, 3.0),
    "cosh": Bound(0.51, 3.0),
    "tanh": Bound(0.51, 4.0),
    "asinh": Bound(0.51, 4.5),
    "acosh": Bound(0.51, 4.5),
    "atanh": Bound(0.51, 4.0),
    "pow": Bound(0.51, 4.0),
}
