"""What a call of a NumPy function should not look like: an axis that is not there, an argument of another rank or
dtype, one more of them. It works, or it is an error of ours with an edit, or one that NumPy or Python raises before we
are asked; nothing else comes out of our own files.
"""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_cases import CASES

import treadle as td

ROOT = str(Path(__file__).resolve().parents[2])
TESTS = str(Path(__file__).resolve().parents[1])
OTHERS: list[Any] = [
    np.float32(1),
    np.zeros(0),
    np.ones((2, 3), np.complex64),
    np.array([True, False, True]),
    np.ones((2, 3, 4, 5), np.float32),
    np.ones(7, np.int64),
    np.ones((5, 9), np.float32),
    "text",
    None,
]
# They call what they are given, and what is no function Python says itself; can_cast is about dtypes, which NumPy
# reads.
CALLING = ("apply_along_axis", "apply_over_axes", "can_cast", "piecewise", "fromfunction", "vectorize")


def function(path: str) -> Any:
    found: Any = np
    for name in path.split("."):
        found = getattr(found, name)
    return found


def attempt(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What is wrong with how the call ends, or None."""
    places = [i for i, arg in enumerate(args) if isinstance(arg, np.ndarray)]

    def traced(*arrays: Any) -> Any:
        given = list(args)
        for place, array in zip(places, arrays, strict=True):
            given[place] = array
        return f(*given, **kwargs)

    try:
        td.jit(traced).trace(*[args[i] for i in places])
    except td.TreadleError as error:
        # TD0601 names the nearest word, or all of them.
        return None if (error.edit or error.code == "TD0601") and error.location is not None else f"no edit: {error}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        own = last.startswith(ROOT) and not last.startswith(TESTS) and "site-packages" not in last
        return f"{type(error).__name__}: {error} at {last}" if own else None
    return None


@pytest.mark.parametrize("path", [path for path in CASES if path.rsplit(".", 1)[-1] not in CALLING])
def test_wrong_calls_end_well(path: str) -> None:
    f, wrong = function(path), {}
    for call in CASES[path][:1]:
        changes: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            (call.args, {**call.kwargs, "axis": axis}) for axis in (99, 1.5, "x")
        ]
        changes.append((call.args, {**call.kwargs, "dtype": "U3"}))
        changes.append(((*call.args, 99), call.kwargs))
        for i in range(len(call.args)):
            changes += [((*call.args[:i], other, *call.args[i + 1 :]), call.kwargs) for other in OTHERS]
        for args, kwargs in changes:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = attempt(f, args, kwargs)
            if found:
                wrong[str((args, kwargs))] = found
    assert not wrong
