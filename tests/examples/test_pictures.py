"""The pictures show the plan that is there: nothing drawn over another, nothing outside of the arena."""

from __future__ import annotations

import importlib.util
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import treadle as td

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "examples" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = module
    spec.loader.exec_module(module)
    return module


def layers(x: Any, w: Any) -> Any:
    h = np.maximum(x @ w, 0)
    skip = h
    for _ in range(3):
        h = np.tanh(h @ w) + skip
    return h / h.sum(axis=1, keepdims=True), h.max()


def rounds(x: Any, w: Any) -> Any:
    first = np.tanh(x @ w)
    return td.lax.scan(lambda h, _: ((np.tanh(h @ w) @ w) * first, h.sum()), first, length=5)


@pytest.mark.parametrize("function", [layers, rounds])
@pytest.mark.parametrize("rows", [64, "n"])
def test_the_memory_plan_is_drawn_as_it_is(function: Any, rows: int | str, pictures: ModuleType) -> None:
    """Two values that are needed at the same time lie apart, in the picture as in the program."""
    compiled = td.jit(function).compile(td.ShapeDtype((rows, 96), "float32"), np.ones((96, 96), "f4"))
    dims = {"n": 32} if rows == "n" else {}
    spans = pictures.Reading.of(compiled.as_text("program"), dims).spans()
    assert max(span.high for span in spans) == compiled.memory_analysis(dims).temp_size_in_bytes
    for a, b in combinations(spans, 2):
        if a.first <= b.last and b.first <= a.last:
            assert a.high <= b.low or b.high <= a.low, (a, b)


def test_no_box_covers_another(pictures: ModuleType) -> None:
    """Labels that lie over each other cannot be read."""
    compiled = td.jit(layers).compile(np.ones((64, 96), "f4"), np.ones((96, 96), "f4"))
    reading = pictures.Reading.of(compiled.as_text("program"), None)
    rows = pictures.laid_out(pictures.boxes_of(reading))
    for row in rows:
        for a, b in combinations(row, 2):
            assert abs(a.x - b.x) >= (a.width + b.width) / 2
    for above, below in combinations(rows, 2):
        assert min(b.y - b.height / 2 for b in above) > max(b.y + b.height / 2 for b in below)


@pytest.mark.parametrize("function", [layers, rounds])
def test_pictures_are_written(function: Any, pictures: ModuleType, tmp_path: Path) -> None:
    """Loops and several results are drawn, too."""
    text = td.jit(function).compile(np.ones((64, 96), "f4"), np.ones((96, 96), "f4")).as_text("program")
    (tmp_path / "a.program").write_text(text)
    pictures.draw_memory(text, tmp_path / "memory.png")
    pictures.draw_graph(text, tmp_path / "graph.png")
    for name in ("memory.png", "graph.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_loss_is_drawn(pictures: ModuleType, tmp_path: Path) -> None:
    pictures.draw_curve([2.0, 1.5, 1.2, 1.0, 0.5, 0.4], 3, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
