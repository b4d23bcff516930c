"""Saved models of real functions: the same bits in this process, in a bare interpreter, and from C."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle as td
from treadle.ir.program_text import parse_program
from treadle.runtime import elf
from treadle.runtime.artifact import read


def network(weights, x):
    h = np.tanh(x @ weights["w"] + weights["b"])
    return {"sum": h.sum(axis=1), "h": h}


def saved(tmp_path: Path, wide: bool = False, **options: bool) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    """A model, an argument and its results; a wide one has weights that stand in a section of their own."""
    generator = np.random.default_rng(0)
    k, n = (300, 200) if wide else (7, 5)
    weights = {"w": generator.standard_normal((k, n)).astype("f4"), "b": generator.standard_normal(n).astype("f4")}
    x = generator.standard_normal((3, k)).astype("f4")
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


# A model is served as a jitted function is: natively, for every form of call that was made once.
def test_calls_of_a_model_go_the_native_way(tmp_path: Path) -> None:
    path, x, expected = saved(tmp_path)
    model, out = td.load(path), {name: np.zeros_like(value) for name, value in expected.items()}
    complete = model.slow
    model(x), model(x=x)

    def never(*args: object, **kwargs: object) -> object:
        raise AssertionError("the complete path was taken")

    model.slow = never
    for result in (model(x), model(x=x), model(x.copy())):
        assert list(result) == list(expected)
        for name, value in expected.items():
            assert np.array_equal(result[name], value)
    for other in (lambda: model(x[:, ::-1]), lambda: model(x[:2]), lambda: model(x, threads=1)):
        with pytest.raises(AssertionError, match="complete path"):
            other()
    model.slow = complete
    with pytest.raises(ValueError, match="x"):
        model(x[:2])
    assert model(x, out=out)["h"] is out["h"]


# The file is unmapped with the last reference to the callable, whatever calls were installed.
def test_a_model_is_unmapped_with_its_callable(tmp_path: Path) -> None:
    path, x, _ = saved(tmp_path)
    model = td.load(path)
    model(x)
    mapped = weakref.ref(model.model)
    del model
    assert mapped() is None


# The texts inside a model say what it computes: with its weights they evaluate to the same numbers.
def test_the_texts_of_a_model_are_the_program(tmp_path: Path) -> None:
    path, x, expected = saved(tmp_path, wide=True)
    model = td.load(path)
    held = {row["name"].lstrip("#"): model.model.artifact.constant(row["name"]) for row in model.manifest["constants"]}
    graph = td.parse(model.texts["graph"], held)
    for found, name in zip(td.evaluate(graph, x), expected, strict=True):
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)
    assert str(parse_program(model.texts["program"])) == model.texts["program"]
    assert str(graph) == model.texts["graph"]


# Symbolic sizes go into the file as formulas.
def test_symbolic_sizes_are_saved(tmp_path: Path) -> None:
    compiled = td.jit(lambda x: np.tanh(x) * 2).compile(td.ShapeDtype(("B", 3), "float32"))
    compiled.save(tmp_path / "any.so")
    model = td.load(tmp_path / "any.so")
    for n in (0, 1, 17):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype("f4")
        np.testing.assert_array_equal(model(x), compiled(x))


# What kernels, linkers and loaders rely on: no executable stack, a hash table and a name, real section headers, nothing
# that runs at loading, weights on pages of their own and aligned, names of libc alone.
@pytest.mark.parametrize("target", ["host", "neon"])
def test_the_file_is_a_proper_library(target: str, tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((300, 200)).astype("f4")
    f = td.jit(lambda w, x: np.tanh(x @ w), target=target).bind(w)
    f.compile(td.ShapeDtype(("n", 300), "f4")).save(tmp_path / "net.so")
    data = (tmp_path / "net.so").read_bytes()
    file = elf.Elf(data)
    stack = next(segment for segment in file.segments if segment.type == elf.STACK)
    assert not stack.flags & elf.EXECUTABLE
    assert not any(s.flags & elf.EXECUTABLE and s.flags & elf.WRITABLE for s in file.segments)
    names = {section.name: section for section in file.sections}
    assert {".hash", ".dynsym", ".dynstr", ".dynamic", ".text", ".symtab", ".treadle.weights"} <= set(names)
    assert not any(section.type in elf.CONSTRUCTORS for section in file.sections)
    dynamic = dict(struct.iter_unpack("<QQ", file.content(names[".dynamic"])))
    strings = bytes(file.content(names[".dynstr"]))
    assert 4 in dynamic, "DT_HASH"
    assert strings[dynamic[14] :].split(b"\0")[0] == b"net.so", "DT_SONAME"
    defined = {s.name: s for s in file.dynamic_symbols() if s.section}
    assert {"net_manifest", "net_arena_bytes", "net_run", "net_error"} <= set(defined)
    assert all(0 < s.section < len(file.sections) for s in defined.values()), "real section indices"
    weights = names[".treadle.weights"]
    assert weights.offset % 4096 == 0 and weights.address == weights.offset and weights.size >= w.nbytes
    assert w.tobytes() in data[weights.offset :], "the weights are there as they are"
    manifest = td_manifest(tmp_path / "net.so")
    assert all(row["offset"] % 64 == 0 and len(row["hash"]) == 64 for row in manifest["constants"])
    assert manifest["treadle"] == td.__version__ and manifest["dims"][0]["name"] == "n"


def td_manifest(path: Path) -> dict[str, Any]:
    return read(path).manifest


# ctypes alone calls the C interface: sizes, scratch, results, several threads at once.
def test_the_c_interface_by_ctypes(tmp_path: Path) -> None:
    compiled = td.jit(lambda x: np.sort(np.tanh(x) @ x.T, axis=1).sum(axis=1)).compile(td.ShapeDtype(("B", 3), "f4"))
    compiled.save(tmp_path / "any.so", name="net")
    library = ctypes.CDLL(str(tmp_path / "any.so"))
    library.net_manifest.restype = ctypes.c_char_p
    library.net_arena_bytes.restype = ctypes.c_int64
    library.net_error.restype = ctypes.c_char_p
    manifest = json.loads(library.net_manifest())
    assert manifest["inputs"] == [{"path": "x", "dtype": "f32", "shape": ["B", 3]}]
    assert {"outputs", "dims", "cpu_features", "treadle", "format"} <= set(manifest)

    def call(n: int, arena: bool, threads: int) -> np.ndarray:
        x = np.random.default_rng(n).standard_normal((n, 3)).astype("f4")
        y = np.empty(n, "f4")
        dims = (ctypes.c_int64 * 1)(n)
        room = np.empty(library.net_arena_bytes(dims) + 64, np.uint8)
        scratch = room.ctypes.data + -room.ctypes.data % 64 if arena else None
        inputs, outputs = (ctypes.c_void_p * 1)(x.ctypes.data), (ctypes.c_void_p * 1)(y.ctypes.data)
        assert library.net_run(inputs, outputs, dims, ctypes.c_void_p(scratch), threads) == 0
        np.testing.assert_array_equal(y, compiled(x))
        return y

    for n in (0, 1, 70):
        for arena in (True, False):
            for threads in (1, 2):
                call(n, arena, threads)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: call(n, n % 2 == 0, 1), range(1, 40)))
    assert library.net_error(0) == b"" and b"unknown" in library.net_error(99)


# Only NumPy and ctypes: the path of this interpreter holds the standard library and NumPy, and nothing else.
def test_a_bare_interpreter_runs_a_model(tmp_path: Path) -> None:
    path, x, expected = saved(tmp_path, loader=True)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "site").mkdir()
    for package in Path(np.__file__).parent.parent.glob("numpy*"):
        (tmp_path / "site" / package.name).symlink_to(package)
    script = f"""
