"""Ops to loops: composition of maps, and naive nests.

Structured ops need no rule of their own. Irregular ops have one in their chapter: `RULES` says what the value is at a
position (see `compose.Rule`), which lets the op fuse with maps; `NESTS` gives its statements (see
`structured.NestRule`). The chapters are listed here and nowhere else; the first one that knows an op's class is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from .compose import Rule
from .structured import NestRule

# Modules of this room with `RULES` or `NESTS`, in the order in which they are asked.
CHAPTERS: Final[tuple[str, ...]] = ("indexing", "sort", "control")


@functools.cache
def rules() -> Mapping[type, Rule]:
    """Of each irregular op that is a map: its scalar at a position."""
    return _joined("RULES")


@functools.cache
def nest_rules() -> Mapping[type, NestRule]:
    """Of each irregular op: its naive statements."""
    return _joined("NESTS")


def _joined(table: str) -> dict[type, Any]:
    found: dict[type, Any] = {}
    for chapter in CHAPTERS:
        for cls, rule in getattr(import_module(f".{chapter}", __name__), table, {}).items():
            found.setdefault(cls, rule)
    return found
