"""Every knob and environment variable, typed, in one place. Nobody else reads the environment.

`td.config` is the one mutable object of the package: what it holds are defaults for later calls, never an ambient
target or graph. A function's own options (`td.jit(threads=1)`) win over it, it wins over `TREADLE_*`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..ir.errors import InvalidValue
from ..runtime.threads import default_threads


def _default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "treadle")


@dataclass(frozen=True, slots=True)
class Options:
    """What can be set. Each field is also an environment variable `TREADLE_<NAME>`."""

    num_threads: int = field(default=0, metadata={"doc": "threads of the pool; 0: affinity and cgroup quota decide"})
    debug: int = field(default=0, metadata={"doc": "1 timings, 2 kernels, 4 code, on standard error"})
    check: bool = field(
        default=False, metadata={"doc": "verify and evaluate after every pass; detect changed captures"}
    )
    cache: bool = field(default=True, metadata={"doc": "keep compiled objects on disk"})
    cache_dir: str = field(default_factory=_default_cache, metadata={"doc": "where compiled objects are kept"})
    cache_limit: int = field(default=1 << 30, metadata={"doc": "bytes of compiled objects kept on disk"})
    target: str = field(default="host", metadata={"doc": "what to compile for: host, a CPU's name, or a target's text"})
    alarm: float = field(default=5.0, metadata={"doc": "seconds of compiling after which the slow pass is named"})
    max_signatures: int = field(default=64, metadata={"doc": "compiled signatures a function keeps"})

    def changed(self, **changes: Any) -> Options:
        """These options with some replaced; unknown names are refused with a suggestion (TD0601)."""
        known = _fields()
        for name, value in changes.items():
            if name not in known:
                raise unknown_name("option", name, known)
            changes[name] = _typed(name, value, known[name])
        return dataclasses.replace(self, **changes)


def unknown_name(what: str, name: str, known: Mapping[str, Any] | list[str]) -> InvalidValue:
    """The error for a misspelt keyword, with the nearest right one."""
    near = get_close_matches(name, list(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return InvalidValue(f"unknown {what} {name!r}; {hint}", code="TD0601")


def _fields() -> dict[str, Callable[[Any], Any]]:
    readers: dict[str, Callable[[Any], Any]] = {"int": int, "bool": _truth, "str": str, "float": float}
    return {f.name: readers[str(f.type)] for f in dataclasses.fields(Options)}


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() not in ("", "0", "false", "no", "off")
    return bool(value)


def _typed(name: str, value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except (TypeError, ValueError):
        raise InvalidValue(f"option {name}: {value!r} is not a value for it", code="TD0602") from None


def from_environment(environment: Mapping[str, str] | None = None) -> Options:
    """Defaults, overridden by `TREADLE_*`. Unknown variables of that prefix are left alone."""
    source = os.environ if environment is None else environment
    known = _fields()
    found = {
        name: _typed(name, source[f"TREADLE_{name.upper()}"], read)
        for name, read in known.items()
        if f"TREADLE_{name.upper()}" in source
    }
    return Options(**found)


# Called after a change of an option: calls that are installed natively depend on some.
watchers: list[Callable[[], None]] = []


class Config:
    """`td.config`: read and set options by name; `with td.config.set(debug=1):` restores them after."""

    def __init__(self) -> None:
        object.__setattr__(self, "options", None)

    @property
    def current(self) -> Options:
        if self.__dict__["options"] is None:
            self.__dict__["options"] = from_environment()
        options: Options = self.__dict__["options"]
        return options

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in _fields():
            raise unknown_name("option", name, _fields())
        return getattr(self.current, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["options"] = self.current.changed(**{name: value})
        for watcher in watchers:
            watcher()

    def set(self, **changes: Any) -> _Restore:
        before = self.current
        self.__dict__["options"] = before.changed(**changes)
        return _Restore(self, before)

    def __dir__(self) -> list[str]:
        return [*_fields(), "current", "set"]

    def __repr__(self) -> str:
        return "\n".join(
            f"{f.name} = {getattr(self.current, f.name)!r}  # {f.metadata['doc']}" for f in dataclasses.fields(Options)
        )


class _Restore:
    def __init__(self, config: Config, before: Options) -> None:
        self.config, self.before = config, before

    def __enter__(self) -> Config:
        return self.config

    def __exit__(self, *error: object) -> None:
        self.config.__dict__["options"] = self.before


config = Config()


def set_num_threads(n: int) -> None:
    """The most threads a call uses from now on; 0 leaves it to the machine's affinity and quota."""
    if n < 0:
        raise InvalidValue(f"{n} threads", code="TD0602")
    config.num_threads = n


def get_num_threads() -> int:
    """The most threads a call uses."""
    return config.current.num_threads or default_threads()
