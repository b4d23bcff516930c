"""`dataclass` for classes that are there at start-up: the standard library's, with the methods written when first used.

The standard decorator compiles six methods for every frozen class, half a millisecond each time; of the classes that a
process imports it uses few before its first answer. Here only the fields are gathered at once. `__init__`, `__eq__` and
`__hash__` are short stand-ins that write the real methods for their class, in one piece of source, and then are gone.
What they mean is the standard library's meaning, and so is all else (`fields`, `replace`, `__match_args__`, slots).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, eq=True, slots=False):
        """As `dataclasses.dataclass`; other keywords than these have no use here and are not taken."""

        def decorate(cls):
            if not cls.__doc__:
                cls.__doc__ = cls.__name__  # the standard decorator would write the signature, by way of a tokenizer
            made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
            own = cls.__dict__
            methods = {"__init__": _stand_in(made, "__init__")}
            if "__repr__" not in own:
                methods["__repr__"] = _repr
            if eq and "__eq__" not in own:
                methods["__eq__"] = _stand_in(made, "__eq__")
                # As the standard library has it: equal by value and changeable means not hashable.
                if "__hash__" not in own or own["__hash__"] is None:
                    methods["__hash__"] = _stand_in(made, "__hash__") if frozen else None
            if frozen:
                methods["__setattr__"] = _refuse_setting
                methods["__delattr__"] = _refuse_deleting
                if slots and "__getstate__" not in own:
                    methods["__getstate__"] = _state
                    methods["__setstate__"] = _restore
            for name, method in methods.items():
                setattr(made, name, method)
            made.__writing__ = (frozen, eq)
            return made

        return decorate if cls is None else decorate(cls)


def _stand_in(cls: type, name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        _write(cls)
        return getattr(cls, name)(self, *args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    method.__doc__ = None
    method.stands_in = True  # type: ignore[attr-defined]
    return method


def _write(cls: Any) -> None:
    """Put the real methods in place of the stand-ins. Two threads may do so at once; the methods are the same."""
    frozen, eq = cls.__writing__
    fields = dataclasses.fields(cls)
    names: dict[str, Any] = {"_set": object.__setattr__, "_no": dataclasses.FrozenInstanceError}
    parameters, body = [], []
    for field in fields:
        given = field.name
        if field.default is not dataclasses.MISSING:
            names[f"_default_{field.name}"] = field.default
            given += f"=_default_{field.name}"
        elif field.default_factory is not dataclasses.MISSING:
            names[f"_make_{field.name}"], names["_missing"] = field.default_factory, dataclasses.MISSING
            given += "=_missing"
        value = field.name
        if not field.init:
            value = f"_make_{field.name}()" if "=_missing" in given else f"_default_{field.name}"
        else:
            parameters.append(given)
            if "=_missing" in given:
                value = f"_make_{field.name}() if {field.name} is _missing else {field.name}"
        if field.init or "=" in given:
            body.append(f"_set(self, {field.name!r}, {value})" if frozen else f"self.{field.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    compared = ", ".join(f"self.{field.name}" for field in fields if field.compare)
    others = ", ".join(f"other.{field.name}" for field in fields if field.compare)
    source = [
        f"def __init__(self{''.join(f', {p}' for p in parameters)}):",
        *(f"  {line}" for line in body or ["pass"]),
    ]
    if eq:
        source += [
            "def __eq__(self, other):",
            "  if other.__class__ is self.__class__:",
            f"    return ({compared}{',' if compared else ''}) == ({others}{',' if others else ''})",
            "  return NotImplemented",
            "def __hash__(self):",
            f"  return hash(({compared}{',' if compared else ''}))",
        ]
    exec("\n".join(source), names)
    for name in ("__init__", "__eq__", "__hash__"):
        if getattr(cls.__dict__.get(name), "stands_in", False):
            method = names[name]
            method.__qualname__ = f"{cls.__qualname__}.{name}"
            method.__module__ = cls.__module__
            setattr(cls, name, method)


def _repr(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse_setting(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


__all__ = ["dataclass"]
