"""Where the coefficients of codegen/kernels/math_*.py come from: minimax polynomials with rounded coefficients.

`fit` is Remez' exchange in 200-bit arithmetic: the polynomial whose largest weighted error is least. Coefficients are
then rounded to the format; the lowest ones, whose rounding would show, are given exactly. Needs mpmath; nothing that
runs does: the numbers stand in the kernels.

    python tests/numerics/remez.py            prints every table with its error
    python tests/numerics/remez.py exp_f32    prints one
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import mpmath
import numpy as np
from mpmath import mp, mpf

mp.prec = 240

Real: Any = mpf
Function = Callable[[Any], Any]


def fit(
    function: Function,
    powers: Sequence[int],
    low: Any,
    high: Any,
    weight: Function = lambda x: mpf(1),
    rounds: int = 40,
) -> tuple[list[Any], Any]:
    """(coefficients of x**power, largest weighted error) of the best sum of those powers on [low, high]."""
    low, high = mpf(low), mpf(high)
    count = len(powers) + 1
    points = [
        (low + high) / 2 - (high - low) / 2 * mpmath.cos(mpmath.pi * (2 * k + 1) / (2 * count)) for k in range(count)
    ]
    points = [x or (high - low) * mpf(10) ** -6 for x in points]  # where a weight may vanish
    # A dense grid of Chebyshev points, where extremes are looked for and then refined.
    size = 40 * count
    grid = [(low + high) / 2 - (high - low) / 2 * mpmath.cos(mpmath.pi * k / size) for k in range(size + 1)]
    wanted = [function(x) for x in grid]
    weights = [weight(x) for x in grid]
    coefficients: list[Any] = []
    for _ in range(rounds):
        matrix = mpmath.matrix(count, count)
        right = mpmath.matrix(count, 1)
        for row, x in enumerate(points):
            w = weight(x)
            for column, power in enumerate(powers):
                matrix[row, column] = w * x**power
            matrix[row, count - 1] = (-1) ** row
            right[row] = w * function(x)
        solved = mpmath.lu_solve(matrix, right)
        coefficients = [solved[k] for k in range(count - 1)]
        level = abs(solved[count - 1])

        polynomial = list(zip(coefficients, powers))

        def error(x: Any, polynomial: Sequence[tuple[Any, int]] = polynomial) -> Any:
            return weight(x) * (function(x) - sum(c * x**p for c, p in polynomial))

        errors = [w * (f - sum(c * x**p for c, p in polynomial)) for x, w, f in zip(grid, weights, wanted)]
        # One extreme per run of one sign, then as many neighbouring runs as there are unknowns, the largest kept.
        runs: list[int] = []
        for k, e in enumerate(errors):
            if runs and (errors[runs[-1]] > 0) == (e > 0):
                if abs(e) > abs(errors[runs[-1]]):
                    runs[-1] = k
            else:
                runs.append(k)
        while len(runs) > count:
            runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
        largest = max(abs(e) for e in errors)
        if len(runs) < count:
            return coefficients, largest
        new = [_refined(error, grid, k) for k in runs]
        points = new
        if largest <= level * (1 + mpf(10) ** -3):
            break
    return coefficients, largest


def _refined(error: Function, grid: Sequence[Any], k: int) -> Any:
    """The top of the parabola through an extreme of the grid and its neighbours."""
    if k in (0, len(grid) - 1):
        return grid[k]
    a, b, c = grid[k - 1], grid[k], grid[k + 1]
    fa, fb, fc = error(a), error(b), error(c)
    bottom = (b - a) * (fb - fc) - (b - c) * (fb - fa)
    if bottom == 0:
        return b
    top = b - ((b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa)) / (2 * bottom)
    return top if a < top < c else b


def round_f32(x: Any) -> float:
    """The nearest f32 (through f64: the half-way cases it may miss cost nothing here)."""
    return float(np.float32(float(x)))


def rounded(
    function: Function,
    powers: Sequence[int],
    low: Any,
    high: Any,
    weight: Function = lambda x: mpf(1),
    *,
    short: bool = True,
    given: Sequence[Any] = (),
) -> tuple[list[float], float]:
    """(coefficients that the format holds, log2 of the largest error). `given` are the first ones, known beforehand:
    the exact ones of Taylor's series, where the lowest term must be right."""
    known = [mpf(c) for c in given]
    low, high = mpf(low), mpf(high)
    first = powers[len(known)]

    def rest(x: Any) -> Any:
        return function(x) - sum(c * x**p for c, p in zip(known, powers))

    # The lowest power left is divided off: a weight may vanish at 0, but must not change its sign there.
    coefficients, _ = fit(
        lambda x: rest(x) / x**first if first and x else mpf(0) if first else rest(x),
        [power - first for power in powers[len(known) :]],
        low,
        high,
        lambda x: abs(weight(x) * x**first) if x or not first else mpf(0),
    )
    to_format = round_f32 if short else float
    result = [to_format(c) for c in (*known, *coefficients)]
    grid = [low + (high - low) * (k + mpf("0.37")) / 2000 for k in range(2000)]
    error = max(abs(weight(x) * (function(x) - sum(mpf(c) * x**p for c, p in zip(result, powers)))) for x in grid)
    return result, float(mpmath.log(error, 2))


