"""What one line of the benchmark is: a statement for each engine, the work it does, and the bar it is held to.

A line is data and functions; the functions run in the process of their engine alone, so this file and the chapters of
`lines/` import no engine. What an engine is handed, and how its calls are written, stands in `engines.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "treadle"


@dataclass(frozen=True)
class Call:
    """A Python statement to be timed, and the names it uses. A statement, not a function: the loop around it costs
    5 ns, a function 40."""

    statement: str
    names: Mapping[str, Any]
    calls: int = 1  # how many calls of the engine the statement makes

    def value(self) -> Any:
        """What the statement's expression yields; None where it is no expression."""
        try:
            return eval(compile(self.statement, "<line>", "eval"), dict(self.names))
        except SyntaxError:
            return None


def call(statement: str, calls: int = 1, /, **names: Any) -> Call:
    return Call(statement, names, calls)


@dataclass(frozen=True)
class Bar:
    """What a line is held to. `peers` are the engines of whose medians the best is the base; empty: the figure itself
    is compared."""

    kind: str  # "at most", "times", "limit", "exactly"
    value: float
    peers: tuple[str, ...] = ()


def at_most(value: float) -> Bar:
    """The figure, in the line's unit, is no larger."""
    return Bar("at most", value)


def times(value: float, *peers: str) -> Bar:
    """At least so many times as fast as the best of these engines."""
    return Bar("times", value, peers)


def of_limit(value: float) -> Bar:
    """At least this share of what the machine can do."""
    return Bar("limit", value)


def exactly(value: float, digits: int = 3) -> Bar:
    """The figure, rounded to so many digits, and no other."""
    return Bar("exactly", round(value, digits))


@dataclass(frozen=True)
class Limit:
    """One of the machine's limits (`machine.py`), and how much of it one call uses up: flops, operations or bytes."""

    name: str
    work: float


Setup = Callable[..., Any]


@dataclass(frozen=True)
class Line:
    """One line. `engines` maps an engine to the function that prepares it, see `engines.py` for what that is given.

    `arguments` makes the arrays all engines get, the same for each. `figure` computes the line's figure from the
    seconds of the calls that a setup returned, where that is not the one call's seconds. `way` says how a sample is
    taken: "calls" repeats calls in a running process; "process" runs the setup in a fresh process, and what it returns
    is the figure; "value" does so once, for figures that no clock enters.
    """

    name: str
    engines: Mapping[str, Setup]
    arguments: Callable[[], Sequence[Any]] = tuple
    unit: str = "s"
    bar: Bar | None = None
    limit: Limit | None = None
    figure: Callable[..., float] | None = None
    way: str = "calls"
    out: bool = False
    threads: int = 1
    rounds: int = 15
    note: str = ""

    def __post_init__(self) -> None:
        if self.way not in ("calls", "process", "value"):
            raise ValueError(f"{self.name}: no way of sampling is called {self.way!r}")


@dataclass
class Chapter:
    """Lines that belong together under one heading of the table."""

    title: str
    lines: list[Line] = field(default_factory=list)

    def line(self, name: str, /, *, arguments: Any = tuple, **fields: Any) -> Line:
        """Add a line. Keywords that are fields of `Line` are those, every other is an engine's setup."""
        known = Line.__dataclass_fields__
        own = {key: value for key, value in fields.items() if key in known}
        engines = {key: value for key, value in fields.items() if key not in known}
        made = Line(name, engines, arguments, **own)
        self.lines.append(made)
        return made


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Reproducible standard normal f32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Reproducible uniform f32."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def selected(chapters: Sequence[Chapter], only: str) -> list[tuple[Chapter, list[Line]]]:
    """The lines whose chapter or name holds one of the comma-separated words; all for an empty text."""
    words = [word.strip().lower() for word in only.split(",") if word.strip()]
    found = []
    for chapter in chapters:
        lines = [
            each
            for each in chapter.lines
            if not words or any(word in f"{chapter.title}: {each.name}".lower() for word in words)
        ]
        if lines:
            found.append((chapter, lines))
    return found


def find(chapters: Sequence[Chapter], name: str) -> Line:
    for chapter in chapters:
        for each in chapter.lines:
            if each.name == name:
                return each
    raise KeyError(name)