import sys
sys.path.append({str(tmp_path / "site")!r})
import runpy
import numpy as np
model = runpy.run_path({str(path.with_suffix(".py"))!r})["model"]
result = model(np.load({str(tmp_path / "x.npy")!r}))
assert not [name for name in ("treadle", "llvmlite", "networkx", "ml_dtypes") if name in sys.modules]
np.savez({str(tmp_path / "out.npz")!r}, **result)
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
    with np.load(tmp_path / "out.npz") as found:
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


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


FRESH = """
import random, sys
# Other addresses for all that follows.
noise = [object() for _ in range(random.Random(int(sys.argv[1])).randrange(50000))]
kept = noise[:: int(sys.argv[1]) + 2]
del noise
import numpy as np
import treadle as td

for n in range(int(sys.argv[2])):
    td.jit(lambda x: np.exp(x) * n)(np.ones(n + 1))

def network(params, x, i):
    h = td.nn.gelu(x @ params["w"] + params["b"])
    h = td.nn.softmax(h @ params["v"], axis=-1)
    c, _ = td.lax.scan(lambda c, row: (c * 0.5 + row, c.sum()), h[0], h)
    return {"best": np.argsort(h, axis=1)[:, -3:], "picked": h[i], "mean": h.mean(axis=0), "c": c}

generator = np.random.default_rng(0)
params = {"w": generator.standard_normal((96, 64)).astype("f4"), "b": np.ones(64, "f4"),
          "v": generator.standard_normal((64, 10)).astype("f4")}
compiled = td.jit(network).bind(params).compile(td.ShapeDtype(("n", 96), "f4"), np.array([1, 2]))
compiled.save(sys.argv[3], header=True, loader=True)
"""


