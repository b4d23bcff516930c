"""Workers owe nothing: the same bytes come out with none, with some, and with ones that misbehave; and none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.codegen.llvm import generate, workers
from treadle.codegen.llvm.generate import Job
from treadle.codegen.llvm.optimize import object_code
from treadle.codegen.llvm.workers import LEAST_BYTES, Objects, Worker
from treadle.ir.errors import CheckFailed

TRIPLE = "x86_64-unknown-linux-gnu"


def job(number: int) -> Job:
    lines = [f"  %y{i + 1} = mul i32 %y{i}, {number + i}" for i in range(40)]
    body = "\n".join(["  %y0 = add i32 %x, 1", *lines, "  ret i32 %y40"])
    return Job(f"define i32 @f{number}(i32 %x) nounwind {{\n{body}\n}}\n", TRIPLE, "x86-64-v3", "+avx2")


JOBS = [job(number) for number in range(12)]
BYTES = [object_code(*each) for each in JOBS]


def children() -> list[int]:
    """The processes that threads of this one have started and not yet waited for."""
    found = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(word) for word in (thread / "children").read_text().split()]
    return found


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() == before
    assert workers._running == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "treadle-codegen"]


def generated(objects: Objects, jobs: list[Job], *, wait: bool) -> list[bytes]:
    """The objects of the jobs; with `wait`, the workers do what they will before the rest is made here."""
    for each in jobs:
        objects.add(each, LEAST_BYTES)
    if wait:
        with objects._changed:
            assert objects._changed.wait_for(lambda: objects.elsewhere == len(jobs) or objects.problems, 40)
    return objects.finished()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_same_bytes_whoever_makes_them(processes: int) -> None:
    """What a cache or a saved model holds must not depend on how many processors there were."""
    with Objects(processes) as objects:
        assert generated(objects, JOBS, wait=processes > 1) == BYTES
    assert objects.elsewhere == (len(JOBS) if processes > 1 else 0) and not objects.problems
    assert len(objects._workers) == processes - 1
    with Objects(processes) as objects:  # this process takes what no worker has begun
        assert generated(objects, JOBS, wait=False) == BYTES


def test_every_argument_reaches_the_worker() -> None:
    """Level, pipeline, features and machine are part of what is asked."""
    packages, _ = workers._surroundings()
    assert packages is not None
    worker = Worker(packages)
    try:
        worker.start()
        for other in (
            JOBS[0]._replace(pipeline=2), JOBS[0]._replace(opt=0), JOBS[0]._replace(features="-avx2"),
            JOBS[0]._replace(triple="aarch64-unknown-linux-gnu", cpu="generic", features="+neon"),
            JOBS[0]._replace(text=JOBS[0].text * 1 + "; \N{GREEK SMALL LETTER LAMDA}" * 100_000),
        ):  # fmt: skip
            assert worker.object_code(other) == object_code(*other)
    finally:
        worker.close()


def test_a_worker_imports_neither_numpy_nor_us() -> None:
    """It must be at work before its caller could have done the work."""
    code = f"""
