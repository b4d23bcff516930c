"""The checked call path, over a small native program: y = x + w for x: f32[B, 4]."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from treadle.runtime import loader
from treadle.runtime.arena import Arena
from treadle.runtime.errors import (
    ArgumentTooLarge,
    ArgumentTypeError,
    ArgumentValueError,
    NativeIndexError,
    NativeRuntimeError,
)
from treadle.runtime.executable import Executable
from treadle.runtime.signature import Failure, Signature, Tensor

Array = np.ndarray[Any, Any]
Emit = Callable[..., bytes]
f32 = np.dtype(np.float32)


@pytest.fixture
def add(add_object: bytes, add_signature: Signature, add_failures: list[Failure], weights: Array) -> Executable:
    return executable(add_object, add_signature, add_failures, [weights])


def executable(
    code: bytes, signature: Signature, failures: list[Failure], constants: list[Array], **rest: Any
) -> Executable:
    loaded = loader.load(code)
    return Executable(
        signature,
        loaded.address("treadle_entry"),
        loaded.address("treadle_arena_bytes"),
        constants=[array.ctypes.data for array in constants],
        failures=failures,
        keep=(loaded, constants),
        **rest,
    )


def sample(rows: int = 3) -> Array:
    return np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)


def test_it_computes(add: Executable, weights: Array) -> None:
    """For every number of rows, none and many included; the result is a fresh array."""
    for rows in (0, 1, 3, 100_000):
        x = sample(rows)
        (y,) = add([x])
        assert (y.shape, y.dtype, y.flags.writeable) == ((rows, 4), f32, True)
        assert np.array_equal(y, x + weights)
        assert not np.shares_memory(x, y)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(">f4"),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
        lambda x: x.view(np.matrix),
    ],
    ids=["big-endian", "strided", "column order", "reversed", "misaligned", "broadcast", "subclass"],
)
def test_an_argument_in_any_form_is_converted(add: Executable, weights: Array, form: Callable[[Array], Array]) -> None:
    """Native code sees native, aligned, C-contiguous memory, whatever the user has."""
    x = form(sample())
    before = np.array(x)
    (y,) = add([x])
    assert np.array_equal(y, np.asarray(before, f32) + weights)
    assert np.array_equal(x, before)


class Foreign:
    """An array of another library that speaks DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_arrays_of_other_libraries_are_taken(add: Executable, weights: Array) -> None:
    """Through DLPack, without a copy."""
    assert np.array_equal(add([Foreign(sample())])[0], sample() + weights)


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (np.zeros((3, 4)), r"TD0942: x: expected float32\[B,4\], found float64\[3,4\]"),
        (np.zeros((3, 4), np.int32), r"TD0942: x: .* found int32\[3,4\]"),
        (np.zeros((3, 4), ">f8"), r"TD0942: x: .* found >f8\[3,4\]"),
        (np.zeros((3, 4), object), r"TD0942: x: .* found object\[3,4\]"),
        (np.zeros((3, 5), f32), r"TD0943: x: expected float32\[B,4\], found float32\[3,5\]"),
        (np.zeros(4, f32), r"TD0943: x: .* found float32\[4\]"),
        (np.zeros((3, 1, 4), f32), r"TD0943: x: .* found float32\[3,1,4\]"),
        ([1.0, 2.0], r"TD0947: x: .* found list"),
        ("text", r"TD0947: x: .* found str"),
        (None, r"TD0947: x: .* found NoneType"),
        (np.ma.masked_array(np.zeros((3, 4), f32)), r"TD0947: x: a masked array"),
    ],
)
def test_a_wrong_argument_is_named(add: Executable, leaf: Any, said: str) -> None:
    """Its path, what was expected, what was found."""
    with pytest.raises((ArgumentTypeError, ArgumentValueError), match=said):
        add([leaf])