# Processes with other hash seeds, addresses and histories make the same bytes: the model, its header and module, and
# every object in the cache.
def test_processes_make_the_same_bytes(tmp_path: Path) -> None:
    script = tmp_path / "fresh.py"
    script.write_text(FRESH)
    made: list[dict[str, bytes]] = []
    runs = []
    for number, (seed, earlier) in enumerate((("0", 0), ("1", 3), ("random", 1))):
        room = tmp_path / str(number)
        room.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TREADLE_CACHE_DIR": str(room / "cache")}
        command = [sys.executable, str(script), str(number), str(earlier), str(room / "net.so")]
        runs.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for number, run in enumerate(runs):
        assert run.wait(100) == 0, run.stderr.read() if run.stderr else ""
        room = tmp_path / str(number)
        made.append({file.name: file.read_bytes() for file in room.rglob("*") if file.is_file()})
    for other in made[1:]:
        for name, data in made[0].items():
            assert other[name] == data, f"{name} differs"
    assert {"net.so", "net.h", "net.py"} < set(made[0]) and len(made[0]) >= 5


# A warm start finds everything on disk: what only compiling, pictures and the command line need is not even imported;
# `import treadle` alone imports nothing.
def test_a_warm_start_imports_little(tmp_path: Path) -> None:
    script = tmp_path / "warm.py"
    script.write_text(
        """
import sys
before = set(sys.modules)
import treadle as td
assert [name for name in set(sys.modules) - before if not name.startswith("__editable__")] == ["treadle"]
import numpy as np

@td.jit
def f(x, y):
    return np.tanh(x @ y).sum(axis=1)

x = np.ones((8, 8), "f4")
for _ in range(3):
    f(x, x)
print(td.stats().compiles, *[name for name in ("networkx", "rich", "llvmlite", "argparse") if name in sys.modules])
"""
    )
    environment = {**os.environ, "TREADLE_CACHE_DIR": str(tmp_path / "cache")}
    for expected in (["1", "llvmlite"], ["0"]):
        run = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
        )
        assert run.stdout.split() == expected, run.stderr
