"""The pool: every index once, nothing that can wait for ever, signals and forks as the rest of the program expects."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from treadle.codegen.llvm.optimize import object_code
from treadle.codegen.llvm.pool import pool_module
from treadle.ir.errors import Unsupported
from treadle.runtime.loader import CLOSED_LIST, LoadedObject, load

TRIPLE = f"{platform.machine()}-unknown-linux-gnu"

# What the tests run on it. A task's `args` is an array of i64, except where said.
TASKS = """
define void @count(ptr %args, i64 %lo, i64 %hi) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %place = getelementptr i64, ptr %args, i64 %i
  %old = load i64, ptr %place
  %new = add i64 %old, 1
  store i64 %new, ptr %place
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %end
end:
  ret void
}

; args: the pool, then the array. A task that opens a region of its own: ten indices for each of its.
define void @nest(ptr %args, i64 %lo, i64 %hi) nounwind {
  %pool = load ptr, ptr %args
  %array = getelementptr i64, ptr %args, i64 1
  %from = mul i64 %lo, 10
  %to = mul i64 %hi, 10
  %run = load ptr, ptr %pool
  call void %run(ptr %pool, ptr @count, ptr %array, i64 %from, i64 %to, i64 8)
  ret void
}

; args[0]: how many are inside. Nobody leaves before two have come, so two threads must be here at once. Each
; writes args[lo + 1]: its thread; and args[lo + 3]: half of the smallest normal f64, which is 0 under flush
; to zero.
define void @meet(ptr %args, i64 %lo, i64 %hi) nounwind {
entry:
  %before = atomicrmw add ptr %args, i64 1 seq_cst
  %thread = call i64 (i64, ...) @syscall(i64 GETTID)
  %thread_place = getelementptr i64, ptr %args, i64 %lo
  %thread_place.1 = getelementptr i64, ptr %thread_place, i64 1
  store i64 %thread, ptr %thread_place.1
  %small = load volatile double, ptr @smallest
  %half = fmul double %small, 5.0e-1
  %half_place = getelementptr i64, ptr %thread_place, i64 3
  store double %half, ptr %half_place
  br label %wait
wait:
  %inside = load atomic i64, ptr %args seq_cst, align 8
  %alone = icmp slt i64 %inside, 2
  br i1 %alone, label %wait, label %end
end:
  ret void
}
@smallest = internal global double 0x0010000000000000

; args[i]: the thread that did index i, which takes a while.
define void @who(ptr %args, i64 %lo, i64 %hi) nounwind {
entry:
  %thread = call i64 (i64, ...) @syscall(i64 GETTID)
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %place = getelementptr i64, ptr %args, i64 %i
  store i64 %thread, ptr %place
  %slow = call i64 (i64, ...) @syscall(i64 GETTID)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %end
end:
  ret void
}