def _relative(function: Function) -> Function:
    """The weight under which errors count relative to the function."""
    return lambda x: 1 / function(x) if function(x) else mpf(1)


def _of_square(function: Function, first: int) -> Function:
    """h with function(x) = x + x**first h(x**2) for first = 3, or function(x) = given + ... as the caller arranges."""

    def inner(z: Any) -> Any:
        x = mpmath.sqrt(z) if z else mpf(10) ** -20
        return (function(x) - x) / x**first

    return inner


def odd(function: Function, high: Any, count: int, short: bool, given: Sequence[Any] = ()) -> tuple[list[float], float]:
    """P with function(x) = x + x**3 P(x**2) on [-high, high], relative error counted. Coefficients that are rounded
    first, and `given`, leave it to the others to make up for their rounding."""
    z_high = mpf(high) ** 2

    def weight(z: Any) -> Any:
        x = mpmath.sqrt(z) if z else mpf(10) ** -20
        return x**3 / function(x)

    return rounded(_of_square(function, 3), range(count), 0, z_high, weight, short=short)


def _log_of_s(s: Any) -> Any:
    """log(m) as a function of s = (m - 1)/(m + 1), halved so that it starts with s itself."""
    return mpmath.atanh(s)


HALF_LN2: Final = mpmath.log(2) / 2 * mpf("1.0002")


def _cos_rest(z: Any) -> Any:
    x = mpmath.sqrt(z) if z else mpf(10) ** -15
    return (mpmath.cos(x) - 1 + x * x / 2) / x**4


def cosine(high: Any, count: int, short: bool) -> tuple[list[float], float]:
    """P with cos x = 1 - x**2/2 + x**4 P(x**2)."""
    return rounded(_cos_rest, range(count), 0, mpf(high) ** 2, lambda z: z * z, short=short)


def _exp2(x: Any) -> Any:
    return mpf(2) ** x


def _exp_weight(x: Any) -> Any:
    return mpmath.exp(-x)


def _atanh_rest(z: Any) -> Any:
    s = mpmath.sqrt(z) if z else mpf(10) ** -10
    return (mpmath.atanh(s) - s - s**3 / 3) / s**5


def _atanh_rest_weight(z: Any) -> Any:
    s = mpmath.sqrt(z) if z else mpf(10) ** -10
    return s**5 / mpmath.atanh(s)


def _lgamma_near(u: Any) -> Any:
    """lgamma(2 + u)/u"""
    return mpmath.loggamma(2 + u) / u if abs(u) > mpf(10) ** -30 else mpmath.digamma(2)


def _stirling(z: Any) -> Any:
    """What Stirling's formula lacks, times x, in z = 1/x**2."""
    if not z:
        return mpf(1) / 12
    x = 1 / mpmath.sqrt(z)
    return x * (mpmath.loggamma(x) - ((x - 0.5) * mpmath.log(x) - x + mpmath.log(2 * mpmath.pi) / 2))


def _digamma_far(z: Any) -> Any:
    if not z:
        return mpf(1) / 12
    x = 1 / mpmath.sqrt(z)
    return x * x * (mpmath.log(x) - 1 / (2 * x) - mpmath.digamma(x))


