"""The fast way from Python's call to a program: a heap type whose calls run one native, table-driven routine.

The routine is machine code made elsewhere (it needs a compiler) and handed in as bytes; here are the tables
it reads. `measure` gives every number it was made with: where Python and NumPy keep the fields it looks at,
each checked against objects of this process, and the layout of our own records. A `Record` describes one
signature of one program as plain data; an instance holds four. A call that matches none of them, or cannot be
served as it stands, goes with the very same arguments to the instance's `slow` callable, which does
everything; so the fast way may refuse whatever it likes.

Where the routine cannot be had (another interpreter, a free-threaded one, unknown layouts, no compiler and
none in the cache) `callable_type` says so once and gives a plain Python class that always takes the slow way.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import json
import math
import os
import struct
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import arena, loader
from .errors import ArgumentValueError
from .executable import READABLE, WRITABLE, ArenaBytes, Executable, failure
from .signature import Signature, Tensor, parse_formula

SLOTS = 4
# Above this an output comes from the arena; below it NumPy's own allocation is the faster one.
LARGE_BYTES = arena.POOLED_BYTES
SCRATCH_BYTES = 16  # per Python number among the arguments: a complex one needs all of them
EXPRESSION_DEPTH = 32
# Registers live on the stack during a call. The limit keeps that under a tenth of the smallest usual stack.
MOST_REGISTERS = 4096


class DispatchWarning(UserWarning):
    """Calls take the complete path, some microseconds longer each; the message says why."""


class Unavailable(Exception):
    """Why this process cannot use the routine."""


# ---- plain data: what a signature's arguments and results look like
# --------------------------------------------------


class Leaf(NamedTuple):
    """An array argument: input number `input` of the program."""

    input: int


class Out(NamedTuple):
    """An array argument that receives output number `output`."""

    output: int


class Number(NamedTuple):
    """A Python number (`type` is float, int, bool or complex) or NumPy scalar, for input number `input`."""

    input: int
    type: type[Any]


class Fixed(NamedTuple):
    """An argument the program was made for, or a part of the result that is always this object."""

    value: Any


class TupleOf(NamedTuple):
    """A tuple of exactly this type (a named one is made by `Call` in results)."""

    items: tuple[Any, ...]
    type: type[Any] = tuple


class ListOf(NamedTuple):
    items: tuple[Any, ...]


class DictOf(NamedTuple):
    """The keys in the order in which the dict has them; another order is another signature."""

    keys: tuple[Any, ...]
    items: tuple[Any, ...]


class Output(NamedTuple):
    """Output number `output` in the result; a donated argument or `out` array where that is what received it.

    `scalar`: an output of rank 0 becomes a NumPy scalar, as from NumPy's own functions.
    """

    output: int
    scalar: bool = False


class CallOf(NamedTuple):
    """What `function(*items)` returns: for results that are no plain containers."""

    function: Callable[..., Any]
    items: tuple[Any, ...]


class Record(NamedTuple):
    """One signature of one program: what the arguments look like, what to run, what to return.

    `keywords` stand in the order of the call. `entry` and `arena_bytes` are addresses of native code;
    `context` is the address of the context the program is given, unless `begin` is called before each run to
    say which (that is how long programs get their stop word). `failed` is called with a status other than 0
    and returns or raises in place of the call. `keep` is all that must live as long as the addresses.
    """

    signature: Signature
    args: tuple[Any, ...]
    result: Any
    entry: int
    arena_bytes: int
    failed: Callable[[int], Any]
    keywords: tuple[tuple[str, Any], ...] = ()
    constants: tuple[int, ...] = ()
    scratch: Scratch | None = None
    context: int = 0
    begin: Callable[[], int] | None = None
    release_gil: bool = False
    memory: arena.Arena | None = None
    keep: object = None


def record_of(
    executable: Executable, args: Sequence[Any], result: Any, *, memory: arena.Arena | None = None, **fields: Any
) -> Record:
    """The record of a program that can already be called the complete way; `fields` are the rest of
    `Record`'s.
    """

    def failed(status: int) -> Any:
        raise failure(status, executable.failures)

    fields.setdefault("failed", failed)
    return Record(
        executable.signature,
        tuple(args),
        result,
        entry=executable.entry_address,
        arena_bytes=executable.arena_bytes_address,
        constants=executable.constants,
        memory=memory or arena.shared(),
        **{**fields, "keep": (executable, fields.get("keep"))},
    )


# ---- our own layouts, said once
# -------------------------------------------------------------------------------------


def _numbered(prefix: str, names: str, start: int = 1, step: int = 1) -> dict[str, int]:
    return {f"{prefix}_{name}": start + step * i for i, name in enumerate(names.split())}


# Words of 8 bytes, as byte offsets.
RECORD = _numbered(
    "record",
    "positional arguments names registers buffers dims slots stack outputs_count outputs walk result written_count"
    " written arrays_count arrays held_count held ranges constants_count constants entry context begin arena"
    " arena_bytes arena_function releases failed owner",
    0,
    8,
)
OUTPUT = _numbered("output", "source register buffer descr rank sizes bytes allocator size", 0, 8)
SOURCES = _numbered("source", "fixed large shaped given", 0)
WALK = _numbered("walk", "array tuple list dict shaped size scalar static")
EXTENTS = _numbered("extent", "number names later")
SCALARS = _numbered("scalar", "float float32 int bool complex numpy")
STATICS = _numbered("static", "identity text int float")
SIZES = _numbered("size", "constant dim add sub mul floordiv mod min max")
RESULTS = _numbered("result", "output scalar static tuple list dict call")
# After the object's header. The references stand together, for the garbage collector.
INSTANCE = {
    **_numbered("instance", "vectorcall weak dict slow owners", 16, 8),
    "instance_records": 48 + 8 * SLOTS,
    "instance_next": 48 + 16 * SLOTS,
    "instance_bytes": 56 + 16 * SLOTS,
    "instance_references": 2 + SLOTS,
    "instance_slots": SLOTS,
}

FUNCTIONS = (
    "PyComplex_ImagAsDouble", "PyComplex_RealAsDouble", "PyDict_New", "PyDict_Next", "PyDict_SetItem", "PyDict_Size",
    "PyErr_SetString", "PyEval_RestoreThread", "PyEval_SaveThread", "PyFloat_AsDouble", "PyList_New",
    "PyList_SetItem", "PyLong_AsLongLongAndOverflow", "PyLong_FromLongLong", "PyMethod_New", "PyObject_CallNoArgs",
    "PyObject_CallOneArg", "PyObject_ClearWeakRefs", "PyObject_GC_Del", "PyObject_GC_UnTrack",
    "PyObject_Vectorcall", "PyTuple_New", "PyTuple_SetItem", "PyType_GenericAlloc", "PyUnicode_Compare",
    "Py_DecRef", "Py_IncRef",
)  # fmt: skip
NUMPY_FUNCTIONS = {"PyArray_ScalarAsCtype": 62, "PyArray_Return": 76, "PyArray_Empty": 184}
OBJECTS: dict[str, Any] = {
    "None": None, "True": True, "float": float, "int": int, "str": str, "list": list, "dict": dict,
    "ndarray": np.ndarray, "RuntimeError": RuntimeError,
}  # fmt: skip
TABLE = _numbered("table", " ".join([*FUNCTIONS, *NUMPY_FUNCTIONS, *OBJECTS]), 0)


# ---- the layouts of others, measured
# ---------------------------------------------------------------------------------

# Where they are in CPython 3.11 to 3.14 and NumPy 1.26 to 2.x; a tuple's items follow its fixed part, which
# grew.
LAYOUT = {
    "object_type": 8,
    "tuple_size": 16,
    "tuple_items": tuple.__basicsize__,
    "list_size": 16,
    "list_items": 24,
    "array_data": 16,
    "array_rank": 24,
    "array_dims": 32,
    "array_descr": 56,
    "array_flags": 64,
    "descr_order": 26,
    "descr_number": 28,
}


def measure() -> dict[str, int]:
    """Every number the routine is made with, after checking this process against them; else `Unavailable`."""
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 14):
        raise Unavailable(f"its tables are for CPython 3.11 to 3.14, not {sys.implementation.name} {sys.version}")
    if sys.abiflags:
        raise Unavailable(f"it relies on the GIL and on release layouts; this build is {sys.abiflags!r}")
    if sys.platform != "linux" or loader.HOST is None or sys.maxsize != 2**63 - 1:
        raise Unavailable("it is for 64-bit Linux on x86-64 or Arm")
    for name, holds in _checks():
        if not holds:
            raise Unavailable(f"{name} is not where it was in the versions known")
    numbers = {
        "scratch_bytes": SCRATCH_BYTES,
        "expression_depth": EXPRESSION_DEPTH,
        "large_bytes": LARGE_BYTES,
        "flags_written": WRITABLE,
        "table_size": len(TABLE),
    }
    parts = (RECORD, OUTPUT, SOURCES, WALK, EXTENTS, SCALARS, STATICS, SIZES, RESULTS, INSTANCE, TABLE, LAYOUT)
    for part in parts:
        numbers |= part
    return numbers


def fingerprint(numbers: Mapping[str, int]) -> str:
    """What a routine on disk is known by, beside the version that made it."""
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


_write = ctypes.CDLL(None).write
_write.restype = ctypes.c_ssize_t
_write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _half(address: int) -> int:
    return ctypes.c_int32.from_address(address).value


def _checks() -> list[tuple[str, bool]]:
    """What must hold of objects whose contents Python itself tells; memory is read only inside of them."""
    at = LAYOUT
    big = np.dtype(np.float32).newbyteorder()
    frozen = np.zeros((2, 3), np.int16)
    frozen.flags.writeable = False
    arrays: list[np.ndarray[Any, Any]] = [
        np.zeros((3, 5), np.float32),
        np.zeros((7, 4, 2), np.complex128)[::2],
        np.zeros(3, big),
        np.zeros((), np.bool_),
        frozen,
    ]
    samples: list[Any] = [1.5, 10**30, "text", [], (1,), {}, *arrays]
    tuples: list[tuple[Any, ...]] = [(1.5,), ("a", [], "b"), tuple(range(9))]
    lists: list[list[Any]] = [list(items) for items in tuples]
    checks = [
        ("an object's type", all(_word(id(x) + at["object_type"]) == id(type(x)) for x in samples)),
        ("a tuple's size", all(_word(id(t) + at["tuple_size"]) == len(t) for t in tuples)),
        ("a list's size", all(_word(id(x) + at["list_size"]) == len(x) for x in lists)),
    ]
    if all(holds for _, holds in checks):
        checks += [
            ("a tuple's item", _pointers(id(t) + at["tuple_items"], len(t)) == [id(x) for x in t]) for t in tuples
        ]
        checks += [
            ("a list's item", _pointers(_word(id(s) + at["list_items"]), len(s)) == [id(x) for x in s])
            for s in lists
        ]
    if np.ndarray.__basicsize__ < at["array_flags"] + 4 or np.dtype.__basicsize__ < at["descr_number"] + 4:
        return [*checks, ("an array's flags", False)]
    for array in arrays:
        place = id(array)
        dtype = array.dtype
        rank_holds = _half(place + at["array_rank"]) == array.ndim
        checks += [
            ("an array's data", _word(place + at["array_data"]) == array.__array_interface__["data"][0]),
            ("an array's rank", rank_holds),
            ("an array's dtype", _word(place + at["array_descr"]) == id(dtype)),
            ("an array's flags", _half(place + at["array_flags"]) == array.flags.num),
            ("a dtype's number", _half(id(dtype) + at["descr_number"]) == dtype.num),
            (
                "a dtype's byte order",
                ctypes.c_uint8.from_address(id(dtype) + at["descr_order"]).value == ord(dtype.byteorder),
            ),
        ]
        if array.ndim and rank_holds:
            shape = _pointers(_word(place + at["array_dims"]), array.ndim)
            checks.append(("an array's shape", shape == list(array.shape)))
    return [*checks, *_numpy_checks()]


def _pointers(address: int, count: int) -> list[int]:
    """Words behind an address that may be nonsense: the kernel reads them, and refuses where we would
    crash.
    """
    reader, writer = os.pipe()
    try:
        if _write(writer, address, 8 * count) != 8 * count:
            return []
        return [word for (word,) in struct.iter_unpack("=Q", os.read(reader, 8 * count))]
    finally:
        os.close(reader)
        os.close(writer)


def _numpy_checks() -> list[tuple[str, bool]]:
    """That the functions taken from NumPy's table are the ones we mean: the type beside them, and what they
    do.
    """
    table = _numpy_table()
    if table is None or _word(table + 8 * 2) != id(np.ndarray):
        return [("NumPy's table of functions", False)]
    dtype = np.dtype(np.float32)
    shape = (ctypes.c_int64 * 2)(3, 4)
    empty = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_int, ctypes.c_void_p, ctypes.py_object, ctypes.c_int)(
        _word(table + 8 * NUMPY_FUNCTIONS["PyArray_Empty"])
    )
    as_scalar = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.c_void_p)(
        _word(table + 8 * NUMPY_FUNCTIONS["PyArray_ScalarAsCtype"])
    )
    returned = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(
        _word(table + 8 * NUMPY_FUNCTIONS["PyArray_Return"])
    )
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dtype))  # the function takes a reference to the dtype
    made = empty(2, ctypes.addressof(shape), dtype, 0)
    number = ctypes.c_double()
    as_scalar(np.float64(2.5), ctypes.addressof(number))
    zero_rank = np.array(7, np.int32)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(zero_rank))  # and this one to the array
    plain = returned(zero_rank)
    return [
        ("PyArray_Empty", type(made) is np.ndarray and made.shape == (3, 4) and made.dtype is dtype),
        ("PyArray_ScalarAsCtype", number.value == 2.5),
        ("PyArray_Return", type(plain) is np.int32 and plain == 7),
    ]


def _numpy_table() -> int | None:
    try:
        capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    except AttributeError:
        return None
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    address: int | None = pointer(capsule, None)
    return address


# ---- the routine and its type
# ----------------------------------------------------------------------------------------


class Routine:
    """The native routine, loaded and told the addresses of this process. It is never unloaded: types point
    into it.
    """

    def __init__(self, code: loader.LoadedObject) -> None:
        table = _numpy_table()
        if table is None:
            raise Unavailable("NumPy's table of functions is not where it was")
        addresses = [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in FUNCTIONS]
        addresses += [_word(table + 8 * index) for index in NUMPY_FUNCTIONS.values()]
        addresses += [id(value) for value in OBJECTS.values()]
        at = code.address
        filled = (ctypes.c_void_p * len(addresses))(*addresses)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(at("treadle_dispatch_init"))(ctypes.addressof(filled))
        whole, word = ctypes.py_object, ctypes.c_void_p
        self.set_slow = ctypes.PYFUNCTYPE(None, whole, whole)(at("treadle_dispatch_set_slow"))
        self.get_slow = ctypes.PYFUNCTYPE(whole, whole)(at("treadle_dispatch_slow"))
        self.install = ctypes.PYFUNCTYPE(None, whole, word, whole)(at("treadle_dispatch_install"))
        self.forget = ctypes.PYFUNCTYPE(None, whole)(at("treadle_dispatch_forget"))
        self.take = ctypes.PYFUNCTYPE(ctypes.c_int32, word)(at("treadle_dispatch_take"))
        self.give = ctypes.PYFUNCTYPE(None, word)(at("treadle_dispatch_give"))
        self.slots = {
            name: at(f"treadle_dispatch_{name}") for name in ("new", "dealloc", "traverse", "clear", "get")
        }
        code.keep_forever()


class Dispatched:
    """What a compiled function is: callable, with attributes, bound like a function in a class body.

    Derive from it with `__slots__ = ()`, and hand the class to `callable_type`, whose result has instances.
    """

    __slots__ = ()
    routine: ClassVar[Routine | None] = None

    def __init__(self, slow: Callable[..., Any]) -> None:
        """`slow` is called with the arguments of every call that no record serves."""
        self.slow = slow

    @property
    def slow(self) -> Callable[..., Any]:
        routine = type(self).routine
        found: Callable[..., Any] = self.__dict__[" slow"] if routine is None else routine.get_slow(self)
        return found

    @slow.setter
    def slow(self, slow: Callable[..., Any]) -> None:
        routine = type(self).routine
        if routine is None:
            self.__dict__[" slow"] = slow
        else:
            routine.set_slow(self, slow)

    def install(self, record: Record) -> None:
        """Serve calls that match it from now on; the oldest of four makes room. `Unservable` if it cannot
        be.
        """
        if (routine := type(self).routine) is not None:
            image = assemble(record)
            routine.install(self, image.address, image.owner)

    def forget(self) -> None:
        """Drop every record."""
        if (routine := type(self).routine) is not None:
            routine.forget(self)


class _Plain(Dispatched):
    """The same without the routine."""

    def __call__(self, /, *args: Any, **keywords: Any) -> Any:
        return self.slow(*args, **keywords)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else type(self.__call__)(self, instance)


def callable_type(base: type[Dispatched], routine: Callable[[Mapping[str, int]], bytes]) -> type[Any]:
    """A type whose instances are called the fast way and otherwise are as `base` has them.

    `routine` gives the object bytes for the numbers it is handed, from a cache or from a compiler. Whatever
    is in the way is said once, and the type is then a plain Python class.
    """
    try:
        return make_type(base, load_routine(routine))
    except Unavailable as reason:
        _warn(str(reason))
        return make_type(base, None)


_loaded: Routine | None = None
_warned = False


def load_routine(routine: Callable[[Mapping[str, int]], bytes]) -> Routine:
    """The process's routine; `Unavailable` where it cannot run, cannot be made or cannot be loaded."""
    global _loaded
    if _loaded is None:
        numbers = measure()
        try:
            code = loader.load(routine(numbers))
        except Unavailable:
            raise
        except (ImportError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        _loaded = Routine(code)
    return _loaded


def _warn(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"calls of compiled functions take the complete path: {reason}", DispatchWarning, stacklevel=4
        )


class _Member(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("offset", ctypes.c_ssize_t),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class _Slot(ctypes.Structure):
    _fields_ = [("slot", ctypes.c_int), ("pointer", ctypes.c_void_p)]


class _Spec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.POINTER(_Slot)),
    ]


