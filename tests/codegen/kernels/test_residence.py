"""Arrays that move into registers, and those that must not: the answers are the same, to the bit, in both forms."""

from __future__ import annotations

import numpy as np
import pytest

from treadle.codegen import isa
from treadle.codegen.kernels.residence import resident
from treadle.ir.loops.build import walk
from treadle.ir.loops.check import check
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import Alloc, Kernel
from treadle.ir.loops.parse import parse_kernel

HEAD = "kernel k(x: f32[8], y: inout f32[8], n: i64[]):\n  t: stack f32[8]\n"


def in_registers(body: str) -> bool:
    kernel = parse_kernel(HEAD + body)
    found = resident(kernel)
    check(found)
    np.testing.assert_array_equal(run(found), run(kernel))
    memories = [stmt.memory for stmt in walk(found.body) if isinstance(stmt, Alloc) and stmt.name == "t"]
    assert len(memories) == 1
    return memories == ["registers"]


def run(kernel: Kernel) -> np.ndarray:
    rng = np.random.default_rng(0)
    buffers = {"x": rng.standard_normal(8).astype("f4"), "y": rng.standard_normal(8).astype("f4"), "n": np.array(3)}
    written, _ = evaluate(kernel, buffers, {}, isa.meanings())
    return np.asarray(written["y"])


# Written whole in each step, then read: lane by lane, by vectors, or by one lane in all others.
@pytest.mark.parametrize("read", ["t[l]", "t[7 - l]", "t[3]"])
def test_what_a_step_hands_on(read: str) -> None:
    assert in_registers(
        f"""  for s in range(3):
    for l in vector(8):
      t[l] = x[l] + y[l]
    for l in vector(8):
      y[l] = {read} * 2.0
"""
    )


# A loop over two vectors is written out.
def test_short_loops_are_written_out() -> None:
    assert in_registers(
        """  for b in range(0, 8, 4):
    for l in vector(b, b + 4, lanes=4):
      t[l] = x[l]
  for u in unrolled(8):
    y[u] = t[u]
"""
    )


# What may be read before it is written, partly written, or indexed by what is known at run time alone, stays in memory.
@pytest.mark.parametrize(
    "body",
    [
        """  for u in unrolled(8):
    t[u] = 0.0
  for s in range(3):
    for l in vector(8):
      y[l] = t[s] + x[l]
""",
        """  for l in vector(4):
    t[l] = x[l]
  for l in vector(4):
    t[l + 4] = t[l]
  for l in vector(8):
    y[l] = t[l]
""",
        """  if 0 < n[]:
    for l in vector(8):
      t[l] = x[l]
    for l in vector(8):
      y[l] = t[l]
""",
    ],
    ids=["run-time position", "part", "branch"],
)
def test_what_stays(body: str) -> None:
    assert not in_registers(body)


# More than a vector is read faster from a cache, lane by lane, than picked out of registers.
def test_large_arrays_stay() -> None:
    kernel = parse_kernel(
        """kernel k(x: f32[32], y: out f32[32]):
  t: stack f32[32]
  for u in unrolled(0, 32, 16):
    for l in vector(16):
      t[l + u] = x[l + u]
  for u in unrolled(0, 32, 16):
    for l in vector(16):
      y[l + u] = t[l + u]
"""
    )
    assert resident(kernel) is kernel