def _digamma_near(u: Any) -> Any:
    return mpmath.digamma(mpf("1.5") + u) / (mpf("1.5") + u - DIGAMMA_ZERO)


DIGAMMA_ZERO: Final = mpmath.findroot(mpmath.digamma, 1.46)


def _erfc_scaled(q: Any) -> Any:
    a = 4 * (1 + q) / (1 - q)
    return mpmath.exp(a * a) * mpmath.erfc(a) * (1 + 2 * a)


def _erf_near(z: Any) -> Any:
    """(erf(x)/x - 2/sqrt(pi)) / x**2 in z = x**2."""
    first = 2 / mpmath.sqrt(mpmath.pi)
    x = mpmath.sqrt(z) if z else mpf(10) ** -20
    return (mpmath.erf(x) / x - first) / z if z else -first / 3


def erf_pieces(count: int, width: Any, short: bool, wider: Any = 1) -> Any:
    """erf(width j + t) by powers of t, |t| <= width/2, for j < 15. The first is odd at 0 and fitted on one side; the
    last one, 15, is bent by hand to end in 1."""
    half = mpf(width) / 2 * mpf(wider)
    rows = []
    for j in range(15):
        middle = mpf(width) * j
        piece = lambda t, middle=middle: mpmath.erf(middle + t)  # noqa: E731
        first = 0 if j else 1
        low = -half if j else mpf(0)
        made, error = rounded(piece, range(first, count), low, half, _relative(piece), short=short)
        rows.append(([0.0] * first + made, error))
    return rows


def in_two(piece: Function, degree: int, half: Any) -> tuple[list[float], float]:
    """(coefficients of a polynomial on |t| <= half, the first in two f32; log2 of the error beside the function)."""
    made, _ = fit(piece, range(degree + 1), -half, half, _relative(piece))
    high = round_f32(made[0])
    row = [high, round_f32(made[0] - high), *[round_f32(c) for c in made[1:]]]
    grid = [-half + half * k / 100 for k in range(201)]
    sums = [row[0] + mpf(row[1]) + sum(mpf(c) * t ** (k + 1) for k, c in enumerate(row[2:])) for t in grid]
    error = max(abs(total / piece(t) - 1) for total, t in zip(sums, grid))
    return row, float(mpmath.log(error, 2))


def octave_pieces(
    function: Function, shift: Any, cuts: int, degree: int, high: Any, lean: int = 0, beside: Function | None = None
) -> list[tuple[list[float], float]]:
    """A function of a by powers of a - left, on pieces of 0 <= a <= high: the powers of two of a + shift, each cut into
    so many. The first piece begins at 0; a function that is a beside(a) is 0 there, and the relative error counts.
    Elsewhere the lowest coefficient is the function's own value. With `lean`, errors count so many times more at the
    right end, where rounding that one need not show. Rows stand in the order of the bits that number them."""
    shift, high = mpf(shift), mpf(high)
    rows: dict[int, tuple[list[float], float]] = {}
    octave = int(mpmath.floor(mpmath.log(shift, 2)))
    while mpf(2) ** octave < high + shift:
        for k in range(cuts):
            left, right = [mpf(2) ** octave * (1 + mpf(k + edge) / cuts) - shift for edge in (0, 1)]
            if right <= 0 or left >= high:
                continue
            left = max(left, mpf(0))
            width = min(right, high) - left
            if beside is not None and not left:
                made, _ = fit(beside, range(degree), 0, width, _relative(beside))
                lowest = mpf(0)
            else:
                lowest = mpf(round_f32(function(left)))
                rest = lambda t, left=left, lowest=lowest: function(left + t) - lowest  # noqa: E731
                weight = lambda t, left=left, width=width: (1 + lean * t / width) / function(left + t)  # noqa: E731
                made, _ = fit(rest, range(1, degree + 1), 0, width, weight)
            row = [round_f32(c) for c in (lowest, *made)]
            grid = [width * i / 100 for i in range(1, 101)]
            sums = [sum(mpf(c) * t**i for i, c in enumerate(row)) for t in grid]
            error = max(abs(total / function(left + t) - 1) for total, t in zip(sums, grid))
            rows[((octave + 127) * cuts + k) % (4 * cuts)] = row, float(mpmath.log(error, 2))
        octave += 1
    return [rows.get(k, ([0.0] * (degree + 1), -mpmath.inf)) for k in range(4 * cuts)]


