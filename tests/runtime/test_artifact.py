"""Saved models: complete without us, sealed, refused by name when anything is wrong."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.runtime import artifact, cpu, elf
from treadle.runtime.errors import BadArtifact, BadObject, NativeIndexError
from treadle.runtime.signature import Failure, Signature

Array = np.ndarray[Any, Any]
TEXTS = {"graph": "graph add(%x: f32[B,4]) -> f32[B,4]:\n", "program": "program add:\n"}


@pytest.fixture
def model(
    model_object: Callable[..., bytes],
    add_signature: Signature,
    add_failures: list[Failure],
    weights: Array,
    tmp_path: Path,
) -> Path:
    path = tmp_path / "adder.so"
    save(path, model_object("adder"), add_signature, add_failures, [("w", weights)])
    return path


def save(
    path: Path,
    code: bytes,
    signature: Signature,
    failures: list[Failure],
    constants: list[tuple[str, Array]],
    **rest: Any,
) -> int:
    manifest = {**signature.to_manifest(), "failures": [f._asdict() for f in failures], "cpu_features": [], **rest}
    return artifact.write(path, object_code=code, manifest=manifest, texts=TEXTS, constants=constants, name=path.stem)


def sample(rows: int = 3) -> Array:
    return np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)


def test_a_saved_model_computes(model: Path, weights: Array) -> None:
    """Through the entry with every check, and through the C interface as it is."""
    loaded = artifact.load(model, verify=True)
    x = sample()
    assert np.array_equal(loaded.executable()([x])[0], x + weights)
    y = np.empty_like(x)
    loaded.run([x], [y], [3])
    assert np.array_equal(y, x + weights)
    x[0, 0] = -1
    for call in (lambda: loaded.executable()([x]), lambda: loaded.run([x], [y], [3])):
        with pytest.raises(NativeIndexError, match=r"TD0301: x\[0, 0\] is negative at net.py:12"):
            call()


def test_what_it_says_of_itself(model: Path, weights: Array) -> None:
    """Inspected without running: manifest, texts, constants, for whatever machine it was made."""
    found = artifact.read(model)
    assert found.name == "adder"
    assert found.texts == TEXTS
    assert found.size == model.stat().st_size
    assert found.manifest["inputs"] == [{"path": "x", "dtype": "f32", "shape": ["B", 4]}]
    assert found.manifest["dims"] == [{"name": "B", "low": 0, "high": 1 << 40, "multiple_of": 1}]
    assert found.signature.solve([(7, 4)]) == [7]
    assert np.array_equal(found.constant("w"), weights)
    (row,) = found.manifest["constants"]
    assert row["hash"] == hashlib.sha256(weights.tobytes()).hexdigest()
    assert found.manifest["machine"] == elf.MACHINES[found.elf.machine]
    with pytest.raises(BadArtifact, match="TD0972"):
        found.constant("v")


BARE = """
import sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path] + [{numpy!r}]
import ctypes, json, numpy
model = ctypes.CDLL({path!r})
model.adder_manifest.restype = ctypes.c_char_p
manifest = json.loads(model.adder_manifest())
assert manifest["inputs"][0]["path"] == "x", manifest
model.adder_arena_bytes.restype = ctypes.c_int64
model.adder_error.restype = ctypes.c_char_p
x = numpy.arange(12, dtype=numpy.float32).reshape(3, 4)
y = numpy.empty_like(x)
pointers = lambda array: (ctypes.c_void_p * 1)(array.ctypes.data)
dims = (ctypes.c_int64 * 1)(3)
assert model.adder_arena_bytes(dims) == 48
assert model.adder_run(pointers(x), pointers(y), dims, None, 1) == 0
assert (y == x + numpy.array([10, 20, 30, 40])).all()
x[0, 0] = -1
site = model.adder_run(pointers(x), pointers(y), dims, None, 1)
assert (site, model.adder_error(site)) == (1, b"x[0, 0] is negative at net.py:12")
assert not [name for name in sys.modules if name.split(".")[0] in ("treadle", "llvmlite", "ml_dtypes")]
print("ok")
"""


def numpy_alone(directory: Path) -> str:
    """A directory with NumPy in it and nothing else."""
    place = Path(np.__file__).parent
    for name in (place.name, "numpy.libs"):
        if (place.parent / name).exists():
            (directory / name).symlink_to(place.parent / name)
    return str(directory)


def test_a_bare_interpreter_runs_it(model: Path, tmp_path: Path) -> None:
    """A deployed model needs NumPy and ctypes only, not even installed packages."""
    (tmp_path / "packages").mkdir()
    code = BARE.format(path=str(model), numpy=numpy_alone(tmp_path / "packages"))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("ok\n", "")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("way", ["link", "dlopen"])
def test_a_c_program_runs_it(model: Path, tmp_path: Path, way: str) -> None:
    """By the functions the documentation promises."""
    (tmp_path / "main.c").write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <dlfcn.h>\n"
        "typedef int32_t run_t(void *const *, void *const *, const int64_t *, void *, int32_t);\n"
        "extern run_t adder_run; extern const char *adder_error(int32_t);\n"
        "int main(int argc, char **argv) {\n"
        "  float x[4] = {1, 2, 3, 4}, y[4]; void *in[] = {x}, *out[] = {y}; int64_t dims[] = {1};\n"
        + (
            '  run_t *run = (run_t *)dlsym(dlopen(argv[1], RTLD_NOW), "adder_run");\n'
            if way == "dlopen"
            else "  run_t *run = adder_run;\n"
        )
        + "  int32_t status = run(in, out, dims, NULL, 1);\n"
        '  printf("%d %g %g %g %g\\n", status, y[0], y[1], y[2], y[3]);\n  return 0;\n}\n'
    )
    program = tmp_path / "main"
    files = [str(tmp_path / "main.c")] + ([str(model)] if way == "link" else ["-ldl"])
    subprocess.run(["gcc", *files, "-o", str(program), f"-Wl,-rpath,{tmp_path}"], check=True)
    done = subprocess.run([program, model], capture_output=True, text=True, check=True)
    assert done.stdout == "0 11 22 33 44\n"


def refused(path: Path, data: bytes, code: str = "TD096") -> None:
    path.write_bytes(data)
    with pytest.raises(BadArtifact, match=code):
        artifact.load(path)


def test_every_truncation_is_refused(model: Path, tmp_path: Path) -> None:
    """At 64 places over the file, before any of its code runs."""
    data = model.read_bytes()
    for length in np.linspace(0, len(data) - 1, 64).astype(int):
        refused(tmp_path / "cut.so", data[:length], "TD096[24]")
    refused(tmp_path / "long.so", data + b"x", "TD0965")


def test_every_flipped_bit_outside_the_weights_is_refused(model: Path, tmp_path: Path) -> None:
    """Wherever it is: header, tables, code, manifest, texts, padding, and the seal itself bit by bit."""
    data = model.read_bytes()
    head = artifact.read(model).weights_at
    random = np.random.default_rng(1)
    places = {*range(8 * 64, 8 * 128), *random.integers(0, 8 * head, 700).tolist()}
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        refused(tmp_path / "flipped.so", bytes(flipped), "TD096[2345]")


def test_flips_inside_the_weights_are_found_by_verify(
    model_object: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """And named: which array. Without `verify`, gigabytes of weights are mapped, not read."""
    arrays = [(f"w{n}", np.arange(n * 200_000, dtype=np.float32)) for n in range(4)]
    path = tmp_path / "many.so"
    save(path, model_object("many"), add_signature, [], arrays)
    artifact.load(path, verify=True).close()
    found = artifact.read(path)
    data = path.read_bytes()
    for number in (1, 2, 3):
        row = found.manifest["constants"][number]
        flipped = bytearray(data)
        flipped[found.weights_at + row["offset"] + row["bytes"] // 2] ^= 1
        (tmp_path / "flipped.so").write_bytes(flipped)
        artifact.load(tmp_path / "flipped.so").close()
        with pytest.raises(BadArtifact, match=f"TD0968.*w{number}"):
            artifact.load(tmp_path / "flipped.so", verify=True)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """Foreign libraries, other files, and nothing at all."""
    foreign = ctypes.CDLL(None)._name or next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so.6" in line
    )
    refused(tmp_path / "foreign.so", Path(foreign).read_bytes(), "TD0962")
    refused(tmp_path / "text.so", b"hello" * 100, "TD0962")
    refused(tmp_path / "empty.so", b"", "TD0962")
    with pytest.raises(FileNotFoundError):
        artifact.load(tmp_path / "absent.so")


def reseal(data: bytes, version: int = 1) -> bytes:
    """The file with another version, rightly hashed."""
    magic, _, zero, head_size, weights_size, _ = artifact.SEAL.unpack_from(data, artifact.SEAL_AT)
    changed = bytearray(data)
    artifact.SEAL.pack_into(changed, artifact.SEAL_AT, magic, version, zero, head_size, weights_size, bytes(32))
    digest = hashlib.sha256(changed[:head_size]).digest()
    changed[artifact.HASH_AT : artifact.HASH_AT + 32] = digest
    return bytes(changed)


def test_a_format_from_the_future_is_refused(model: Path, tmp_path: Path) -> None:
    """Its meaning is not known; what is known keeps loading."""
    data = model.read_bytes()
    assert reseal(data) == data
    refused(tmp_path / "future.so", reseal(data, 2), "TD0963.*format 2 is newer than 1")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("inputs"),
        lambda manifest: manifest.update(dims=[{"name": "B", "size": 3}]),
        lambda manifest: manifest.update(failures=3),
        lambda manifest: manifest["inputs"][0].update(shape=["__import__('os').abort()", 4]),
    ],
)
def test_a_manifest_that_was_made_wrongly_is_refused(
    model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    """Rightly sealed, so somebody made it so: still an error of ours, and nothing of it is evaluated."""
    data = bytearray(model.read_bytes())
    section = artifact.read(model).elf.section(artifact.MANIFEST)
    assert section is not None
    manifest = artifact.read(model).manifest
    manifest.pop("failures")  # room for what is changed
    change(manifest)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    data[section.offset : section.offset + section.size] = text.ljust(section.size, b"\0")
    refused(tmp_path / "made.so", reseal(bytes(data)), "TD096[15]")


def test_a_model_for_another_machine_is_refused(
    model_object: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """But can be inspected."""
    triple = "aarch64-unknown-linux-gnu" if os.uname().machine == "x86_64" else "x86_64-unknown-linux-gnu"
    save(tmp_path / "other.so", model_object("other", triple), add_signature, [], [])
    assert artifact.read(tmp_path / "other.so").name == "other"
    with pytest.raises(BadArtifact, match="TD0966"):
        artifact.load(tmp_path / "other.so")


def test_a_model_for_a_larger_cpu_is_refused_with_the_features_named(
    model_object: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """An illegal instruction would end the process."""
    features = ["sse2" if os.uname().machine == "x86_64" else "neon", "avx1024", "warp-drive"]
    save(tmp_path / "big.so", model_object("big"), add_signature, [], [], cpu_features=features)
    with pytest.raises(BadArtifact, match=r"TD0967.*lacks: avx1024, warp-drive"):
        artifact.load(tmp_path / "big.so")


def test_a_cpu_is_told_from_others(tmp_path: Path) -> None:
    """By its model and features, not by its clock or by how many there are; "" where the kernel says nothing."""
    block = "processor\t: 0\nmodel name\t: This One\ncpu MHz\t\t: 2000\nflags\t\t: avx2 fma\n"
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    one.write_text(block + "\n")
    two.write_text(block.replace("2000", "3000") + "\n" + block.replace(": 0", ": 1"))
    other.write_text(block.replace("fma", "fma avx512f"))
    assert cpu.identity(one) == cpu.identity(two) != cpu.identity(other)
    assert "This One" in cpu.identity(one) and cpu.identity(tmp_path / "none") == ""


def test_features_are_known_by_llvms_names() -> None:
    """Whatever LLVM finds on this machine must be found here too, or good models would be refused."""
    import llvmlite.binding as llvm

    unknown = {"shstk"}  # the kernel's to allow, and of no use to us
    found = [name for name, present in llvm.get_host_cpu_features().items() if present and name not in unknown]
    assert cpu.missing(found) == []
    assert cpu.missing(["avx2", "avx512f"], frozenset({"avx2"})) == ["avx512f"]
    assert cpu.missing(["avx2"], frozenset()) == ["avx2"]


def test_a_file_saved_again_while_in_use(
    model: Path, model_object: Callable[..., bytes], add_signature: Signature
) -> None:
    """Saving makes a new file, so the old model goes on as it was and the new one loads beside it."""
    old = artifact.load(model)
    save(model, model_object("adder"), add_signature, [], [("w", np.zeros(4, np.float32))])
    new = artifact.load(model)
    x = sample()
    assert np.array_equal(old.executable()([x])[0], x + np.array([10, 20, 30, 40]))
    assert np.array_equal(new.executable()([x])[0], x)
    old.close()
    assert np.array_equal(new.executable()([x])[0], x)


def test_a_file_overwritten_in_place_while_in_use_is_refused(
    model: Path, model_object: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """The dynamic linker would answer with the old mapping. Once nobody uses it, it loads."""
    (tmp_path / "new").mkdir()
    save(tmp_path / "new" / "adder.so", model_object("adder"), add_signature, [], [("w", np.zeros(4, np.float32))])
    loaded = artifact.load(model)
    data = (tmp_path / "new" / "adder.so").read_bytes()
    with open(model, "r+b") as file:
        file.write(data)
    with pytest.raises(BadArtifact, match="TD0973"):
        artifact.load(model)
    loaded.close()
    assert np.array_equal(artifact.load(model).executable()([sample()])[0], sample())


def test_many_models_load_though_descriptors_return(
    model_object: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """The dynamic linker knows files by name, and /proc/self/fd/5 is another file each time."""
    loaded = []
    for number in range(5):
        path = tmp_path / f"m{number}.so"
        save(path, model_object(f"m{number}"), add_signature, [], [("w", np.full(4, number, np.float32))])
        loaded.append(artifact.load(path).executable())
    for number, call in enumerate(loaded):
        assert np.array_equal(call([sample()])[0], sample() + number)


def test_a_closed_model_is_unmapped(model: Path) -> None:
    """A server that changes models must not keep them all."""
    first, second = artifact.load(model), artifact.load(model)
    first.close()
    assert str(model) in Path("/proc/self/maps").read_text()
    second.close()
    assert str(model) not in Path("/proc/self/maps").read_text()


def test_equal_models_are_equal_bytes(
    model: Path, model_object: Callable[..., bytes], tmp_path: Path, **_: Any
) -> None:
    """Whatever order the manifest was written in."""
    found = artifact.read(model)
    manifest = dict(reversed([(k, v) for k, v in found.manifest.items()]))
    other = tmp_path / "again.so"
    artifact.write(
        other,
        object_code=model_object("adder"),
        manifest=manifest,
        texts=TEXTS,
        constants=[("w", found.constant("w"))],
        name="adder",
    )
    assert other.read_bytes() == model.read_bytes()


def test_an_object_that_lacks_the_interface_is_not_saved(
    add_object: bytes, add_signature: Signature, tmp_path: Path
) -> None:
    """The file would not be what the documentation says."""
    with pytest.raises(BadObject, match=r"TD0910.*x_manifest, x_arena_bytes, x_run, x_error"):
        save(tmp_path / "x.so", add_object, add_signature, [], [])
    assert not list(tmp_path.iterdir())


def test_an_object_that_needs_more_than_libc_gives_is_not_saved(
    emit: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """It would fail to load somewhere else."""
    stubs = "".join(f"define void @{n}() {{ ret void }}\n" for n in ("treadle_entry", "treadle_arena_bytes"))
    stubs += "".join(f"define void @x_{part}() {{ ret void }}\n" for part in artifact.INTERFACE)
    stubs += (
        "declare double @exp(double)\ndefine double @f(double %x) { %r = call double @exp(double %x) ret double %r }"
    )
    with pytest.raises(BadObject, match=r"TD0909.*exp"):
        save(tmp_path / "x.so", emit(stubs), add_signature, [], [])


def test_a_failed_save_leaves_the_old_file(
    model: Path, model_object: Callable[..., bytes], add_signature: Signature
) -> None:
    """And nothing half written beside it."""
    before = model.read_bytes()
    with pytest.raises(BadObject, match="TD0971"):
        save(model, model_object("adder"), add_signature, [], [("w", np.zeros(3, object))])
    with pytest.raises((TypeError, ValueError)):
        save(model, model_object("adder"), add_signature, [], [], strange={1, 2})
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_constants_of_every_type_and_shape_come_back(
    model_object: Callable[..., bytes], add_signature: Signature, tmp_path: Path
) -> None:
    """Aligned to 64 bytes, empty ones and those of ml_dtypes included."""
    import ml_dtypes

    arrays = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3.5),
        "odd": np.arange(7, dtype=np.int8),
        "half": np.arange(5).astype(ml_dtypes.bfloat16),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bools": np.array([True, False]),
    }
    save(tmp_path / "all.so", model_object("all"), add_signature, [], list(arrays.items()))
    found = artifact.read(tmp_path / "all.so")
    assert all(row["offset"] % 64 == 0 for row in found.manifest["constants"])
    assert found.weights_at % 4096 == 0
    for name, array in arrays.items():
        back = found.constant(name)
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert np.array_equal(back, array)


def test_the_manifest_in_memory_is_the_one_in_the_file(model: Path) -> None:
    """A C program and `read` see the same."""
    lib = ctypes.CDLL(str(model))
    lib.adder_manifest.restype = ctypes.c_char_p
    assert json.loads(lib.adder_manifest()) == artifact.read(model).manifest
