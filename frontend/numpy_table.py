"""The table of docs/numpy.md: every public function of NumPy, and what it does with traced arrays.

`python -m treadle.frontend.numpy_table` prints it. It is read off the handlers, so it cannot disagree with them; tests
call every function in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from numpy import lib

from ..ir.classes import dataclass
from .functions import handler_of
from .functions.refusal import Refusal
from .functions.ufuncs import OUTSIDE

Status = Literal["traced", "refused", "concrete"]

# What is more narrow than NumPy, said beside the function.
NOTES: Final[dict[str, str]] = {
    "apply_along_axis": "the function is traced once, for one row",
    "arange": "of known numbers or sizes; through `td.numpy`",
    "array_split": "at places that are known",
    "average": "weights of integers are averaged in f64",
    "bincount": "`minlength` must be given, and a number not below it raises IndexError",
    "compress": "the condition must be known (TD0811)",
    "cov": "without `fweights` (TD0813)",
    "delete": "`obj` must be known (TD0811)",
    "empty": "zeros",
    "empty_like": "zeros",
    "extract": "the condition must be known (TD0811)",
    "geomspace": "of real numbers (TD0810)",
    "histogram": "`bins` is a number or edges, no name of a rule (TD0811); of real numbers (TD0810)",
    "histogram2d": "of real numbers (TD0810)",
    "histogramdd": "of real numbers (TD0810)",
    "histogram_bin_edges": "`bins` is a number or edges, no name of a rule (TD0811)",
    "ix_": "masks must be known (TD0811)",
    "insert": "`obj` must be known (TD0811)",
    "linalg.cholesky": "NaN where NumPy raises LinAlgError",
    "linalg.inv": "infinities or NaN where NumPy raises LinAlgError",
    "linalg.lstsq": "the residuals are given whatever the rank; NumPy leaves them out where it is not full",
    "linalg.svd": "vectors may differ from NumPy's by a sign",
    "linalg.eigh": "vectors may differ from NumPy's by a sign",
    "polyfit": "without `full` and `cov` (TD0813)",
    "linalg.qr": "modes reduced, complete, r",
    "linalg.solve": "infinities or NaN where NumPy raises LinAlgError",
    "min_scalar_type": "of arrays; of a scalar it depends on the value (TD0811)",
    "nanpercentile": "method linear, without weights (TD0813)",
    "nanquantile": "method linear, without weights (TD0813); not of bool (TD0816)",
    "partition": "a sorted array, which is one of those NumPy may give",
    "argpartition": "as a sort, which is one of those NumPy may give",
    "percentile": "without weights; a traced q takes method linear (TD0813); not of bool (TD0816)",
    "piecewise": "every function is applied to the whole array",
    "poly": "of complex roots the coefficients are complex",
    "polymul": "leading zeros are kept",
    "polyint": "of a known number of coefficients",
    "quantile": "without weights; a traced q takes method linear (TD0813); not of bool (TD0816)",
    "real_if_close": "of real arrays; of complex ones the dtype depends on values (TD0811)",
    "repeat": "`repeats` must be known (TD0811)",
    "searchsorted": "not of complex numbers (TD0810)",
    "split": "at places that are known",
    "take": "NumPy does not look at `indices` (TD0800); under `td.numpy` they are traced",
    "unravel_index": "an index outside raises when it runs",
    "where": "with three arguments (with one: TD0811)",
}
# NumPy never asks whether an argument of these is traced; the test knows them, too.
_SILENT: Final = "computed by NumPy while tracing, on what is known; a traced argument raises"
_MODULES: Final[tuple[tuple[str, ModuleType], ...]] = (
    ("", np), ("linalg.", np.linalg), ("fft.", np.fft), ("emath.", np.emath), ("lib.stride_tricks.", lib.stride_tricks),
)  # fmt: skip
# Of `numpy.random`, those that neither draw nor change the state of the global generator.
_QUIET: Final = ("default_rng", "get_bit_generator", "get_state", "set_bit_generator", "test")


@dataclass(frozen=True)
class Row:
    """One function: `status`, and the code and edit where it is refused. `dispatches` says that NumPy hands it to
    us."""

    path: str
    status: Status
    dispatches: bool
    code: str = ""
    text: str = ""


def _functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name in sorted(dir(module)):
        found = getattr(module, name)
        if not name.startswith("_") and callable(found) and not isinstance(found, type) and name != "test":
            yield name, found


def rows() -> list[Row]:
    """Every public function, module by module, in the order of names."""
    found = []
    for prefix, module in _MODULES:
        for name, function in _functions(module):
            path = prefix + name
            handler = handler_of(function)
            asked = isinstance(function, np.ufunc) or hasattr(function, "_implementation")
            if isinstance(handler, Refusal):
                found.append(Row(path, "refused", asked, handler.code, handler.edit))
            elif handler is not None:
                found.append(Row(path, "traced", asked, "", NOTES.get(path, "")))
            elif asked:
                found.append(Row(path, "refused", asked, "TD0810", OUTSIDE))
            else:
                found.append(Row(path, "concrete", asked))
    return found


_HEAD: Final = """\
# NumPy inside a traced function

