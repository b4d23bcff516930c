"""Calls one native entry, completely and with every check: the slow path, for whatever the fast one does not
take.

An argument is brought into the form native code relies on (native byte order, aligned, C-contiguous) by
copying when it is not; a wrong dtype, rank or size is refused with the argument's path. Results are fresh
arrays that share memory with nothing, the caller's `out`, or a donated argument's own array; where `out` or a
donated array overlaps something that the program still reads, a private copy stands in. Nothing here is
changed by a call, so any number of threads may make one; the GIL is free while native code runs, and Ctrl-C
stops it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import arena, interrupt
from .borrow import from_dlpack
from .errors import FAILURES, ArgumentTooLarge, ArgumentTypeError, ArgumentValueError, NativeRuntimeError, RuntimeFault
from .scratch import Scratch
from .signature import Failure, Signature, Tensor, describe

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

STOPPED = -1
# Where a failed entry leaves its numbers: at the head of the table of buffers, which has at least so many places.
FOUND_WORDS = 3

# flags.num of an array that native code may read, or also write.
READABLE = 0x1 | 0x100  # C-contiguous, aligned
WRITABLE = READABLE | 0x400


class CallContext(ctypes.Structure):
    """What an entry is told about the call. ORDER: the native ABI, version 1."""

    version: int
    threads: int
    pool: int | None
    stop: int | None
    _fields_ = [
        ("version", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("pool", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
    ]


Entry = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
ArenaBytes = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)


class Executable:
    """A compiled program, ready to be called with its arguments' leaves.

    `entry` and `arena_bytes` are addresses, `constants` the addresses of the constants' data, and `keep`
    whatever must live as long as these. `pool` gives the address of the thread pool for that many threads; it
    is asked only when more than one is wanted. `failures[site - 1]` says what a failure site means.
    """

    def __init__(
        self,
        signature: Signature,
        entry: int,
        arena_bytes: int,
        *,
        constants: Sequence[int] = (),
        failures: Sequence[Failure] = (),
        pool: Callable[[int], int] | None = None,
        threads: Callable[[], int] | None = None,
        memory: arena.Arena | None = None,
        keep: object = None,
    ) -> None:
        self.signature = signature
        self.constants = tuple(constants)
        self.failures = tuple(failures)
        self.keep = keep
        self.entry_address = entry
        self.arena_bytes_address = arena_bytes
        self._entry = Entry(entry)
        self._arena_bytes = ArenaBytes(arena_bytes)
        self._pool = pool
        self._threads = threads
        self._memory = memory or arena.shared()
        self._donations = {result: argument for argument, result in signature.donated}
        places = len(signature.inputs) + len(signature.outputs) + len(self.constants)
        self._pointers = ctypes.c_void_p * max(FOUND_WORDS, places)
        self._sizes = ctypes.c_int64 * max(1, len(signature.dims))
        # What calls on the fast way use, and what the last call needed: if it came here because that was too small,
        # the next one finds it larger.
        self.scratch: Scratch | None = None
        self.scratch_bytes = 0

    def __call__(
        self, leaves: Sequence[Any], outs: Sequence[Any] | None = None, threads: int | None = None
    ) -> list[Array]:
        """The results' leaves. `outs` has one entry per output: an array to fill, or None for a fresh one."""
        signature = self.signature
        inputs = self.inputs(leaves)
        dims = signature.solve([array.shape for array in inputs])
        shapes = signature.output_shapes(dims)
        results = self._donated(leaves, inputs)
        targets = self._outputs(inputs, shapes, results, outs)
        self.run(inputs, targets, dims, threads)
        for number, result in enumerate(results):
            if result is None:
                results[number] = targets[number]
            elif result is not targets[number]:
                np.copyto(result, targets[number], casting="equiv")
        return [result for result in results if result is not None]

    def run(
        self,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        dims: Sequence[int],
        threads: int | None = None,
    ) -> None:
        """Call the entry with arrays that are already as native code wants them."""
        if threads is None:
            threads = self._threads() if self._threads is not None else 1
        sizes = self._sizes(*dims)
        pointers = self._pointers(
            *[array.ctypes.data for array in inputs],
            *[array.ctypes.data for array in outputs],
            *self.constants,
        )
        scratch_bytes = self._arena_bytes(ctypes.addressof(sizes))
        scratch = self._memory.take(scratch_bytes) if scratch_bytes else None
        self.scratch_bytes = scratch_bytes
        if self.scratch is not None and scratch_bytes:
            self.scratch.reserve(scratch_bytes)
        pool = self._pool(threads) if self._pool is not None and threads > 1 else 0
        context = CallContext(1, threads, pool or None, interrupt.stop_word() or None)
        status = self._entry(
            ctypes.addressof(pointers),
            ctypes.addressof(sizes),
            ctypes.addressof(scratch) if scratch is not None else None,
            ctypes.addressof(context),
        )
        if status:
            raise failure(status, self.failures, ctypes.addressof(pointers))

    def inputs(self, leaves: Sequence[Any]) -> list[Array]:
        """The leaves as native code wants them: dtype and extents checked, order and alignment mended by copying."""
        wanted = self.signature.inputs
        if len(leaves) != len(wanted):
            raise ArgumentTypeError(f"expected {len(wanted)} arrays, found {len(leaves)}", code="TD0941")
        return [self._input(leaf, tensor) for leaf, tensor in zip(leaves, wanted, strict=True)]

    def _input(self, leaf: Any, tensor: Tensor) -> Array:
        array = leaf if type(leaf) is np.ndarray else as_array(leaf, tensor)
        if array.dtype != tensor.dtype:
            if array.dtype.isnative or array.dtype.newbyteorder("=") != tensor.dtype:
                raise mismatch(tensor, array, "TD0942", ArgumentTypeError)
        elif array.flags.num & READABLE == READABLE:
            check_shape(tensor, array)
            return array
        check_shape(tensor, array)
        copy = self._memory.array(array.shape, tensor.dtype)
        np.copyto(copy, array, casting="equiv")
        return copy

    def _donated(self, leaves: Sequence[Any], inputs: list[Array]) -> list[Array | None]:
        """The results that are known before the call: each donated argument's own array, where it can be
        taken over.

        Every other input that shares its memory is copied, because the program writes there while it still
        reads that.
        """
        results: list[Array | None] = [None] * len(self.signature.outputs)
        taken: list[int] = []
        for number, result in self.signature.donated:
            own = leaves[number]
            reason = ""
            if own is not inputs[number]:
                reason = "it is not a native, aligned, C-contiguous NumPy array"
            elif not own.flags.writeable:
                reason = "it is read-only"
            for other in taken:
                if overlap(inputs[number], inputs[other]):
                    reason = f"it shares memory with {self.signature.inputs[other].path}, which is donated too"
            if reason:
                if not self.signature.lenient:
                    path = self.signature.inputs[number].path
                    raise ArgumentValueError(
                        f"{path} is donated, but its memory cannot be used: {reason}",
                        code="TD0951",
                        edit="donate another array, or use donate='try'",
                    )
                inputs[number] = self._copy(inputs[number])
                continue
            taken.append(number)
            results[result] = own
        for number in taken:
            for other, array in enumerate(inputs):
                if other not in taken and overlap(array, inputs[number]):
                    inputs[other] = self._copy(array)
        return results

    def _outputs(
        self,
        inputs: list[Array],
        shapes: Sequence[tuple[int, ...]],
        results: list[Array | None],
        outs: Sequence[Any] | None,
    ) -> list[Array]:
        """Where native code writes. What the caller gave is entered into `results`; where native code
        cannot write there, a fresh array stands in, to be copied from afterwards."""
        wanted = self.signature.outputs
        if outs is not None and len(outs) != len(wanted):
            raise ArgumentTypeError(f"expected {len(wanted)} out arrays, found {len(outs)}", code="TD0941")
        targets: list[Array] = []
        for number, (tensor, shape) in enumerate(zip(wanted, shapes, strict=True)):
            out = None if outs is None else outs[number]
            if number in self._donations:
                donated = inputs[self._donations[number]]
                if out is not None and out is not donated:
                    path = self.signature.inputs[self._donations[number]].path
                    raise ArgumentValueError(
                        f"out for {tensor.path}: this result takes the memory of {path}, which is donated",
                        code="TD0952",
                    )
                targets.append(donated)
                continue
            if out is None:
                targets.append(self._memory.array(shape, tensor.dtype))
                continue
            check_out(tensor, shape, out)
            for other in results:
                if other is not None and np.may_share_memory(out, other) and shares(out, other):
                    raise ArgumentValueError(f"out for {tensor.path} shares memory with another result", code="TD0952")
            results[number] = out
            plain = out.dtype == tensor.dtype and out.dtype.isnative and out.flags.num & WRITABLE == WRITABLE
            if plain and not any(overlap(out, array) for array in inputs):
                targets.append(out)
            else:
                targets.append(self._memory.array(shape, tensor.dtype))
        return targets

    def _copy(self, array: Array) -> Array:
        copy = self._memory.array(array.shape, array.dtype)
        np.copyto(copy, array)
        return copy


