"""NumPy functions that are refused on traced arrays, each with the reason's code and the edit.

What writes into its argument, what has a result whose shape depends on values, what reads or writes files or text. The
test of the table calls every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from .refusal import Refusal

_IN_PLACE = "TD0806"
_SHAPE = "TD0811"
_ABSENT = "TD0810"
_ELEMENTS = "TD0800"
_MEMORY = "TD0815"

_masks = "np.where(condition, x, y) keeps the shape; sums under a mask take where=mask"
_outside = "call it outside of the traced function"
_sorted = "np.sort(x), then compare neighbours: x[1:] != x[:-1]"
_complex = "np.{} of x.astype(complex), whose result is complex whatever the values"
_eigen = "call it outside of the traced function"
ROWS: Final[tuple[tuple[str, str, str], ...]] = (
    ("copyto", _IN_PLACE, "np.where(mask, source, target), or td.numpy.full_like for np.full_like(a, t)"),
    ("fill_diagonal", _IN_PLACE, "np.where(np.eye(n, dtype=bool), v, x)"),
    ("place", _IN_PLACE, "np.where(mask, values, x)"),
    ("put", _IN_PLACE, "x.at[i].set(v)"),
    ("put_along_axis", _IN_PLACE, "x.at[np.arange(len(x))[:, None], i].set(v)"),
    ("putmask", _IN_PLACE, "np.where(mask, values, x)"),
    ("intersect1d", _SHAPE, "np.where(np.isin(a, b), a, fill)"),
    ("setdiff1d", _SHAPE, "np.where(np.isin(a, b), fill, a)"),
    ("setxor1d", _SHAPE, "np.isin in both directions"),
    ("union1d", _SHAPE, "np.sort(np.concatenate([a, b]))"),
    ("unique", _SHAPE, _sorted),
    ("unique_all", _SHAPE, _sorted),
    ("unique_counts", _SHAPE, _sorted),
    ("unique_inverse", _SHAPE, _sorted),
    ("unique_values", _SHAPE, _sorted),
    ("argwhere", _SHAPE, _masks),
    ("flatnonzero", _SHAPE, _masks),
    ("nonzero", _SHAPE, _masks),
    ("trim_zeros", _SHAPE, "keep the zeros, or trim outside of the traced function"),
    ("mask_indices", _SHAPE, "np.triu_indices, np.tril_indices"),
    ("roots", _SHAPE, _eigen),
    ("polydiv", _SHAPE, _outside),
    ("may_share_memory", _MEMORY, "compare names with `is`"),
    ("shares_memory", _MEMORY, "compare names with `is`"),
    ("array2string", _ELEMENTS, "print it after the call"),
    ("array_repr", _ELEMENTS, "print it after the call"),
    ("array_str", _ELEMENTS, "print it after the call"),
    ("save", _ELEMENTS, "save what the compiled function gives"),
    ("savetxt", _ELEMENTS, "save what the compiled function gives"),
    ("savez", _ELEMENTS, "save what the compiled function gives"),
    ("savez_compressed", _ELEMENTS, "save what the compiled function gives"),
    ("busday_count", _ABSENT, _outside),
    ("busday_offset", _ABSENT, _outside),
    ("is_busday", _ABSENT, _outside),
    ("datetime_as_string", _ABSENT, _outside),
    *(
        (f"emath.{name}", _SHAPE, _complex.format(name))
        for name in (
            "arccos",
            "arcsin",
            "arctanh",
            "log",
            "log10",
            "log2",
            "power",
            "sqrt",
        )
    ),
    ("emath.logn", _SHAPE, "np.log(x) / np.log(n) of x.astype(complex)"),
    ("linalg.eig", _ABSENT, _eigen),
    ("linalg.eigvals", _ABSENT, _eigen),
)


def numpy_function(path: str) -> Any:
    """`linalg.svd` -> `np.linalg.svd`; None where this NumPy has no such function."""
    found: Any = np
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    function: Refusal(f"numpy.{path}", code, edit)
    for path, code, edit in ROWS
    if (function := numpy_function(path)) is not None
}
