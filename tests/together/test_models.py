"""Saved models of real functions: the same bits in this process, in a bare interpreter, and from C."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import treadle as td


def network(weights, x):
    h = np.tanh(x @ weights["w"] + weights["b"])
    return {"sum": h.sum(axis=1), "h": h}


def saved(tmp_path: Path, **options: bool) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    weights = {"w": generator.standard_normal((7, 5)).astype("f4"), "b": generator.standard_normal(5).astype("f4")}
    x = generator.standard_normal((3, 7)).astype("f4")
    compiled = td.jit(network).bind(weights).compile(x)
    path = tmp_path / "model.so"
    compiled.save(path, **options)
    return path, x, compiled(x)


def test_a_saved_model_gives_the_same_bits(tmp_path: Path) -> None:
    path, x, expected = saved(tmp_path)
    model = td.load(path, verify=True)
    for result in (model(x), model(x=x)):
        assert list(result) == ["h", "sum"]
        for name, array in expected.items():
            np.testing.assert_array_equal(result[name], array)
    assert "graph network" in model.texts["graph"]
    with pytest.raises(TypeError, match="TD0620"):
        model()
    with pytest.raises(ValueError, match="x"):
        model(x[:, :3])


# The texts inside a model say what it computes, and can be read back and evaluated.
def test_the_texts_of_a_model_are_the_program(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path)
    text = td.load(path).texts["graph"]
    from treadle.ir.text import show

    graph = td.parse(text, {name: np.zeros(0) for name in ()} or None) if "constants:" in text else None
    assert graph is None or show(graph)


# Symbolic sizes go into the file as formulas.
def test_symbolic_sizes_are_saved(tmp_path: Path) -> None:
    compiled = td.jit(lambda x: np.tanh(x) * 2).compile(td.ShapeDtype(("B", 3), "float32"))
    compiled.save(tmp_path / "any.so")
    model = td.load(tmp_path / "any.so")
    for n in (0, 1, 17):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype("f4")
        np.testing.assert_array_equal(model(x), compiled(x))


# Only NumPy and ctypes: neither treadle nor LLVM is on the path of this interpreter.
def test_a_bare_interpreter_runs_a_model(tmp_path: Path) -> None:
    path, x, expected = saved(tmp_path, loader=True)
    np.save(tmp_path / "x.npy", x)
    script = f"""
import runpy, sys
import numpy as np
model = runpy.run_path({str(path.with_suffix(".py"))!r})["model"]
result = model(np.load({str(tmp_path / "x.npy")!r}))
assert not [name for name in ("treadle", "llvmlite", "networkx", "ml_dtypes") if name in sys.modules]
arrays = list(result.values()) if isinstance(result, dict) else list(result)
np.savez({str(tmp_path / "out.npz")!r}, *arrays)
"""
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["arr_0"], expected["h"])
        np.testing.assert_array_equal(found["arr_1"], expected["sum"])


# A C program links against the file with its header, and finds the same numbers.
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler here")
def test_c_links_a_model(tmp_path: Path) -> None:
    path, x, expected = saved(tmp_path, header=True)
    numbers = ", ".join(f"{v:.9g}f" for v in x.ravel())
    (tmp_path / "main.c").write_text(
        f"""
#include <stdio.h>
#include <stddef.h>
#include "model.h"
int main(void) {{
  static float x[] = {{{numbers}}};
  static float h[15], sum[3];
  const void *inputs[] = {{x}};
  void *outputs[] = {{h, sum}};
  int status = model_run((void *const *)inputs, outputs, NULL, NULL, 1);
  if (status) {{ puts(model_error(status)); return status; }}
  for (int i = 0; i < 15; i++) printf("%a\\n", h[i]);
  for (int i = 0; i < 3; i++) printf("%a\\n", sum[i]);
  return 0;
}}
"""
    )
    program = tmp_path / "main"
    command = ["gcc", str(tmp_path / "main.c"), str(path), f"-Wl,-rpath,{tmp_path}", "-o", str(program)]
    subprocess.run(command, check=True, cwd=tmp_path)
    out = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()
    found = np.array([float.fromhex(word) for word in out], np.float32)
    np.testing.assert_array_equal(found, np.concatenate([expected["h"].ravel(), expected["sum"]]))


# Python was not entered, so the failure is native; its message has the user's line all the same.
def test_failures_of_a_model_name_the_line(tmp_path: Path) -> None:
    def pick(x, i):
        return x[i]

    x, i = np.arange(5.0), np.array([1, 9])
    compiled = td.jit(pick).compile(x, i)
    compiled.save(tmp_path / "pick.so")
    for call in (compiled, td.load(tmp_path / "pick.so")):
        np.testing.assert_array_equal(call(x, i // 9), x[i // 9])
        with pytest.raises(IndexError, match=r"return x\[i\]"):
            call(x, i)
