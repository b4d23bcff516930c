"""Where the coefficients of codegen/kernels/math_*.py come from: minimax polynomials with rounded coefficients.

`fit` is Remez' exchange in 200-bit arithmetic: the polynomial whose largest weighted error is least. Coefficients are
then rounded to the format; the lowest ones, whose rounding would show, are given exactly. Needs mpmath; nothing that runs does: the numbers stand in the kernels.

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

        def error(x: Any, w: Any, f: Any) -> Any:
            return w * (f - sum(c * x**p for c, p in zip(coefficients, powers)))

        errors = [error(x, w, f) for x, w, f in zip(grid, weights, wanted)]
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
        new = [_refined(lambda x: error(x, weight(x), function(x)), grid, k) for k in runs]
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
        lambda x: rest(x) / x**first if x else mpf(0),
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
