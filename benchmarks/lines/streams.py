"""Programs that memory bounds: chains of elementwise operations over arrays beyond every cache, and rows and columns of
a 64 MiB matrix. Results are allocated, and released before the next call, as in ordinary use."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness.lines import Chapter, Limit, normal, of_limit, times

CHAPTER = Chapter("out of cache")
N = 1 << 24
SIZE = 4 * N


def _nt(arrays: int) -> Limit:
    return Limit("triad nt", arrays * SIZE)


CHAPTER.line(
    "a + 3 b, 16M",
    arguments=lambda: [normal(N), normal(N, seed=1)],
    limit=_nt(3),
    bar=of_limit(0.85),
    treadle=lambda td: td.jit(lambda a, b: a + 3 * b),
    numpy=lambda np: lambda a, b: a + 3 * b,
    torch=lambda torch: lambda a, b: torch.add(a, b, alpha=3),
    inductor=lambda torch: lambda a, b: a + 3 * b,
    jax=lambda jax: jax.jit(lambda a, b: a + 3 * b),
)

CHAPTER.line(
    "relu(1.5 x + 0.25), 16M",
    arguments=lambda: [normal(N)],
    limit=_nt(2),
    bar=of_limit(0.85),
    treadle=lambda td: td.jit(lambda x: np.maximum(1.5 * x + 0.25, 0)),
    numpy=lambda np: lambda x: np.maximum(1.5 * x + 0.25, 0),
    torch=lambda torch: lambda x: torch.relu(1.5 * x + 0.25),
    inductor=lambda torch: lambda x: torch.relu(1.5 * x + 0.25),
    jax=lambda jax: jax.jit(lambda x: jax.nn.relu(1.5 * x + 0.25)),
)

CHAPTER.line(
    "(a - b) c + sqrt(|a|) b, 16M",
    arguments=lambda: [normal(N), normal(N, seed=1), normal(N, seed=2)],
    limit=_nt(4),
    bar=of_limit(0.85),
    treadle=lambda td: td.jit(lambda a, b, c: (a - b) * c + np.sqrt(np.abs(a)) * b),
    numpy=lambda np: lambda a, b, c: (a - b) * c + np.sqrt(np.abs(a)) * b,
    torch=lambda torch: lambda a, b, c: (a - b) * c + torch.sqrt(torch.abs(a)) * b,
    inductor=lambda torch: lambda a, b, c: (a - b) * c + torch.sqrt(torch.abs(a)) * b,
    jax=lambda jax: jax.jit(lambda a, b, c: (a - b) * c + jax.numpy.sqrt(jax.numpy.abs(a)) * b),
)

CHAPTER.line(
    "x tanh(log1p(exp(x))), 16M",
    arguments=lambda: [normal(N)],
    limit=_nt(2),
    treadle=lambda td: td.jit(lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    numpy=lambda np: lambda x: x * np.tanh(np.log1p(np.exp(x))),
    torch=lambda torch: lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    inductor=lambda torch: lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    jax=lambda jax: jax.jit(lambda x: x * jax.numpy.tanh(jax.numpy.log1p(jax.numpy.exp(x)))),
)

ROWS = 4096
MATRIX = 4 * ROWS * ROWS


def matrix() -> list[Any]:
    return [normal(ROWS, ROWS)]


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _norm(x: Any) -> Any:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)


def _jax_norm(jax: Any) -> Any:
    def norm(x: Any) -> Any:
        centred = x - x.mean(axis=1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)

    return jax.jit(norm)


CHAPTER.line(
    "softmax of rows, 4096 x 4096",
    arguments=matrix,
    limit=Limit("triad nt", 2 * MATRIX),
    bar=times(1.5, "torch", "jax"),
    treadle=lambda td: td.jit(lambda x: td.nn.softmax(x, axis=1)),
    numpy=lambda np: _softmax,
    torch=lambda torch: lambda x: torch.softmax(x, 1),
    inductor=lambda torch: lambda x: torch.softmax(x, 1),
    jax=lambda jax: jax.jit(lambda x: jax.nn.softmax(x, axis=1)),
)

CHAPTER.line(
    "layer norm of rows, 4096 x 4096",
    arguments=matrix,
    limit=Limit("triad nt", 2 * MATRIX),
    bar=times(1.5, "torch", "jax"),
    treadle=lambda td: td.jit(lambda x: td.nn.layer_norm(x)),
    numpy=lambda np: _norm,
    torch=lambda torch: lambda x: torch.nn.functional.layer_norm(x, (ROWS,)),
    inductor=lambda torch: lambda x: torch.nn.functional.layer_norm(x, (ROWS,)),
    jax=_jax_norm,
)

for _axis, _name in ((1, "rows"), (0, "columns")):
    CHAPTER.line(
        f"sums of {_name}, 4096 x 4096",
        arguments=matrix,
        limit=Limit("read", MATRIX),
        bar=times(1.5, "torch", "jax"),
        treadle=lambda td, axis=_axis: td.jit(lambda x: x.sum(axis=axis)),
        numpy=lambda np, axis=_axis: lambda x: x.sum(axis=axis),
        torch=lambda torch, axis=_axis: lambda x: x.sum(axis),
        inductor=lambda torch, axis=_axis: lambda x: x.sum(axis),
        jax=lambda jax, axis=_axis: jax.jit(lambda x: x.sum(axis=axis)),
    )
