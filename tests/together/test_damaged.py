"""What nobody wrote on purpose: texts and models with bytes changed, arguments of every shape of tree. Nothing but an
error of ours may come of them, and what is accepted means what it says."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import treadle as td
from treadle.ir.loops.parse import parse_kernels
from treadle.ir.loops.text import show as show_kernel
from treadle.ir.program_text import parse_program
from treadle.ir.target import parse as parse_target
from treadle.runtime import artifact
from treadle.runtime.errors import BadArtifact

# --- texts ------------------------------------------------------------------------------------------------------------


def block(params: dict[str, Any], x: np.ndarray, steps: np.ndarray) -> dict[str, Any]:
    """A function with a bit of everything that texts can say."""
    h = td.nn.softmax(np.tanh(x @ params["w"] + params["b"]), axis=-1)
    last, each = td.lax.scan(lambda carry, i: (carry * 0.5 + h[i], carry.sum()), h[0], steps)
    turned = np.where(x[:, ::-1] > 0, x, np.float32(-0.5)).astype(np.float16)
    small = np.concatenate([np.sort(each), np.array([np.inf, np.nan, -0.0], np.float32)])
    return {"last": last, "small": small, "turned": turned, "n": np.int64(3) // (steps + 1)}


def texts() -> dict[str, tuple[str, Callable[[str], Any]]]:
    """Name: a text, and what reads it and prints it again."""
    f = td.jit(block)
    params = {"w": np.ones((4, 4), np.float32), "b": np.zeros(4, np.float32)}
    lowered = f.lower(params, td.ShapeDtype(("B", 4), "float32"), np.array([1, 0], np.int64))
    return {
        "graph": (lowered.as_text("graph"), lambda text: str(td.parse(text))),
        "program": (lowered.as_text("program"), lambda text: str(parse_program(text))),
        "loops": (
            lowered.as_text("loops")[:6000].rpartition("\nkernel ")[0],
            lambda text: "\n".join(map(show_kernel, parse_kernels(text))),
        ),
        "target": ("x86-64:znver4+avx512f+avx512vnni", lambda text: str(parse_target(text))),
    }


TEXTS = texts()
STRANGE = st.sampled_from(["", "(", ")", "[", "]", "{", "}", "%", "-", "->", "=", ":", ",", " ", "\n", "\t", "#", "@"])
PIECE = STRANGE | st.sampled_from(["0", "1", "-1", "9" * 25, "1e999", "nan", "f32", "%0", "B", "é", "\0", "//", "max("])


@st.composite
def damaged(draw: Callable[[Any], Any], text: str) -> str:
    """The text with a few places replaced, doubled, exchanged or cut out."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 12))
        match draw(st.sampled_from(["replace", "double", "move", "end"])):
            case "replace":
                text = text[:at] + draw(PIECE) + text[at + length :]
            case "double":
                text = text[: at + length] + text[at:]
            case "move":
                to = draw(st.integers(0, len(text)))
                text = text[:to] + text[at : at + length] + text[to:]
            case "end":
                text = text[:at]
    return text


# A damaged text is refused by an error of ours, or it is another text: that one is read as it is printed.
@pytest.mark.fuzz
@pytest.mark.time_limit(7200)
@pytest.mark.parametrize("name", list(TEXTS))
@given(data=st.data())
@settings(suppress_health_check=list(HealthCheck))
def test_damaged_texts(name: str, data: st.DataObject) -> None:
    text, again = TEXTS[name]
    try:
        read = again(data.draw(damaged(text)))
    except td.TreadleError as error:
        assert error.code.startswith("TD")
        return
    assert again(read) == read


# --- saved models -----------------------------------------------------------------------------------------------------


def saved() -> bytes:
    """A model with weights, sizes, failures and texts."""
    w = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    compiled = td.jit(lambda x, i: np.tanh(x @ w)[i]).compile(td.ShapeDtype(("B", 4), "float32"), np.array([1, 0]))
    with tempfile.TemporaryDirectory() as directory:
        compiled.save(Path(directory) / "model.so")
        return (Path(directory) / "model.so").read_bytes()


MODEL = saved()


