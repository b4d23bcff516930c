"""The fast way from Python's call to a program: a heap type whose calls run one native, table-driven routine.

The routine is machine code made elsewhere (it needs a compiler) and handed in as bytes. `measure` gives every number
it is made with: where Python and NumPy keep the fields it looks at, each checked against objects of this process, and
the layout of our own records. An instance holds sixteen records; a call that matches none of them, or cannot be served
as it stands, goes with the very same arguments to the instance's `slow` callable, which does everything. So the fast
way may refuse whatever it likes.

Where the routine cannot be had (another interpreter, a free-threaded one, unknown layouts, no compiler and none in
the cache) `callable_type` says so once and gives a plain Python class that always takes the slow way.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar

import numpy as np

from . import loader, record, scratch
from .errors import users_level
from .executable import WRITABLE
from .record import (
    CallOf,
    DictOf,
    Fixed,
    Leaf,
    ListOf,
    Number,
    Out,
    Output,
    Record,
    TupleOf,
    Unservable,
    assemble,
    numbered,
    record_of,
    same_form,
    stoppable,
)
from .scratch import Scratch

# Who installs records needs nothing but this module.
__all__ = [
    "CallOf",
    "DictOf",
    "DispatchWarning",
    "Dispatched",
    "Fixed",
    "Leaf",
    "ListOf",
    "Number",
    "Out",
    "Output",
    "Record",
    "Scratch",
    "TupleOf",
    "Unavailable",
    "Unservable",
    "callable_type",
    "fingerprint",
    "measure",
    "record_of",
    "stoppable",
]

# One that does not match costs a call some nanoseconds, one that is not there some ten microseconds.
SLOTS = 16


class DispatchWarning(UserWarning):
    """Calls take the complete path, some microseconds longer each; the message says why."""


class Unavailable(Exception):
    """Why this process cannot use the routine."""


# After the object's header. The references stand together, for the garbage collector.
INSTANCE = {
    **numbered("instance", "vectorcall weak dict slow owners", 16, 8),
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
TABLE = numbered("table", " ".join([*FUNCTIONS, *NUMPY_FUNCTIONS, *OBJECTS]), 0)


# ---- the layouts of others, measured -----------------------------------------------------------------------

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


# A dict's parts, and its table's: the kind is of what the keys are, and the entries follow the indices.
DICT_LAYOUT = {
    "dict_used": 16,
    "dict_keys": 32,
    "dict_values": 40,
    "keys_index_bytes": 9,
    "keys_kind": 10,
    "keys_filled": 24,
    "keys_indices": 32,
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
        "flags_written": WRITABLE,
        "table_size": len(TABLE),
        "keys_texts": 1,
        "dict_direct": int(_dicts_are_known()),
    }
    return numbers | record.numbers() | INSTANCE | TABLE | LAYOUT | DICT_LAYOUT


def fingerprint(numbers: Mapping[str, int]) -> str:
    """What a routine on disk is known by, beside the version that made it."""
    import hashlib
    import json

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
            ("a list's item", _pointers(_word(id(s) + at["list_items"]), len(s)) == [id(x) for x in s]) for s in lists
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


def _dicts_are_known() -> bool:
    """Whether dicts of texts have their entries where the routine would read them, and others are told apart.

    Where this fails the routine asks Python for each entry: some nanoseconds more, for each leaf in a dict.
    """
    at = DICT_LAYOUT
    plain = [{f"key {i}": [i] for i in range(size)} for size in (1, 2, 5, 6, 11, 200)]
    shrunk = {"a": 1, "b": 2, "c": 3}
    del shrunk["b"]
    numbered: dict[Any, int] = {"a": 1, 2: 3}
    shared = type("Shared", (), {})()
    shared.x = shared.y = 1
    for each in (*plain, shrunk, numbered, vars(shared)):
        head = _pointers(id(each), 1 + max(at[name] for name in at if name.startswith("dict")) // 8)
        if not head or head[at["dict_used"] // 8] != len(each):
            return False
        table, values = head[at["dict_keys"] // 8], head[at["dict_values"] // 8]
        words = _pointers(table, 1 + at["keys_filled"] // 8)
        if not words:
            return False
        small = struct.pack(f"<{len(words)}q", *(word - 2**64 if word >= 2**63 else word for word in words))
        kind, index_bytes = small[at["keys_kind"]], 1 << (small[at["keys_index_bytes"]] & 0x1F)
        filled = words[at["keys_filled"] // 8]
        if any(each is one for one in plain):
            found = _pointers(table + at["keys_indices"] + index_bytes, 2 * len(each))
            wanted = [id(part) for item in each.items() for part in item]
            if (kind, filled, values, found) != (1, len(each), 0, wanted):
                return False
        elif (each is numbered and kind == 1) or (each is shrunk and filled == len(each)):
            return False
    return True


def _pointers(address: int, count: int) -> list[int]:
    """Words behind an address that may be nonsense: the kernel reads them, and refuses where we would crash."""
    reader, writer = os.pipe()
    try:
        if _write(writer, address, 8 * count) != 8 * count:
            return []
        return [word for (word,) in struct.iter_unpack("=Q", os.read(reader, 8 * count))]
    finally:
        os.close(reader)
        os.close(writer)


def _numpy_checks() -> list[tuple[str, bool]]:
    """That the functions taken from NumPy's table are the ones we mean: the type beside them, and what they do."""
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


