"""Time per statement of a program, mapped back to the user's lines.

A program compiled for profiling has one result more, the last: an i64[n, 2] table with the nanoseconds and
the number of times of each of its n calls, which the entry reads from the monotonic clock around them.
Nothing else differs, so what is measured is the program as it runs. This module calls it, sums over calls,
and lays the table out; programs compiled without the table are refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import ArgumentValueError
from .executable import Executable


class Statement(NamedTuple):
    """One call of the program: its kernel, the user's line it comes from, and the work of one time."""

    kernel: str
    line: str
    flops: float = 0
    bytes: float = 0


class Row(NamedTuple):
    """One statement, measured: seconds and times are per call of the program."""

    statement: Statement
    seconds: float
    times: float

    @property
    def gigaflops(self) -> float:
        return self.statement.flops * self.times / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gigabytes(self) -> float:
        """Bytes moved, in GB/s."""
        return self.statement.bytes * self.times / self.seconds / 1e9 if self.seconds else 0.0


class Profile:
    """What was measured. `seconds` is the wall time of one call of the program, everything included."""

    def __init__(self, rows: Sequence[Row], seconds: float, calls: int) -> None:
        self.rows = tuple(rows)
        self.seconds = seconds
        self.calls = calls

    def by_line(self) -> list[tuple[str, float]]:
        """Seconds by the user's line, the longest first."""
        lines: dict[str, float] = {}
        for row in self.rows:
            lines[row.statement.line] = lines.get(row.statement.line, 0.0) + row.seconds
        return sorted(lines.items(), key=lambda item: -item[1])

    def __str__(self) -> str:
        inside = sum(row.seconds for row in self.rows)
        table: list[tuple[str, ...]] = [("us", "%", "times", "GF/s", "GB/s", "kernel", "line")]
        for row in sorted(self.rows, key=lambda row: -row.seconds):
            share = 100 * row.seconds / self.seconds if self.seconds else 0.0
            figures = (1e6 * row.seconds, share, row.times, row.gigaflops, row.gigabytes)
            table.append((*(f"{figure:.4g}" for figure in figures), row.statement.kernel, row.statement.line))
        outside = max(self.seconds - inside, 0.0)
        share = 100 * outside / self.seconds if self.seconds else 0.0
        table.append((f"{1e6 * outside:.4g}", f"{share:.4g}", "", "", "", "(outside of kernels)", ""))
        return "\n".join(_lines(table, numbers=5))


def profile(
    executable: Executable,
    leaves: Sequence[Any],
    statements: Sequence[Statement],
    *,
    calls: int = 10,
    warm_up: int = 2,
    threads: int | None = None,
) -> tuple[list[Any], Profile]:
    """Call a program that was compiled for profiling; returns the results of the last call, and the profile.

    Donated arguments are copied for every call, outside of the measured time.
    """
    outputs = executable.signature.outputs
    if not outputs or outputs[-1].dtype != np.int64 or outputs[-1].shape != (len(statements), 2):
        raise ArgumentValueError(
            f"the program has no table of {len(statements)} timed statements as its last result",
            code="TD0980",
            edit="compile it for profiling",
        )
    donated = {argument for argument, _ in executable.signature.donated}
    totals = np.zeros((len(statements), 2))
    seconds = 0.0
    results: list[Any] = []
    for number in range(warm_up + calls):
        given = [np.array(leaf) if n in donated else leaf for n, leaf in enumerate(leaves)]
        start = time.perf_counter()
        results = executable(given, threads=threads)
        elapsed = time.perf_counter() - start
        if number >= warm_up:
            seconds += elapsed
            totals += results[-1]
    rows = [
        Row(statement, nanoseconds / 1e9 / calls, times / calls)
        for statement, (nanoseconds, times) in zip(statements, totals.tolist(), strict=True)
    ]
    return results[:-1], Profile(rows, seconds / calls, calls)


def _lines(table: Sequence[Sequence[str]], numbers: int) -> Iterable[str]:
    """Columns: the first `numbers` of them to the right, the others to the left."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = [
            cell.rjust(width) if column < numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
