"""How many threads are worth having, and the pool that is loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.runtime import threads

# A pool that only counts how it was asked: the first word of its struct is the last wish.
POOL = """
@pool = internal global { i64, i64 } zeroinitializer
define ptr @treadle_pool_create(i32 %workers) nounwind {
  %wide = sext i32 %workers to i64
  store i64 %wide, ptr @pool
  %place = getelementptr i64, ptr @pool, i64 1
  %times = load i64, ptr %place
  %more = add i64 %times, 1
  store i64 %more, ptr %place
  ret ptr @pool
}
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has no pool yet."""
    monkeypatch.setattr(threads, "_code", None)
    monkeypatch.setattr(threads, "_pool", 0)
    monkeypatch.setattr(threads, "_workers", 0)


def words(pool: int) -> tuple[int, int]:
    import ctypes

    return tuple((ctypes.c_int64 * 2).from_address(pool))  # type: ignore[return-value]


@pytest.mark.usefixtures("fresh")
def test_the_pool_is_made_once_and_only_grows(emit: Callable[..., bytes]) -> None:
    """Its code is asked for once; asking for no more than there is costs nothing."""
    asked: list[int] = []

    def code() -> bytes:
        asked.append(1)
        return emit(POOL)

    pool = threads.pool(code, 1)
    assert words(pool) == (1, 1)
    assert threads.pool(code, 1) == pool
    assert words(pool) == (1, 1)
    assert threads.pool(code, 3) == pool
    assert threads.pool(code, 2) == pool
    assert words(pool) == (3, 2)
    assert len(asked) == 1


@pytest.mark.usefixtures("fresh")
def test_a_forked_child_asks_for_workers_again(emit: Callable[..., bytes]) -> None:
    """The parent's threads did not come along."""
    pool = threads.pool(lambda: emit(POOL), 2)
    child = os.fork()
    if child == 0:
        same = threads.pool(lambda: b"", 1) == pool
        os._exit(0 if same and words(pool) == (1, 2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert words(pool) == (2, 1)


def test_the_default_is_what_this_process_may_use() -> None:
    """Bound to one CPU, one thread."""
    allowed = os.sched_getaffinity(0)
    assert 1 <= threads.default_threads() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads.default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("load", "idle"),
    [
        ("3.57 4.07 3.27 1/96 7251\n", 7),
        ("0.00 0.00 0.00 8/96 7251\n", 0),
        ("99.0 99.0 99.0 40/960 7251\n", 0),
        ("", 7),
        ("of another kernel\n", 7),
    ],
)
def test_idle_processors(load: str, idle: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs now counts, not what ran in the last minutes; where the kernel does not tell, all others are idle."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    path = tmp_path / "loadavg"
    path.write_text(load)
    assert threads.idle_processors(path) == idle
    assert threads.idle_processors(tmp_path / "absent") == 7
    assert 0 <= threads.idle_processors() < 8
