"""Matrix products against the multiply-add peak, and the main job: a trained network on handwritten digits."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from harness.lines import Chapter, Limit, call, normal, of_limit

CHAPTER = Chapter("products")

for _size in (256, 1024):
    CHAPTER.line(
        f"matmul {_size} f32",
        arguments=lambda size=_size: [normal(size, size), normal(size, size, seed=1)],
        limit=Limit("fma f32", 2.0 * _size**3),
        bar=of_limit(0.6) if _size == 1024 else None,
        treadle=lambda td: td.jit(lambda a, b: a @ b),
        numpy=lambda np: np.matmul,
        torch=lambda torch: torch.matmul,
        jax=lambda jax: jax.jit(lambda a, b: a @ b),
    )

CHAPTER.line(
    "matrix 1024 x 1024 by a vector",
    arguments=lambda: [normal(1024, 1024), normal(1024)],
    treadle=lambda td: td.jit(lambda a, x: a @ x),
    numpy=lambda np: np.matmul,
    torch=lambda torch: torch.mv,
    jax=lambda jax: jax.jit(lambda a, x: a @ x),
)
CHAPTER.line(
    "a layer of torch's layout, 1024 to 1024, one example",
    arguments=lambda: [normal(1, 1024), normal(1024, 1024), normal(1024)],
    treadle=lambda td: td.jit(lambda x, w, b: np.maximum(x @ w.T + b, 0)),
    numpy=lambda np: lambda x, w, b: np.maximum(x @ w.T + b, 0),
    torch=lambda torch: lambda x, w, b: torch.relu(torch.nn.functional.linear(x, w, b)),
    jax=lambda jax: jax.jit(lambda x, w, b: jax.nn.relu(x @ w.T + b)),
)
CHAPTER.line(
    "matmul 1024 f32, 2 threads",
    arguments=lambda: [normal(1024, 1024), normal(1024, 1024, seed=1)],
    limit=Limit("fma f32", 2.0 * 1024**3),
    threads=2,
    treadle=lambda td: td.jit(lambda a, b: a @ b),
    numpy=lambda np: np.matmul,
    torch=lambda torch: torch.matmul,
    jax=lambda jax: jax.jit(lambda a, b: a @ b),
)


def _short(dtype: Any, seed: int = 0) -> Any:
    """All the numbers of a short integer type."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, (1024, 1024), dtype, endpoint=True)


def _bf16() -> list[Any]:
    import ml_dtypes

    return [normal(1024, 1024, seed=seed).astype(ml_dtypes.bfloat16) for seed in (0, 1)]


CHAPTER.line(
    "matmul 1024 u8 x i8 in i32",
    arguments=lambda: [_short(np.uint8), _short(np.int8, 1)],
    limit=Limit("dot i8", 2.0 * 1024**3),
    treadle=lambda td: td.jit(lambda a, b: a.astype(np.int32) @ b.astype(np.int32)),
)
CHAPTER.line(
    "matmul 1024 bf16",
    arguments=_bf16,
    limit=Limit("dot bf16", 2.0 * 1024**3),
    treadle=lambda td: td.jit(lambda a, b: a @ b),
)
CHAPTER.line(
    "exp(x) @ relu(w), 1024",
    arguments=lambda: [normal(1024, 1024), normal(1024, 1024, seed=1)],
    limit=Limit("fma f32", 2.0 * 1024**3),
    treadle=lambda td: td.jit(lambda x, w: np.exp(x) @ np.maximum(w, 0)),
    torch=lambda torch: lambda x, w: torch.exp(x) @ torch.relu(w),
    jax=lambda jax: jax.jit(lambda x, w: jax.numpy.exp(x) @ jax.numpy.maximum(w, 0)),
)


def digits() -> tuple[Any, Any, Any, Any]:
    """The example's perceptron, scikit-learn's weights for it, its own predict, and the images that were held out: what
    is measured is what `make demo` shows."""
    folder = Path(__file__).resolve().parents[2] / "examples"
    sys.path.insert(0, str(folder))  # the example imports files beside it, as a script may
    try:
        example = importlib.import_module("digits")
    finally:
        sys.path.remove(str(folder))
    data = example.read(0)
    layers, predict = example.given(data, 0)
    return example.perceptron, layers, predict, data[1]


def _treadle(td: Any) -> Any:
    perceptron, layers, _, images = digits()
    return call("f(x)", f=td.jit(perceptron).bind(layers), x=images)


def _numpy(np: Any) -> Any:
    perceptron, layers, _, images = digits()
    return call("f(layers, x)", f=perceptron, layers=layers, x=images)


def _sklearn(sklearn: Any) -> Any:
    _, _, predict, images = digits()
    return call("f(x)", f=predict, x=images)


CHAPTER.line("digits, 450 images through an MLP 64-128-64-10", treadle=_treadle, numpy=_numpy, sklearn=_sklearn)