define void @regions(ptr %pool, ptr %task, ptr %args, i64 %lo, i64 %hi, i64 %threads, i64 %times) nounwind {
entry:
  %run = load ptr, ptr %pool
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void %run(ptr %pool, ptr %task, ptr %args, i64 %lo, i64 %hi, i64 %threads)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %times
  br i1 %more, label %loop, label %end
end:
  ret void
}
""".replace("GETTID", {"x86_64": "186", "aarch64": "178"}.get(platform.machine(), "0"))

# The register's intrinsics are declared by the pool.
FLUSHING_REGION = """
define void @flushing(ptr %pool, ptr %args) nounwind {
  %old_place = alloca i32
  %new_place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %old_place)
  %old = load i32, ptr %old_place
  %new = or i32 %old, 32768
  store i32 %new, ptr %new_place
  call void @llvm.x86.sse.ldmxcsr(ptr %new_place)
  call void @regions(ptr %pool, ptr @meet, ptr %args, i64 0, i64 2, i64 2, i64 1)
  call void @llvm.x86.sse.ldmxcsr(ptr %old_place)
  ret void
}
"""


# Threads sleep in these.
KEPT: list[LoadedObject] = []


class Pool:
    """A pool of its own, with the tasks above beside it; its threads go on sleeping until the process ends."""

    def __init__(
        self,
        workers: int,
        change: Callable[[str], str] = lambda text: text,
        symbols: Mapping[str, int] | None = None,
        more: str = "",
    ) -> None:
        text = change(pool_module(TRIPLE)) + TASKS + more
        self.object = load(object_code(text, TRIPLE, "", ""), symbols=symbols)
        KEPT.append(self.object)
        long, pointer = ctypes.c_int64, ctypes.c_void_p
        address = self.object.address
        self._create = ctypes.CFUNCTYPE(pointer, ctypes.c_int)(address("treadle_pool_create"))
        self._workers = ctypes.CFUNCTYPE(ctypes.c_int)(address("treadle_pool_workers"))
        regions = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, long, long, long, long)
        self._regions = regions(address("regions"))
        self.pointer = self.create(workers)

    def create(self, workers: int) -> int | None:
        return self._create(workers)

    @property
    def workers(self) -> int:
        return int(self._workers())

    def run(self, task: str, array: np.ndarray, lo: int, hi: int, threads: int, times: int = 1, skip: int = 0) -> None:
        address = array.ctypes.data + skip
        self._regions(self.pointer, self.object.address(task), address, lo, hi, threads, times)


def in_child(body: Callable[[], None]) -> int:
    """Run it after a fork; the child's exit code: 0 if it returned, 1 if it raised, an alarm if it hung."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            body()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_counts(pool: Pool, size: int = 1000, times: int = 50) -> None:
    counts = np.zeros(size, np.int64)
    pool.run("count", counts, 0, size, 2, times)
    assert (counts == times).all()


def test_every_index_is_visited_once_whatever_the_extent_and_the_threads() -> None:
    """The pieces are unequal and claimed in any order; a lost or doubled one is a wrong result."""
    pool = Pool(5)
    for threads in (1, 2, 3, 6, 100):
        for extent in (*range(40), 64, 100, 1000, 4097):
            counts = np.zeros(extent + 20, np.int64)
            pool.run("count", counts, 10, 10 + extent, threads, times=3)
            assert (counts[10 : 10 + extent] == 3).all(), (threads, extent)
            assert not counts[:10].any() and not counts[10 + extent :].any(), (threads, extent)


def test_a_reversed_range_is_empty() -> None:
    """Trip counts are computed; a negative one must not become a huge one."""
    counts = np.zeros(8, np.int64)
    Pool(1).run("count", counts, 6, 2, 2)
    assert not counts.any()


def test_many_short_regions_lose_nothing() -> None:
    """A stale worker that mixed two regions up would show here: each region begins the moment the last one ends."""
    pool = Pool(3)
    counts = np.zeros(7, np.int64)
    pool.run("count", counts, 0, 7, 4, times=100_000)
    assert (counts == 100_000).all()


def test_two_threads_are_in_a_region_at_once() -> None:
    """Counting right would also a serial pool; here neither piece can end without the other."""
    pool = Pool(1)
    for _ in range(20):
        seen = np.zeros(5, np.int64)
        pool.run("meet", seen, 0, 2, 2)
        assert seen[1] != seen[2]


def test_a_worker_that_sleeps_is_woken() -> None:
    """After its short watch a worker parks; a region long after must still get it."""
    pool = Pool(1)
    for _ in range(5):
        threading.Event().wait(0.02)
        seen = np.zeros(5, np.int64)
        pool.run("meet", seen, 0, 2, 2)
        assert seen[1] != seen[2]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets MXCSR")
def test_workers_compute_under_the_callers_floating_point_mode() -> None:
    """Another library may set flush-to-zero on one thread only; where a piece ran would then decide its bits."""
    pool = Pool(1, more=FLUSHING_REGION)
    flushing = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(pool.object.address("flushing"))
    for _ in range(3):
        seen = np.zeros(5, np.int64)
        flushing(pool.pointer, seen.ctypes.data)
        assert seen[3:].view(np.float64).tolist() == [0.0, 0.0]
        pool.run("meet", seen := np.zeros(5, np.int64), 0, 2, 2)
        assert (seen[3:].view(np.float64) == 2.0**-1023).all()


