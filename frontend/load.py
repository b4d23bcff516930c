"""Loading a saved model: `td.load("model.so")`.

The file is checked before any of its code runs; what comes back is called as the function was, with its structure of
arguments and results, and as fast: by the native routine of jitted functions, once a call of the form was made. Nothing
is traced or compiled for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from typing import TYPE_CHECKING, Any

from ..ir.errors import TypeMismatch
from ..runtime.artifact import LoadedArtifact
from ..runtime.artifact import load as load_artifact
from ..runtime.dispatch import Dispatched, Unservable, callable_type
from ..runtime.executable import Executable
from ..runtime.threads import default_threads
from . import tree
from .options import config, watchers
from .trace import current
from .tree import TreeDef
from .userline import file_problem, spoken


class Model:
    """What a loaded model is made of: the mapped file, its structures, and the complete path of a call."""

    def __init__(self, mapped: LoadedArtifact) -> None:
        from .compile import pool_address

        self.mapped = mapped
        self.name = str(mapped.manifest.get("function", mapped.artifact.name))
        self.arguments = TreeDef.from_json(mapped.manifest["arguments"])
        self.results = TreeDef.from_json(mapped.manifest["results"])
        self.names = tuple(str(key) for key in self.arguments.keys)
        self.executable = mapped.executable(
            pool=pool_address, threads=lambda: config.current.num_threads or default_threads()
        )

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, threads: int | None) -> Any:
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

    def install(self, loaded: Dispatched, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Let further calls of this very form go the native way, where it can take them."""
        from .compile import install_context
        from .compiled import served

        places, count = {}, 0
        for name, structure in zip(self.names, self.arguments.children, strict=True):
            places[name] = (structure, count)
            count += structure.leaves
        positional = [places[name] for name in self.names]
        context = install_context(self.mapped.manifest, None)
        record = served(self.executable, args, kwargs, out, (positional, places), self.results, context)
        if record is not None:
            with contextlib.suppress(Unservable):  # a frame of thousands of arrays is too large
                loaded.install(record)

    def leaves_of(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The arrays of a call, in the order of the model's inputs."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        missing = [name for name in self.names if name not in given]
        if len(args) > len(self.names) or missing or len(given) > len(self.names):
            raise TypeMismatch(
                f"{self.name} takes ({', '.join(self.names)}); {len(args)} by position and "
                f"{', '.join(kwargs) or 'none'} by name were given",
                code="TD0620",
                edit="give each once, by position or by name",
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


class Loaded(Dispatched):
    """A saved model as a callable. `manifest` says what it takes and gives, `texts` hold its program and graph.

    It is called with the arguments the function had, by position or by name; bound ones are inside. `out` are arrays to
    fill, `threads` the most threads that the call uses.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __call__(self, *args: Any, out: Any = None, threads: int | None = None, **kwargs: Any) -> Any: ...

    @property
    def _state(self) -> Model:
        found: Model = self.__dict__["state"]
        return found

    @property
    def model(self) -> LoadedArtifact:
        return self._state.mapped

    @property
    def manifest(self) -> dict[str, Any]:
        return self.model.manifest

    @property
    def texts(self) -> dict[str, str]:
        return self.model.texts

    @property
    def executable(self) -> Executable:
        return self._state.executable

    def leaves_of(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The arrays of a call, in the order of the model's inputs."""
        return self._state.leaves_of(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<loaded {self._state.name}({', '.join(self._state.names)})>"


def _loaded(model: Model) -> Loaded:
    # What is called holds the model alone: with the last reference to the callable the file is unmapped.
    callable_of: weakref.ReferenceType[Loaded]

    @spoken
    def slow(*args: Any, out: Any = None, threads: int | None = None, **kwargs: Any) -> Any:
        result = model.call(args, kwargs, out, threads)
        loaded = callable_of()
        if threads is None and loaded is not None:
            model.install(loaded, args, kwargs, out)
        return result

    loaded: Loaded = loaded_type()(slow)
    callable_of = weakref.ref(loaded)
    loaded.__dict__["state"] = model
    _all.add(loaded)
    return loaded


_all: weakref.WeakSet[Loaded] = weakref.WeakSet()


def _forget_all() -> None:
    """Installed calls hold their number of threads; they are looked up anew."""
    for loaded in list(_all):
        loaded.forget()


watchers.append(_forget_all)


@functools.cache
def loaded_type() -> type[Any]:
    """The native type of loaded models."""
    from .compile import dispatch_object

    return callable_type(Loaded, dispatch_object)


@spoken
def load(path: str | os.PathLike[str], verify: bool = False) -> Loaded:
    """The callable of a saved model. `verify` also hashes its weights (everything else always is).

    Damaged, foreign or too new files, and files for a CPU with features this one lacks, are refused by name.
    """
    import ml_dtypes  # noqa: F401  # the model's types may be among its own

    try:
        return _loaded(Model(load_artifact(path, verify=verify)))
    except OSError as error:
        raise file_problem(error, path) from None
