"""What the words of a command line mean: whose function it is, and what its arguments are.

An argument is written as Python writes it, with types where arrays go: `f32[1,64]`, `3`, `@x.npy`, `name=2.5`,
`{"w": f32[8,4], "b": "@b.npy", "mode": "fast"}`. Nothing is evaluated: the text is parsed, and these forms alone are
known.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..ir.errors import InvalidValue, TypeMismatch
from ..ir.location import Location
from ..ir.parse import Reader
from .arguments import ShapeDtype
from .userline import file_problem

_NAMED = re.compile(r"([A-Za-z_]\w*)=(?!=)")
_NO_AXES = re.compile(r"\b([a-z]+\d\w*|bool)\[\]")


def load_function(spec: str) -> Callable[..., Any]:
    """The function of `file.py:name`. TD0650 when the file or the name is not there."""
    file, colon, name = spec.rpartition(":")
    if not colon:
        file, name = spec, ""
    path = Path(file)
    if path.suffix in (".so", ".graph") and path.exists():
        raise InvalidValue(
            f"{spec} is not a function of a Python file",
            code="TD0650",
            edit="dump, run and bench take it, too; inspect shows what a saved model holds",
        )
    if not path.is_file():
        raise InvalidValue(
            f"no file {file!r}; a function is named file.py:name", code="TD0650", edit="give the path from here"
        )
    module = module_of(path)
    known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_") and not isinstance(v, type)]
    own = [n for n in known if getattr(vars(module)[n], "__module__", None) == module.__name__] or known
    if not name:
        raise InvalidValue(
            f"{spec} is a file, and not yet a function",
            code="TD0650",
            edit=f"{file}:{own[0]}" if len(own) == 1 else f"one of: {', '.join(f'{file}:{n}' for n in own)}",
        )
    if not hasattr(module, name):
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(own) or 'no function'}"
        raise InvalidValue(f"{file} has no {name!r}; {hint}", code="TD0650")
    found: Any = getattr(module, name)
    if not callable(found):
        raise TypeMismatch(
            f"{spec} is of type {type(found).__name__}, not a function",
            code="TD0650",
            edit="name a function of the file",
        )
    function: Callable[..., Any] = found
    return function


def module_of(path: Path) -> ModuleType:
    """The file, run as a module; what it imports from its own directory is found there."""
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise InvalidValue(f"{path} is not a Python file", code="TD0650", edit="give a file that ends in .py")
    module = importlib.util.module_from_spec(found)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        found.loader.exec_module(module)
    except SyntaxError as error:
        where = Location(
            error.filename or str(path), error.lineno or 1, "", error.offset or 0, (error.text or "").rstrip()
        )
        raise InvalidValue(
            f"{path} is not Python: {error.msg}", code="TD0650", location=where, edit=f"python {path} says where"
        ) from None
    finally:
        sys.path.pop(0)
    return module


def parse_arguments(words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by position and by name."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        match = _NAMED.match(word)
        if match:
            named[match[1]] = parse_argument(word[match.end() :])
        else:
            positional.append(parse_argument(word))
    return positional, named


def parse_argument(text: str) -> Any:
    """A type, `@file.npy`, a number, a text in quotes, True, False or None; or dicts, lists and tuples of these."""
    if text.startswith("@"):
        return load_array(text[1:])
    if text.endswith("]") and text[:1].isalpha():
        return _spec(text)  # its own errors say where it goes wrong
    try:
        tree = ast.parse(_NO_AXES.sub(r"\1[()]", text), mode="eval").body
    except SyntaxError as error:
        raise _unread(text, error.msg) from None
    return _read(tree, text)


def load_array(file: str) -> np.ndarray[Any, Any]:
    """An array from a .npy file; objects in it are refused, as they would run code."""
    try:
        found: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    except OSError as error:
        raise file_problem(error, file) from None
    except ValueError as error:
        raise InvalidValue(
            f"{file} is not an array that numpy.save wrote: {error}", code="TD0651", edit="save it with numpy.save"
        ) from None
    if not isinstance(found, np.ndarray):
        raise InvalidValue(f"{file} holds several arrays", code="TD0651", edit="save each with numpy.save")
    return found


def _read(tree: ast.expr, text: str) -> Any:
    match tree:
        case ast.Constant(value=str() as name) if name.startswith("@"):
            return load_array(name[1:])
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | complex | str):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() | complex() as number)):
            return -number
        case ast.List(elts=items):
            return [_read(item, text) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_read(item, text) for item in items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            return dict(zip(names, (_read(value, text) for value in values), strict=True))
        case ast.Subscript(value=ast.Name(id=dtype), slice=ast.Tuple(elts=sizes)):
            return _spec(f"{dtype}[{','.join(map(ast.unparse, sizes))}]")
        case ast.Subscript(value=ast.Name(id=dtype), slice=size):
            return _spec(f"{dtype}[{ast.unparse(size)}]")
        case ast.Name(id=name):
            raise _unread(text, f"{name} is a name", f"'\"{name}\"' for a text")
    raise _unread(text, f"{ast.unparse(tree)} is none of them")


def _spec(text: str) -> ShapeDtype:
    kind = Reader(text, {}).tensor_type()
    return ShapeDtype(kind.shape, kind.dtype)


def _unread(text: str, reason: str, edit: str | None = None) -> InvalidValue:
    return InvalidValue(
        f"{text!r} is neither a type (f32[4]), a number, a text in quotes, @file.npy nor a container of them: {reason}",
        code="TD0651",
        edit=edit,
    )
