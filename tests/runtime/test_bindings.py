"""The C header and the Python module that are written beside a saved model."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.runtime import artifact, bindings
from treadle.runtime.signature import Dim, Failure, Signature, Tensor

Array = np.ndarray[Any, Any]
f32 = np.dtype(np.float32)


def save(
    directory: Path,
    code: bytes,
    signature: Signature,
    failures: list[Failure] = [],  # noqa: B006  (only read)
    **extra: Any,
) -> Path:
    weights = np.array([10, 20, 30, 40], f32)
    manifest = {
        **signature.to_manifest(),
        "treadle": "0.1",
        "failures": [failure._asdict() for failure in failures],
        "cpu_features": extra.pop("cpu_features", []),
        **extra,
    }
    path = directory / "adder.so"
    artifact.write(path, object_code=code, manifest=manifest, texts={}, constants=[("w", weights)], name="adder")
    found = artifact.read(path).manifest
    (directory / "adder.py").write_text(bindings.loader_source(found, path.name))
    (directory / "adder.h").write_text(bindings.header_source(found))
    return path


def bare(directory: Path, body: str) -> str:
    """Run `body` where only NumPy and the directory can be imported."""
    packages = directory / "packages"
    packages.mkdir(exist_ok=True)
    place = Path(np.__file__).parent
    for name in (place.name, "numpy.libs"):
        if (place.parent / name).exists() and not (packages / name).exists():
            (packages / name).symlink_to(place.parent / name)
    code = f"import sys\nsys.path[:0] = [{str(packages)!r}]\nimport runpy\nimport numpy as np\n"
    code += f"def load(): return runpy.run_path({str(directory / 'adder.py')!r})['adder']\n{body}\n"
    code += "assert not [m for m in sys.modules if m.split('.')[0] in ('treadle', 'llvmlite', 'ml_dtypes')]\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SAY = """
def say(call):
    try:
        print(call())
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_the_module_is_the_function(
    tmp_path: Path, model_object: Callable[..., bytes], add_signature: Signature, add_failures: list[Failure]
) -> None:
    """The function's own arguments and results, by position and by name, and its errors."""
    code = model_object("adder")
    arguments = {"dict": [["batch", {"dict": [["x", "leaf"], ["none", "none"]]}]]}
    save(tmp_path, code, add_signature, add_failures, arguments=arguments, results={"tuple": ["leaf", "none"]})
    body = (
        SAY
        + """
adder = load()
x = np.arange(8, dtype=np.float32).reshape(2, 4)
say(lambda: adder({"x": x, "none": None}))
say(lambda: adder(batch={"none": None, "x": np.asfortranarray(x.astype(">f4"))}, threads=2)[0].tolist())
say(lambda: adder({"x": -x - 1, "none": None}))
say(lambda: adder({"x": x.astype(float), "none": None}))
say(lambda: adder({"x": x[:, :3], "none": None}))
say(lambda: adder({"y": x}))
say(lambda: adder())
say(lambda: adder({}, {}))
say(lambda: adder({}, batch={}))
say(lambda: adder(other=1))
"""
    )
    assert bare(tmp_path, body).splitlines() == [
        "(array([[10., 21., 32., 43.],",
        "       [14., 25., 36., 47.]], dtype=float32), None)",
        "[[10.0, 21.0, 32.0, 43.0], [14.0, 25.0, 36.0, 47.0]]",
        "IndexError x[0, 0] is negative at net.py:12",
        "TypeError x: expected float32[B,4], found float64[2,4]",
        "ValueError x (axis 1) has 3, expected 4 with {'B': 2}",
        "TypeError arguments['batch']: expected a dict with the keys x, none",
        "TypeError missing arguments: batch",
        "TypeError takes 1 arguments (batch), found 2",
        "TypeError batch is given twice",
        "TypeError no argument is called other",
    ]


def test_without_containers_the_leaves_are_the_arguments(
    tmp_path: Path, model_object: Callable[..., bytes], add_signature: Signature
) -> None:
    """As in a manifest that describes none."""
    save(tmp_path, model_object("adder"), add_signature)
    body = "adder = load()\nprint(adder(np.zeros((1, 4), np.float32)).tolist())"
    assert bare(tmp_path, body) == "[[10.0, 20.0, 30.0, 40.0]]\n"