def test_a_region_stays_within_its_number_of_threads() -> None:
    """The context says how many; a pool that grew for another program must not answer with all."""
    pool = Pool(3)
    for threads in (2, 3, 4):
        for _ in range(20):
            seen = np.zeros(400, np.int64)
            pool.run("who", seen, 0, 400, threads)
            assert seen.all()
            assert len(np.unique(seen)) <= threads


def test_workers_start_with_the_first_region_that_wants_them_and_never_go() -> None:
    """Making the pool costs nothing; asking for fewer later leaves it as it is."""
    pool = Pool(1)
    assert pool.workers == 0
    counts = np.zeros(100, np.int64)
    pool.run("count", counts, 0, 100, 8)
    assert pool.workers == 1
    assert pool.create(3) == pool.pointer
    pool.run("count", counts, 0, 100, 3)
    assert pool.workers == 2
    pool.run("count", counts, 0, 100, 8)
    assert pool.workers == 3
    assert pool.create(1) == pool.pointer
    pool.run("count", counts, 0, 100, 8)
    assert pool.workers == 3


def test_a_task_that_opens_a_region_runs_it_alone() -> None:
    """The pool is taken; waiting for it inside one of its own tasks would be for ever."""
    pool = Pool(2)
    memory = np.zeros(1 + 10 * 30, np.int64)
    assert pool.pointer is not None
    memory[0] = pool.pointer
    pool.run("nest", memory, 0, 30, 3, times=200)
    assert (memory[1:] == 200).all()


