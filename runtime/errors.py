"""What the runtime refuses, as exceptions that need no other room.

Each class derives from the builtin a Python user expects and carries a stable `code` (`TD09xx`), the
`message`, and one suggested `edit` where there is one. The frontend turns them into its own errors with the
user's line; in a deployed program, where no frontend is at hand, they read well as they are.
"""

from __future__ import annotations

import functools
import os
import sys
from types import FrameType
from typing import NamedTuple

# Whose frames are none of the user's: the package's, and those behind which a value is computed once.
OWN_FILES = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, functools.__file__)


class Place(NamedTuple):
    """A line of the program that a saved or cached object was compiled from. `column` counts from 1, 0 is unknown."""

    file: str
    line: int
    function: str = ""
    column: int = 0
    source: str = ""

    def __str__(self) -> str:
        head = f"  at {self.file}:{self.line}" + (f", in {self.function}" if self.function else "")
        text = self.source.strip()
        if not text:
            return head
        indent = len(self.source) - len(self.source.lstrip())
        return f"{head}\n    {text}\n    {' ' * max(self.column - 1 - indent, 0)}^"


class RuntimeFault(Exception):
    """Base of the runtime's errors. `code` is stable; `message` says what was asked and what was found; `place` is the
    user's line where a program failed at one of its sites."""

    builtin: type[Exception] = RuntimeError  # the class a user would catch, for whoever rebuilds the error

    def __init__(self, message: str, *, code: str, edit: str | None = None, place: Place | None = None) -> None:
        self.message = message
        self.code = code
        self.edit = edit
        self.place = place
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.edit, self.place))

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        lines += [str(self.place)] if self.place is not None else []
        lines += [f"  edit: {self.edit}"] if self.edit else []
        return "\n".join(lines)


def _rebuild(cls: type[RuntimeFault], message: str, code: str, edit: str | None, place: Place | None) -> RuntimeFault:
    return cls(message, code=code, edit=edit, place=place)


class ArgumentTypeError(RuntimeFault, TypeError):
    """An argument of the wrong kind or dtype, or the wrong number of arguments."""

    builtin = TypeError


class ArgumentValueError(RuntimeFault, ValueError):
    """An argument of the right kind whose shape, size or memory does not fit."""

    builtin = ValueError


class ArgumentTooLarge(RuntimeFault, OverflowError):
    """A number that does not fit in the type of its argument."""

    builtin = OverflowError


class BadObject(RuntimeFault, ValueError):
    """Bytes that are not a relocatable object or shared library we can read, link or load."""

    builtin = ValueError


class BadArtifact(RuntimeFault, ValueError):
    """A model file that is refused: damaged, foreign, too new, or made for another machine."""

    builtin = ValueError


class NativeIndexError(RuntimeFault, IndexError):
    """An index that native code found out of range."""

    builtin = IndexError


class NativeValueError(RuntimeFault, ValueError):
    """A value that native code found unfit."""

    builtin = ValueError


class NativeArithmeticError(RuntimeFault, ArithmeticError):
    """A failure of arithmetic that NumPy would raise, found by native code."""

    builtin = ArithmeticError


class NativeRuntimeError(RuntimeFault, RuntimeError):
    """Any other failure of native code, for example a loop that passed its `max_steps`."""

    builtin = RuntimeError


# What a failure site may ask for, by the name of the builtin: the tables of a program are plain text.
FAILURES: dict[str, type[RuntimeFault]] = {
    "IndexError": NativeIndexError,
    "ValueError": NativeValueError,
    "ArithmeticError": NativeArithmeticError,
    "RuntimeError": NativeRuntimeError,
}


class CacheWarning(UserWarning):
    """The disk cache cannot be used; compilation goes on without it."""


def users_level() -> int:
    """The `stacklevel` with which a warning of the function that asks is shown at the user's line."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(OWN_FILES):
        frame = frame.f_back
        level += 1
    return level