@pytest.mark.parametrize(
    ("inputs", "shapes", "dims"),
    [
        ([("B*T",), ("2*T + 1",)], [(12,), (9,)], {"B": 3, "T": 4}),
        ([("min(B, 5)",), ("B",)], [(5,), (9,)], {"B": 9}),
        ([("B*B",), ("B + 1",)], [(9,), (4,)], {"B": 3}),
        ([("2*B",)], [(9,)], "args[0] (axis 0) has 9, which does not fit 2*B"),
        ([("B",), ("B",)], [(9,), (8,)], "args[1] (axis 0) has 8, expected B with {'B': 9}"),
        ([("C",)], [(9,)], "C = 9 breaks what was promised"),
    ],
)
def test_sizes_are_solved_as_the_runtime_solves_them(
    tmp_path: Path,
    model_object: Callable[..., bytes],
    inputs: list[tuple[str, ...]],
    shapes: list[tuple[int, ...]],
    dims: dict[str, int] | str,
) -> None:
    """The module has an algorithm of its own, so it is compared."""
    names = sorted({c for shape in inputs for c in "BTC" if c in shape[0]})
    known = [Dim(name, 0, None, 2 if name == "C" else 1) for name in names]
    signature = Signature([Tensor(f"args[{n}]", f32, shape) for n, shape in enumerate(inputs)], [], known)
    save(tmp_path, model_object("adder"), signature)
    out = bare(tmp_path, SAY + f"adder = load()\nsay(lambda: adder.solve({shapes!r}))")
    if isinstance(dims, str):
        assert dims in out
        with pytest.raises(ValueError, match="TD094"):
            signature.solve(shapes)
    else:
        assert ast.literal_eval(out) == dims == dict(zip(names, signature.solve(shapes), strict=True))


def test_a_damaged_file_and_a_lesser_cpu_are_refused_before_loading(
    tmp_path: Path, model_object: Callable[..., bytes], add_signature: Signature
) -> None:
    """The same promises as with treadle."""
    path = save(tmp_path, model_object("adder"), add_signature)
    data = path.read_bytes()
    body = SAY + "say(load)"
    for damaged, said in (
        (data[:4000], "is cut short or damaged"),
        (data[:100], "is not a model file"),
        (data[:5000] + b"?" + data[5001:], "is damaged"),
        (b"\x7fELF" + bytes(500), "is not a model file"),
    ):
        path.write_bytes(damaged)
        assert said in bare(tmp_path, body)
    save(tmp_path, model_object("adder"), add_signature, cpu_features=["avx1024"])
    assert "needs CPU features that this machine lacks: avx1024" in bare(tmp_path, body)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("language", ["c99", "c++14"])
def test_a_compiler_takes_the_header(tmp_path: Path, model_object: Callable[..., bytes], language: str) -> None:
    """Strictly, in C and in C++, whatever the paths of the arguments are."""
    if language == "c++14" and shutil.which("g++") is None:
        language = "c11"
    signature = Signature(
        [Tensor("params['*/ evil']", f32, ("B", 4)), Tensor("n", np.dtype(np.int64), ())],
        [Tensor("result", np.dtype(np.complex128), ("2*B",))],
        [Dim("B", 1, 8, 2)],
    )
    save(tmp_path, model_object("adder"), signature)
    source = tmp_path / "main.c"
    source.write_text(
        '#include "adder.h"\n#include "adder.h"\nint main(void) { return adder_error(1) == 0 || ADDER_DIMS != 1; }\n'
    )
    compiler = ["g++", "-x", "c++"] if "+" in language else ["gcc"]
    command = [*compiler, f"-std={language}", "-Wall", "-Wextra", "-pedantic", "-Werror", str(source), "-x", "none"]
    program = str(tmp_path / "main")
    subprocess.run([*command, str(tmp_path / "adder.so"), "-o", program, f"-Wl,-rpath,{tmp_path}"], check=True)
    subprocess.run([program], check=True)
    text = (tmp_path / "adder.h").read_text()
    for line in ("0: float [B][4]  params['* / evil']", "1: int64_t   n", "0: double _Complex [2*B]  result"):
        assert line in text
    assert "B, in [1, 8], a multiple of 2" in text


def test_the_module_is_plain_python(
    tmp_path: Path, model_object: Callable[..., bytes], add_signature: Signature
) -> None:
    """It parses, and is the same for the same manifest."""
    save(tmp_path, model_object("adder"), add_signature)
    found = json.loads(json.dumps(artifact.read(tmp_path / "adder.so").manifest))
    assert (tmp_path / "adder.py").read_text() == bindings.loader_source(found, "adder.so")
    ast.parse((tmp_path / "adder.py").read_text())
