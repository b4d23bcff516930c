"""Real handwritten digits through the whole of treadle.

First somebody else's weights, scikit-learn's, in a few lines of NumPy that are compiled as they stand. Then weights of
our own: a small convolutional network with batch norm learns by a compiled step that updates its parameters in place.
What it has learnt is compiled with its weights as constants, checked against NumPy, timed, dumped, drawn, saved as one
shared library, loaded again, and served by a Python that imports NumPy alone, and by C where there is a compiler. Run
it by `make demo`, or `python examples/digits.py`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pictures import draw_curve, draw_graph, draw_memory, shown
from report import Report, heart, seconds

import treadle as td

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Params = dict[str, Any]
Moments = list[tuple[Floats, Floats]]  # mean and variance of each layer's channels, over the images seen
Data = tuple[Floats, Floats, Ints, Ints]

CHANNELS, EPOCHS, BATCH = (32, 64), 25, 64


def read(seed: int) -> Data:
    """scikit-learn's digits, 64 pixels in 0..16 each: three quarters to learn from, one held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    split: Data = train_test_split(
        digits.data.astype(np.float32), digits.target, random_state=seed, stratify=digits.target
    )
    return split


# --- weights from outside -----------------------------------------------------------------------------------------


def perceptron(layers: list[dict[str, Floats]], images: Floats) -> Floats:
    """Chances of the ten digits, in plain NumPy: (n, 64) -> (n, 10)."""
    h = images / 16
    for layer in layers[:-1]:
        h = np.maximum(h @ layer["w"] + layer["b"], 0)
    scores = h @ layers[-1]["w"] + layers[-1]["b"]
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def given(data: Data, seed: int) -> tuple[list[dict[str, Floats]], Callable[[Floats], Floats]]:
    """The weights of scikit-learn's MLP, and its own predict."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    x, _, y, _ = data
    model = MLPClassifier((128, 64), max_iter=60, random_state=seed)
    # Its products are too small to be worth threads.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x / 16, y)
    layers = [
        {"w": w.astype(np.float32), "b": b.astype(np.float32)}
        for w, b in zip(model.coefs_, model.intercepts_, strict=True)
    ]
    return layers, lambda images: model.predict_proba(images / 16)


# --- weights of our own -------------------------------------------------------------------------------------------


def untrained(seed: int) -> tuple[Params, Moments]:
    """Random filters, norms that do nothing yet."""
    keys = iter(td.random.split(td.random.key(seed), len(CHANNELS) + 1))
    layers: list[dict[str, Floats]] = []
    for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
        filters = td.optim.he(next(keys), (3, 3, before, after), in_axis=2, out_axis=3)
        layers.append({"w": filters, "scale": np.ones(after, np.float32), "shift": np.zeros(after, np.float32)})
    last = {"w": td.optim.glorot(next(keys), (CHANNELS[-1] * 4, 10)), "b": np.zeros(10, np.float32)}
    moments = [(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in CHANNELS]
    return {"layers": layers, "last": last}, moments


def network(params: Params, moments: Moments, images: Floats, learning: bool = False) -> tuple[Floats, Moments]:
    """Scores of the ten digits, (n, 64) -> (n, 10), and the moments, of which each batch replaces a tenth.

    While it learns, a layer is normalized by the moments of its batch; afterwards by those gathered on the way."""
    h = images.reshape(images.shape[0], 8, 8, 1) / 16  # channels last: neighbours in memory, whatever the width
    found = []
    for layer, seen in zip(params["layers"], moments, strict=True):
        h = td.nn.conv(h, layer["w"], padding=1, layout="NHWC")
        mean, var = td.nn.batch_stats(h, axis=3) if learning else seen
        found.append((0.9 * seen[0] + 0.1 * mean, 0.9 * seen[1] + 0.1 * var))
        h = td.nn.relu(td.nn.batch_norm(h, mean, var, layer["scale"], layer["shift"], axis=3))
        h = td.nn.max_pool(h, 2, layout="NHWC")
    h = h.reshape(images.shape[0], -1)
    return h @ params["last"]["w"] + params["last"]["b"], found


def convnet(params: Params, moments: Moments, images: Floats) -> Floats:
    """Chances of the ten digits: (n, 64) -> (n, 10)."""
    return td.nn.softmax(network(params, moments, images)[0])


def convnet_in_numpy(params: Params, moments: Moments, images: Floats) -> Floats:
    """The same, as NumPy has it: what the compiled network is checked against, and timed."""
    h = images.reshape(-1, 8, 8, 1) / 16
    for layer, (mean, var) in zip(params["layers"], moments, strict=True):
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        h = np.tensordot(windows, layer["w"], ((4, 5, 3), (0, 1, 2)))
        h = np.maximum((h - mean) / np.sqrt(var + np.float32(1e-5)) * layer["scale"] + layer["shift"], 0)
        n, y, x, c = h.shape
        h = h.reshape(n, y // 2, 2, x // 2, 2, c).max(axis=(2, 4))
    scores = h.reshape(len(images), -1) @ params["last"]["w"] + params["last"]["b"]
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss(params: Params, moments: Moments, images: Floats, labels: Ints) -> tuple[Any, Moments]:
    scores, moments = network(params, moments, images, learning=True)
    return td.nn.cross_entropy(scores, labels, label_smoothing=0.1), moments


def learn(data: Data, seed: int, report: Report) -> tuple[Params, Moments, list[float], Any]:
    """Parameters and moments after some epochs, the loss of each step, and the compiled step."""
    x, _, y, _ = data
    count = len(x) // BATCH
    optimizer = td.optim.adamw(td.optim.cosine(0.01, steps=EPOCHS * count))

    @td.jit(donate_argnames=("params", "moments", "state"))
    def step(params: Params, moments: Moments, state: Any, images: Floats, labels: Ints) -> Any:
        (value, moments), slopes = td.value_and_grad(loss, has_aux=True)(params, moments, images, labels)
        return *optimizer.update(slopes, state, params), moments, value

    params, moments = untrained(seed)
    state = optimizer.init(params)
    order = np.random.default_rng(seed)
    batches = [batch for _ in range(EPOCHS) for batch in order.permutation(len(x))[: count * BATCH].reshape(-1, BATCH)]
    losses: list[float] = []
    for batch in report.progress(batches, "learning", lambda: f"loss {losses[-1]:.3f}"):
        params, state, moments, value = step(params, moments, state, x[batch], y[batch])
        losses.append(float(value))
    assert step.n_compiles == 1
    return params, moments, losses, step.compile(params, moments, state, x[:BATCH], y[:BATCH])


# --- serving ------------------------------------------------------------------------------------------------------


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


def serve_from_c(model: Path, images: Floats) -> Ints:
    """The digits that `digits.c` prints, linked with the model."""
    folder, source = model.parent.resolve(), Path(__file__).with_suffix(".c")
    link = ["cc", "-O1", str(source), "-o", "digits", "-I.", f"./{model.name}", "-Wl,-rpath,$ORIGIN"]
    subprocess.run(link, cwd=folder, check=True)
    images.tofile(folder / "images.f32")
    run = subprocess.run([folder / "digits", "images.f32"], cwd=folder, capture_output=True, text=True, check=True)
    return np.array(run.stdout.split(), int)


# --- the report ---------------------------------------------------------------------------------------------------


def calls_of(program: str) -> list[list[str]]:
    return [line.split() for line in program.split("\n") if line.startswith("  call ")]


def right(chances: Floats, labels: Ints) -> float:
    return float((chances.argmax(axis=1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/digits"), help="where the model and pictures go")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out images and of all that is random")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    report = Report()

    data = read(options.seed)
    images, labels = data[1], data[3]
    one = images[:1]

    layers, reference = given(data, options.seed)
    dense = td.jit(perceptron).bind(layers)
    difference = float(np.abs(dense(images) - perceptron(layers, images)).max())
    assert difference < 1e-5, difference
    weights = sum(array.size for array in td.tree.leaves(layers))
    report.step(
        "given",
        f"{weights:,} weights of scikit-learn's MLP, in seven lines of NumPy;",
        f"compiled, these differ by {difference:.1e} from NumPy",
    )

    start = time.perf_counter()
    params, moments, losses, step = learn(data, options.seed, report)
    took = time.perf_counter() - start
    weights = sum(array.size for array in td.tree.leaves(params))
    report.step(
        "learned",
        f"{weights:,} weights of a ConvNet, in {len(losses)} steps and {took:.1f} s;",
        f"a step is {len(calls_of(step.as_text('program')))} kernels, and its loss fell from "
        f"{losses[0]:.2f} to {np.mean(losses[-20:]):.2f}",
    )

    fast = td.jit(convnet).bind(params, moments)
    start = time.perf_counter()
    with td.config.set(cache=False):  # compiled now, even if an earlier run has left it on disk
        compiled = fast.compile(images)
    took = time.perf_counter() - start
    program = compiled.as_text("program")
    calls = calls_of(program)
    memory = compiled.memory_analysis()
    code = shown(memory.generated_code_size_in_bytes)
    report.step(
        "compiled",
        f"{len(compiled.graph.ops)} operations into {len(calls)} kernels, {code} of code, in {took:.2f} s:",
        "what each does, what it gives, and the line where it ends",
    )
    rows = [
        (words[1].split("(")[0].rpartition("_")[0].replace("_", " "), words[words.index("->") + 2], words[-1][1:])
        for words in calls
    ]
    report.table((34, 16, 16), ("kernel", "result", "line"), *rows)

    found = fast(images)
    difference = float(np.abs(found - convnet_in_numpy(params, moments, images)).max())
    accuracy, theirs = right(found, labels), right(reference(images), labels)
    assert difference < 1e-5, difference
    assert accuracy >= 0.98, accuracy
    report.step(
        "checked",
        f"{accuracy:.2%} of {len(images)} held-out images right, scikit-learn {theirs:.2%};",
        f"the largest difference to NumPy is {difference:.1e}",
    )

    engines: dict[str, Callable[[Floats], object]] = {
        "ConvNet, treadle": fast,
        "ConvNet, NumPy": lambda x: convnet_in_numpy(params, moments, x),
        "MLP, treadle": dense,
        "MLP, NumPy": lambda x: perceptron(layers, x),
        "MLP, scikit-learn": reference,
    }
    single = seconds([lambda f=f: f(one) for f in engines.values()])  # type: ignore[misc]
    batch = seconds([lambda f=f: f(images) for f in engines.values()], rest=0.1)  # type: ignore[misc]
    report.step("timed", f"microseconds, medians of interleaved calls; up to {td.get_num_threads()} threads")
    ours = {name.split(",")[0]: b for name, b in zip(engines, batch, strict=True) if "treadle" in name}
    rows = [
        (name, f"{a * 1e6:.1f}", f"{b * 1e6:,.0f}", f"{b / len(images) * 1e6:.2f}", f"{b / ours[kind]:.1f} x")
        for name, kind, a, b in zip(engines, (n.split(",")[0] for n in engines), single, batch, strict=True)
    ]
    report.table((19, 10, 12, 12, 12), ("", "1 image", f"{len(images)} images", "per image", "to treadle"), *rows)

    peak, bound = memory.temp_size_in_bytes, memory.lower_bound_in_bytes
    report.step(
        "planned",
        f"peak memory between kernels {shown(peak)}, lower bound {shown(bound)};",
        f"weights {shown(sum(array.nbytes for array in compiled.executed.constants))}, which all calls share",
    )

    report.step("dumped", "the innermost loops of a kernel; whole texts lie beside the model")
    report.below(*heart(compiled.as_text("loops").split("\n\n")), style="dim")
    for stage in ("graph", "program", "loops"):
        (out / f"digits.{stage}").write_text(compiled.as_text(stage))

    # One program for any number of images is what is kept.
    path = out / "digits.so"
    fast.compile(td.ShapeDtype(("n", 64), "float32")).save(path, header=True, loader=True)
    again = td.load(path, verify=True)
    for some in (images, one):
        assert np.array_equal(again(some), fast(some))
        assert np.array_equal(serve(path, some), fast(some))
    native = "no C compiler is here to link it"
    if shutil.which("cc"):
        assert np.array_equal(serve_from_c(path, images), found.argmax(axis=1))
        native = "linked with C it sees the same digits"
    report.step(
        "saved",
        f"{path.name}, {shown(path.stat().st_size)} with its weights, for any number of images;",
        "loaded again, and served by a Python that imports NumPy alone:",
        f"the same bits each time; {native}",
    )

    draw_memory(program, out / "memory.png")
    draw_graph(program, out / "graph.png")
    draw_curve(losses, EPOCHS, out / "loss.png")
    report.step("drawn", "memory.png, graph.png and loss.png; all files are in", f"{out}")


if __name__ == "__main__":
    main()
