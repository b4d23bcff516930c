"""The error classes, and how a message is laid out.

Every error of ours derives from `TreadleError` and from the builtin a Python user expects, carries a stable code,
and shows the user's line. The message is data until it is printed: what was asked, what was found, whose line, one
edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .location import Location


class TreadleError(Exception):
    """Base of all errors. `code` is stable (`TD0123`); `location` is the user's line, `edit` what to change.

    Provenance: at most three further lines of the user's program that led to `location`.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        location: Location | None = None,
        edit: str | None = None,
        provenance: tuple[str, ...] = (),
    ) -> None:
        self.message = message
        self.code = code
        self.location = location
        self.edit = edit
        self.provenance = provenance[:3]
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.location, self.edit, self.provenance))

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        if self.location is not None:
            lines.append(self.location.excerpt())
        lines += [f"  from {line}" for line in self.provenance]
        if self.edit:
            lines.append(f"  edit: {self.edit}")
        return "\n".join(line for line in lines if line)


def _rebuild(
    cls: type[TreadleError],
    message: str,
    code: str,
    location: Location | None,
    edit: str | None,
    provenance: tuple[str, ...],
) -> TreadleError:
    return cls(message, code=code, location=location, edit=edit, provenance=provenance)


class TypeMismatch(TreadleError, TypeError):
    """A dtype, a structure or a kind of value that the operation does not take."""


class ShapeMismatch(TreadleError, ValueError):
    """Shapes or sizes that do not fit together."""


class InvalidValue(TreadleError, ValueError):
    """A value outside what is allowed: an axis, an attribute, an option."""


class OutOfRange(TreadleError, IndexError):
    """An index outside its axis, at trace time or from native code."""


class ParseError(TreadleError, ValueError):
    """A text that is not in the language: line, column, what was expected."""


class CheckFailed(TreadleError, ValueError):
    """A graph, loop nest or program that breaks a rule of its language."""


class Unsupported(TreadleError, TypeError):
    """Something named that treadle does not do; the message says what to do instead."""


class ArithmeticFault(TreadleError, ValueError, ArithmeticError):
    """A failure of arithmetic that NumPy would raise, from native code: for example a negative integer power."""


class RunFailed(TreadleError, RuntimeError):
    """Any other failure of a program at run time, for example a loop that passed its `max_steps`."""


class UnknownName(TreadleError, AttributeError):
    """A name that treadle, or an object of its, does not have."""


class UnknownModule(TreadleError, ModuleNotFoundError):
    """A module of treadle's that this version does not have."""


class TooLarge(TreadleError, OverflowError):
    """A number that its type cannot hold."""


class FileProblem(TreadleError, OSError):
    """A file that cannot be read or written."""


class FileMissing(FileProblem, FileNotFoundError):
    """A file or directory that is not there."""


class FileForbidden(FileProblem, PermissionError):
    """A file or directory that this process may not read or write."""
