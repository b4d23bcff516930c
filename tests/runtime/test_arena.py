"""Pooled memory: used again, aligned, bounded, given back."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from treadle.runtime.arena import HUGE_BYTES, HUGE_PAGE, POOLED_BYTES, Arena, size_class

f32 = np.dtype(np.float32)
MIB = 1 << 20


def test_a_released_result_serves_the_next_one() -> None:
    """The point of the pool: the second result of a size costs no page faults."""
    arena = Arena(64 * MIB)
    first = arena.array((MIB,), f32)
    place = first.ctypes.data
    del first
    second = arena.array((1024, 1024), f32)
    assert second.ctypes.data == place


def test_a_view_keeps_the_memory() -> None:
    """A block that came back while somebody looks at it would change under their eyes."""
    arena = Arena(64 * MIB)
    array = arena.array((MIB,), f32)
    array[:] = 1
    view = array[10:20].reshape(2, 5).T
    del array
    gc.collect()
    other = arena.array((MIB,), f32)
    other[:] = 2
    assert (view == 1).all()
    del view
    assert arena.idle_bytes == 4 * MIB


def test_results_are_ordinary_arrays() -> None:
    """Aligned to 64 bytes, writable, contiguous, of the wanted shape and type, whatever their size."""
    arena = Arena(64 * MIB)
    for shape in ((), (0,), (3, 0, 5), (7,), (300, 1000), (5 * MIB,)):
        array = arena.array(shape, f32)
        assert (array.shape, array.dtype) == (shape, f32)
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
        array[...] = 3
        if array.nbytes >= POOLED_BYTES:
            assert array.ctypes.data % 64 == 0
        if array.nbytes >= HUGE_BYTES:
            assert array.ctypes.data % HUGE_PAGE == 0


def test_every_block_is_aligned_and_large_enough() -> None:
    """Scratch is what native code aligns its vectors to."""
    arena = Arena(64 * MIB)
    for nbytes in (1, 63, 4096, 4097, 100_000, MIB + 1, 5 * MIB + 3):
        block = arena.take(nbytes)
        assert ctypes.addressof(block) % 64 == 0
        assert len(block) >= nbytes
        ctypes.memset(ctypes.addressof(block), 1, nbytes)


def test_little_of_a_block_is_spare() -> None:
    """At most an eighth, or a page: memory is not wasted by rounding."""
    for nbytes in [*range(1, 70_000, 997), *(int(1.37**k) for k in range(20, 90))]:
        assert nbytes <= size_class(nbytes) <= max(nbytes * 1.125, nbytes + 4096)


def test_idle_memory_is_bounded_and_the_longest_idle_goes_first() -> None:
    """A program that once made large results must not sit on them forever."""
    arena = Arena(10 * MIB)
    i8 = np.dtype(np.int8)
    blocks = [arena.array((k * MIB,), i8) for k in (1, 2, 3, 4)]
    big = arena.array((8 * MIB,), i8)
    assert (arena.used_bytes, arena.idle_bytes) == (18 * MIB, 0)
    for _ in range(4):
        blocks.pop(0)
    assert arena.idle_bytes == 10 * MIB
    del big
    # 8 MiB came back to 10: the blocks of 1, 2 and 3 MiB went, and then 12 were still too many.
    assert arena.idle_bytes == 8 * MIB


def test_trim_gives_everything_back() -> None:
    """The user's way to say: I need the memory for something else."""
    arena = Arena(64 * MIB)
    for _ in range(2):
        arena.array((MIB,), f32)
    before = resident()
    array = arena.array((8 * MIB,), f32)
    array[:] = 1
    assert resident() - before > 30 * MIB
    del array
    assert arena.trim() == 36 * MIB
    assert (arena.idle_bytes, arena.used_bytes, arena.trim()) == (0, 0, 0)
    assert resident() - before < 10 * MIB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_block_larger_than_the_bound_is_not_kept() -> None:
    """The bound holds for one block as for many."""
    arena = Arena(MIB)
    arena.array((4 * MIB,), f32)
    assert arena.idle_bytes == 0


def test_too_much_memory_is_an_ordinary_memory_error() -> None:
    """And leaves the books as they were."""
    arena = Arena(MIB)
    with pytest.raises(MemoryError):
        arena.take(1 << 55)
    assert arena.used_bytes == 0


def test_threads_never_get_the_same_block() -> None:
    """Every thread writes its own number everywhere and reads it back."""
    arena = Arena(64 * MIB)
    wrong: list[int] = []

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        held = []
        for _ in range(200):
            array = arena.array((int(random.integers(POOLED_BYTES, 2 * POOLED_BYTES)),), np.dtype(np.uint8))
            array[::4096] = number
            held.append(array)
            if len(held) > 3:
                old = held.pop(int(random.integers(4)))
                if not (old[::4096] == number).all():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert arena.used_bytes == 0


def test_a_process_ends_quietly_with_results_alive() -> None:
    """Modules are torn down in any order; a destructor that fails would print."""
    code = "import numpy as np; from treadle.runtime import arena; x = arena.shared().array((1 << 22,), np.dtype('f4'))"
    done = subprocess.run([sys.executable, "-c", code + "; y = [x]; y.append(y)"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_can_allocate_though_another_thread_held_the_lock() -> None:
    """The lock's holder does not exist in the child."""
    arena = Arena(MIB)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with arena._lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        arena.array((MIB,), f32)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    thread.join()
