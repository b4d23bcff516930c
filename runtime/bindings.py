"""What is written beside a saved model on request: a C header, and a Python module that needs only NumPy and
ctypes.

Both are made from the manifest alone. The module is a program of its own, so that it can be copied away with
the model and read by whoever runs it: it checks the seal and the CPU before loading, takes the arguments of
the compiled function, checks their types and sizes, and returns the results in the function's own containers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from .cpu import kernel_name

C_TYPES = {
    "bool": "bool", "i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "int64_t",
    "u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t",
    "f16": "uint16_t (f16)", "bf16": "uint16_t (bf16)", "f32": "float", "f64": "double",
    "c64": "float _Complex", "c128": "double _Complex",
}  # fmt: skip


def header_source(manifest: Mapping[str, Any]) -> str:
    """The C header of a model."""
    name = manifest["name"]
    lines = [
        f"/* {name}: a model compiled by treadle{_version(manifest)}. Link with the library, or use dlopen and dlsym.",
        "",
        "   Arrays are C-contiguous and aligned to their elements. Results share memory with no input.",
        "",
        *_rows("inputs", manifest["inputs"]),
        *_rows("outputs", manifest["outputs"]),
    ]
    if manifest["dims"]:
        lines += ["   dims:", *(f"     {n}: {_dim(dim)}" for n, dim in enumerate(manifest["dims"])), ""]
    if manifest.get("cpu_features"):
        lines += [f"   Needs a CPU with: {' '.join(manifest['cpu_features'])}.", ""]
    lines[-1:] = ["*/"]
    comment = "\n".join(lines[:-1]).replace("*/", "* /") + "\n" + lines[-1]
    guard = f"{name.upper()}_H"
    return f"""{comment}
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {name.upper()}_INPUTS {len(manifest["inputs"])}
#define {name.upper()}_OUTPUTS {len(manifest["outputs"])}
#define {name.upper()}_DIMS {len(manifest["dims"])}

/* What this model takes and gives, as JSON. */
const char *{name}_manifest(void);

/* The bytes of scratch that a call with these dims needs, aligned to 64. */
int64_t {name}_arena_bytes(const int64_t *dims);

/* Runs the model on up to `threads` threads: 0, or the site of a failure. `arena` may be NULL: then memory is
   allocated for the call. Any number of threads may run it at the same time, each with an arena of its own. */
int32_t {name}_run(void *const *inputs, void *const *outputs, const int64_t *dims, void *arena, int32_t threads);

/* What failed at that site, and where in the program it comes from. */
const char *{name}_error(int32_t site);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _version(manifest: Mapping[str, Any]) -> str:
    version = manifest.get("treadle")
    return f" {version}" if version else ""