# ---- the routine and its type ------------------------------------------------------------------------------


class Routine:
    """The native routine, loaded and told the addresses of this process. It is never unloaded: types point into it."""

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
        self.owner = ctypes.PYFUNCTYPE(whole, whole, ctypes.c_int64)(at("treadle_dispatch_owner"))
        self.forget = ctypes.PYFUNCTYPE(None, whole)(at("treadle_dispatch_forget"))
        self.take = ctypes.PYFUNCTYPE(ctypes.c_int32, word)(at("treadle_dispatch_take"))
        self.give = ctypes.PYFUNCTYPE(None, word)(at("treadle_dispatch_give"))
        self.slots = {name: at(f"treadle_dispatch_{name}") for name in ("new", "dealloc", "traverse", "clear", "get")}
        code.keep_forever()


_asked = itertools.count(1)


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
        assert routine is not None  # the plain class has a slot of this name instead
        found: Callable[..., Any] = routine.get_slow(self)
        return found

    @slow.setter
    def slow(self, slow: Callable[..., Any]) -> None:
        routine = type(self).routine
        assert routine is not None
        routine.set_slow(self, slow)

    def install(self, record: Record) -> None:
        """Serve calls that match it from now on. `Unservable` if it cannot be.

        Nothing happens if the same program is installed for calls of this form already: then this one took the
        complete path for a reason of its own. Where all places are taken, the oldest makes room, but only for one in
        sixteen of those that ask: if all did, calls of more forms than there are places, in turn, would each find
        that they have just been thrown out.
        """
        if (routine := type(self).routine) is None:
            return
        for slot in range(SLOTS):
            owner = routine.owner(self, slot)
            if owner is None:
                break
            if same_form(owner[1], record):
                return
        else:
            if next(_asked) % SLOTS:
                return
        image = assemble(record)
        routine.install(self, image.address, image.owner)

    def forget(self) -> None:
        """Drop every record."""
        if (routine := type(self).routine) is not None:
            routine.forget(self)


class _Plain(Dispatched):
    """The same without the routine."""

    # Not in the dict, which decorators copy from one function to another.
    __slots__ = ("__dict__", "__weakref__", "slow")

    def __call__(self, /, *args: Any, **keywords: Any) -> Any:
        return self.slow(*args, **keywords)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)


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
        scratch.native = scratch.Native(_loaded.take, _loaded.give)
    return _loaded


def _warn(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"calls of compiled functions take the complete path: {reason}", DispatchWarning, stacklevel=users_level()
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
    if base.__dictoffset__ or base.__weakrefoffset__ or hasattr(base, "__del__"):
        raise TypeError(f"{base.__name__} must have __slots__ = () and no __del__: its instances are laid out here")
    if routine is None:
        names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
        return type(base.__name__, (_Plain, base), {**names, "__slots__": ()})
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
