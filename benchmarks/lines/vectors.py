"""Functions of one variable over a million f32: in and out together fit the last-level cache, the result is given.

jax, which cannot write into a given array, allocates one."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness.lines import Chapter, normal, times, uniform

CHAPTER = Chapter("functions of 1M f32")
N = 1 << 20


def _positive() -> list[Any]:
    return [uniform(1e-3, 50, N)]


def _around_zero() -> list[Any]:
    return [3 * normal(N)]


def _of(library: str, name: str) -> Any:
    """A setup that takes `library.name`, jitted where the engine has such a thing."""

    def torch(torch: Any) -> Any:
        return getattr(torch.special if name == "erf" else torch, {"sigmoid": "sigmoid"}.get(name, name))

    def jax(jax: Any) -> Any:
        place = {"sigmoid": jax.nn, "erf": jax.scipy.special}.get(name, jax.numpy)
        return jax.jit(getattr(place, name))

    def treadle(td: Any) -> Any:
        if name == "sigmoid":
            return td.jit(td.nn.sigmoid)
        if name == "erf":
            return td.jit(td.lax.erf)
        return td.jit(getattr(np, name))

    return {"torch": torch, "jax": jax, "treadle": treadle}[library]


for _name in ("exp", "log", "tanh", "erf", "sigmoid", "sin", "cos"):
    _engines: dict[str, Any] = {engine: _of(engine, _name) for engine in ("treadle", "torch", "jax")}
    if _name not in ("erf", "sigmoid"):
        _engines["numpy"] = lambda np, name=_name: getattr(np, name)
    CHAPTER.line(
        f"{_name} 1M",
        arguments=_positive if _name == "log" else _around_zero,
        out=True,
        bar=times(3, "torch") if _name not in ("sin", "cos") else None,
        **_engines,
    )


def _gelu(torch: Any) -> Any:
    def gelu(x: Any, out: Any = None) -> Any:
        return torch._C._nn.gelu(x, out=out) if out is not None else torch.nn.functional.gelu(x)

    return gelu


CHAPTER.line(
    "gelu 1M",
    arguments=_around_zero,
    out=True,
    bar=times(1.5, "torch"),
    treadle=lambda td: td.jit(td.nn.gelu),
    torch=_gelu,
    jax=lambda jax: jax.jit(lambda x: jax.nn.gelu(x, approximate=False)),
)