def test_the_number_of_arguments_is_checked(add: Executable) -> None:
    """Native code would read a pointer that is not there."""
    for leaves in ([], [sample(), sample()]):
        with pytest.raises(ArgumentTypeError, match="TD0941"):
            add(leaves)


def test_out_is_filled_and_returned(add: Executable, weights: Array) -> None:
    """The very array, in whatever layout it is."""
    x = sample()
    plain = np.empty((3, 4), f32)
    strided = np.empty((3, 8), f32)[:, ::2]
    swapped = np.empty((3, 4), ">f4")
    misaligned = np.empty(49, np.uint8)[1:].view(f32).reshape(3, 4)
    for out in (plain, strided, swapped, misaligned):
        assert add([x], [out])[0] is out
        assert np.array_equal(out, x + weights)
    assert np.array_equal(add([x], [None])[0], x + weights)


def test_out_may_overlap_the_arguments(add: Executable, weights: Array) -> None:
    """Then the program must not see its own results."""
    x = sample()
    expected = x + weights
    assert add([x], [x])[0] is x
    assert np.array_equal(x, expected)
    base = np.arange(20, dtype=f32)
    x, out = base[:12].reshape(3, 4), base[4:16].reshape(3, 4)
    expected = x + weights
    add([x], [out])
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (np.empty((2, 4), f32), r"TD0950: out for result: expected float32\[3,4\], found float32\[2,4\]"),
        (np.empty((3, 4)), r"TD0950: .* found float64\[3,4\]"),
        ([], r"TD0950: .* found list"),
        (np.broadcast_to(np.zeros(4, f32), (3, 4)), r"TD0950: out for result is read-only"),
    ],
)
def test_an_unfit_out_is_refused(add: Executable, out: Any, said: str) -> None:
    """No result is silently cast, reshaped or lost."""
    with pytest.raises((ArgumentTypeError, ArgumentValueError), match=said):
        add([sample()], [out])
    with pytest.raises(ArgumentTypeError, match="TD0941"):
        add([sample()], [None, None])


def test_a_failure_of_native_code_is_the_error_of_its_site(add: Executable) -> None:
    """With the code and the message that the compiler wrote for it."""
    x = sample()
    x[0, 0] = -1
    with pytest.raises(NativeIndexError, match=r"TD0301: x\[0, 0\] is negative at net.py:12") as caught:
        add([x])
    assert caught.value.code == "TD0301"
    assert isinstance(caught.value, IndexError)


def test_an_unknown_site_is_said_to_be_one(add_object: bytes, add_signature: Signature, weights: Array) -> None:
    """A table that is too short must not become another error's message."""
    x = sample()
    x[0, 0] = -1
    with pytest.raises(NativeRuntimeError, match="TD0949"):
        executable(add_object, add_signature, [], [weights])([x])


def test_threads_may_call_it_together(add: Executable, weights: Array) -> None:
    """Nothing of one call may be seen by another: scratch, results, pointers."""
    wrong: list[int] = []

    def work(number: int) -> None:
        for rows in range(1, 200):
            x = np.full((rows * 37, 4), number, f32)
            if not np.array_equal(add([x])[0], x + weights):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Two inputs, updated in place: s += t where output 0 takes the buffer of input 0; output 1 is t + t.
