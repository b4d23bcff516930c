"""The saved model: one shared library that needs neither treadle nor LLVM, and the checks before any of it
runs.

Behind the ELF header, at offset 64, stands the seal: a magic, the format's version, the size of the head and
of the weights, and the SHA-256 of the head with that field zeroed. The head is everything but the weights:
code, manifest (JSON), texts, and a SHA-256 for each 1 MiB of weights. A file is opened once; size, version,
hash, machine and CPU features are checked through that descriptor, and the dynamic linker is given the same
descriptor, so what was checked is what is mapped. The weights lie behind the head on pages of their own and
are mapped, not read; `verify` hashes them too. What is wrong is refused by name before any of its code runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import json
import math
import os
import re
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arena, cpu, elf, loader
from .errors import BadArtifact, BadObject
from .executable import Executable, failure
from .link import Blob, Tail, link
from .relocate import align
from .signature import DTYPES, Failure, Signature, dtype_of, name_of

FORMAT = 1
MAGIC = b"TREADLE\0"
SEAL = struct.Struct("<8sIIQQ32s")  # magic, version, zero, bytes of the head, bytes of the weights, hash of the head
SEAL_AT = elf.HEADER.size
HASH_AT = SEAL_AT + SEAL.size - 32
BLOCK = 1 << 20
ARRAY_ALIGNMENT = 64

MANIFEST = ".treadle.manifest"
BLOCKS = ".treadle.blocks"
TEXT = ".treadle.text."
WEIGHTS = ".treadle.weights"

# What the object must define, beside NAME_manifest and its kin, and what it may take from us.
ENTRIES = ("treadle_entry", "treadle_arena_bytes")
INTERFACE = ("manifest", "arena_bytes", "run", "error")
OURS = frozenset({"treadle_weights", "treadle_manifest"})

Constant = tuple[str, NDArray[Any]]

_libc = ctypes.CDLL(None)
_dlclose = _libc.dlclose
_dlclose.argtypes = (ctypes.c_void_p,)


def write(
    path: str | os.PathLike[str],
    *,
    object_code: bytes,
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
    constants: Sequence[Constant],
    name: str,
) -> int:
    """Write the model file, atomically, and return its size.

    `manifest` holds what `Signature.to_manifest` gives, `cpu_features`, `failures` and whatever else is JSON;
    the name, the format, the machine and the table of constants are added here. Constants lie in the given
    order, which is the order of the entry's pointers. Equal content gives equal bytes.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise BadObject(f"{name!r} cannot be the name of C functions", code="TD0970", edit="save(..., name='model')")
    check_object(object_code, name)
    arrays = [np.asarray(array, order="C") for _, array in constants]
    table, size = layout(constants, arrays)
    hashes = b"".join(hashlib.sha256(block).digest() for block in blocks(chunks(table, arrays)))
    machine = elf.Elf(object_code).machine
    full = {
        **manifest,
        "format": FORMAT,
        "name": name,
        "machine": elf.MACHINES[machine],
        "constants": table,
        "weights_bytes": size,
    }
    encoded = json.dumps(full, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\0"
    head = link(
        object_code,
        soname=f"{name}.so",
        prefix=Blob(".treadle.seal", bytes(SEAL.size)),
        blobs=[
            Blob(MANIFEST, encoded, "treadle_manifest"),
            Blob(BLOCKS, hashes, loaded=False),
            *(Blob(TEXT + title, text.encode(), loaded=False) for title, text in texts.items()),
        ],
        tail=Tail(WEIGHTS, "treadle_weights", size),
    )
    SEAL.pack_into(head, SEAL_AT, MAGIC, FORMAT, 0, len(head), size, bytes(32))
    head[HASH_AT : HASH_AT + 32] = hashlib.sha256(head).digest()
    path = os.fspath(path)
    part = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        with open(part, "wb") as file:
            file.write(head)
            for chunk in chunks(table, arrays):
                file.write(chunk)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    return len(head) + size


def check_object(object_code: bytes, name: str) -> None:
    """The object must define the entries and the C interface, and need nothing off the closed list."""
    defined = set(elf.defined_symbols(object_code))
    absent = [symbol for symbol in (*ENTRIES, *(f"{name}_{part}" for part in INTERFACE)) if symbol not in defined]
    if absent:
        raise BadObject(f"the object does not define {', '.join(absent)}", code="TD0910")
    strange = [s for s in elf.undefined_symbols(object_code) if s not in loader.CLOSED_LIST and s not in OURS]
    if strange:
        raise BadObject(f"undefined names off the closed list: {', '.join(strange)}", code="TD0909")


def layout(constants: Sequence[Constant], arrays: Sequence[NDArray[Any]]) -> tuple[list[dict[str, Any]], int]:
    """The table of constants, and the bytes that all of them take."""
    table: list[dict[str, Any]] = []
    position = 0
    for (name, _), array in zip(constants, arrays, strict=True):
        position = align(position, ARRAY_ALIGNMENT)
        if array.dtype.name not in DTYPES.values() or not array.dtype.isnative:
            raise BadObject(f"constant {name}: dtype {array.dtype.str} cannot be saved", code="TD0971")
        table.append(
            {
                "name": name,
                "dtype": name_of(array.dtype),
                "shape": list(array.shape),
                "offset": position,
                "bytes": array.nbytes,
                "hash": hashlib.sha256(flat(array)).hexdigest(),
            }
        )
        position += array.nbytes
    return table, position


def flat(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array. By way of uint8: element types of ml_dtypes have no buffer
    format."""
    raw: Any = array.reshape(-1).view(np.uint8)  # a buffer, though its stubs do not say so
    return memoryview(raw)


def chunks(table: Sequence[Mapping[str, Any]], arrays: Sequence[NDArray[Any]]) -> Iterator[memoryview | bytes]:
    """The weights in order: each array, after the zeros that align it."""
    position = 0
    for row, array in zip(table, arrays, strict=True):
        yield bytes(row["offset"] - position)
        yield flat(array)
        position = row["offset"] + row["bytes"]


def blocks(parts: Iterable[memoryview | bytes]) -> Iterator[bytes]:
    """The same bytes cut every 1 MiB."""
    pending = bytearray()
    for part in parts:
        view = memoryview(part)
        while len(pending) + len(view) >= BLOCK:
            cut = BLOCK - len(pending)
            yield bytes(pending) + bytes(view[:cut])
            pending.clear()
            view = view[cut:]
        pending += view
    if pending:
        yield bytes(pending)


class Artifact:
    """A model file that has passed its checks; nothing of it has been mapped for running. `signature` says
    how to call it, `failures` what its failure sites mean."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.seal, head = checked_head(path, descriptor)
        self._head = head
        self.weights_at = len(head)
        self.size = os.fstat(descriptor).st_size
        try:
            self.elf = elf.Elf(head, self.size)
        except BadObject as error:  # the hash was right, so somebody made it so
            raise refuse(path, f"made wrongly: {error.message}", "TD0965") from None
        section = self.elf.section(MANIFEST)
        if section is None:
            raise refuse(path, "it has no manifest", "TD0965")
        try:
            self.manifest: dict[str, Any] = json.loads(bytes(self.elf.content(section)).rstrip(b"\0"))
            self.name: str = self.manifest["name"]
            self.signature = Signature.from_manifest(self.manifest)
            self.failures = [Failure.from_manifest(row) for row in self.manifest.get("failures", ())]
            self.check_constants()
            self.texts = {
                section.name.removeprefix(TEXT): bytes(self.elf.content(section)).decode()
                for section in self.elf.sections
                if section.name.startswith(TEXT)
            }
        except BadObject as error:
            raise refuse(path, f"made wrongly: {error.message}", "TD0965") from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise refuse(path, f"its manifest or a text was made wrongly: {error!r}", "TD0965") from None
        text = self.elf.section(".text")
        self.code_bytes = text.size if text else 0

    def check_constants(self) -> None:
        """Whether each lies within the weights and has the bytes that its type and shape need: native code is handed
        the address, and reads."""
        for row in self.manifest["constants"]:
            size = math.prod(row["shape"]) * dtype_of(row["dtype"]).itemsize
            inside = 0 <= row["offset"] <= self.size - self.weights_at - size
            if row["bytes"] != size or any(extent < 0 for extent in row["shape"]) or not inside:
                raise ValueError(f"constant {row['name']} does not lie in the weights")

    def constant(self, name: str) -> NDArray[Any]:
        """One of the weights, mapped from the file, read-only."""
        row = next((row for row in self.manifest["constants"] if row["name"] == name), None)
        if row is None:
            raise BadArtifact(f"{self.path} has no constant {name!r}", code="TD0972")
        dtype, shape = dtype_of(row["dtype"]), tuple(row["shape"])
        if not row["bytes"]:
            return np.zeros(shape, dtype)
        raw = np.memmap(self.path, np.uint8, "r", self.weights_at + row["offset"], row["bytes"])
        return np.asarray(raw.view(dtype).reshape(shape))

    def verify(self, descriptor: int | None = None) -> None:
        """Hash the weights, block by block."""
        section = self.elf.section(BLOCKS)
        hashes = bytes(self.elf.content(section)) if section else b""
        with contextlib.ExitStack() as stack:
            if descriptor is None:
                descriptor = stack.enter_context(open(self.path, "rb")).fileno()
            size = self.manifest["weights_bytes"]
            for number, place in enumerate(range(0, size, BLOCK)):
                block = pread(descriptor, min(BLOCK, size - place), self.weights_at + place)
                if hashlib.sha256(block).digest() != hashes[32 * number : 32 * number + 32]:
                    names = [
                        row["name"]
                        for row in self.manifest["constants"]
                        if row["offset"] < place + BLOCK and place < row["offset"] + row["bytes"]
                    ]
                    raise refuse(self.path, f"its weights are damaged, in {', '.join(names) or 'padding'}", "TD0968")

    def check_machine(self) -> None:
        """Refuse what this machine cannot run."""
        if self.elf.machine != loader.HOST:
            machine = elf.MACHINES[self.elf.machine]
            raise refuse(self.path, f"it was made for {machine}, which this machine is not", "TD0966")
        lacking = cpu.missing(self.manifest.get("cpu_features", ()))
        if lacking:
            raise refuse(self.path, f"it needs CPU features that this machine lacks: {', '.join(lacking)}", "TD0967")


def checked_head(path: str, descriptor: int) -> tuple[bytes, bytes]:
    """The seal and the head of an open file, once they are known to be what was written."""
    size = os.fstat(descriptor).st_size
    start = pread(descriptor, min(size, HASH_AT + 32), 0)
    if start[:4] != b"\x7fELF"[: len(start)] or not start:
        raise refuse(path, "it is not a model file", "TD0962")
    if len(start) < HASH_AT + 32:
        raise refuse(path, "it is cut short", "TD0964")
    magic, version, _, head_size, weights_size, digest = SEAL.unpack_from(start, SEAL_AT)
    if magic != MAGIC:
        raise refuse(path, "it is a shared library, but not a model file", "TD0962")
    if version > FORMAT:
        raise refuse(path, f"its format {version} is newer than {FORMAT}, the newest known here", "TD0963")
    if version < 1 or head_size < HASH_AT + 32 or size > head_size + weights_size:
        raise refuse(path, "it is damaged", "TD0965")
    if size < head_size + weights_size:
        raise refuse(path, f"it is cut short: {size} of {head_size + weights_size} bytes", "TD0964")
    head = bytearray(pread(descriptor, head_size, 0))
    seal = bytes(head[SEAL_AT : HASH_AT + 32])
    head[HASH_AT : HASH_AT + 32] = bytes(32)
    if hashlib.sha256(head).digest() != digest:
        raise refuse(path, "it is damaged", "TD0965")
    head[HASH_AT : HASH_AT + 32] = digest
    return seal, bytes(head)


def pread(descriptor: int, size: int, place: int) -> bytes:
    """Exactly those bytes, if the file has them."""
    parts = []
    while size:
        part = os.pread(descriptor, size, place)
        if not part:
            break
        parts.append(part)
        size -= len(part)
        place += len(part)
    return b"".join(parts)


_AGAIN = "copy it again, or save the model again"
_EDITS = {
    "TD0962": "a file that compiled.save(...) wrote",
    "TD0963": "load it with the version that saved it, or save the model with this one",
    "TD0964": _AGAIN,
    "TD0965": _AGAIN,
    "TD0966": "compile it for this machine, or load it where it was made for",
    "TD0967": "save it for fewer features: td.jit(f, target='generic') needs none",
    "TD0968": _AGAIN,
    "TD0969": "a directory that programs may be run from",
    "TD0973": "write a new file and rename it, as save does",
}


def refuse(path: str, reason: str, code: str) -> BadArtifact:
    return BadArtifact(f"{path} is refused: {reason}", code=code, edit=_EDITS[code])


def read(path: str | os.PathLike[str]) -> Artifact:
    """Inspect a model file without running any of it, for whatever machine it was made."""
    path = os.fspath(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Artifact(path, descriptor)
    finally:
        os.close(descriptor)


# Files that are mapped now: (device, inode) -> their seal and how often they are open. The dynamic linker
# gives out one mapping per inode, so a file that was overwritten in place would run neither the old code nor
# the new.
_mapped: dict[tuple[int, int], tuple[bytes, int]] = {}
_lock = threading.Lock()
_loads = itertools.count(1)


def load(path: str | os.PathLike[str], verify: bool = False) -> LoadedArtifact:
    """Check a model file and map it for running; `verify` checks the weights too."""
    path = os.fspath(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        artifact = Artifact(path, descriptor)
        artifact.check_machine()
        if verify:
            artifact.verify(descriptor)
        status = os.fstat(descriptor)
        inode = (status.st_dev, status.st_ino)
        with _lock:
            seal, times = _mapped.get(inode, (artifact.seal, 0))
            if seal != artifact.seal:
                raise refuse(path, "it was overwritten in place while the older model is in use", "TD0973")
            try:
                library = ctypes.CDLL(unique_path(descriptor), mode=os.RTLD_NOW | os.RTLD_LOCAL)
            except OSError as error:
                raise refuse(path, f"the system cannot map it: {error}", "TD0969") from None
            _mapped[inode] = (seal, times + 1)
        return LoadedArtifact(artifact, library, inode)
    finally:
        os.close(descriptor)


def unique_path(descriptor: int) -> str:
    """A path to that descriptor which no earlier load has used: the dynamic linker takes equal paths for
    equal files, and numbers of descriptors return. The count of loads is spelt in its dots."""
    dots = "".join("/." if digit == "1" else "/" for digit in f"{next(_loads):b}")
    return f"/proc/self/fd{dots}/{descriptor}"


class LoadedArtifact:
    """A mapped model. Unmapped when closed or collected, unless the system keeps it for threads that run
    in it."""

    def __init__(self, artifact: Artifact, library: ctypes.CDLL, inode: tuple[int, int]) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.texts = artifact.texts
        self._library = library
        self._close = weakref.finalize(self, _release, library._handle, inode)
        self._close.atexit = False  # at the end of the process threads may still run this code
        self._run = getattr(library, f"{artifact.name}_run")
        self._run.restype = ctypes.c_int32
        self._run.argtypes = 4 * (ctypes.c_void_p,) + (ctypes.c_int32,)
        self.entry = self.address("treadle_entry")
        self.arena_bytes = self.address("treadle_arena_bytes")
        self.weights = self.address("treadle_weights")

    def address(self, name: str) -> int:
        """Where a symbol of the model lies."""
        return ctypes.addressof(ctypes.c_char.in_dll(self._library, name))

    def executable(
        self,
        pool: Callable[[int], int] | None = None,
        threads: Callable[[], int] | None = None,
        memory: arena.Arena | None = None,
    ) -> Executable:
        """The model as a checked callable, which keeps it mapped."""
        return Executable(
            self.artifact.signature,
            self.entry,
            self.arena_bytes,
            constants=[self.weights + row["offset"] for row in self.manifest["constants"]],
            failures=self.artifact.failures,
            pool=pool,
            threads=threads,
            memory=memory,
            keep=self,
        )

    def run(
        self,
        inputs: Sequence[NDArray[Any]],
        outputs: Sequence[NDArray[Any]],
        dims: Sequence[int] = (),
        threads: int = 1,
    ) -> None:
        """Call the C interface as it is, with arrays that are already native, aligned and C-contiguous."""
        status = self._run(
            (ctypes.c_void_p * max(1, len(inputs)))(*(array.ctypes.data for array in inputs)),
            (ctypes.c_void_p * max(1, len(outputs)))(*(array.ctypes.data for array in outputs)),
            (ctypes.c_int64 * max(1, len(dims)))(*dims),
            None,
            threads,
        )
        if status:
            raise failure(status, self.artifact.failures)

    def close(self) -> None:
        """Unmap now. Nobody may be running the model, nor call it again."""
        self._close()


def _release(handle: int, inode: tuple[int, int]) -> None:
    with _lock:
        seal, times = _mapped.pop(inode)
        if times > 1:
            _mapped[inode] = (seal, times - 1)
        _dlclose(handle)


def _renew_lock() -> None:
    # Another thread may have held it while the process forked; in the child nobody will release it.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