def _rows(title: str, tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for number, tensor in enumerate(tensors):
        kind = C_TYPES.get(tensor["dtype"], f"uint8_t ({tensor['dtype']})")
        rows.append(f"     {number}: {kind} {''.join(f'[{size}]' for size in tensor['shape'])}  {tensor['path']}")
    return [f"   {title}:", *rows, ""]


def _dim(dim: Mapping[str, Any]) -> str:
    bounds = f"at least {dim['low']}" if dim["high"] is None else f"in [{dim['low']}, {dim['high']}]"
    multiple = f", a multiple of {dim['multiple_of']}" if dim["multiple_of"] > 1 else ""
    return f"{dim['name']}, {bounds}{multiple}"


def loader_source(manifest: Mapping[str, Any], file: str) -> str:
    """A Python module that loads `file`, a name beside it; its variable NAME is the model."""
    features = {feature: kernel_name(feature) for feature in manifest.get("cpu_features", ())}
    return _LOADER.substitute(
        name=manifest["name"],
        version=_version(manifest),
        module=file.removesuffix(".so") + ".py",
        file=repr(file),
        features=repr(features),
    )


_LOADER = Template('''"""The model $name, compiled by treadle$version. Needs NumPy and ctypes only.

    import runpy
    $name = runpy.run_path("$module")["$name"]
    result = $name(...)  # the arguments of the compiled function

(Python's `import` would take the library for an extension module, because it looks for .so before .py; under another
name than the library's, this file can be imported like any other.)
"""

import ctypes
import hashlib
import json
import pathlib
import re
import struct

import numpy as np

FILE = pathlib.Path(__file__).with_name($file)
CPU_FEATURES = $features  # what the code needs, and what the kernel calls it
NUMPY_NAMES = {
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
    "bf16": "bfloat16", "f8e4m3fn": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2fnuz": "float8_e5m2fnuz", "f8e4m3b11fnuz": "float8_e4m3b11fnuz",
}
ERRORS = {"IndexError": IndexError, "ValueError": ValueError, "ArithmeticError": ArithmeticError}


def check_file():
    """Refuse a damaged file before any of its code runs; the weights are not read."""
    with open(FILE, "rb") as file:
        start = file.read(128)
        if len(start) < 128 or start[64:72] != b"TREADLE\\0":
            raise ValueError(f"{FILE} is not a model file")
        head_size, weights_size = struct.unpack_from("<QQ", start, 80)
        if FILE.stat().st_size != head_size + weights_size:
            raise ValueError(f"{FILE} is cut short or damaged")
        file.seek(0)
        head = bytearray(file.read(head_size))
    head[96:128] = bytes(32)
    if hashlib.sha256(head).digest() != start[96:128]:
        raise ValueError(f"{FILE} is damaged")


def check_cpu():
    """Refuse a CPU that would meet an illegal instruction."""
    found = re.search(r"^(?:flags|Features)\\s*:(.*)$$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    present = {re.sub("[._-]", "", flag.lower()) for flag in found.group(1).split()} if found else set()
    lacking = [feature for feature, flag in CPU_FEATURES.items() if flag not in present]
    if lacking:
        raise ValueError(f"{FILE} needs CPU features that this machine lacks: {', '.join(lacking)}")


def dtype_of(name):
    try:
        return np.dtype(NUMPY_NAMES.get(name, name))
    except TypeError:
        raise TypeError(f"NumPy alone does not know the element type {name}: import ml_dtypes first") from None


def flatten(tree, value, path):
    """The leaves of `value`, which must have the structure of `tree`."""
    if tree == "leaf":
        return [value]
    if tree == "none":
        if value is not None:
            raise TypeError(f"{path}: expected None, found {type(value).__name__}")
        return []
    ((kind, children),) = tree.items()
    if kind == "static":
        if getattr(value, "__qualname__", None) != children[0] and repr(value) != children[0]:
            raise TypeError(f"{path} is {value!r}, and was {children[0]} when it was compiled")
        return []
    if kind == "dict":
        if not isinstance(value, dict) or {str(key) for key in value} != {key for key, _ in children}:
            raise TypeError(f"{path}: expected a dict with the keys {', '.join(key for key, _ in children)}")
        value = {str(key): item for key, item in value.items()}
        return [leaf for key, child in children for leaf in flatten(child, value[key], f"{path}[{key!r}]")]
    if not isinstance(value, (list, tuple)) or len(value) != len(children):
        raise TypeError(f"{path}: expected a {kind} of {len(children)}")
    return [leaf for n, child in enumerate(children) for leaf in flatten(child, value[n], f"{path}[{n}]")]


def unflatten(tree, leaves):
    """The containers of `tree` around the leaves taken from an iterator."""
    if tree == "leaf":
        return next(leaves)
    if tree == "none":
        return None
    ((kind, children),) = tree.items()
    if kind == "static":
        return children[-1]
    if kind == "dict":
        return {key: unflatten(child, leaves) for key, child in children}
    return (list if kind == "list" else tuple)([unflatten(child, leaves) for child in children])


class Model:
    """A loaded model. Call it with the arguments of the compiled function; `threads=` says on how many
    threads."""

    def __init__(self):
        check_file()
        check_cpu()
        self.library = library = ctypes.CDLL(str(FILE.resolve()))
        library.${name}_manifest.restype = ctypes.c_char_p
        library.${name}_error.restype = ctypes.c_char_p
        library.${name}_error.argtypes = [ctypes.c_int32]
        self.run = library.${name}_run
        self.run.restype = ctypes.c_int32
        self.run.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int32]
        self.manifest = json.loads(library.${name}_manifest())
        self.inputs = [(row["path"], dtype_of(row["dtype"]), row["shape"]) for row in self.manifest["inputs"]]
        self.outputs = [(row["path"], dtype_of(row["dtype"]), row["shape"]) for row in self.manifest["outputs"]]
        self.donated = {argument: result for argument, result in self.manifest.get("donated", ())}
        leaves = {"dict": [[path, "leaf"] for path, _, _ in self.inputs]}
        self.arguments = self.manifest.get("arguments", leaves)
        results = "leaf" if len(self.outputs) == 1 else {"tuple": ["leaf"] * len(self.outputs)}
        self.results = self.manifest.get("results", results)

    def __call__(self, *args, threads=1, **kwargs):
        names = [name for name, _ in self.arguments["dict"]]
        if len(args) > len(names):
            raise TypeError(f"takes {len(names)} arguments ({', '.join(names)}), found {len(args)}")
        given = dict(zip(names, args))
        for name in kwargs:
            if name in given or name not in names:
                raise TypeError(f"{name} is given twice" if name in given else f"no argument is called {name}")
        given.update(kwargs)
        missing = [name for name in names if name not in given]
        if missing:
            raise TypeError(f"missing arguments: {', '.join(missing)}")
        leaves = flatten(self.arguments, given, "arguments")
        inputs = [self.input(leaf, *expected) for leaf, expected in zip(leaves, self.inputs)]
        dims = self.solve([array.shape for array in inputs])
        outputs = [np.empty([self.size(n, dims) for n in shape], dtype) for _, dtype, shape in self.outputs]
        for argument, result in self.donated.items():  # the program works in the result's memory
            outputs[result][...] = inputs[argument]
            inputs[argument] = outputs[result]
        status = self.run(
            (ctypes.c_void_p * max(1, len(inputs)))(*[array.ctypes.data for array in inputs]),
            (ctypes.c_void_p * max(1, len(outputs)))(*[array.ctypes.data for array in outputs]),
            (ctypes.c_int64 * max(1, len(dims)))(*dims.values()),
            None,
            threads,
        )
        if status:
            rows = self.manifest.get("failures", [])
            kind = ERRORS.get(rows[status - 1]["kind"] if status <= len(rows) else "", RuntimeError)
            raise kind((self.library.${name}_error(status) or b"failed").decode())
        return unflatten(self.results, iter(outputs))

    def input(self, leaf, path, dtype, shape):
        if isinstance(leaf, (bool, int, float, complex)):
            whole = dtype.kind in "biu"
            if whole and not (isinstance(leaf, int) and isinstance(leaf, bool) == (dtype.kind == "b")):
                raise TypeError(f"{path}: expected {dtype}, found {type(leaf).__name__}")
            leaf = np.asarray(leaf, dtype)
        array = np.asarray(leaf)
        if array.dtype.newbyteorder("=") != dtype or array.ndim != len(shape):
            expected, found = ",".join(map(str, shape)), ",".join(map(str, array.shape))
            raise TypeError(f"{path}: expected {dtype}[{expected}], found {array.dtype}[{found}]")
        return np.require(array, dtype, ["C", "A"]) if array.ndim else np.array(array, dtype)

    def size(self, size, dims):
        return size if isinstance(size, int) else eval(size, {"__builtins__": {}, "min": min, "max": max}, dims)

    def solve(self, shapes):
        """The dims: each from an extent that is a polynomial in it alone, then everything is compared."""
        extents = [
            (size, extent, f"{path} (axis {axis})")
            for (path, _, shape), found in zip(self.inputs, shapes)
            for axis, (size, extent) in enumerate(zip(shape, found))
        ]
        names = [dim["name"] for dim in self.manifest["dims"]]
        dims = {}
        polynomials = [row for row in extents if isinstance(row[0], str) and not re.search("//|%|min|max", row[0])]
        while len(dims) < len(names):
            before = len(dims)
            for size, extent, place in sorted(polynomials, key=lambda row: row[0] not in names):
                unknown = [n for n in names if n not in dims and re.search(rf"\\b{n}\\b", size)]
                if len(unknown) == 1:
                    zero, one, two = (self.size(size, {**dims, unknown[0]: k}) for k in (0, 1, 2))
                    if one == zero or two - one != one - zero:
                        continue
                    if (extent - zero) % (one - zero):
                        raise ValueError(f"{place} has {extent}, which does not fit {size}")
                    dims[unknown[0]] = (extent - zero) // (one - zero)
            if len(dims) == before:
                raise ValueError("the sizes of the arguments do not determine the dims")
        for size, extent, place in extents:
            if self.size(size, dims) != extent:
                raise ValueError(f"{place} has {extent}, expected {size} with {dims}")
        for dim in self.manifest["dims"]:
            value, high = dims[dim["name"]], dim["high"]
            if value < dim["low"] or (high is not None and value > high) or value % dim["multiple_of"]:
                raise ValueError(f"{dim['name']} = {value} breaks what was promised of it: {dim}")
        return {name: dims[name] for name in names}


$name = Model()
''')
