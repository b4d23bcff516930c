"""Real handwritten digits through the whole of treadle.

Weights come from scikit-learn's MLP, trained here in a few seconds. The predict function is plain NumPy; it is traced,
compiled with its weights as constants, checked against NumPy, timed, dumped, saved as one shared library, loaded again,
and served by a Python that has neither treadle nor LLVM. Run it by `make demo`, or `python examples/digits.py`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import treadle as td

Params = list[dict[str, NDArray[np.float32]]]


def predict(layers: Params, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of the ten digits, for images of 64 pixels in 0..16: (n, 64) -> (n, 10)."""
    h = images / 16
    for layer in layers[:-1]:
        h = np.maximum(h @ layer["w"] + layer["b"], 0)
    scores = h @ layers[-1]["w"] + layers[-1]["b"]
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def train(seed: int = 0) -> tuple[Params, object, NDArray[np.float32], NDArray[np.int64]]:
    """scikit-learn's MLP on three quarters of its digits; the weights, the model, and the held-out quarter."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    images = digits.data.astype(np.float32)
    x, x_test, y, y_test = train_test_split(images, digits.target, random_state=seed, stratify=digits.target)
    model = MLPClassifier((128, 64), max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x / 16, y)
    layers = [
        {"w": w.astype(np.float32), "b": b.astype(np.float32)}
        for w, b in zip(model.coefs_, model.intercepts_, strict=True)
    ]
    return layers, model, x_test, y_test


def seconds(*calls: Callable[[], object], rounds: int = 15, least: float = 0.01) -> list[float]:
    """The median time of each call; the calls take turns, so that all see the same machine."""
    repeats = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        repeats.append(max(1, int(least / max(time.perf_counter() - start, 1e-7))))
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for number, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(repeats[number]):
                call()
            samples[number].append((time.perf_counter() - start) / repeats[number])
    return [statistics.median(each) for each in samples]


def serve(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predict in another Python, isolated, that imports NumPy and the generated `model.py` alone."""
    np.save(model.with_name("images.npy"), images)
    script = (
        "import sys, importlib.util, numpy as np\n"
        f"spec = importlib.util.spec_from_file_location('digits', {str(model.with_suffix('.py'))!r})\n"
        "digits = importlib.util.module_from_spec(spec); spec.loader.exec_module(digits)\n"
        f"found = digits.digits(np.load({str(model.with_name('images.npy'))!r}))\n"
        "assert not [m for m in ('treadle', 'llvmlite', 'networkx') if m in sys.modules]\n"
        f"np.save({str(model.with_name('served.npy'))!r}, found)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    return np.load(model.with_name("served.npy"))


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/digits"), help="where the model and pictures go")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)

    layers, model, images, labels = train()
    console.print(
        f"[bold]1. trained[/] scikit-learn's MLP, {sum(p.size for each in layers for p in each.values())} weights"
    )

    start = time.perf_counter()
    fast = td.jit(predict).bind(layers)
    compiled = fast.compile(images)
    took = time.perf_counter() - start
    graph, program = compiled.graph, compiled.executed.compilation.program
    console.print(
        f"[bold]2. compiled[/] in {took * 1e3:.0f} ms: {len(graph.ops)} ops became {len(program.kernels)} kernels, "
        f"{compiled.memory_analysis().generated_code_size_in_bytes} bytes of code"
    )

    expected = predict(layers, images)
    found = fast(images)
    difference = float(np.abs(found - expected).max())
    accuracy = float((found.argmax(axis=1) == labels).mean())
    assert difference < 1e-5, difference
    console.print(f"[bold]3. checked[/] against NumPy: largest difference {difference:.1e}, accuracy {accuracy:.2%}")

    table = Table("", "1 image", f"{len(images)} images", "per image")
    one = images[:1]
    engines: list[tuple[str, Callable[[NDArray[np.float32]], object]]] = [
        ("treadle", fast),
        ("NumPy", lambda x: predict(layers, x)),
        ("scikit-learn", lambda x: model.predict_proba(x / 16)),  # type: ignore[attr-defined]
    ]
    single = seconds(*(lambda f=f: f(one) for _, f in engines))  # type: ignore[misc]
    batch = seconds(*(lambda f=f: f(images) for _, f in engines))  # type: ignore[misc]
    for (name, _), a, b in zip(engines, single, batch, strict=True):
        table.add_row(name, f"{a * 1e6:.1f} us", f"{b * 1e6:.0f} us", f"{b / len(images) * 1e6:.2f} us")
    console.print("[bold]4. timed[/], medians of interleaved runs")
    console.print(table)

    memory = compiled.memory_analysis()
    console.print(
        f"[bold]5. memory[/]: arena {memory.temp_size_in_bytes} bytes, lower bound {memory.lower_bound_in_bytes}; "
        f"weights {memory.constant_size_in_bytes} bytes"
    )

    path = out / "digits.so"
    compiled.save(path, header=True, loader=True)
    (out / "digits.graph").write_text(str(graph))
    (out / "digits.program").write_text(compiled.as_text("program"))
    (out / "digits.loops").write_text(compiled.as_text("loops"))
    again = td.load(path, verify=True)(images)
    served = serve(path, images)
    assert np.array_equal(again, found) and np.array_equal(served, found)
    console.print(
        f"[bold]6. saved[/] {path} ({path.stat().st_size} bytes), loaded again, and served by a Python with NumPy "
        "only: the same bits each time"
    )

    draw_memory(program, out / "memory.png")
    draw_graph(compiled.executed.compilation.optimized, out / "graph.png")
    console.print(f"[bold]7. drawn[/] {out / 'memory.png'} and {out / 'graph.png'}")


def draw_memory(program: object, path: Path) -> None:
    """The arena over the program's statements: one rectangle per value."""
    from matplotlib.figure import Figure

    from treadle.ir.program import Call, Program

    assert isinstance(program, Program)
    calls = [s for s in program.body if isinstance(s, Call)]
    spans: dict[tuple[int, int], list[int]] = {}
    names: dict[tuple[int, int], str] = {}
    for moment, call in enumerate(calls):
        for slot in (*call.reads, *call.writes):
            if slot.space == "arena" and isinstance(slot.offset, int) and isinstance(slot.type.bytes, int):
                span = spans.setdefault((slot.offset, slot.type.bytes), [moment, moment])
                span[1] = moment
                names.setdefault((slot.offset, slot.type.bytes), str(slot.type))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, ((offset, size), (first, last)) in enumerate(sorted(spans.items())):
        axes.barh(
            offset + size / 2,
            last - first + 0.9,
            size,
            first - 0.45,
            color=f"C{number % 10}",
            alpha=0.8,
            edgecolor="black",
        )
        axes.text((first + last) / 2, offset + size / 2, names[offset, size], ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(calls)), [call.kernel for call in calls], rotation=20, ha="right", fontsize=8)
    axes.set_xlim(-0.6, max(len(calls) - 0.4, 1))
    axes.set_ylabel("bytes in the arena")
    axes.set_title(f"{program.name}: arena {program.arena_bytes} bytes, lower bound {program.lower_bound}")
    axes.axhline(float(str(program.lower_bound)), color="black", linestyle=":", linewidth=1)
    figure.savefig(path, dpi=120)


