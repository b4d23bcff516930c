"""Where in the user's program a value came from.

The location and the sequence number of the operation being traced or rewritten travel in one context variable:
the tracer sets it to the user's line, `rebuild` sets it to the node being replaced, so provenance survives every pass.
"""

from __future__ import annotations

import linecache
from contextvars import ContextVar
from typing import Final

from .classes import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's program. `column` counts from 1; 0 means not known. `source` is the line's text where it was
    kept because the file may be elsewhere, as in a saved model."""

    file: str
    line: int
    function: str = ""
    column: int = 0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"

    def excerpt(self) -> str:
        """The user's line with a caret below it, or only its name where the source is not at hand."""
        head = f"  at {self.file}:{self.line}" + (f", in {self.function}" if self.function else "")
        source = self.source or linecache.getline(self.file, self.line).rstrip()
        if not source:
            return head
        stripped = source.lstrip()
        offset = max(self.column - 1 - (len(source) - len(stripped)), 0) if self.column else 0
        return f"{head}\n    {stripped}\n    {' ' * offset}^"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a new value inherits: the user's line and the number of the traced operation it descends from."""

    location: Location | None = None
    sequence: int = 0


NOWHERE: Final = Origin()
_current: ContextVar[Origin] = ContextVar("origin", default=NOWHERE)
current_origin = _current.get


class at:
    """`with at(origin):` values built inside inherit `origin`. A class, for a generator costs three times as much, and
    every pass comes here with every value."""

    __slots__ = ("origin", "token")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def __enter__(self) -> None:
        self.token = _current.set(self.origin)

    def __exit__(self, *error: object) -> None:
        _current.reset(self.token)