# From CPython's headers: the numbers of type slots and flags are part of the stable ABI.
_TP = {"call": 50, "clear": 51, "dealloc": 52, "descr_get": 54, "new": 65, "traverse": 71, "members": 72, "getset": 73}
_HAVE_VECTORCALL, _HAVE_GC, _METHOD_DESCRIPTOR = 1 << 11, 1 << 14, 1 << 17
_SIZE_MEMBER, _READ_ONLY = 19, 1


def make_type(base: type[Dispatched], routine: Routine | None) -> type[Any]:
    """The type itself, named as `base` is."""
    if base.__dictoffset__ or base.__weakrefoffset__ or "__del__" in vars(base):
        raise TypeError(f"{base.__name__} must have __slots__ = () and no __del__: its instances are laid out here")
    if routine is None:
        return type(base.__name__, (_Plain, base), {"__module__": base.__module__, "__doc__": base.__doc__})
    exported = ctypes.pythonapi

    def at(name: str) -> int | None:
        return ctypes.cast(getattr(exported, name), ctypes.c_void_p).value

    offsets = {
        b"__vectorcalloffset__": INSTANCE["instance_vectorcall"],
        b"__dictoffset__": INSTANCE["instance_dict"],
        b"__weaklistoffset__": INSTANCE["instance_weak"],
    }
    members = (_Member * (len(offsets) + 1))(
        *[_Member(name, _SIZE_MEMBER, offset, _READ_ONLY, None) for name, offset in offsets.items()]
    )
    name = ctypes.create_string_buffer(b"__dict__")
    getset = (ctypes.c_void_p * 10)(
        ctypes.addressof(name), at("PyObject_GenericGetDict"), at("PyObject_GenericSetDict"), None, None
    )
    pointers = {
        "call": at("PyVectorcall_Call"),
        "new": routine.slots["new"],
        "dealloc": routine.slots["dealloc"],
        "traverse": routine.slots["traverse"],
        "clear": routine.slots["clear"],
        "descr_get": routine.slots["get"],
        "members": ctypes.addressof(members),
        "getset": ctypes.addressof(getset),
    }
    slots = (_Slot * (len(pointers) + 1))(*[_Slot(_TP[slot], pointer) for slot, pointer in pointers.items()])
    flags = _HAVE_VECTORCALL | _HAVE_GC | _METHOD_DESCRIPTOR
    full_name = f"{base.__module__}.{base.__qualname__}".encode()
    spec = _Spec(full_name, INSTANCE["instance_bytes"], 0, flags, slots)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object)(
        ("PyType_FromSpecWithBases", exported)
    )
    kind: type[Any] = make(ctypes.addressof(spec), (base,))
    # The type points at these, and may outlive every module of ours.
    for piece in (members, name, getset, slots, spec):
        exported.Py_IncRef(ctypes.py_object(piece))
    kind.__doc__ = base.__doc__
    kind.routine = routine
    return kind