import runpy, sys
sys.argv = ["generate.py", {workers._surroundings()[0]!r}, "0"]  # the caller is another: it leaves at once
sys.path.append(sys.argv[1])
runpy.run_path({workers.SCRIPT!r}, run_name="__main__")
import llvmlite.binding
print([name for name in ("numpy", "treadle", "subprocess", "ml_dtypes") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# What a worker may do instead of its work; `m` is `generate.py`.
MISBEHAVIOURS = {
    "leaves before it begins": "sys.exit(3)",
    "cannot be imported": "import no_such_module",
    "leaves when it is asked": "hello(); read(); os._exit(0)",
    "is killed": "hello(); read(); os.kill(os.getpid(), 9)",
    "says nothing of ours": "out.write(b'WARNING: something was loaded twice, ' * 9); out.flush(); time.sleep(60)",
    "says a damaged message": "hello(); read(); out.write(m.packed(b'+' + b'x' * 99)[:-1] + b'y'); out.flush(); read()",
    "says half a message": "hello(); read(); out.write(m.packed(b'+' + b'x' * 99)[:50]); out.flush()",
    "claims a huge one": "hello(); read(); out.write(m.FRAME.pack(m.MARK, 1 << 60, 0) + b'x'); out.flush()",
    "has another LLVM": "say(b'llvmlite 0.1, LLVM 3.0.0'); read()",
    "refuses": "hello(); read(); say(b'-because'); read()",
    "hangs before it begins": "time.sleep(60)",
    "hangs when it is asked": "hello(); read(); time.sleep(60)",
    "does not read": "hello(); time.sleep(60)",
}


@pytest.mark.parametrize("what", MISBEHAVIOURS)
def test_what_a_worker_does_wrong_is_done_here(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be relied on: memory may be short, the user may end it, a library may print."""
    script = tmp_path / "worker.py"
    script.write_text(f"""
import importlib.util, os, sys, time
sys.path.append(sys.argv[1])
spec = importlib.util.spec_from_file_location("generate", {generate.__file__!r})
m = importlib.util.module_from_spec(spec)
sys.modules["generate"] = m
spec.loader.exec_module(m)
out = sys.stdout.buffer
def say(payload): out.write(m.packed(payload)); out.flush()
def hello(): say(m.version())
def read(): return sys.stdin.buffer.read(m.FRAME.unpack(sys.stdin.buffer.read(m.FRAME.size))[1])
{MISBEHAVIOURS[what]}
""")
    monkeypatch.setattr(workers, "SCRIPT", str(script))
    monkeypatch.setattr(workers, "START_SECONDS", 2.0)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(workers, "LEAST_BYTES_PER_SECOND", 1_000_000)
    jobs, expected = list(JOBS), list(BYTES)
    if what == "does not read":  # more than a pipe holds
        jobs[0] = JOBS[0]._replace(text=JOBS[0].text + "; nothing\n" * 150_000)
    hangs = what.startswith("hangs") or what == "does not read"
    with Objects(3) as objects:
        if hangs:
            for each in jobs:
                objects.add(each, 100 * LEAST_BYTES)
            if what != "hangs before it begins":
                while len(objects._waiting) > len(jobs) - 2:
                    time.sleep(0.01)
            assert objects.finished() == expected
        else:
            assert generated(objects, jobs, wait=True) == expected
    assert objects.elsewhere == 0
    assert objects.problems or what == "hangs before it begins"
    begun = what not in ("cannot be imported", "has another LLVM") and " before it begins" not in what
    assert ("made here" in str(objects)) == (begun and what != "says nothing of ours")


def test_no_thread_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of an interpreter, or where threads are limited; what was reserved is given back."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Objects(3) as objects:
        assert generated(objects, JOBS, wait=False) == BYTES
        assert workers._running == 2
    assert objects.elsewhere == 0


def test_no_part_is_lost_to_an_error_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may end there, too."""

    def fail(self: Worker, data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(Worker, "_send", fail)
    with Objects(2) as objects:
        assert generated(objects, JOBS, wait=True) == BYTES
    assert "MemoryError" in str(objects)


def test_a_refusal_of_llvm_is_ours_to_say() -> None:
    """A worker only says that it failed; the user sees the error and the code that one process alone gives."""
    wrong = JOBS[0]._replace(text="define i32 @f(")
    with Objects(2) as objects, pytest.raises(CheckFailed, match="TD0506") as caught:
        generated(objects, [wrong, *JOBS[1:]], wait=False)
    assert caught.value.code == "TD0506"


def test_no_worker_where_there_is_nothing_to_gain_or_nothing_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, a small program, an interpreter that is none: `sys.executable` of a program that embeds Python is
    that program, and would be started once more."""

    def started(processes: int = 4, expected: int = LEAST_BYTES) -> tuple[int, str]:
        with Objects(processes) as objects:
            objects.add(JOBS[0], expected)
            objects.add(JOBS[1], expected)
            assert objects.finished() == BYTES[:2]
            assert len(objects.problems) <= 1
            return len(objects._workers), str(objects)

    assert started(processes=1)[0] == 0
    assert started(expected=LEAST_BYTES - 1)[0] == 0
    for executable in (None, "", "/usr/bin/blender", "/opt/python-but-not/uwsgi"):
        monkeypatch.setattr(sys, "executable", executable)
        count, told = started()
        assert count == 0 and "is no Python interpreter" in told
    monkeypatch.setattr(sys, "executable", "/no/such/python3")
    started()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert started()[0] == 0


def test_threads_share_the_processors() -> None:
    """Several threads may compile at once; together they start no more workers than one may."""
    found: list[list[bytes]] = []
    most = []

    def compile_() -> None:
        with Objects(3) as objects:
            for each in JOBS:
                objects.add(each, LEAST_BYTES)
            most.append(workers._running)
            found.append(objects.finished())

    threads = [threading.Thread(target=compile_) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BYTES] * 4 and max(most) <= 2


def run(code: str, *, isolated: bool = False, prefix: str = "") -> subprocess.Popen[str]:
    """A process of its own that runs `code` with `jobs` at hand."""
    given = f"""
import os, sys, threading, time
from treadle.codegen.llvm import workers
from treadle.codegen.llvm.generate import Job
from treadle.codegen.llvm.workers import LEAST_BYTES, Objects
jobs = [Job(*each) for each in {[tuple(each) for each in JOBS]!r}]
def make(wait=True):
    with Objects(2) as objects:
        for job in jobs: objects.add(job, LEAST_BYTES)
        if wait:
            with objects._changed:
                assert objects._changed.wait_for(lambda: objects.elsewhere == len(jobs) or objects.problems, 40)
        made = objects.finished()
        assert not objects.problems, objects.problems
        print(len(made), objects.elsewhere, flush=True)
"""
    flags = "-I" if isolated else ""
    return subprocess.Popen(
        ["sh", "-c", f'{prefix} exec "$0" {flags} -c "$1"', sys.executable, given + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("code", "isolated", "prefix"),
    [
        ("make()", True, ""),
        ("make()", False, "exec <&-;"),
        ("make()", False, "exec <&- 2>&-;"),
        ("make()", False, "d=$(mktemp -d); cd $d; rmdir $d;"),
        ("t = threading.Thread(target=make); t.start(); t.join()", False, ""),
        ("make(); pid = os.fork(); pid or make(); pid and os.waitpid(pid, 0)", False, ""),
        ("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); make()", False, ""),
    ],
)
def test_surroundings(code: str, isolated: bool, prefix: str) -> None:
    """Isolated, without standard input, in a directory that is gone, from a thread, after a fork, where nobody waits
    for children."""
    process = run(code, isolated=isolated, prefix=prefix)
    out, error = process.communicate(timeout=50)
    lines = out.splitlines()
    assert process.returncode == 0 and lines == [f"{len(JOBS)} {len(JOBS)}"] * (2 if "fork" in code else 1), error


def test_nothing_is_forked() -> None:
    """A copy of a process with threads holds locks that nobody will release: handlers of forks must not run."""
    process = run("os.register_at_fork(before=lambda: print('forked', flush=True)); make()")
    out, error = process.communicate(timeout=50)
    assert out == f"{len(JOBS)} {len(JOBS)}\n", error


ENDLESS = """
with Objects(2) as objects:
    while True:
        for job in jobs: objects.add(job, LEAST_BYTES)
        with objects._changed:
            objects._changed.wait_for(lambda: objects.elsewhere)
        print(objects._workers[0][0].process.pid, flush=True)
        objects.finished()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_caller_that_is_stopped_leaves_no_worker(number: signal.Signals) -> None:
    """Ctrl-C, which a terminal sends to both, and the end that nobody can answer."""
    process = run(ENDLESS)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    _, error = process.communicate(timeout=50)
    assert process.returncode == -number or "KeyboardInterrupt" in error
    for _ in range(500):
        try:
            state = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # nobody adopts orphans in some containers
            return
        time.sleep(0.02)
    raise AssertionError("the worker is still there")
