"""The pipelines as tables: the page to read first."""

from __future__ import annotations

from ..ir.errors import InvalidValue
from .cleanup import cleanup
from .constants import constants
from .expand import expand
from .fuse import fuse
from .identities import identities
from .manager import Pass, Pipeline

PASSES: dict[str, Pass] = {each.name: each for each in (expand, cleanup, identities, constants, fuse)}

DEFAULT = Pipeline("default", (expand, cleanup, identities, constants, cleanup, fuse))


def find(name: str) -> Pass:
    """The pass of that name (TD0304 when there is none)."""
    if name not in PASSES:
        raise InvalidValue(f"no pass is called {name!r}; there are {', '.join(PASSES)}", code="TD0304")
    return PASSES[name]