# How, where, where to, and what is written there; the first bytes say what all others are.
PLACES = st.integers(0, len(MODEL)) | st.integers(0, 200)
CHANGE = st.tuples(
    st.sampled_from(["bit", "replace", "move", "double", "cut", "end"]),
    PLACES,
    PLACES,
    st.binary(max_size=16) | st.sampled_from([64, 512, 4096]).map(bytes),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def changed(changes: list[tuple[str, int, int, bytes]]) -> bytes:
    """The model with some of its bytes changed, gone, doubled, exchanged or followed by others."""
    data = MODEL
    for how, at, to, piece in changes:
        length = len(piece)
        match how:
            case "bit":
                place = min(at, len(data) - 1)
                data = data[:place] + bytes([data[place] ^ 1 << to % 8]) + data[place + 1 :]
            case "replace":
                data = data[:at] + piece + data[at + length :]
            case "move":
                data = data[:to] + data[at : at + length] + data[to + length :]
            case "double":
                data = data[: at + length] + data[at:]
            case "cut":
                data = data[:at] + data[at + length :]
            case "end":
                data = data[: at or 1]
    return data


# Refused by an error of ours before the system has mapped any of it, whatever the damage.
@pytest.mark.fuzz
@pytest.mark.time_limit(7200)
@given(changes=CHANGES)
@settings(suppress_health_check=list(HealthCheck))
def test_damaged_models(changes: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    data = changed(changes)
    assume(data != MODEL)
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    path.write_bytes(data)
    with pytest.raises(td.TreadleError, match="TD096") as caught:
        td.load(path, verify=True)
    assert caught.value.edit
    assert str(path) not in Path("/proc/self/maps").read_text()


# Sealed anew, so that somebody meant it: it is read, or refused by an error of ours; nothing else may escape.
@pytest.mark.fuzz
@pytest.mark.time_limit(7200)
@given(changes=CHANGES)
@settings(suppress_health_check=list(HealthCheck))
def test_models_that_were_made_wrongly(changes: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "forged.so"
    path.write_bytes(sealed(changed(changes)))
    try:
        found = artifact.read(path)
        found.verify()
        for row in found.manifest["constants"]:
            found.constant(row["name"])
    except BadArtifact as error:
        assert error.code.startswith("TD096")


def sealed(data: bytes) -> bytes:
    """With the sizes and the hash that the seal wants, where there is one."""
    if len(data) < artifact.HASH_AT + 32:
        return data
    made = bytearray(data)
    magic, version, zero, head, _, _ = artifact.SEAL.unpack_from(made, artifact.SEAL_AT)
    if magic != artifact.MAGIC or not artifact.HASH_AT + 32 <= head <= len(made):
        return data
    artifact.SEAL.pack_into(made, artifact.SEAL_AT, magic, version, zero, head, len(made) - head, bytes(32))
    digest = hashlib.sha256(made[:head]).digest()
    made[artifact.HASH_AT : artifact.HASH_AT + 32] = digest
    return bytes(made)


# --- trees of arguments -----------------------------------------------------------------------------------------------

KINDS = ("bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64", ">f4", ">i2")


@st.composite
def arrays(draw: Callable[[Any], Any]) -> np.ndarray:
    """Arrays of every dtype and layout: none, one and many elements, strides of either sign, foreign byte order."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    array = (rng.standard_normal(shape) * 5).astype(draw(st.sampled_from(KINDS)))
    match draw(st.sampled_from(["plain", "reversed", "turned", "apart", "shifted"])):
        case "reversed":
            return array[::-1] if array.ndim else array
        case "turned":
            return array.T
        case "apart":
            room = np.zeros((*shape, 3), array.dtype)
            room[..., 1] = array
            return room[..., 1]
        case "shifted":
            room = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(shape)
            room[...] = array
            return room
    return array


LEAVES = arrays() | st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.sampled_from(["a", "b"])
TREES = st.recursive(
    LEAVES,
    lambda trees: (
        st.lists(trees, max_size=3)
        | st.lists(trees, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["x", "y", "z"]), trees, max_size=3)
    ),
    max_leaves=6,
)


def twice(tree: Any) -> Any:
    """Every array and number doubled, whatever else is left out."""
    match tree:
        case None | str() | bool():
            return None
        case dict():
            return {key: twice(child) for key, child in tree.items()}
        case list() | tuple():
            return type(tree)(twice(child) for child in tree)
    return tree * 2 if not hasattr(tree, "dtype") or tree.dtype != bool else tree | tree


def same(found: Any, expected: Any) -> None:
    """The same structure; the same dtypes, in this machine's byte order, shapes and elements."""
    if expected is None or isinstance(expected, dict | list | tuple):
        assert type(found) is type(expected)
    match expected:
        case None:
            return
        case dict():
            assert found.keys() == expected.keys()
            for key, child in expected.items():
                same(found[key], child)
        case list() | tuple():
            for one, other in zip(found, expected, strict=True):
                same(one, other)
        case int() | float():
            assert np.asarray(found) == expected
        case _:
            assert (found.dtype, found.shape) == (expected.dtype.newbyteorder("="), expected.shape)
            np.testing.assert_array_equal(found, expected)


# The first call traces and compiles, the second takes the short way where there is one: both mean what Python means.
@pytest.mark.fuzz
@pytest.mark.time_limit(7200)
@given(tree=TREES)
@settings(suppress_health_check=list(HealthCheck))
def test_trees_of_arguments(tree: Any) -> None:
    f = td.jit(twice)
    for _ in range(3):
        same(f(tree), twice(tree))
