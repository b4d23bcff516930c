"""A small convolutional network: trained by a compiled step, saved for any batch, and called from C.

The gradient, the optimizer and the network are one program that updates its weights in place. What is saved leaves the
number of images open; a C program of thirty lines links with it and must give the same digits.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import treadle as td

Params = dict[str, NDArray[np.float32]]

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "convnet.h"

/* Reads images of 8x8 floats from a file and prints the digit that the model sees in each. */
int main(int count, char **words) {
    FILE *file = fopen(words[1], "rb");
    if (count != 2 || !file) return 2;
    fseek(file, 0, SEEK_END);
    int64_t images = ftell(file) / (64 * sizeof(float));
    rewind(file);
    float *pixels = malloc(images * 64 * sizeof(float)), *scores = malloc(images * 10 * sizeof(float));
    if (fread(pixels, 64 * sizeof(float), images, file) != (size_t)images) return 2;
    void *inputs[] = {pixels}, *outputs[] = {scores};
    int32_t site = convnet_run(inputs, outputs, &images, NULL, 1);
    if (site) {
        puts(convnet_error(site));
        return 1;
    }
    for (int64_t i = 0; i < images; i++) {
        int best = 0;
        for (int k = 1; k < 10; k++)
            if (scores[10 * i + k] > scores[10 * i + best]) best = k;
        printf("%d\\n", best);
    }
    return 0;
}
"""


def network(params: Params, images: Any) -> Any:
    """Scores of ten digits for images of one channel: (n, 1, 8, 8) -> (n, 10)."""
    h = td.nn.relu(td.nn.conv(images, params["first"], padding=1))
    h = td.nn.max_pool(h, 2)
    h = td.nn.relu(td.nn.conv(h, params["second"], padding=1))
    h = td.nn.max_pool(h, 2).reshape(images.shape[0], -1)
    return h @ params["weights"] + params["bias"]


def loss(params: Params, images: Any, labels: Any) -> Any:
    return td.nn.cross_entropy(network(params, images), labels)


optimizer = td.optim.adam(td.optim.cosine(6e-3, steps=12 * 21))


@td.jit(donate_argnames=("params", "state"))
def step(params: Params, state: Any, images: Any, labels: Any) -> Any:
    value, slopes = td.value_and_grad(loss)(params, images, labels)
    return *optimizer.update(slopes, state, params), value


def main() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/convnet"), help="where the model goes")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    images = np.float32(digits.images / 16)[:, None]
    x, x_test, y, y_test = train_test_split(images, digits.target, random_state=0, stratify=digits.target)

    rng = np.random.default_rng(0)
    keys = td.random.split(td.random.key(0), 3)
    params: Params = {
        "first": td.optim.he(keys[0], (16, 1, 3, 3)),
        "second": td.optim.he(keys[1], (32, 16, 3, 3)),
        "weights": td.optim.glorot(keys[2], (128, 10)),
        "bias": np.zeros(10, np.float32),
    }
    state = optimizer.init(params)
    for epoch in range(12):
        order = rng.permutation(len(x))
        for batch in np.split(order[: len(x) // 64 * 64], len(x) // 64):
            params, state, value = step(params, state, x[batch], y[batch])
        if epoch % 4 == 3:
            print(f"epoch {epoch + 1:2}: loss {float(value):.4f}")
    assert step.n_compiles == 1

    compiled = td.jit(network).bind(params).compile(td.ShapeDtype(("n", 1, 8, 8), "float32"))
    found = compiled(x_test).argmax(axis=1)
    accuracy = float((found == y_test).mean())
    print(f"{accuracy:.2%} of {len(x_test)} held-out images are read right")
    assert accuracy > 0.97, accuracy

    model = out / "convnet.so"
    compiled.save(model, header=True)
    print(f"saved {model.name}, {model.stat().st_size} bytes, for any number of images")
    if shutil.which("cc") is None:
        print("no C compiler here: not called from C")
        return
    (out / "main.c").write_text(MAIN)
    link = ["cc", "-O1", "main.c", "-o", "main", "./convnet.so", "-Wl,-rpath,$ORIGIN"]
    subprocess.run(link, cwd=out, check=True)
    x_test.tofile(out / "images.f32")
    for count in (len(x_test), 1):
        x_test[:count].tofile(out / "images.f32")
        run = subprocess.run(
            [out.resolve() / "main", "images.f32"], cwd=out, capture_output=True, text=True, check=True
        )
        assert np.array_equal(np.array(run.stdout.split(), int), found[:count])
    print(f"called from C: the same {len(x_test)} digits, and the same one")


if __name__ == "__main__":
    main()