Made by `python -m treadle.frontend.numpy_table` from the code itself; do not edit.

Plain `numpy` calls, operators, methods and indexing work on traced arrays through NumPy's own protocols, with NumPy's
result dtypes and shapes. `td.numpy` has the same functions under the same names. It differs in three things: it sees
traced arrays in *every* argument, where NumPy looks in some only (`np.take(const, t)` is refused with TD0800,
`td.numpy.take(const, t)` is traced); it takes symbolic sizes in shapes; and it takes bfloat16 and fp8 by our promotion.

What every row assumes: `out=` and in-place functions are refused (TD0806), since arrays are never written; `where=` of
a ufunc is refused (TD0813) and of a reduction is traced; `order=` other than C and F has no meaning for a value.
`ufunc.reduce`, `.accumulate`, `.outer` and `.reduceat` (at known places) are traced, `.at` is refused (TD0806).

Python numbers are weak, as NumPy has them, when they are arguments, too. Only their values are not known while tracing:
`x + n` for an `n` that x's integer type cannot hold wraps around, where NumPy raises OverflowError (comparisons and
`clip` go by the value). `isinstance(x, np.ndarray)` is false of a traced array, and what NumPy raises about values
(LinAlgError, a warning of division by zero) is not raised: the result has infinities or NaN.

Not traced as a whole: types that take elements (`np.float32(x)`: use `x.astype`), iterators (`np.nditer`), and
`np.vectorize` are refused (TD0800); masked arrays and matrices beside traced arrays (TD0820); `np.char`, `np.strings`
(TD0810). `np.poly1d` and the functions of `np.polynomial` compute where only x is traced.
"""


def drawing() -> list[str]:
    """The functions of `numpy.random` that are found out inside a trace."""
    return [name for name, _ in _functions(np.random) if name not in _QUIET]


def text() -> str:
    """The page."""
    table = rows()
    traced = [row for row in table if row.status == "traced"]
    ufuncs = [row for row in traced if isinstance(_member(row.path), np.ufunc)]
    functions = [row for row in traced if row not in ufuncs and row.dispatches]
    ours = [row for row in traced if row not in ufuncs and not row.dispatches]
    refused = [row for row in table if row.status == "refused"]
    concrete = [row for row in table if row.status == "concrete"]
    parts = [_HEAD]
    parts += ["## Universal functions, traced\n", _names(ufuncs)]
    parts += ["## Functions, traced\n", _names([row for row in functions if not row.text])]
    parts += ["Traced, within limits:\n", _lines([row for row in functions if row.text], "limits")]
    parts += [
        "## Functions that make arrays\n",
        "NumPy does not ask whether their arguments are traced: under NumPy's name they give concrete arrays, and a "
        "traced argument is refused (TD0800). Under `td.numpy` they are traced:\n",
        _names(ours),
    ]
    parts += ["## Refused\n", _lines(refused, "edit")]
    parts += [
        "## Random numbers, refused\n",
        "`numpy.random` inside a trace is found by the state of its generator (TD0809): its numbers would be drawn "
        "once and then be constants. Draw before the call, or use `td.random` with a key. What a generator of your own "
        "(`np.random.default_rng(seed)`) gives while tracing is a constant, as any other array that you close over; "
        "one without a seed is refused where it is made inside.\n",
        _wrapped([f"random.{name}" for name in drawing()]),
    ]
    parts += ["## Never traced\n", _SILENT[0].upper() + _SILENT[1:] + ":\n", _names(concrete)]
    return "\n".join(parts).rstrip() + "\n"


def _member(path: str) -> Any:
    found: Any = np
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _names(table: list[Row]) -> str:
    return _wrapped([row.path for row in table])


def _wrapped(paths: list[str]) -> str:
    lines: list[str] = []
    line = ""
    for i, path in enumerate(paths):
        word = f"`{path}`" + ("," if i + 1 < len(paths) else ".")
        if len(line) + len(word) + 1 > 118:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line]) + "\n"


def _lines(table: list[Row], what: str) -> str:
    head = [
        f"| function | {'code | ' if what == 'edit' else ''}{what} |",
        "|---|---|" + ("---|" if what == "edit" else ""),
    ]
    body = [f"| `{row.path}` | {row.code + ' | ' if what == 'edit' else ''}{_cell(row.text)} |" for row in table]
    return "\n".join([*head, *body]) + "\n"


def _cell(text_: str) -> str:
    return text_.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    print(text(), end="")
