"""Real handwritten digits through the whole of treadle.

Weights come from scikit-learn's MLP, trained here in seconds. The predict function is plain NumPy; it is traced,
compiled with its weights as constants, checked against NumPy, timed, dumped, drawn, saved as one shared library, loaded
again, and served by a Python that imports NumPy alone. Run it by `make demo`, or `python examples/digits.py`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import draw_graph, draw_memory, shown

import treadle as td

Floats = NDArray[np.float32]
Params = list[dict[str, Floats]]
WIDTH = 80


def predict(layers: Params, images: Floats) -> Floats:
    """Probabilities of the ten digits, for images of 64 pixels in 0..16: (n, 64) -> (n, 10)."""
    h = images / 16
    for layer in layers[:-1]:
        h = np.maximum(h @ layer["w"] + layer["b"], 0)
    scores = h @ layers[-1]["w"] + layers[-1]["b"]
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def train(seed: int = 0) -> tuple[Params, Callable[[Floats], Floats], Floats, NDArray[np.int64]]:
    """scikit-learn's MLP on three quarters of its digits: weights, its own predict, and the held-out quarter."""
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
    return layers, lambda images: model.predict_proba(images / 16), x_test, y_test


def seconds(calls: Sequence[Callable[[], object]], rounds: int = 15, least: float = 0.01) -> list[float]:
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


def serve(model: Path, images: Floats) -> Floats:
    """Predict in another Python, isolated, that imports NumPy and the generated `digits.py` beside the model."""
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


def heart(kernel: str) -> list[str]:
    """Of the text of a kernel, its deepest statement and the loops round it."""
    lines = kernel.rstrip().split("\n")
    depths = [len(line) - len(line.lstrip()) for line in lines]
    at = depths.index(max(depths))
    found = [lines[at]]
    for line, depth in zip(reversed(lines[:at]), reversed(depths[:at]), strict=True):
        if depth < len(found[0]) - len(found[0].lstrip()):
            found.insert(0, line)
    return [line if len(line) <= WIDTH - 3 else line[: WIDTH - 6] + "..." for line in found]


class Report:
    """Numbered steps in two columns, and tables below them, 80 characters wide."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, width=WIDTH)
        self.number = 0

    def step(self, what: str, *lines: str) -> None:
        self.number += 1
        self.console.print(f"[bold]{self.number}. {what:<9}[/] {lines[0]}")
        self.below(*lines[1:], indent=13)

    def below(self, *lines: str, indent: int = 3, style: str = "") -> None:
        for line in lines:
            self.console.print(" " * indent + line, style=style, markup=False, no_wrap=True)

    def table(self, widths: Sequence[int], head: Sequence[str], *rows: Sequence[str]) -> None:
        """The first column is set to the left, the others to the right."""
        for number, row in enumerate((head, *rows)):
            cells = [f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths))]
            self.below("".join(cells), indent=13, style="dim" if number == 0 else "")
        self.console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/digits"), help="where the model and pictures go")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    report = Report()

    layers, reference, images, labels = train()
    one = images[:1]
    weights = sum(array.size for layer in layers for array in layer.values())
    report.step("trained", f"scikit-learn's MLP, outside of treadle: {weights:,} weights")

    fast = td.jit(predict).bind(layers)
    start = time.perf_counter()
    compiled = fast.compile(images)
    took = time.perf_counter() - start
    program = compiled.as_text("program")
    calls = [line.split() for line in program.split("\n") if line.startswith("  call ")]
    memory = compiled.memory_analysis()
    code = shown(memory.generated_code_size_in_bytes)
    operations = len(compiled.graph.ops)
    report.step("compiled", f"{operations} operations into {len(calls)} kernels, {code} of code, in {took:.2f} s")

    found, expected = fast(images), predict(layers, images)
    difference = float(np.abs(found - expected).max())
    accuracy, theirs = (float((p.argmax(axis=1) == labels).mean()) for p in (found, reference(images)))
    assert difference < 1e-5, difference
    assert accuracy > 0.95, accuracy
    report.step(
        "checked",
        f"{accuracy:.2%} of {len(images)} held-out images right, scikit-learn {theirs:.2%};",
        f"the largest difference to NumPy is {difference:.1e}",
    )

    engines: list[tuple[str, Callable[[Floats], object]]] = [
        ("treadle", fast),
        ("NumPy", lambda x: predict(layers, x)),
        ("scikit-learn", reference),
    ]
    single = seconds([lambda f=f: f(one) for _, f in engines])  # type: ignore[misc]
    batch = seconds([lambda f=f: f(images) for _, f in engines])  # type: ignore[misc]
    report.step("timed", f"microseconds, medians of interleaved calls; up to {td.get_num_threads()} threads")
    rows = [
        (name, f"{a * 1e6:.1f}", f"{b * 1e6:,.0f}", f"{b / len(images) * 1e6:.2f}", f"{b / batch[0]:.1f} x")
        for (name, _), a, b in zip(engines, single, batch, strict=True)
    ]
    report.table((14, 11, 13, 13, 12), ("", "1 image", f"{len(images)} images", "per image", "to treadle"), *rows)

    report.step("fused", "what each kernel does, what it gives, and the line where it ends")
    rows = [
        (words[1].split("(")[0].rpartition("_")[0].replace("_", " "), words[words.index("->") + 2], words[-1][1:])
        for words in calls
    ]
    report.table((33, 14, 16), ("kernel", "result", "line"), *rows)

    peak, bound = memory.temp_size_in_bytes, memory.lower_bound_in_bytes
    report.step(
        "planned",
        f"peak memory between kernels {shown(peak)}, lower bound {shown(bound)};",
        f"weights {shown(sum(array.nbytes for array in compiled.executed.constants))}, which all calls share",
    )

    report.step("dumped", "the innermost loops of kernel 1; whole texts lie beside the model")
    report.below(*heart(compiled.as_text("loops").split("\n\n")[1]), style="dim")
    for stage in ("graph", "program", "loops"):
        (out / f"digits.{stage}").write_text(compiled.as_text(stage))

    # One program for any number of images is what is kept.
    path = out / "digits.so"
    fast.compile(td.ShapeDtype(("n", 64), "float32")).save(path, header=True, loader=True)
    again = td.load(path, verify=True)
    for some in (images, one):
        assert np.array_equal(again(some), fast(some))
        assert np.array_equal(serve(path, some), fast(some))
    report.step(
        "saved",
        f"{path.name}, {shown(path.stat().st_size)} with its weights, for any number of images;",
        "loaded again, and served by a Python that imports NumPy alone:",
        "the same bits each time",
    )

    draw_memory(program, out / "memory.png")
    draw_graph(program, out / "graph.png")
    report.step("drawn", "memory.png and graph.png; all files are in", f"{out}")


if __name__ == "__main__":
    main()
