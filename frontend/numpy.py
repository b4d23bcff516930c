"""`treadle.numpy`: NumPy's functions for traced and concrete arrays, and the namespace of the Array API standard.

Plain `numpy` works inside traced functions too. These differ where NumPy cannot help: they take traced arrays in every
argument (`take(const, t)`, `asarray([t, t])`), symbolic sizes in shapes (`zeros((B, 3))`), and bfloat16 and fp8 arrays
by our promotion. Outside a trace they are NumPy's own. See docs/numpy.md for what is traced, and what is refused.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from . import linalg
from .namespace import Function, member, names_of


class _Fft(ModuleType):
    """`treadle.numpy.fft`: Fourier transforms of traced and concrete arrays."""

    def __getattr__(self, name: str) -> Any:
        return member(np.fft, name, "treadle.numpy.fft")

    def __dir__(self) -> list[str]:
        return names_of(np.fft)


fft = _Fft("treadle.numpy.fft")


def __getattr__(name: str) -> Any:
    if name == "float8_e4m3fn" or name == "bfloat16" or name == "float8_e5m2":
        import ml_dtypes

        return getattr(ml_dtypes, name)
    return member(np, name, "treadle.numpy")


def __dir__() -> list[str]:
    return sorted({*names_of(np), "bfloat16", "fft", "float8_e4m3fn", "float8_e5m2", "linalg"})


__all__ = ["Function", "fft", "linalg"]