UPDATE = """
define i64 @treadle_arena_bytes(ptr %dims) nounwind { ret i64 0 }
define i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %arena, ptr %cx) nounwind {
entry:
  %s = load ptr, ptr %bufs
  %tp = getelementptr ptr, ptr %bufs, i64 1
  %t = load ptr, ptr %tp
  %op = getelementptr ptr, ptr %bufs, i64 2
  %o = load ptr, ptr %op
  %dp = getelementptr ptr, ptr %bufs, i64 3
  %d = load ptr, ptr %dp
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %si = getelementptr double, ptr %s, i64 %i
  %ti = getelementptr double, ptr %t, i64 %i
  %oi = getelementptr double, ptr %o, i64 %i
  %di = getelementptr double, ptr %d, i64 %i
  %a = load double, ptr %si
  %b = load double, ptr %ti
  %c = fadd double %a, %b
  store double %c, ptr %oi
  %b2 = load double, ptr %ti
  %e = fadd double %b2, %b2
  store double %e, ptr %di
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, 8
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""
f64 = np.dtype(np.float64)


def update(emit: Emit, lenient: bool = False) -> Executable:
    signature = Signature(
        [Tensor("s", f64, (8,)), Tensor("t", f64, (8,))],
        [Tensor("results[0]", f64, (8,)), Tensor("results[1]", f64, (8,))],
        donated=[(0, 0)],
        lenient=lenient,
    )
    return executable(emit(UPDATE), signature, [], [])


def test_a_donated_argument_is_returned_as_the_result(emit: Emit) -> None:
    """Its own array object, holding the result; nothing was copied."""
    s, t = np.arange(8.0), np.full(8, 2.0)
    place = s.ctypes.data
    first, second = update(emit)([s, t])
    assert first is s
    assert s.ctypes.data == place
    assert np.array_equal(s, np.arange(8.0) + 2)
    assert np.array_equal(second, np.full(8, 4.0))


def test_an_argument_that_overlaps_a_donated_one_is_read_as_it_was(emit: Emit) -> None:
    """The program writes over it while it reads it, so it reads a copy."""
    s = np.arange(8.0)
    first, second = update(emit)([s, s])
    assert first is s
    assert np.array_equal(first, 2 * np.arange(8.0))
    assert np.array_equal(second, 2 * np.arange(8.0))
    base = np.arange(12.0)
    s, t = base[2:10], base[:8]
    expected, doubled = s + t, t + t
    first, second = update(emit)([s, t])
    assert first is s
    assert np.array_equal(first, expected)
    assert np.array_equal(second, doubled)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: np.repeat(s, 2)[::2], "C-contiguous"),
        (lambda s: s.astype(">f8"), "native"),
        (lambda s: np.frombuffer(s.tobytes()), "read-only"),
    ],
)
def test_a_donation_that_cannot_take_effect(emit: Emit, spoil: Callable[[Array], Array], reason: str) -> None:
    """It is refused with the argument's path; leniently, the argument is copied and left alone."""
    s, t = spoil(np.arange(8.0)), np.full(8, 2.0)
    with pytest.raises(ArgumentValueError, match=f"TD0951: s is donated.*{reason}"):
        update(emit)([s, t])
    first, _ = update(emit, lenient=True)([s, t])
    assert np.array_equal(first, np.arange(8.0) + 2)
    assert np.array_equal(s, np.arange(8.0))
    assert not np.shares_memory(first, s)


def test_two_donated_arguments_may_not_share_memory(emit: Emit) -> None:
    """Two results would."""
    signature = Signature(
        [Tensor("s", f64, (8,)), Tensor("t", f64, (8,))],
        [Tensor("results[0]", f64, (8,)), Tensor("results[1]", f64, (8,))],
        donated=[(0, 0), (1, 1)],
    )
    program = executable(emit(UPDATE), signature, [], [])
    s = np.arange(8.0)
    with pytest.raises(ArgumentValueError, match=r"TD0951: t is donated.*shares memory with s"):
        program([s, s])


def test_out_and_donation_do_not_mix(emit: Emit) -> None:
    """The result that takes an argument's memory is that argument; the other result may not lie in it."""
    s, t = np.arange(8.0), np.full(8, 2.0)
    with pytest.raises(ArgumentValueError, match="TD0952"):
        update(emit)([s, t], [np.empty(8), None])
    with pytest.raises(ArgumentValueError, match="TD0952"):
        update(emit)([s, t], [None, s])
    assert np.array_equal(s, np.arange(8.0))
    out = np.empty(8)
    first, second = update(emit)([s, t], [s, out])
    assert first is s and second is out