def _tanh_beside(a: Any) -> Any:
    return mpmath.tanh(a) / a if a else mpf(1)


# What `math_special.gaussian` leaves out of its exponential: it takes ln 2 as an f32, which is too large by this part
# of itself, and its powers are a scale times those of 2.
LN2_EXCESS: Final = 1 - mpmath.log(2) / mpf(round_f32(mpmath.log(2)))
GAUSSIAN_SCALE: Final = mpf("0.522236168384552")


def _normal_rest(a: Any) -> Any:
    """The normal tail beyond a, over exp(-a**2/2) as it is computed and scaled there."""
    return mpmath.exp(a * a / 2 * (1 - LN2_EXCESS)) * mpmath.erfc(a / mpmath.sqrt(2)) / 2 / GAUSSIAN_SCALE


def _erfc_rest(a: Any) -> Any:
    return mpmath.exp(a * a * (1 - LN2_EXCESS)) * mpmath.erfc(a) / GAUSSIAN_SCALE


def _erfinv_of(w: Any) -> Any:
    """erfinv(x)/x with w = -log(1 - x**2), by Newton's steps on the logarithm of erfc, nearly a straight line."""
    if not w:
        return mpmath.sqrt(mpmath.pi) / 2
    x = mpmath.sqrt(-mpmath.expm1(-w))
    rest = mpmath.exp(-w) / (1 + x)
    y = mpmath.sqrt(w) * mpf("0.9")
    for _ in range(60):
        tail = mpmath.erfc(y)
        step = tail * mpmath.log(tail / rest) / (2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-y * y))
        y += step
        if abs(step) < y * mpf(2) ** -100:
            break
    return y / x


def erfinv_pieces(count: int) -> Any:
    """By powers of w - 1/2 up to w = 1, then of sqrt(w) less the middles of seven pieces 23/32 wide."""
    half = mpf(23) / 64
    first = lambda t: _erfinv_of(mpf("0.5") + t)  # noqa: E731
    rows = [rounded(first, range(count), -0.5, 0.5, _relative(first), short=False)]
    for j in range(7):
        piece = lambda t, middle=1 + (2 * j + 1) * half: _erfinv_of((middle + t) ** 2)  # noqa: E731
        rows.append(rounded(piece, range(count), -half, half, _relative(piece), short=False))
    return rows


def erfinv_quarters(degree: int) -> Any:
    """By powers of w less the middles of four quarters, and of its root less those of twelve."""
    rows = []
    for j in range(16):
        middle = (mpf(j) + mpf(1) / 2) / 4
        if j < 4:
            piece = lambda t, middle=middle: _erfinv_of(middle + t)  # noqa: E731
        else:
            piece = lambda t, middle=middle: _erfinv_of((middle + t) ** 2)  # noqa: E731
        rows.append(in_two(piece, degree, mpf(1) / 8))
    return rows