def draw_graph(graph: object, path: Path) -> None:
    """The groups and what flows between them, laid out by depth."""
    import networkx as nx
    from matplotlib.figure import Figure

    from treadle.ir.graph import Graph
    from treadle.ir.value import Get, Parameter

    assert isinstance(graph, Graph)
    picture: nx.DiGraph[int] = nx.DiGraph()
    depth: dict[int, int] = {}
    labels: dict[int, str] = {}
    for value in graph.order:
        source = [o.x if isinstance(o, Get) else o for o in value.operands]
        if isinstance(value, Get):
            continue
        depth[id(value)] = 1 + max((depth[id(o)] for o in source), default=-1)
        body = value.bodies[0] if value.bodies else None
        labels[id(value)] = body.name if body else value.label if isinstance(value, Parameter) else value.name
        picture.add_node(id(value), layer=depth[id(value)])
        for o in source:
            picture.add_edge(id(o), id(value))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    places = nx.multipartite_layout(picture, subset_key="layer")
    groups = [n for n in picture if picture.in_degree(n)]
    leaves = [n for n in picture if not picture.in_degree(n)]
    nx.draw_networkx_nodes(picture, places, nodelist=groups, node_color="C0", node_size=900, node_shape="s", ax=axes)
    nx.draw_networkx_nodes(picture, places, nodelist=leaves, node_color="C7", node_size=500, ax=axes)
    nx.draw_networkx_edges(picture, places, ax=axes, arrowsize=14, node_size=900)
    nx.draw_networkx_labels(picture, places, labels, font_size=7, ax=axes)
    axes.set_axis_off()
    axes.set_title(f"{graph.name}: {len(groups)} kernels")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