def test_outs_may_not_share_memory(emit: Emit) -> None:
    """Which result would be in it? Interleaved ones share none."""
    s, t = np.arange(8.0), np.full(8, 2.0)
    base = np.empty(16)
    signature = Signature(update(emit).signature.inputs, update(emit).signature.outputs)
    program = executable(emit(UPDATE), signature, [], [])
    with pytest.raises(ArgumentValueError, match="TD0952"):
        program([s, t], [base[:8], base[4:12]])
    program([s, t], [base[::2], base[1::2]])
    assert np.array_equal(base[::2], s + t)
    assert np.array_equal(base[1::2], t + t)


# f64[] in, f64[] out: the square; and the same for i8.
SQUARE = """
define i64 @treadle_arena_bytes(ptr %dims) nounwind { ret i64 0 }
define i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %arena, ptr %cx) nounwind {
  %x = load ptr, ptr %bufs
  %yp = getelementptr ptr, ptr %bufs, i64 1
  %y = load ptr, ptr %yp
  %a = load TYPE, ptr %x
  %b = MUL TYPE %a, %a
  store TYPE %b, ptr %y
  ret i32 0
}
"""


def square(emit: Emit, dtype: Any, native: str, mul: str) -> Executable:
    signature = Signature([Tensor("n", np.dtype(dtype), ())], [Tensor("result", np.dtype(dtype), ())])
    return executable(emit(SQUARE.replace("TYPE", native).replace("MUL", mul)), signature, [], [])


def test_numbers_are_arguments_too(emit: Emit) -> None:
    """Python's, where the type has room for them, and NumPy's of exactly the type."""
    half = square(emit, np.float64, "double", "fmul")
    for number in (3, 3.0, np.float64(3), np.array(3.0)):
        (result,) = half([number])
        assert (result.shape, result) == ((), 9)
    for wrong in (True, 3j, np.float32(3), np.int64(3), "3"):
        with pytest.raises(ArgumentTypeError):
            half([wrong])
    small = square(emit, np.int8, "i8", "mul")
    assert small([-11])[0] == 121
    with pytest.raises(ArgumentTooLarge, match=r"TD0948: n: 128 does not fit in int8"):
        small([128])
    for wrong in (3.0, True):
        with pytest.raises(ArgumentTypeError, match="TD0947"):
            small([wrong])


def test_the_context_says_threads_and_pool(emit: Emit) -> None:
    """Version 1, the thread count asked for, and the pool only when there is more than one thread."""
    text = """
    define i64 @treadle_arena_bytes(ptr %dims) nounwind { ret i64 0 }
    declare ptr @memcpy(ptr, ptr, i64)
    define i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %arena, ptr %cx) nounwind {
      %y = load ptr, ptr %bufs
      %r = call ptr @memcpy(ptr %y, ptr %cx, i64 24)
      ret i32 0
    }
    """
    asked: list[int] = []

    def pool(threads: int) -> int:
        asked.append(threads)
        return 0x1000

    signature = Signature([], [Tensor("result", np.dtype(np.int64), (3,))])
    program = executable(emit(text), signature, [], [], pool=pool, threads=lambda: 3)
    (context,) = program([])
    assert (context[0], context[1]) == (1 | 3 << 32, 0x1000)
    assert context[2] != 0  # this is the main thread, so there is a stop word
    (context,) = program([], threads=1)
    assert (context[0], context[1]) == (1 | 1 << 32, 0)
    assert asked == [3]
    found: list[Array] = []
    thread = threading.Thread(target=lambda: found.extend(program([])))
    thread.start()
    thread.join()
    assert found[0][2] == 0


def test_scratch_comes_from_the_arena_and_goes_back(
    add_object: bytes, add_signature: Signature, weights: Array
) -> None:
    """A second call uses the same scratch, and nothing is held between calls."""
    memory = Arena(1 << 24)
    program = executable(add_object, add_signature, [], [weights], memory=memory)
    for _ in range(3):
        program([sample(1000)])
    assert (memory.used_bytes, memory.idle_bytes) == (0, 16384)
