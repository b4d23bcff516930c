"""Every knob and environment variable, typed, in one place. Nobody else reads the environment.

`td.config` is the one mutable object of the package: what it holds are defaults for later calls, never an ambient
target or graph. A function's own options (`td.jit(threads=1)`) win over it, it wins over `TREADLE_*`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from ..ir.classes import dataclass
from ..ir.errors import InvalidValue, UnknownName
from ..runtime.threads import default_threads
from .userline import spoken, unknown_name


def _default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "treadle")


def _knob(default: Any, doc: str, *, least: float | None = None, factory: Callable[[], Any] | None = None) -> Any:
    metadata = {"doc": doc, "least": least}
    return field(default_factory=factory, metadata=metadata) if factory else field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Options:
    """What can be set. Each field is also an environment variable `TREADLE_<NAME>`."""

    num_threads: int = _knob(0, "the most threads of a call; 0: affinity and cgroup quota decide", least=0)
    compile_processes: int = _knob(
        0, "the most processes that generate code of a large program; 0: threads and idle processors; 1: one", least=0
    )
    debug: int = _knob(0, "1 timings, 2 kernels, 4 code, or their sum, on standard error", least=0)
    check: bool = _knob(False, "verify and evaluate after every pass; detect changed captures")
    cache: bool = _knob(True, "keep compiled objects on disk")
    cache_dir: str = _knob(None, "where compiled objects are kept", factory=_default_cache)
    cache_limit: int = _knob(1 << 30, "bytes of compiled objects kept on disk", least=0)
    target: str = _knob("host", "what to compile for: host, a CPU's name, or a target's text")
    alarm: float = _knob(5.0, "seconds of compiling after which the slow pass is named; 0: never", least=0)
    max_signatures: int = _knob(64, "compiled signatures a function keeps", least=1)

    def changed(self, **changes: Any) -> Options:
        """These options with some replaced; unknown names are refused with a suggestion (TD0601)."""
        known = _fields()
        for name, value in changes.items():
            if name not in known:
                raise unknown_name("option", name, known, UnknownName)
            changes[name] = _typed(known[name], value, f"option {name}")
        return dataclasses.replace(self, **changes)


def _fields() -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(Options)}


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, str) else int(value.__index__())


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        return {word: truth for truth, words in _WORDS.items() for word in words}[value.lower()]
    return bool(value)


def _text(value: Any) -> str:
    return str(os.fspath(value))


_WORDS = {True: ("1", "true", "yes", "on"), False: ("", "0", "false", "no", "off")}
_READERS: dict[str, Callable[[Any], Any]] = {"int": _whole, "bool": _truth, "str": _text, "float": float}


def _typed(knob: dataclasses.Field[Any], value: Any, spelling: str) -> Any:
    least = knob.metadata["least"]
    try:
        read = _READERS[str(knob.type)](value)
        if least is not None and not read >= least:
            raise ValueError
        return read
    except (TypeError, ValueError, AttributeError, KeyError):
        kind = {"int": "a whole number", "bool": "true or false", "str": "a text", "float": "a number"}[str(knob.type)]
        wanted = kind if least is None else f"{kind}, at least {least}"
        raise InvalidValue(
            f"{spelling} is {value!r}, not {wanted}", code="TD0602", edit=f"it says: {knob.metadata['doc']}"
        ) from None


def from_environment(environment: Mapping[str, str] | None = None) -> Options:
    """Defaults, overridden by `TREADLE_*`. Unknown variables of that prefix are left alone."""
    source = os.environ if environment is None else environment
    found = {}
    for name, knob in _fields().items():
        variable = f"TREADLE_{name.upper()}"
        if variable in source:
            found[name] = _typed(knob, source[variable], f"the environment variable {variable}")
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
            raise unknown_name("option", name, _fields(), UnknownName)
        return getattr(self.current, name)

    @spoken
    def __setattr__(self, name: str, value: Any) -> None:
        self.replace(self.current.changed(**{name: value}))

    @spoken
    def set(self, **changes: Any) -> _Restore:
        before = self.current
        self.replace(before.changed(**changes))
        return _Restore(self, before)

    def replace(self, options: Options) -> None:
        self.__dict__["options"] = options
        for watcher in watchers:
            watcher()

    def __dir__(self) -> list[str]:
        return [*_fields(), "current", "replace", "set"]

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
        self.config.replace(self.before)


config = Config()


@spoken
def set_num_threads(n: int) -> None:
    """The most threads a call uses from now on; 0 leaves it to the machine's affinity and quota."""
    config.num_threads = n


def get_num_threads() -> int:
    """The most threads a call uses."""
    return config.current.num_threads or default_threads()
