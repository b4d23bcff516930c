"""A transformer in NumPy, with weights in bfloat16 and a sequence of any length.

Nothing is said about precision but the dtype of the weights: products of f32 and bf16 are f32, as NumPy's promotion has
it, and weights stay half as large in memory and in the saved file. The same function runs as plain NumPy, which checks
the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pictures import draw_graph, draw_memory, shown

import treadle as td

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 4, 256, 256
Block = dict[str, NDArray[Any]]


def normalized(x: Any, gain: Any) -> Any:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * gain


def attention(block: Block, x: Any) -> Any:
    """Each position looks at itself and those before it."""
    length = x.shape[0]

    def heads(weights: Any) -> Any:
        return np.swapaxes((x @ weights).reshape(length, HEADS, WIDTH // HEADS), 0, 1)

    q, k, v = (heads(block[name]) for name in ("query", "key", "value"))
    scores = q @ np.swapaxes(k, 1, 2) / np.sqrt(np.float32(WIDTH // HEADS))
    places = td.numpy.arange(length)
    scores = np.where(places[:, None] >= places, scores, np.float32(-np.inf))
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = e / e.sum(axis=-1, keepdims=True) @ v
    return np.swapaxes(mixed, 0, 1).reshape(length, WIDTH) @ block["out"]


def transformer(params: dict[str, Any], tokens: Any) -> Any:
    """Scores of the next token at each position: (n,) -> (n, VOCABULARY)."""
    x = params["embedding"][tokens].astype(np.float32)
    for block in params["blocks"]:
        x = x + attention(block, normalized(x, block["first"]))
        h = normalized(x, block["second"])
        gate = h @ block["gate"]
        x = x + gate / (1 + np.exp(-gate)) * (h @ block["up"]) @ block["down"]
    return normalized(x, params["last"]) @ params["embedding"].T


def weights(rng: np.random.Generator) -> dict[str, Any]:
    def matrix(rows: int, columns: int) -> Any:
        return (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)

    def block() -> Block:
        square = {name: matrix(WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
        wide = {"gate": matrix(WIDTH, 4 * WIDTH), "up": matrix(WIDTH, 4 * WIDTH), "down": matrix(4 * WIDTH, WIDTH)}
        return square | wide | {name: np.ones(WIDTH, np.float32) for name in ("first", "second")}

    return {
        "embedding": matrix(VOCABULARY, WIDTH),
        "blocks": [block() for _ in range(LAYERS)],
        "last": np.ones(WIDTH, np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/transformer"), help="where models and pictures go")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(0)
    full = weights(rng)
    half = td.tree.map(lambda w: w.astype(ml_dtypes.bfloat16) if w.ndim == 2 else w, full)
    tokens = np.frombuffer(b"the shuttle carries the weft between the warp threads", np.uint8).astype(np.int64)

    network = td.jit(transformer)
    for name, params in (("f32", full), ("bf16", half)):
        compiled = network.bind(params).compile(td.ShapeDtype(("n",), "int64"))
        path = out / f"{name}.so"
        compiled.save(path)
        # NumPy widens bf16 to f32 exactly, so it sees the same weights.
        exact = td.tree.map(lambda w: w.astype(np.float32), params)
        worst = 0.0
        for length in (1, 7, len(tokens)):
            found, expected = compiled(tokens[:length]), transformer(exact, tokens[:length])
            assert found.dtype == np.float32 and found.shape == (length, VOCABULARY)
            worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
        assert worst < 1e-5, worst
        print(
            f"{name:>4} weights: saved in {shown(path.stat().st_size)}; off NumPy by at most {worst:.1e} of the largest"
        )

    program = network.bind(half).compile(tokens).as_text("program")
    draw_memory(program, out / "memory.png")
    draw_graph(program, out / "graph.png")
    print(f"drawn: memory.png and graph.png in {out.name}")


if __name__ == "__main__":
    main()
