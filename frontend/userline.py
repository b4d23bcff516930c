"""The user's line: where in their program the operation being traced stands, and how an error of theirs is shown.

The user's frame is the first one outside of treadle's rooms and NumPy. Finding it must be cheap, since it is asked for
once per traced operation: whether a file is the user's is remembered by name, a line by code object and instruction.
"""

from __future__ import annotations

import dis
import functools
import itertools
import linecache
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, TypeVar

import numpy as np

from ..ir.errors import (
    ArithmeticFault,
    FileForbidden,
    FileMissing,
    FileProblem,
    InvalidValue,
    OutOfRange,
    RunFailed,
    TooLarge,
    TreadleError,
    TypeMismatch,
)
from ..ir.location import Location
from ..runtime.errors import RuntimeFault

E = TypeVar("E", bound=BaseException)
F = TypeVar("F", bound=Callable[..., Any])

_ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ROOMS: Final = tuple(os.path.join(_ROOT, room) + os.sep for room in ("ir", "passes", "codegen", "runtime", "frontend"))
_INTERNAL: Final = (
    "numpy/",  # frames of Cython carry their source's relative name
    *_ROOMS,
    os.path.join(_ROOT, "__init__.py"),
    os.path.dirname(os.path.abspath(np.__file__)) + os.sep,
    functools.__file__,  # what is computed once is computed behind a frame of this
    "<frozen importlib",  # and what is imported, behind these
)

_known_files: dict[str, bool] = {}
_known_lines: dict[tuple[CodeType, int], Location] = {}
_MANY = 1 << 16  # lines remembered before all are forgotten: code objects are kept alive by it


def is_internal(filename: str) -> bool:
    """Whether the file is treadle's or NumPy's."""
    found = _known_files.get(filename)
    if found is None:
        found = _known_files[filename] = filename.startswith(_INTERNAL)
    return found


def user_frame() -> FrameType | None:
    """The innermost frame of the user's program; None when there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def location_of(frame: FrameType) -> Location:
    """The line, column and function in which `frame` stands."""
    key = (frame.f_code, frame.f_lasti)
    found = _known_lines.get(key)
    if found is None:
        if len(_known_lines) >= _MANY:
            _known_lines.clear()
        found = _known_lines[key] = _place(frame.f_code, frame.f_lasti, frame.f_lineno)
    return found


def _place(code: CodeType, instruction: int, line: int) -> Location:
    position = next(itertools.islice(code.co_positions(), instruction // 2, None), (None, None, None, None))
    column = position[2]
    return Location(code.co_filename, position[0] or line, code.co_qualname, 0 if column is None else column + 1)


def user_location() -> Location | None:
    frame = user_frame()
    return None if frame is None else location_of(frame)


def definition(fn: Callable[..., Any]) -> Location | None:
    """The line where a function of the user's begins."""
    while hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__
    code = getattr(fn, "__code__", None)
    return None if code is None else Location(code.co_filename, code.co_firstlineno, code.co_qualname)


def doing() -> str:
    """What the user's line was at: "index" (`a[i]`), "store" (`a[i] = v`), "test" (`if`, `while`, `and`), or "call"."""
    frame = user_frame()
    if frame is None or frame.f_lasti < 0:
        return "call"
    name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    if name.startswith("STORE_SUBSCR"):
        return "store"
    if name.startswith("BINARY_SUBSCR") or name == "BINARY_SLICE":
        return "index"
    if name.startswith("BINARY_OP"):
        # From 3.14 on `a[i]` is a BINARY_OP too; the source tells the two apart.
        return "index" if source(frame).rstrip().endswith("]") else "call"
    if "JUMP" in name or name in ("UNARY_NOT", "TO_BOOL"):
        return "test"
    return "call"


