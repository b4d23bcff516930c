"""Loading a saved model: `td.load("model.so")`.

The file is checked before any of its code runs; what comes back is called as the function was, with its structure of
arguments and results. Neither the passes nor the code generator are needed for it.
"""

from __future__ import annotations

import os
from typing import Any

from ..ir.errors import TypeMismatch
from ..runtime.artifact import LoadedArtifact
from ..runtime.artifact import load as load_artifact
from ..runtime.threads import default_threads
from . import tree
from .options import config
from .trace import current
from .tree import TreeDef
from .userline import file_problem, spoken


class Loaded:
    """A saved model as a callable. `manifest` says what it takes and gives, `texts` hold its program and graph."""

    def __init__(self, model: LoadedArtifact) -> None:
        from .compile import pool_address

        self.model = model
        self.manifest = model.manifest
        self.texts = model.texts
        self.name = str(model.manifest.get("function", model.artifact.name))
        self.arguments = TreeDef.from_json(model.manifest["arguments"])
        self.results = TreeDef.from_json(model.manifest["results"])
        self.names = tuple(str(key) for key in self.arguments.keys)
        self.executable = model.executable(
            pool=pool_address, threads=lambda: config.current.num_threads or default_threads()
        )

    @spoken
    def __call__(self, *args: Any, out: Any = None, threads: int | None = None, **kwargs: Any) -> Any:
        """Call with the arguments the function had, by position or by name; bound ones are inside."""
        from .jit import check_threads

        if current() is not None:
            raise TypeMismatch(
                f"the saved model {self.name} is called inside a traced function, and cannot be part of it",
                code="TD0647",
                edit="call it outside, and pass its result in",
            )
        check_threads(threads)
        outs = self._outs(out) if out is not None else None
        return self.results.unflatten(self.executable(self.leaves_of(*args, **kwargs), outs, threads))

    def leaves_of(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The arrays of a call, in the order of the model's inputs."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        missing = [name for name in self.names if name not in given]
        if len(args) > len(self.names) or missing or len(given) > len(self.names):
            raise TypeMismatch(
                f"{self.name} takes ({', '.join(self.names)}); {len(args)} by position and "
                f"{', '.join(kwargs) or 'none'} by name were given",
                code="TD0620",
            )
        return [
            leaf
            for name, structure in zip(self.names, self.arguments.children, strict=True)
            for leaf in structure.leaves_of(given[name], name)
        ]

    def _outs(self, out: Any) -> list[Any]:
        found, structure = tree.flatten(out, lambda x: x is None)
        if len(found) != self.results.leaves:
            raise TypeMismatch(
                f"out has the structure {structure}, the result {self.results}",
                code="TD0641",
                edit="give an array, or None, for each array of the result",
            )
        return found

    def __repr__(self) -> str:
        return f"<loaded {self.name}({', '.join(self.names)})>"


@spoken
def load(path: str | os.PathLike[str], verify: bool = False) -> Loaded:
    """The callable of a saved model. `verify` also hashes its weights (everything else always is).

    Damaged, foreign or too new files, and files for a CPU with features this one lacks, are refused by name.
    """
    try:
        return Loaded(load_artifact(path, verify=verify))
    except OSError as error:
        raise file_problem(error, path) from None