# ---- scratch memory
# ---------------------------------------------------------------------------------------------------


class Scratch:
    """Scratch memory that calls take in turn; who comes while it is taken goes the complete way, with its
    own.

    It may be shared by any number of records. Made large enough by `reserve`; a call that needs more than it
    has is not served.
    """

    def __init__(self, memory: arena.Arena | None = None) -> None:
        self._memory = memory or arena.shared()
        self._block: Any = None
        self._cell = (ctypes.c_int64 * 3)()  # whether taken, bytes, where: see `treadle_dispatch_take`
        self.address = ctypes.addressof(self._cell)

    @property
    def nbytes(self) -> int:
        return self._cell[1]

    def reserve(self, nbytes: int) -> bool:
        """Have at least that many bytes; false if a call is using the memory just now."""
        return (nbytes <= self.nbytes and self._block is not None) or self._change(nbytes)

    def trim(self) -> bool:
        """Give the memory back until the next `reserve`; false if a call is using it just now."""
        return self._change(None)

    def _change(self, nbytes: int | None) -> bool:
        if _loaded is None:
            return False
        block = None if nbytes is None else self._memory.take(max(nbytes, 1))
        if not _loaded.take(self.address):
            return False
        self._cell[1] = nbytes or 0
        self._cell[2] = 0 if block is None else ctypes.addressof(block)
        previous, self._block = self._block, block
        _loaded.give(self.address)
        del previous
        return True