def source(frame: FrameType) -> str:
    """The text of the expression at which the frame stands; "" where it is not at hand."""
    positions = next(itertools.islice(frame.f_code.co_positions(), max(frame.f_lasti, 0) // 2, None), None)
    if positions is None:
        return ""
    first, last, begin, end = positions
    if first is None or last is None or begin is None or end is None:
        return ""
    # Columns count bytes.
    lines = [linecache.getline(frame.f_code.co_filename, n).encode() for n in range(first, last + 1)]
    if not all(lines):
        return ""
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    return b"".join(lines).decode(errors="replace")


def first_word() -> str:
    """The word with which the user's line begins: `if`, `while`, `assert` ..."""
    frame = user_frame()
    if frame is None:
        return ""
    words = linecache.getline(frame.f_code.co_filename, frame.f_lineno).split(maxsplit=1)
    return words[0].rstrip("(:") if words else ""


def ours(error: BaseException) -> TreadleError | None:
    """The error of ours that `error` is, or that NumPy wrapped in one of its own; None where the user raised
    `error`."""
    if isinstance(error, TreadleError):
        return error
    if raised_by_user(error):
        return None
    cause: BaseException | None = error
    for _ in range(8):
        cause = cause.__cause__ or cause.__context__ if cause is not None else None
        if isinstance(cause, TreadleError):
            return cause
    return None


def raised_by_user(error: BaseException) -> bool:
    """Whether the innermost frame is the user's and stands at a `raise`."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if is_internal(code.co_filename) or trace.tb_lasti < 0:
        return False
    return dis.opname[code.co_code[trace.tb_lasti]] in ("RAISE_VARARGS", "RERAISE")


def trimmed(error: E) -> E:
    """The error with the user's frames alone in its traceback."""
    frames: list[TracebackType] = []
    trace = error.__traceback__
    while trace is not None:
        if not is_internal(trace.tb_frame.f_code.co_filename):
            frames.append(trace)
        trace = trace.tb_next
    kept: TracebackType | None = None
    for each in reversed(frames):
        kept = TracebackType(kept, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return error.with_traceback(kept)


# From the builtin that a fault of the runtime is caught as, to the error of ours.
_KINDS: Final[dict[type[Exception], type[TreadleError]]] = {
    TypeError: TypeMismatch,
    ValueError: InvalidValue,
    IndexError: OutOfRange,
    ArithmeticError: ArithmeticFault,
    OverflowError: TooLarge,
    RuntimeError: RunFailed,
}


def as_ours(fault: RuntimeFault) -> TreadleError:
    """A fault of the runtime as an error of ours: the same code, message and edit, and the class a user would catch.
    Where a program failed at a line of its own, the call's line is told as well."""
    call = user_location()
    place = None if fault.place is None else Location(*fault.place)
    came = (f"the call at {call}",) if place is not None and call is not None else ()
    return _KINDS[fault.builtin](
        fault.message, code=fault.code, edit=fault.edit, location=place or call, provenance=came
    )


def unknown_name(what: str, name: str, known: Iterable[str], kind: type[TreadleError] = InvalidValue) -> TreadleError:
    """The error for a misspelt word, with the nearest right one."""
    words = list(known)
    from difflib import get_close_matches

    near = get_close_matches(name, words, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(words) or 'none'}"
    return kind(f"unknown {what} {name!r}; {hint}", code="TD0601")


def refine(error: Exception) -> None:
    """Make an error fit for the user, who then gets it by a bare `raise`: ours with their line, and with their frames
    alone. What the user's own code raised loses our frames, too; what went wrong in ours keeps them."""
    if isinstance(error, TreadleError):
        if error.location is None:
            error.location = user_location()
        trimmed(error)
        return
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None and not is_internal(last.tb_frame.f_code.co_filename):
        trimmed(error)


def file_problem(error: OSError, path: str | os.PathLike[str]) -> FileProblem:
    """What the system said about a file, as an error of ours and of the same builtin (TD0653)."""
    builtins = ((FileNotFoundError, FileMissing), (PermissionError, FileForbidden))
    kind = next((ours for builtin, ours in builtins if isinstance(error, builtin)), FileProblem)
    found = kind(f"{os.fspath(path)}: {error.strerror or error}", code="TD0653")
    found.errno, found.strerror, found.filename = error.errno, error.strerror, os.fspath(path)
    return found


def spoken(function: F) -> F:
    """A function of ours that users call: its errors are ours, at the user's line."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return called(function, args, kwargs)
            except RuntimeFault as fault:
                raise as_ours(fault) from None
        except Exception as error:
            refine(error)
            raise

    return call  # type: ignore[return-value]


def called(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`function(*args, **kwargs)`, and an error of ours where these are not its arguments."""
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        entered = error.__traceback__ is not None and error.__traceback__.tb_next is not None
        if entered or isinstance(error, TreadleError):
            raise
        raise _misfit(function, kwargs, error) from None


def _misfit(function: Callable[..., Any], kwargs: Mapping[str, Any], error: TypeError) -> TreadleError:
    """Arguments that a function of ours does not have (TD0601), or that do not fit (TD0620)."""
    import inspect

    name = function.__qualname__.removesuffix(".__init__")
    known = [p.name for p in inspect.signature(function).parameters.values() if p.name != "self"]
    wrong = [keyword for keyword in kwargs if keyword not in known]
    if wrong:
        return unknown_name(f"keyword of {name}", wrong[0], known, TypeMismatch)
    return TypeMismatch(str(error), code="TD0620", edit=f"it takes ({', '.join(known)})")
