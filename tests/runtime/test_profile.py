"""Time per statement: a small program compiled as programs for profiling are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from treadle.runtime import loader
from treadle.runtime.errors import ArgumentValueError
from treadle.runtime.executable import Executable
from treadle.runtime.profile import Profile, Row, Statement, profile
from treadle.runtime.signature import Signature, Tensor

# Two kernels over f64[n]: `square` once, and `halve` in a loop of three; each is timed into the last result.
PROGRAM = """
declare i32 @clock_gettime(i32, ptr)
define internal i64 @now() {
  %place = alloca { i64, i64 }
  %r = call i32 @clock_gettime(i32 1, ptr %place)
  %s = load i64, ptr %place
  %np = getelementptr i64, ptr %place, i64 1
  %n = load i64, ptr %np
  %t = mul i64 %s, 1000000000
  %all = add i64 %t, %n
  ret i64 %all
}
define internal void @add(ptr %table, i64 %row, i64 %start) {
  %end = call i64 @now()
  %spent = sub i64 %end, %start
  %i = mul i64 %row, 2
  %tp = getelementptr i64, ptr %table, i64 %i
  %t = load i64, ptr %tp
  %t2 = add i64 %t, %spent
  store i64 %t2, ptr %tp
  %cp = getelementptr i64, ptr %tp, i64 1
  %c = load i64, ptr %cp
  %c2 = add i64 %c, 1
  store i64 %c2, ptr %cp
  ret void
}
define internal void @scale(ptr %x, ptr %y, double %by) noinline {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %xi = getelementptr double, ptr %x, i64 %i
  %yi = getelementptr double, ptr %y, i64 %i
  %a = load double, ptr %xi
  %b = fmul double %a, %by
  store double %b, ptr %yi
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, 100000
  br i1 %more, label %loop, label %done
done:
  ret void
}
define i64 @treadle_arena_bytes(ptr %dims) { ret i64 0 }
define i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %arena, ptr %cx) {
entry:
  %x = load ptr, ptr %bufs
  %yp = getelementptr ptr, ptr %bufs, i64 1
  %y = load ptr, ptr %yp
  %tp = getelementptr ptr, ptr %bufs, i64 2
  %table = load ptr, ptr %tp
  store [4 x i64] zeroinitializer, ptr %table
  %t0 = call i64 @now()
  call void @scale(ptr %x, ptr %y, double 8.0)
  call void @add(ptr %table, i64 0, i64 %t0)
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %t1 = call i64 @now()
  call void @scale(ptr %y, ptr %y, double 0.5)
  call void @add(ptr %table, i64 1, i64 %t1)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, 3
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""
STATEMENTS = [Statement("times_8", "net.py:3", 1e5, 1.6e6), Statement("halve", "net.py:5", 1e5, 1.6e6)]
f64 = np.dtype(np.float64)


def program(emit: Callable[..., bytes], rows: int = 2) -> Executable:
    loaded = loader.load(emit(PROGRAM))
    signature = Signature(
        [Tensor("x", f64, (100_000,))],
        [Tensor("result", f64, (100_000,)), Tensor("profile", np.dtype(np.int64), (rows, 2))],
    )
    return Executable(signature, loaded.address("treadle_entry"), loaded.address("treadle_arena_bytes"), keep=loaded)


def test_times_are_of_the_statements(emit: Callable[..., bytes]) -> None:
    """Every statement ran as often as the program runs it, took some time, and all of them no more than
    the call."""
    x = np.arange(100_000.0)
    (y,), found = profile(program(emit), [x], STATEMENTS, calls=3)
    assert np.array_equal(y, x)
    assert [(row.statement.kernel, row.times) for row in found.rows] == [("times_8", 1), ("halve", 3)]
    assert all(row.seconds > 0 for row in found.rows)
    assert sum(row.seconds for row in found.rows) <= found.seconds
    assert all(row.gigaflops > 0 and row.gigabytes > 0 for row in found.rows)


def test_lines_are_summed_and_the_table_is_sorted() -> None:
    """Several kernels may come from one line; what is outside of kernels is said."""
    rows = [
        Row(Statement("a", "net.py:3", 2e3, 4e3), 2e-6, 1),
        Row(Statement("b", "net.py:5"), 5e-6, 4),
        Row(Statement("c", "net.py:3"), 1e-6, 1),
    ]
    found = Profile(rows, 10e-6, 1)
    assert [line for line, _ in found.by_line()] == ["net.py:5", "net.py:3"]
    assert [seconds for _, seconds in found.by_line()] == pytest.approx([5e-6, 3e-6])
    lines = str(found).splitlines()
    assert lines[0].split() == ["us", "%", "times", "GF/s", "GB/s", "kernel", "line"]
    assert [line.split()[-2] for line in lines[1:4]] == ["b", "a", "c"]
    assert lines[2].split() == ["2", "20", "1", "1", "2", "a", "net.py:3"]
    assert lines[4].split() == ["2", "20", "(outside", "of", "kernels)"]


def test_a_program_without_the_table_is_refused(
    emit: Callable[..., bytes], add_object: bytes, add_signature: Any
) -> None:
    """Its last result would be read as times."""
    loaded = loader.load(add_object)
    plain = Executable(add_signature, loaded.address("treadle_entry"), loaded.address("treadle_arena_bytes"))
    with pytest.raises(ArgumentValueError, match="TD0980"):
        profile(plain, [np.zeros((1, 4), np.float32)], STATEMENTS)
    with pytest.raises(ArgumentValueError, match="TD0980"):
        profile(program(emit, rows=3), [np.arange(100_000.0)], STATEMENTS)
