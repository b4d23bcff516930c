"""Matrix products against the multiply-add peak, and the main job: a trained network on handwritten digits."""

from __future__ import annotations

import importlib.util
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
    "matmul 1024 f32, 2 threads",
    arguments=lambda: [normal(1024, 1024), normal(1024, 1024, seed=1)],
    limit=Limit("fma f32", 2.0 * 1024**3),
    threads=2,
    treadle=lambda td: td.jit(lambda a, b: a @ b),
    numpy=lambda np: np.matmul,
    torch=lambda torch: torch.matmul,
    jax=lambda jax: jax.jit(lambda a, b: a @ b),
)


def digits() -> Any:
    """The example's own functions, so that what is measured is what `make demo` shows."""
    path = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
    found = importlib.util.spec_from_file_location("digits", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _treadle(td: Any) -> Any:
    example = digits()
    layers, _, images, _ = example.train()
    return call("f(x)", f=td.jit(example.predict).bind(layers), x=images)


def _numpy(np: Any) -> Any:
    example = digits()
    layers, _, images, _ = example.train()
    return call("f(layers, x)", f=example.predict, layers=layers, x=images)


def _sklearn(sklearn: Any) -> Any:
    _, model, images, _ = digits().train()
    return call("f(x)", f=model.predict_proba, x=images / np.float32(16))


CHAPTER.line("digits, 450 images through an MLP 64-128-64-10", treadle=_treadle, numpy=_numpy, sklearn=_sklearn)
