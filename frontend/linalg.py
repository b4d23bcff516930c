"""`treadle.linalg`: NumPy's linear algebra for traced and concrete arrays, and triangular solves.

Factorizations are scans over the columns. A singular matrix gives infinities or NaN inside a trace, where NumPy raises:
whether it is singular is not known before the numbers are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .eager import public
from .functions import solve as _solve
from .namespace import member, names_of
from .tracer import Tracer


@public
def solve_triangular(a: Any, b: Any, *, lower: bool = False, unit_diagonal: bool = False) -> Tracer:
    """The solution of `a @ x = b`, reading only the lower or the upper triangle of `a`."""
    return _solve.solve_triangular(a, b, lower, unit_diagonal)


def __getattr__(name: str) -> Any:
    return member(np.linalg, name, "treadle.linalg")


def __dir__() -> list[str]:
    return sorted({*names_of(np.linalg), "solve_triangular"})


__all__ = ["solve_triangular"]