def test_callers_on_other_threads_do_not_wait_for_each_other() -> None:
    """Two Python threads may run programs at once: one has the pool, the others go alone, and all are right."""
    pool = Pool(2)
    results = [np.zeros(500, np.int64) for _ in range(4)]

    def work(counts: np.ndarray) -> None:
        for _ in range(50):
            pool.run("count", counts, 0, 500, 3, times=40)

    threads = [threading.Thread(target=work, args=(counts,)) for counts in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((counts == 2000).all() for counts in results)


def refuse_to_wipe(text: str) -> str:
    """As on a kernel without MADV_WIPEONFORK: the advice is an unknown one."""
    assert "i64 4096, i32 18)" in text
    return text.replace("i64 4096, i32 18)", "i64 4096, i32 9999)")


@pytest.mark.parametrize("change", [lambda text: text, refuse_to_wipe], ids=["wiped", "owned"])
def test_a_forked_child_has_no_pool_until_it_runs_a_region(change: Callable[[str], str]) -> None:
    """The threads did not come along: waiting for them would hang. Children of children likewise."""
    pool = Pool(1, change)
    check_counts(pool)
    assert pool.workers == 1

    def child() -> None:
        if change is not refuse_to_wipe:
            assert pool.workers == 0
        check_counts(pool)
        assert pool.workers == 1
        seen = np.zeros(5, np.int64)
        pool.run("meet", seen, 0, 2, 2)
        assert seen[1] != seen[2]
        assert in_child(lambda: check_counts(pool)) == 0

    for _ in range(3):
        assert in_child(child) == 0
    check_counts(pool)


@pytest.mark.parametrize("change", [lambda text: text, refuse_to_wipe], ids=["wiped", "owned"])
def test_a_fork_in_the_middle_of_a_region_leaves_the_child_free(change: Callable[[str], str]) -> None:
    """The lock is held by a thread that the child does not have."""
    pool = Pool(1, change)
    stop = threading.Event()
    counts = np.zeros(1000, np.int64)

    def busy() -> None:
        while not stop.is_set():
            pool.run("count", counts, 0, 1000, 2, times=1000)

    other = threading.Thread(target=busy)
    other.start()
    try:
        for _ in range(10):
            assert in_child(lambda: check_counts(pool)) == 0
    finally:
        stop.set()
        other.join()
    assert (counts == counts[0]).all()


def worker_masks() -> list[int]:
    """The blocked signals of the threads that call themselves treadle, from the kernel's own listing."""
    masks = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "treadle":
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            masks.append(int(status["SigBlk"], 16))
    return masks


def test_workers_take_no_signal() -> None:
    """Ctrl-C and timers belong to the program's own threads; a handler on a worker would run on a foreign stack."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    check_counts(Pool(2))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    masks = worker_masks()
    # libc lets a thread begin with everything blocked, so one that has not run yet says nothing about us.
    while any(mask & 1 << signal.SIGSEGV - 1 for mask in masks):
        threading.Event().wait(0.001)
        masks = worker_masks()
    assert masks
    outside = {number for number in range(1, 32) if number not in (4, 5, 7, 8, 11, 9, 19)}
    assert all(mask & 1 << number - 1 for mask in masks for number in outside)


def test_a_signal_that_the_main_thread_blocks_stays_pending() -> None:
    """The same promise by behaviour: no worker takes it instead. In a child, which has no thread of the tests' own."""

    def blocked() -> None:
        check_counts(Pool(2))
        handled: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.SIGUSR1 in signal.sigpending()
        assert signal.sigtimedwait([signal.SIGUSR1], 5) is not None
        assert not handled

    assert in_child(blocked) == 0


def test_without_threads_to_be_had_regions_are_serial() -> None:
    """A limit on threads is not an error of the program; and it is not run into at every region."""
    calls: list[int] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    def no_threads(thread: int, attributes: int, start: int, argument: int) -> int:
        calls.append(1)
        return errno.EAGAIN

    pool = Pool(3, symbols={"pthread_create": ctypes.cast(no_threads, ctypes.c_void_p).value or 0})
    check_counts(pool)
    assert pool.workers == 0
    assert len(calls) == 1
    pool.create(3)
    check_counts(pool)
    assert len(calls) == 2


def test_without_memory_there_is_no_pool() -> None:
    """Null is what the context takes for "serial"."""

    @ctypes.CFUNCTYPE(
        ctypes.c_void_p,
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    )  # fmt: skip
    def no_memory(*arguments: int) -> int:
        return -1

    assert Pool(1, symbols={"mmap": ctypes.cast(no_memory, ctypes.c_void_p).value or 0}).pointer is None


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
@pytest.mark.parametrize("embed", [False, True])
def test_the_text_compiles_for_both_machines_and_asks_libc_for_listed_names_only(
    architecture: str, embed: bool
) -> None:
    """No helper library: atomics must be instructions, and what is left undefined must be what every libc has."""
    from treadle.runtime import elf

    triple = f"{architecture}-unknown-linux-gnu"
    text = pool_module(triple, embed)
    if embed:
        text += "define ptr @user() { %p = call ptr @treadle_pool_create(i32 3) ret ptr %p }"
    code = object_code(text, triple, "", "")
    assert set(elf.undefined_symbols(code)) <= CLOSED_LIST
    exported = set(elf.defined_symbols(code))
    assert exported == ({"user"} if embed else {"treadle_pool_create", "treadle_pool_workers"})


def test_another_system_is_refused_by_name() -> None:
    """Futexes are Linux's."""
    with pytest.raises(Unsupported, match="darwin") as caught:
        pool_module("arm64-apple-darwin")
    assert caught.value.code == "TD0509"


def test_workers_keep_the_processors_they_are_allowed() -> None:
    """One that leaves its caller's processor is not pinned: whatever happened, it may run where the process may."""
    program = """
import os, time
import numpy as np
import treadle as td
f = td.jit(lambda x: np.sin(x).sum())
x = np.ones(1 << 20, np.float32)
for _ in range(5):
    f(x)
    time.sleep(0.01)
names = {t: open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")}
workers = [int(t) for t, name in names.items() if name == "treadle"]
assert workers or len(os.sched_getaffinity(0)) == 1
assert all(os.sched_getaffinity(t) == os.sched_getaffinity(0) for t in workers)
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "TREADLE_CACHE": "0"})
