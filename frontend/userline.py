"""The user's line: where in their program the operation being traced stands, and how an error of theirs is shown.

The user's frame is the first one outside of treadle's rooms and NumPy. Finding it must be cheap, since it is asked for
once per traced operation: whether a file is the user's is remembered by name, a line by code object and instruction.
"""

from __future__ import annotations

import dis
import itertools
import linecache
import os
import sys
from types import CodeType, FrameType, TracebackType
from typing import Final

import numpy as np

from ..ir.errors import TreadleError
from ..ir.location import Location

_ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ROOMS: Final = tuple(os.path.join(_ROOT, room) + os.sep for room in ("ir", "passes", "codegen", "runtime", "frontend"))
_INTERNAL: Final = (*_ROOMS, os.path.join(_ROOT, "__init__.py"), os.path.dirname(os.path.abspath(np.__file__)) + os.sep)

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
        return "index" if _source(frame).rstrip().endswith("]") else "call"
    if "JUMP" in name or name in ("UNARY_NOT", "TO_BOOL"):
        return "test"
    return "call"


def _source(frame: FrameType) -> str:
    """The text of the expression at which the frame stands, where it is on one line."""
    positions = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if positions is None or positions[0] is None or positions[0] != positions[1]:
        return ""
    return linecache.getline(frame.f_code.co_filename, positions[0])[positions[2] : positions[3]]


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


def trimmed(error: TreadleError) -> TreadleError:
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
