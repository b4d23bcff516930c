"""A report in numbered steps and tables, and fair times for it: what the examples print with.

Times are medians of calls that take turns, so that all see the same machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
WIDTH = 80


class Report:
    """Numbered steps in two columns, and tables below them, 80 characters wide."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, width=WIDTH)
        self.number = 0

    def step(self, what: str, *lines: str) -> None:
        self.number += 1
        self.console.print(f"[bold]{self.number}. {what:<9}[/] {lines[0]}")
        self.below(*lines[1:], indent=13)

    def below(self, *lines: str, indent: int = 3, style: str = "") -> None:
        for line in lines:
            self.console.print(" " * indent + line, style=style, markup=False, no_wrap=True)

    def table(self, widths: Sequence[int], head: Sequence[str], *rows: Sequence[str]) -> None:
        """The first column is set to the left, the others to the right."""
        for number, row in enumerate((head, *rows)):
            cells = [f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths))]
            self.below("".join(cells), indent=13, style="dim" if number == 0 else "")
        self.console.print()

    def progress(self, items: Sequence[T], what: str, said: Callable[[], str]) -> Iterator[T]:
        """The items, with a bar and `said()` beside it, which is gone when they are; nothing where no one looks on."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        shown = (
            TextColumn(what), BarColumn(30), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*shown, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(what, total=len(items), said="")
            for item in items:
                yield item
                bar.update(task, advance=1, said=said())


def seconds(
    calls: Iterable[Callable[[], object]], rest: float = 0, rounds: int = 9, least: float = 0.01
) -> list[float]:
    """The median time of each call. Workers of some libraries go on watching for a tenth of a second after their work,
    and would take a core from whoever comes next: `rest` seconds go by before each is timed."""
    repeats, calls = [], list(calls)
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        repeats.append(max(1, int(least / max(time.perf_counter() - start, 1e-7))))
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for number, call in enumerate(calls):
            time.sleep(rest)
            call()
            start = time.perf_counter()
            for _ in range(repeats[number]):
                call()
            samples[number].append((time.perf_counter() - start) / repeats[number])
    return [statistics.median(each) for each in samples]


def heart(kernels: Iterable[str]) -> list[str]:
    """Of the texts of kernels the deepest statement, the loops round it, and the head of its kernel."""
    found: list[str] = []
    depth = 0
    for kernel in kernels:
        lines = kernel.strip().split("\n")
        depths = [len(line) - len(line.lstrip()) for line in lines]
        if max(depths) <= depth:
            continue
        depth, at = max(depths), depths.index(max(depths))
        found = [lines[at]]
        for line, indent in zip(reversed(lines[:at]), reversed(depths[:at]), strict=True):
            if indent < len(found[0]) - len(found[0].lstrip()):
                found.insert(0, line)
    return [line if len(line) <= WIDTH - 3 else line[: WIDTH - 6] + "..." for line in found]
