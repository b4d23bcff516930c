"""The pipelines as tables: the page to read first."""

from __future__ import annotations

import ast

from ..ir.errors import InvalidValue
from ..ir.forms import FORMS, Keeps
from ..ir.graph import Graph
from .cleanup import cleanup
from .constants import constants
from .expand import expand
from .fuse import fuse
from .identities import identities
from .loop_motion import loop_motion
from .manager import Pass, Pipeline
from .products import products
from .vectorize import vectorize

ALL = (expand, cleanup, vectorize, identities, constants, loop_motion, products, fuse)
PASSES: dict[str, Pass] = {each.name: each for each in ALL}

DEFAULT = Pipeline("default", (expand, cleanup, vectorize, identities, constants, cleanup, loop_motion, products, fuse))


def find(name: str) -> Pass:
    """The pass of that name (TD0304 when there is none)."""
    if name not in PASSES:
        raise InvalidValue(f"no pass is called {name!r}; there are {', '.join(PASSES)}", code="TD0304")
    return PASSES[name]


def spelled(text: str) -> tuple[Pass, ...]:
    """Passes as a command line and their own `spelling` write them: `identities, fuse(limit=64)`. Raises TD0304 for a
    name, TD0301 for an option, TD0306 for anything else."""
    try:
        calls = ast.parse(f"({text},)" if text.strip() else "()", mode="eval").body
    except SyntaxError:
        calls = None
    if not isinstance(calls, ast.Tuple):
        raise InvalidValue(f"{text!r} is no list of passes such as 'identities, fuse(limit=64)'", code="TD0306")
    return tuple(map(_spelled, calls.elts))


def given(text: str, graph: Graph, keeps: Keeps) -> Pipeline:
    """The pipeline of a text, to run on this graph: forms that it has already need not be given."""
    return Pipeline("given", spelled(text), tuple(form for form in FORMS if form.holds(graph, keeps)))


def _spelled(call: ast.expr) -> Pass:
    match call:
        case ast.Name(id=name):
            return find(name)
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            options = {}
            for each in keywords:
                try:
                    options[str(each.arg)] = ast.literal_eval(each.value)
                except ValueError:
                    break
            else:
                return find(name).with_options(**options)
    raise InvalidValue(f"{ast.unparse(call)!r} is no pass with options such as fuse(limit=64)", code="TD0306")
