"""What a call costs: the way from Python into native code and back, with almost nothing to do there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness.lines import Call, Chapter, at_most, call, normal

CHAPTER = Chapter("calls")


def pair() -> list[Any]:
    return [normal(10), normal(10, seed=1)]


def _numba(numba: Any, function: Any) -> Any:
    compiled = numba.njit(function)
    compiled(*pair())
    return compiled


CHAPTER.line(
    "a + b, 10 elements",
    arguments=pair,
    bar=at_most(120e-9),
    treadle=lambda td: td.jit(lambda a, b: a + b),
    numpy=lambda np: np.add,
    torch=lambda torch: torch.add,
    jax=lambda jax: jax.jit(lambda a, b: a + b),
    numba=lambda numba: _numba(numba, lambda a, b: a + b),
)

CHAPTER.line(
    "a + b, 10 elements, out=",
    arguments=pair,
    out=True,
    bar=at_most(60e-9),
    treadle=lambda td: td.jit(lambda a, b: a + b),
    numpy=lambda np: np.add,
    torch=lambda torch: torch.add,
)


def _saved(td: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "sum.so"
        td.jit(lambda a, b: a + b).compile(*pair()).save(model)
        return td.load(model)


CHAPTER.line("a + b, 10 elements, a saved model", arguments=pair, bar=at_most(120e-9), treadle=_saved)

FEW, MANY = 4, 44


def containers(layers: int) -> Any:
    """Two leaves a layer, in exact dicts, lists and tuples inside each other."""
    rng = np.random.default_rng(0)

    def leaf() -> Any:
        return rng.standard_normal(10).astype(np.float32)

    return [{"w": leaf(), "b": (leaf(),)} for _ in range(layers)]


def _treadle_leaves(td: Any) -> list[Call]:
    # Only the first and the last leaf are used: what grows with the number of leaves is the walk over them.
    calls = []
    for leaves in (FEW, MANY):
        function, params = td.jit(lambda params: params[0]["w"] + params[-1]["b"][0]), containers(leaves // 2)
        function(params)
        calls.append(call("f(p)", f=function, p=params))
    return calls


def _jax_leaves(jax: Any) -> list[Call]:
    calls = []
    for leaves in (FEW, MANY):
        function = jax.jit(lambda params: params[0]["w"] + params[-1]["b"][0])
        params = jax.device_put(containers(leaves // 2))
        calls.append(call("f(p).block_until_ready()", f=function, p=params))
    return calls


CHAPTER.line(
    "one further leaf in nested containers",
    bar=at_most(20e-9),
    figure=lambda few, many: (many - few) / (MANY - FEW),
    treadle=_treadle_leaves,
    jax=_jax_leaves,
    note=f"the difference between {MANY} and {FEW} leaves, by their number; the containers' own cost is in it",
)

SIZES = (10, 11, 12, 13)


def _alternating(td: Any) -> list[Call]:
    arrays = {f"a{n}": normal(n) for n in SIZES}
    together = td.jit(lambda a, b: a + b)
    alone = {f"f{n}": td.jit(lambda a, b: a + b) for n in SIZES}
    for n in SIZES:
        together(arrays[f"a{n}"], arrays[f"a{n}"])
        alone[f"f{n}"](arrays[f"a{n}"], arrays[f"a{n}"])
    names = {"f": together, **alone, **arrays}
    one = "; ".join(f"f(a{n}, a{n})" for n in SIZES)
    other = "; ".join(f"f{n}(a{n}, a{n})" for n in SIZES)
    return [Call(one, names, len(SIZES)), Call(other, names, len(SIZES))]


CHAPTER.line(
    "alternating between 4 signatures",
    bar=at_most(20e-9),
    figure=lambda together, alone: together - alone,
    treadle=_alternating,
    note="what a call of one function with 4 signatures in turn costs more than calls of 4 functions with one each",
)

CHAPTER.line(
    "8 arguments of 10 elements",
    arguments=lambda: [normal(10, seed=k) for k in range(8)],
    treadle=lambda td: td.jit(lambda *a: sum(a[1:], a[0])),
    numpy=lambda np: lambda *a: sum(a[1:], a[0]),
    torch=lambda torch: lambda *a: sum(a[1:], a[0]),
    jax=lambda jax: jax.jit(lambda *a: sum(a[1:], a[0])),
)