# ---- records as the routine reads them
# --------------------------------------------------------------------------------


class Unservable(ArgumentValueError):
    """A signature that the routine does not serve: it takes the complete path, which serves them all."""


class Image(NamedTuple):
    """A record in memory, and the object that keeps it and all it points to alive."""

    address: int
    owner: tuple[Any, ...]


class Words(list["int | Words"]):
    """Words of 8 bytes; a nested list stands for its address."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # a place in memory, not contents
    __eq__ = object.__eq__  # type: ignore[assignment]


def assemble(record: Record) -> Image:
    """The record as the routine reads it; `Unservable`, by name, if it asks for something that the routine
    lacks.
    """
    return _Assembly(record).image()


class _Assembly:
    def __init__(self, record: Record) -> None:
        self.record = record
        signature = self.signature = record.signature
        self.inputs, self.outputs = len(signature.inputs), len(signature.outputs)
        self.names = [dim.name for dim in signature.dims]
        self.keep: list[Any] = [record]
        self.walk = Words()
        self.later = Words()
        self.bound: set[int] = set()
        self.filled: dict[int, int] = {}  # buffer -> register
        self.arrays: list[int] = []  # buffers that are the caller's memory
        self.held: list[int] = []
        self.slots = 0
        self.registers = len(record.args) + len(record.keywords)

    def image(self) -> Image:
        record, signature = self.record, self.signature
        if not signature.inputs and not record.args and not record.keywords and not signature.outputs:
            raise Unservable("a program without arguments and results", code="TD0970")
        trees = [*record.args, *(tree for _, tree in record.keywords)]
        for register, tree in enumerate(trees):
            self.visit(tree, register, False)
        for number in range(self.inputs):
            if number not in self.filled:
                raise Unservable(f"input {number} is in none of the arguments", code="TD0970")
        lost = [name for i, name in enumerate(self.names) if i not in self.bound]
        if lost:
            raise Unservable(f"no extent is just {', '.join(lost)}", code="TD0971")
        if self.registers > MOST_REGISTERS:
            raise Unservable(f"{self.registers} arguments in all, of at most {MOST_REGISTERS}", code="TD0972")
        outputs, written, allocates = self.output_table()
        result, depth = self.result()
        foreign_code = record.release_gil or record.begin is not None or allocates
        held = Words(self.held if foreign_code else ())
        names = tuple(sys.intern(name) for name, _ in record.keywords)
        self.keep.append(names)
        ranges = Words()
        for dim in signature.dims:
            ranges += [dim.low, 2**62 if dim.high is None else dim.high, dim.multiple_of]
        arena_bytes, arena_function = self.arena()
        values: dict[str, int | Words] = {
            "positional": len(record.args),
            "arguments": len(trees),
            "names": id(names) if names else 0,
            "registers": self.registers,
            "buffers": self.inputs + self.outputs + len(record.constants),
            "dims": len(self.names),
            "slots": self.slots,
            "stack": depth,
            "outputs_count": self.outputs,
            "outputs": outputs,
            "walk": Words([*self.walk, *self.later, 0, 0]),
            "result": result,
            "written_count": len(written),
            "written": Words(written),
            "arrays_count": len(self.arrays),
            "arrays": Words(self.arrays),
            "held_count": len(held),
            "held": held,
            "ranges": ranges,
            "constants_count": len(record.constants),
            "constants": Words(record.constants),
            "entry": record.entry,
            "context": record.context,
            "begin": 0 if record.begin is None else id(record.begin),
            "arena": record.scratch.address if record.scratch and (arena_bytes or arena_function) else 0,
            "arena_bytes": arena_bytes,
            "arena_function": arena_function,
            "releases": int(record.release_gil),
            "failed": id(record.failed),
        }
        return self.place(values)

    def place(self, values: dict[str, int | Words]) -> Image:
        """One block of memory: the head, then every list it reaches."""
        head = Words(values[name.removeprefix("record_")] for name in RECORD if name != "record_owner")
        head.append(0)
        starts: dict[Words, int] = {}
        order: list[Words] = [head]
        size = 0
        for words in order:  # grows while it is walked
            if words in starts:
                continue
            starts[words] = size
            size += len(words)
            order += [word for word in words if isinstance(word, Words)]
        block = (ctypes.c_int64 * max(size, 1))()
        base = ctypes.addressof(block)
        for words, start in starts.items():
            for i, word in enumerate(words):
                value = base + 8 * starts[word] if isinstance(word, Words) else word
                block[start + i] = value - 2**64 if value >= 2**63 else value
        owner = (block, *self.keep)
        block[RECORD["record_owner"] // 8] = id(owner)
        return Image(base, owner)

    # -- arguments --

    def visit(self, tree: Any, register: int, contained: bool) -> None:
        match tree:
            case Leaf(number):
                self.array(number, self.signature.inputs[number], register, contained)
            case Out(number):
                self.array(self.inputs + number, self.signature.outputs[number], register, contained)
            case Number(number, kind):
                self.number(number, kind, register)
            case Fixed(value):
                self.fixed(value, register)
            case TupleOf(items, kind):
                if not issubclass(kind, tuple):
                    raise Unservable(f"{kind.__name__} is no tuple", code="TD0973")
                self.keep.append(kind)
                self.emit("tuple", register, id(kind), len(items), self.registers)
                self.children(items)
            case ListOf(items):
                self.emit("list", register, len(items), self.registers)
                self.children(items)
            case DictOf(keys, items):
                keys = tuple(sys.intern(key) if type(key) is str else key for key in keys)
                self.keep.append(keys)
                self.emit("dict", register, len(keys), self.registers, *[id(key) for key in keys])
                self.children(items)
            case _:
                raise Unservable(f"an argument that is {type(tree).__name__}", code="TD0973")

    def children(self, items: Sequence[Any]) -> None:
        first = self.registers
        self.registers += len(items)
        for i, item in enumerate(items):
            self.visit(item, first + i, True)

    def emit(self, code: str, register: int, *operands: int | Words) -> None:
        self.walk += [WALK[f"walk_{code}"], 3 + len(operands), register, *operands]

    def fill(self, buffer: int, register: int) -> None:
        if buffer in self.filled:
            raise Unservable(f"buffer {buffer} is filled by two arguments", code="TD0970")
        self.filled[buffer] = register

    def array(self, buffer: int, tensor: Tensor, register: int, contained: bool) -> None:
        is_input = buffer < self.inputs
        self.fill(buffer, register)
        self.arrays.append(buffer)
        if contained:
            self.held.append(register)
        descr = self.dtype(tensor.dtype)
        donated = any(number == buffer for number, _ in self.signature.donated)
        flags = READABLE if is_input and not donated else WRITABLE
        rank, itemsize = len(tensor.shape), tensor.dtype.itemsize
        if all(isinstance(size, int) for size in tensor.shape):
            sizes = [int(size) for size in tensor.shape]
            nbytes = math.prod(sizes) * itemsize
            self.emit("array", register, buffer, descr, flags, rank, nbytes, *sizes)
            return
        extents = Words()
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, int):
                extents += [EXTENTS["extent_number"], size]
            elif is_input and size in self.names and (dim := self.names.index(size)) not in self.bound:
                self.bound.add(dim)
                extents += [EXTENTS["extent_names"], dim]
            else:
                extents += [EXTENTS["extent_later"], 0]
                self.later += [WALK["walk_size"], 5, register, axis, self.formula(size)]
        self.emit("shaped", register, buffer, descr, flags, rank, itemsize, *extents)

    def dtype(self, dtype: np.dtype[Any]) -> int:
        if not dtype.isnative or dtype.hasobject or dtype.fields is not None or dtype.itemsize == 0:
            raise Unservable(f"arrays of {dtype}", code="TD0974")
        self.keep.append(dtype)
        return id(dtype)

    def number(self, number: int, kind: type[Any], register: int) -> None:
        tensor = self.signature.inputs[number]
        dtype = tensor.dtype
        self.dtype(dtype)
        low = high = 0
        if kind is int and dtype.kind in "iu":
            code = "int"
            low, high = int(np.iinfo(dtype).min), min(int(np.iinfo(dtype).max), 2**63 - 1)
        elif kind is float and dtype == np.float64:
            code = "float"
        elif kind is float and dtype == np.float32:
            code = "float32"
        elif kind is bool and dtype == np.bool_:
            code = "bool"
        elif kind is complex and dtype == np.complex128:
            code = "complex"
        elif kind is dtype.type and issubclass(kind, np.generic) and dtype.num < 24 and dtype.itemsize <= 16:
            code = "numpy"
        else:
            raise Unservable(f"a {kind.__name__} for {tensor.path}, which is {dtype}", code="TD0974")
        if tensor.shape:
            raise Unservable(f"a number for {tensor.path}, which has axes", code="TD0974")
        self.fill(number, register)
        self.keep.append(kind)
        self.emit("scalar", register, number, self.slots, SCALARS[f"scalar_{code}"], id(kind), low, high)
        self.slots += 1

    def fixed(self, value: Any, register: int) -> None:
        self.keep.append(value)
        if type(value) is str:
            self.emit("static", register, STATICS["static_text"], id(value))
        elif type(value) is int and -(2**63) <= value < 2**63:
            self.emit("static", register, STATICS["static_int"], value)
        elif type(value) is float:
            bits = ctypes.c_int64.from_buffer(ctypes.c_double(value)).value
            self.emit("static", register, STATICS["static_float"], bits)
        else:
            self.emit("static", register, STATICS["static_identity"], id(value))

    # -- sizes --

    def formula(self, size: int | str) -> Words:
        """The size in postfix, ended by 0."""
        code = Words()
        tree = ast.Constant(size) if isinstance(size, int) else parse_formula(size)
        if self.postfix(tree, code) > EXPRESSION_DEPTH:
            raise Unservable(f"the size {size} nests too deep", code="TD0971")
        return Words([*code, 0, 0])

    def postfix(self, tree: ast.expr, code: Words) -> int:
        """Append it; how many values it has on the stack at most."""
        match tree:
            case ast.Constant(value=int(value)):
                code += [SIZES["size_constant"], value]
                return 1
            case ast.Name(id=name) if name in self.names:
                code += [SIZES["size_dim"], self.names.index(name)]
                return 1
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.operation("sub", [ast.Constant(0), operand], code)
            case ast.BinOp(left=left, op=operator, right=right):
                names = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv", ast.Mod: "mod"}
                return self.operation(names[type(operator)], [left, right], code)
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
                return self.operation(name, args, code)
            case _:
                raise Unservable(f"the size {ast.unparse(tree)}", code="TD0971")

    def operation(self, name: str, operands: Sequence[ast.expr], code: Words) -> int:
        depth = self.postfix(operands[0], code)
        for operand in operands[1:]:
            depth = max(depth, 1 + self.postfix(operand, code))
            code += [SIZES[f"size_{name}"], 0]
        return depth

    # -- outputs and the result --

    def output_table(self) -> tuple[Words, list[int], bool]:
        """The rows, the buffers that are written and not ours, and whether Python code allocates."""
        table, written, allocates = Words(), [], False
        donated = {result: argument for argument, result in self.signature.donated}
        for number, tensor in enumerate(self.signature.outputs):
            buffer = self.inputs + number
            descr, rank = self.dtype(tensor.dtype), len(tensor.shape)
            source, register, nbytes, allocator = "fixed", 0, tensor.dtype.itemsize, 0
            sizes: int | Words = Words()
            if number in donated and buffer in self.filled:
                raise Unservable(f"{tensor.path} has an out array and a donated one", code="TD0975")
            if number in donated or buffer in self.filled:
                source = "given"
                own = donated.get(number, buffer)
                written.append(own)
                register = self.filled[own]
                if own not in self.arrays:
                    raise Unservable(f"{tensor.path} is to take the memory of a number", code="TD0975")
            else:
                memory = self.record.memory
                if memory is not None:
                    array, dtype = memory.array, tensor.dtype

                    def allocate(
                        shape: tuple[int, ...], array: Callable[..., Any] = array, dtype: np.dtype[Any] = dtype
                    ) -> Any:
                        return array(shape, dtype)

                    self.keep.append(allocate)
                    allocator = id(allocate)
                if not all(isinstance(size, int) for size in tensor.shape):
                    source = "shaped"
                    sizes = Words(self.formula(size) for size in tensor.shape)
                    allocates |= allocator != 0
                else:
                    shape = tuple(int(size) for size in tensor.shape)
                    nbytes *= math.prod(shape)
                    sizes = Words(shape)
                    if allocator and nbytes > LARGE_BYTES:
                        source, allocates = "large", True
                        self.keep.append(shape)
                        sizes = id(shape)
            table += [SOURCES[f"source_{source}"], register, buffer, descr, rank, sizes, nbytes, allocator]
        return table, written, allocates

    def result(self) -> tuple[Words, int]:
        code = Words()
        used: set[int] = set()
        depth = self.build(self.record.result, code, used)
        return Words([*code, 0, 0]), depth

    def build(self, tree: Any, code: Words, used: set[int]) -> int:
        """Append it; how many values it has on the stack at most."""
        match tree:
            case Output(number, scalar):
                if number in used:
                    raise Unservable(f"output {number} stands in the result twice", code="TD0976")
                used.add(number)
                plain = not scalar or self.signature.outputs[number].shape != ()
                code += [RESULTS["result_output" if plain else "result_scalar"], 3, number]
                return 1
            case Fixed(value):
                self.keep.append(value)
                code += [RESULTS["result_static"], 3, id(value)]
                return 1
            case TupleOf(items, kind) if kind is tuple:
                return self.group("tuple", items, [], code, used)
            case ListOf(items):
                return self.group("list", items, [], code, used)
            case DictOf(keys, items):
                self.keep.append(keys)
                return self.group("dict", items, [id(key) for key in keys], code, used)
            case CallOf(function, items):
                self.keep.append(function)
                return self.group("call", items, [id(function)], code, used)
            case _:
                raise Unservable(f"a result that is {type(tree).__name__}", code="TD0973")

    def group(self, name: str, items: Sequence[Any], more: list[int], code: Words, used: set[int]) -> int:
        depth = 1
        for i, item in enumerate(items):
            depth = max(depth, i + self.build(item, code, used))
        code += [RESULTS[f"result_{name}"], 3 + len(more), len(items), *more]
        return depth

    # -- scratch --

    def arena(self) -> tuple[int, int]:
        """How many bytes a call needs: a number, or the address of the function that says."""
        record = self.record
        function = record.arena_bytes
        if not self.names:
            sizes = (ctypes.c_int64 * 1)()
            need = ArenaBytes(function)(ctypes.addressof(sizes)) if function else 0
            if need and record.scratch is None:
                raise Unservable(f"{need} bytes of scratch, and none given", code="TD0977")
            if need and record.scratch is not None:
                record.scratch.reserve(need)
            return need, 0
        if record.scratch is None and function:
            raise Unservable("scratch whose size depends on the dims, and none given", code="TD0977")
        if record.scratch is not None:
            record.scratch.reserve(0)
        return 0, function
