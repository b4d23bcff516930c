"""Rows by number, numbers as rows, and elements left out at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import i64, of
from ...ir.errors import TypeMismatch
from ...ir.ops import elementwise as e
from ...ir.ops.movement import Iota
from ...ir.types import TensorType
from ...ir.value import Full
from .. import random
from ..arrays import axis_of, broadcast, convert, expand, lift, static_dim
from ..eager import public
from ..functions.selection import take
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .floats import floats, wrong


@public
def one_hot(x: Any, num_classes: Any, *, dtype: Any = np.float32, axis: int = -1) -> Tracer:
    """1 where the position along a new `axis` is x, 0 elsewhere; all 0 where x is no class: [...] gives [..., classes].

    TD0831 where x is not made of integers.
    """
    index = unwrap(lift(x))
    if not index.dtype.is_integer:
        raise TypeMismatch(
            f"one_hot: {index.type} is not made of integers",
            code="TD0831",
            location=here(),
            edit="convert it by .astype(int)",
        )
    number = axis_of(axis, index.rank + 1)
    classes = static_dim(num_classes, "num_classes")
    wide = expand(convert(index, i64), (number,))
    shape = tuple(classes if i == number else n for i, n in enumerate(wide.shape))
    same = e.Eq(broadcast(wide, shape), Iota(TensorType(shape, i64), number))
    return wrap(convert(same, of(dtype)))


@public
def embedding(indices: Any, table: Any, *, mode: str = "raise") -> Tracer:
    """Rows of `table` at `indices`: [...] and [rows, *d] give [..., *d].

    `mode` says what an index outside does: raise (IndexError, also at run time: TD0170), clip or wrap. TD0818 where the
    indices are not integers.
    """
    return take(table, indices, 0, mode=mode)


@public
def dropout(x: Any, rate: float, key: Any = None, *, deterministic: bool = False) -> Tracer:
    """Each element is 0 with probability `rate`, else divided by 1 - rate (Srivastava et al. 2014).

    `key` is one of td.random's; a key gives the same draws wherever it is used. `deterministic` leaves x as it is.
    TD0830 without a key, or with a rate outside of [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise wrong(f"dropout: the rate {rate} is not between 0 and 1")
    (value,) = floats(x)
    if deterministic or rate == 0.0:
        return wrap(value)
    if key is None:
        raise wrong("dropout: a key is needed", "pass key=td.random.key(seed), split for every use")
    kept = unwrap(lift(random.bernoulli(key, 1.0 - rate, value.shape)))
    scaled = value / (1.0 - rate) if rate < 1.0 else value
    return wrap(e.Select(kept, scaled, Full(0, value.tensor)))