def failure(status: int, failures: Sequence[Failure], found: int | None = None) -> BaseException:
    """The exception that a status other than 0 stands for; `found` is the address of the numbers that it left."""
    if status == STOPPED:
        return KeyboardInterrupt()
    if not 0 < status <= len(failures):
        return NativeRuntimeError(f"native code failed at site {status}, which it does not know", code="TD0949")
    kind, code, message, edit, place, tells = failures[status - 1]
    if tells and found is not None:
        index, axis, size = (ctypes.c_int64 * FOUND_WORDS).from_address(found)
        name = message.partition(":")[0]
        message = f"{name}: index {index} is outside axis {axis} of size {size}"
    return FAILURES.get(kind, NativeRuntimeError)(message, code=code, edit=edit, place=place)


def as_array(leaf: Any, tensor: Tensor) -> Array:
    """A leaf that is no plain NumPy array, as one: Python's and NumPy's scalars, subclasses, DLPack."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise ArgumentTypeError(
            f"{tensor.path}: a masked array, whose mask would be lost",
            code="TD0947",
            edit="pass x.filled(...) and x.mask",
        )
    if isinstance(leaf, np.ndarray | np.generic):
        return np.asarray(leaf)
    if isinstance(leaf, bool | int | float | complex):
        return scalar(leaf, tensor)
    try:
        if hasattr(leaf, "__dlpack__"):
            return from_dlpack(leaf)
        if hasattr(leaf, "__array__") or hasattr(leaf, "__array_interface__"):
            return np.asarray(leaf)
    except Exception as error:
        raise ArgumentTypeError(
            f"{tensor.path}: {type(leaf).__name__} does not give its memory to NumPy: {error}",
            code="TD0947",
            edit="copy it into a NumPy array",
        ) from error
    raise ArgumentTypeError(
        f"{tensor.path}: expected {describe(tensor.dtype, tensor.shape)}, found {type(leaf).__name__}",
        code="TD0947",
        edit=f"pass a NumPy array, such as np.asarray({named(tensor)}, {tensor.dtype.name!r})",
    )


def scalar(value: complex, tensor: Tensor) -> Array:
    """A Python number as an array of the wanted type, if that type has room for it."""
    wanted = tensor.dtype
    kinds = {"b": bool, "i": int, "u": int, "c": complex}.get(wanted.kind, float)
    if isinstance(value, bool) != (kinds is bool) or (kinds is int and not isinstance(value, int)):
        fits = False
    else:
        fits = kinds is complex or not isinstance(value, complex)
    if not fits:
        raise ArgumentTypeError(
            f"{tensor.path}: expected {describe(wanted, tensor.shape)}, found {type(value).__name__}",
            code="TD0947",
            edit=f"pass np.{wanted.name}(...) if that is what it means",
        )
    try:
        return np.array(value, wanted)
    except OverflowError:
        raise ArgumentTooLarge(
            f"{tensor.path}: {value} does not fit in {wanted.name}",
            code="TD0948",
            edit=f"pass np.uint64({value}), or a float"
            if type(value) is int and 0 <= value < 2**64
            else "pass it as a float",
        ) from None


def check_shape(tensor: Tensor, array: Array) -> None:
    """The rank, and the extents that are known; symbolic ones are solved over all arguments together."""
    if len(array.shape) != len(tensor.shape):
        raise mismatch(tensor, array, "TD0943", ArgumentValueError)
    for size, found in zip(tensor.shape, array.shape, strict=True):
        if size != found and isinstance(size, int):
            raise mismatch(tensor, array, "TD0943", ArgumentValueError)


def check_out(tensor: Tensor, shape: tuple[int, ...], out: Any) -> None:
    """An array to write a result into must be exactly of its type and shape."""
    what = f"out for {tensor.path}"
    expected = describe(tensor.dtype, shape)
    edit = f"out=np.empty({shape}, {tensor.dtype.name!r})"
    found = describe(out.dtype, out.shape) if isinstance(out, np.ndarray) else type(out).__name__
    if not isinstance(out, np.ndarray) or out.dtype.newbyteorder("=") != tensor.dtype:
        raise ArgumentTypeError(f"{what}: expected {expected}, found {found}", code="TD0950", edit=edit)
    if out.shape != shape:
        raise ArgumentValueError(f"{what}: expected {expected}, found {found}", code="TD0950", edit=edit)
    if not out.flags.writeable:
        raise ArgumentValueError(f"{what} is read-only", code="TD0950", edit=edit)


def mismatch(tensor: Tensor, array: Array, code: str, kind: type[RuntimeFault]) -> RuntimeFault:
    expected, found = describe(tensor.dtype, tensor.shape), describe(array.dtype, array.shape)
    if code == "TD0942":
        edit = f"convert it: {named(tensor)}.astype({tensor.dtype.name!r})"
    else:
        edit = "an array of that shape, or compile for sizes with names, as in ShapeDtype(('n', 4), dtype)"
    return kind(f"{tensor.path}: expected {expected}, found {found}", code=code, edit=edit)


def named(tensor: Tensor) -> str:
    """An argument as the edit of a message has it."""
    return tensor.path if tensor.path.isidentifier() else "the array"


def overlap(a: Array, b: Array) -> bool:
    """Whether two C-contiguous arrays share a byte."""
    if a is b:
        return a.size > 0
    first, second = a.ctypes.data, b.ctypes.data
    return first < second + b.nbytes and second < first + a.nbytes and a.size > 0 and b.size > 0


def shares(a: Array, b: Array) -> bool:
    """Whether two arrays of any strides share an element; what is too hard to decide counts as shared."""
    try:
        work: Any = 10_000  # steps; NumPy takes any number, its stubs only two
        return np.shares_memory(a, b, max_work=work)
    except (np.exceptions.TooHardError, OverflowError):
        return True
