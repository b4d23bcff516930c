"""Calls of smooth functions opened into primitives: wherever a call may stand, the kernel computes what it computed.

The oracle is the kernel as it was, evaluated with NumPy's functions; how near the opened ones are is measured in
tests/numerics.
"""

from __future__ import annotations

import numpy as np
import pytest

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels.transcendental import open_math
from treadle.ir.errors import Unsupported
from treadle.ir.loops.build import all_exprs, walk
from treadle.ir.loops.check import check
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import MATH, MATH_BINARY, Binary, Fail, For, Kernel, Table, Unary
from treadle.ir.loops.parse import parse_kernel

TARGET = MODELS["avx512"]


def opened(kernel: Kernel) -> Kernel:
    """The kernel without calls, well formed."""
    made = open_math(kernel, TARGET)
    check(made)
    calls = [x for x in all_exprs(made.body) if isinstance(x, Unary | Binary) and x.op in (*MATH, *MATH_BINARY)]
    assert not calls
    return made


def agree(text: str, *args: np.ndarray, ulps: float = 4.0, **dims: int) -> Kernel:
    kernel = parse_kernel(text)
    check(kernel)
    made = opened(kernel)
    given = dict(zip([param.name for param in kernel.params if param.role != "out"], args))
    with np.errstate(all="ignore"):
        wanted, failed = evaluate(kernel, given, dims, isa.meanings())
        found, failure = evaluate(made, given, dims, isa.meanings())
    assert failure == failed
    for name, array in wanted.items():
        eps = np.finfo(array.dtype).eps if array.dtype.kind in "fc" else 0
        np.testing.assert_allclose(found[name], array, rtol=ulps * eps)
    return made


X = np.linspace(-2.0, 3.0, 23).astype(np.float32)
LARGE = np.array([0.5, 1e9, -3e30, 2.0, np.inf, -1e20, 7.0], np.float32)


# Nothing to open: the kernel itself, not a copy.
def test_without_calls() -> None:
    kernel = parse_kernel("kernel k(x: f32[4], y: out f32[4]):\n  for i in range(4):\n    y[i] = sqrt(x[i]) + 1.0\n")
    assert open_math(kernel, TARGET) is kernel


# Each call gets names of its own, whatever the kernel calls its own things, and tables are kept once.
def test_names() -> None:
    made = agree(
        """
        kernel k(x: f32[23], r: out f32[23]):
          for i in range(23):
            let n: f32 = erf(x[i])
            let e: f32 = erf(n + 1.0)
            r[i] = erf(e) * n
        """,
        X,
        ulps=16,
    )
    assert len(made.tables) == 6 and all(isinstance(table, Table) for table in made.tables)
    bound = [param.name for param in made.params] + [table.name for table in made.tables]
    assert len(set(bound)) == len(bound)


# A call inside a call, and one in every place where an expression stands.
def test_places() -> None:
    agree(
        """
        kernel k(x: f32[23], y: out f32[23], count: out i32[]):
          for i in range(23):
            if exp(x[i]) > 2.0:
              y[i] = log(exp(x[i]) + 1.0)
            else:
              y[i] = select(cos(x[i]) > 0.0, tanh(sin(x[i])), exp2(x[i]))
            fail 3 if exp(x[i]) < 0.2
          let n: i32 = 0
          count[] = n
          do:
            count[] = count[] + 1
          while exp(f32(count[])) < 1000.0
        """,
        X,
        ulps=8,
    )


# In a vector loop what is rare is kept per lane, which a counter from 0 must index: any start, step and rest of a loop
# give the same, and vectors without rare lanes too.
@pytest.mark.parametrize("start, step", [(0, 1), (2, 1), (1, 2), (3, 3)])
def test_rare_lanes(start: int, step: int) -> None:
    made = agree(
        f"""
        kernel k(x: f32[7], y: inout f32[7], z: out f32[7]):
          for j in range(7):
            z[j] = 0.0
          for i in vector({start}, 7, {step}, lanes=8):
            y[i] = sin(x[i]) + cos(x[i])
            z[i] = tan(y[i] * 2.0)
        """,
        LARGE,
        np.zeros(7, np.float32),
        ulps=16,
    )
    loops = [stmt for stmt in walk(made.body) if isinstance(stmt, For) and stmt.kind == "vector"]
    assert [loop.start for loop in loops] == [0] and loops[0].step == 1


# Main loop and rest share their body before, and share it opened: code is made once for both.
def test_shared_body() -> None:
    kernel = parse_kernel(
        """
        kernel k(x: f32[N], y: out f32[N]) where N:
          for b in range(0, N, 16):
            for i in vector(b, min(b + 16, N), lanes=16):
              y[i] = exp(x[i])
        """
    )
    (outer,) = kernel.body
    assert isinstance(outer, For)
    twice = Kernel(kernel.name, kernel.params, kernel.dims, (outer, outer))
    first, second = opened(twice).body
    assert isinstance(first, For) and isinstance(second, For) and first.body is second.body


# Half floats are computed in f32, complex numbers in their parts.
def test_other_types() -> None:
    agree(
        """
        kernel k(x: f16[23], b: bf16[23], y: out f16[23], z: out bf16[23]):
          for i in range(23):
            y[i] = tanh(x[i])
            z[i] = erf(b[i]) ** 2.0
        """,
        X.astype(np.float16),
        X.astype(parse_kernel("kernel k(x: bf16[1]):\n  pass\n").params[0].dtype.numpy),
        ulps=1,
    )
    agree(
        """
        kernel k(x: c64[23], y: out c64[23], z: out f32[23]):
          for i in range(23):
            y[i] = exp(x[i]) * sqrt(x[i])
            z[i] = abs(x[i] + x[i])
        """,
        (X + 1j * X[::-1]).astype(np.complex64),
    )


# What is not written for a type is refused by the names of both.
def test_refused_by_name() -> None:
    kernel = parse_kernel("kernel k(x: i32[4], y: out i32[4]):\n  for i in range(4):\n    y[i] = x[i] ** x[i]\n")
    with pytest.raises(Unsupported, match="pow of i32") as error:
        open_math(kernel, TARGET)
    assert error.value.code == "TD0435"
    assert not any(isinstance(stmt, Fail) for stmt in walk(kernel.body))
