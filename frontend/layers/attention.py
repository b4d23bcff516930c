"""Attention: softmax(q k^T) v, as jax and torch spell it; heads of queries may share those of keys."""

from __future__ import annotations

import math
from typing import Any

from ...ir.dims import Dim, exact_div, show
from ...ir.dtypes import FLOAT8, DType, bool_, f32
from ...ir.errors import ShapeMismatch, TypeMismatch
from ...ir.ops import composite as c
from ...ir.ops import elementwise as e
from ...ir.types import Shape
from ...ir.value import Full, Value
from ..arrays import broadcast, broadcast_shapes, convert, expand, lift, permute, reshape, static_dim, static_int, typed
from ..eager import public
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .floats import floats


def _bias_and_mask(bias: Any, mask: Any, kind: DType) -> Value | None:
    """One mask for the op: bool alone, or a bias, -inf where the mask is false."""
    if bias is None and mask is None:
        return None
    if bias is None:
        found = unwrap(lift(mask))
        if found.dtype is not bool_:
            raise TypeMismatch(
                f"the mask is {found.type}, bool is needed", code="TD0833", location=here(), edit="bias="
            )
        return found
    added = typed(bias, kind)
    if mask is None:
        return added
    chosen = typed(mask, bool_)
    shape = broadcast_shapes(added.shape, chosen.shape)
    added = broadcast(added, shape)
    return e.Select(broadcast(chosen, shape), added, Full(-math.inf, added.tensor))


def _attended(q: Value, k: Value, v: Value, mask: Value | None, scale: Any, causal: bool, offset: Dim) -> Value:
    """Attention of q [..., N, T, D] to k [..., K, S, D], v [..., K, S, E]: the heads of q share those of k in
    groups."""
    heads, shared = q.shape[-3], k.shape[-3]
    group = exact_div(heads, shared)
    if group is None or v.shape[-3] != shared:
        raise ShapeMismatch(
            f"attention: {show(heads)} heads of queries, {show(shared)} of keys, {show(v.shape[-3])} of values",
            code="TD0833",
            location=here(),
            edit="a number of key heads that divides the number of query heads",
        )
    one = type(group) is int and group == 1
    lead = q.shape[:-3]
    split_q = q if one else reshape(q, (*lead, shared, group, *q.shape[-2:]))
    scores: Shape = (*lead, heads, q.shape[-2], k.shape[-2])
    masks: tuple[Value, ...] = ()
    axes: tuple[int, ...] = ()
    if mask is not None:
        if mask.rank > len(scores) or broadcast_shapes(mask.shape, scores) != scores:
            raise ShapeMismatch(
                f"attention: a mask of {mask.type} does not stretch to the scores ({', '.join(map(show, scores))})",
                code="TD0833",
                location=here(),
                edit="a mask whose last axes are queries and keys",
            )
        mask = expand(mask, range(len(scores) - mask.rank))
        kept = [i for i, n in enumerate(mask.shape) if not (type(n) is int and n == 1)]
        shape: list[Dim] = []
        places: list[int] = []
        head = len(lead)
        for i in kept:
            if i == head and not one:
                shape += [shared, group]
                places += [head, head + 1]
            else:
                shape.append(mask.shape[i])
                places.append(i if i <= head or one else i + 1)
        masks, axes = (reshape(mask, tuple(shape)),), tuple(places)
    factor = 1.0 / math.sqrt(static_int(q.shape[-1], "the size of a head")) if scale is None else float(scale)
    found = c.Attention(split_q, k, v, masks, factor, causal, offset, axes)
    return found if one else reshape(found, (*lead, heads, *found.shape[-2:]))


def _three(query: Any, key: Any, value: Any) -> tuple[Value, Value, Value, DType]:
    q, k, v = floats(query, key, value)
    kind = q.dtype
    if kind in FLOAT8:
        q, k, v = convert(q, f32), convert(k, f32), convert(v, f32)
    return q, k, v, kind


def _check_ranks(q: Value, k: Value, v: Value, form: str) -> None:
    if q.rank < 3 or k.rank != q.rank or v.rank != q.rank:
        raise ShapeMismatch(
            f"attention: query {q.type}, key {k.type}, value {v.type} must be {form}",
            code="TD0833",
            location=here(),
            edit="split the heads off with reshape and transpose",
        )


@public
def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    offset: Any = 0,
) -> Tracer:
    """softmax(scale * query @ key^T + bias) @ value, as `jax.nn.dot_product_attention`.

    `query` is [..., T, N, H], `key` and `value` [..., S, K, H] with N a multiple of K: heads stand before last. `bias`
    and the bool `mask` (false: not attended to) stretch to [..., N, T, S]. With `is_causal`, query i attends to keys
    up to i + `offset`; `offset` is S - T for queries at the end of the keys. `scale` is 1 / sqrt(H) unless given.
    Scores and weights are kept in f32 at least (Vaswani et al. 2017). TD0833 where shapes do not go together.
    """
    q, k, v, kind = _three(query, key, value)
    _check_ranks(q, k, v, "[..., T, N, H]")
    rank = q.rank
    order = (*range(rank - 3), rank - 2, rank - 3, rank - 1)
    q, k, v = (permute(x, order) for x in (q, k, v))
    joined = _bias_and_mask(bias, mask, q.dtype)
    found = _attended(q, k, v, joined, scale, is_causal, static_dim(offset, "offset"))
    return wrap(convert(permute(found, order), kind))


@public
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    offset: Any = 0,
) -> Tracer:
    """softmax(scale * query @ key^T + mask) @ value, as `torch.nn.functional.scaled_dot_product_attention`.

    `query` is [..., N, T, H], `key` and `value` [..., K, S, H] with N a multiple of K: heads stand before positions.
    The mask is bool (false: not attended to) or is added. With `is_causal`, query i attends to keys up to i + `offset`.
    Scores and weights are kept in f32 at least (Vaswani et al. 2017). TD0833 where shapes do not go together.
    """
    q, k, v, kind = _three(query, key, value)
    bare = q.rank == 2
    if bare:
        q, k, v = (expand(x, (0,)) for x in (q, k, v))
    _check_ranks(q, k, v, "[..., N, T, H]")
    mask: Value | None = None
    if attn_mask is not None:
        given = unwrap(lift(attn_mask))
        mask = given if given.dtype is bool_ else convert(given, q.dtype)
    found = _attended(q, k, v, mask, scale, is_causal, static_dim(offset, "offset"))
    return wrap(convert(reshape(found, found.shape[1:]) if bare else found, kind))