TABLES: Final[dict[str, Callable[[], Any]]] = {
    "EXP_F32": lambda: rounded(mpmath.exp, range(7), -HALF_LN2, HALF_LN2, _exp_weight, given=(1, 1)),
    "EXP_F64": lambda: rounded(mpmath.exp, range(12), -HALF_LN2, HALF_LN2, _exp_weight, short=False, given=(1, 1)),
    "EXPM1_F32": lambda: rounded(
        mpmath.expm1, range(1, 8), -HALF_LN2, HALF_LN2, _relative(mpmath.expm1), given=(1, 0.5)
    ),
    "EXPM1_F64": lambda: rounded(
        mpmath.expm1, range(1, 13), -HALF_LN2, HALF_LN2, _relative(mpmath.expm1), short=False, given=(1, 0.5)
    ),
    "EXP2_F32": lambda: rounded(_exp2, range(7), -0.5, 0.5, lambda x: 1 / _exp2(x), given=(1,)),
    "EXP2_F64": lambda: rounded(_exp2, range(13), -0.5, 0.5, lambda x: 1 / _exp2(x), short=False, given=(1,)),
    "LOG_F32": lambda: rounded(
        mpmath.log1p, range(1, 11), -mpf(1) / 3, mpf(1) / 3, _relative(mpmath.log1p), given=(1,)
    ),
    "ATANH_F64": lambda: odd(_log_of_s, mpf("0.2001"), 8, short=False),
    "SIN_F32": lambda: odd(mpmath.sin, mpf("1.58"), 5, short=True),
    "SIN_F64": lambda: odd(mpmath.sin, mpf("1.572"), 8, short=False),
    "SIN_QUARTER_F64": lambda: odd(mpmath.sin, mpf("0.787"), 6, short=False),
    "COS_QUARTER_F64": lambda: cosine(mpf("0.787"), 6, short=False),
    "ASIN_F32": lambda: odd(mpmath.asin, mpf("0.5"), 5, short=True),
    "ASIN_F64": lambda: odd(mpmath.asin, mpf("0.5"), 13, short=False),
    "ATAN_F32": lambda: odd(mpmath.atan, mpf("0.41422"), 4, short=True),
    "ATAN_F64": lambda: odd(mpmath.atan, mpf("0.41422"), 11, short=False),
    "TANH_F32": lambda: octave_pieces(mpmath.tanh, "0.625", 8, 4, "9.2", lean=8, beside=_tanh_beside),
    "SINH_F32": lambda: odd(mpmath.sinh, 1, 4, short=True),
    "SINH_F64": lambda: odd(mpmath.sinh, 1, 8, short=False),
    "SIN_SHORT": lambda: odd(mpmath.sin, mpf("0.787"), 4, short=False),
    "COS_SHORT": lambda: cosine(mpf("0.787"), 4, short=False),
    "ATANH_SHORT": lambda: odd(mpmath.atanh, mpf("0.2001"), 4, short=False),
    "ATANH_REST": lambda: rounded(_atanh_rest, range(9), 0, mpf("0.2001") ** 2, _atanh_rest_weight, short=False),
    "EXP2_SHORT": lambda: rounded(_exp2, range(7), -0.5, 0.5, lambda x: 1 / _exp2(x), short=False, given=(1,)),
    "CBRT": lambda: rounded(mpmath.cbrt, range(7), mpf(2) / 3, mpf(4) / 3, _relative(mpmath.cbrt), short=False),
    "LGAMMA": lambda: rounded(_lgamma_near, range(20), -0.5, 0.5, _relative(_lgamma_near), short=False),
    "STIRLING": lambda: rounded(_stirling, range(8), 0, mpf(1) / 64, short=False),
    "DIGAMMA": lambda: rounded(_digamma_near, range(22), -0.5, 0.5, _relative(_digamma_near), short=False),
    "DIGAMMA_FAR": lambda: rounded(_digamma_far, range(8), 0, mpf(1) / 64, short=False),
    "ERFC": lambda: rounded(_erfc_scaled, range(23), -1, mpf(3) / 4, _relative(_erfc_scaled), short=False),
    "ERF_NEAR": lambda: rounded(_erf_near, range(8), 0, mpf("0.2504"), lambda z: z, short=False),
    "ERF_F32": lambda: erf_pieces(6, mpf(1) / 4, short=True),
    "ERF_F64": lambda: erf_pieces(13, mpf(25) / 64, short=False, wider="1.0001"),
    "GELU_F32": lambda: octave_pieces(
        lambda a: a * _normal_rest(a), "1.0751953125", 4, 5, "14.4", lean=2, beside=_normal_rest
    ),
    "NORMAL_F32": lambda: octave_pieces(_normal_rest, "1.0751953125", 4, 6, "14.4", lean=2),
    "ERFC_F32": lambda: octave_pieces(_erfc_rest, "0.7578125", 4, 6, "10.1", lean=2),
    "ERFINV": lambda: erfinv_pieces(17),
    "ERFINV_F32": lambda: erfinv_quarters(4),
}


def main(names: Sequence[str]) -> None:
    for name in names or TABLES:
        made = TABLES[name]()
        for coefficients, error in made if isinstance(made, list) else [made]:
            print(f"{name}: relative error 2**{error:.1f}")
            print("    " + ", ".join([repr(c) for c in coefficients]) + ",")


if __name__ == "__main__":
    main(sys.argv[1:])
