"""What must simply work: empty arrays, NaN everywhere, threads, forks, full disks, two processes at once."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle as td


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "map": lambda x: np.exp(x) * 2 + x,
    "sum": lambda x: x.sum(),
    "rows": lambda x: x.sum(axis=-1, keepdims=True) - x,
    "mean": lambda x: x.mean(axis=0),
    "product": lambda x: x @ x.T,
    "softmax": lambda x: td.nn.softmax(x, axis=-1),
    "sort": lambda x: np.sort(x, axis=-1),
    "cumsum": lambda x: np.cumsum(x, axis=0),
    "concatenate": lambda x: np.concatenate([x, x[::-1]]),
    "select": lambda x: np.where(x > 0, x, -x),
    "turned": lambda x: x.T.reshape(-1),
    "gather": lambda x: x[:, ::-1][..., :1],
    "scan": lambda x: td.lax.scan(lambda c, row: (c + row, c), np.float32(0) * x.sum(axis=0), x),
}


# Arrays of no elements, on either axis, through every kind of kernel: NumPy's shapes and values.
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_with_nothing_in_them(name: str, shape: tuple[int, ...]) -> None:
    f = td.jit(FUNCTIONS[name])
    x = np.zeros(shape, "f4")
    for _ in range(2):
        with np.errstate(all="ignore"):
            compare(f(x), eager(name, x))


def eager(name: str, x: np.ndarray) -> Any:
    if name == "scan":
        c = x.sum(axis=0) * np.float32(0)
        rows: list[np.ndarray] = []
        for row in x:
            rows.append(c)
            c = c + row
        return c, np.stack(rows) if rows else np.zeros((0, x.shape[1]), "f4")
    if name == "mean" and not len(x):
        return np.full(x.shape[1:], np.nan, "f4")
    return FUNCTIONS[name](x)


def compare(found: Any, expected: Any) -> None:
    for a, b in zip(td.tree.leaves(found), td.tree.leaves(expected), strict=True):
        b = np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


# Scalars in, scalars through, scalars out.
@pytest.mark.parametrize("x", [np.float32(2), np.array(2, "f4"), np.ones((1, 1, 1), "f4")])
def test_arrays_of_no_axes(x: Any) -> None:
    f = td.jit(lambda x: (np.exp(x), x.sum(), x * x + 1, np.sqrt(x).reshape(())))
    for _ in range(2):
        compare(f(x), (np.exp(x), x.sum(), x * x + 1, np.sqrt(x).reshape(())))


# NaN, infinities, zeros of both signs and denormals come out where NumPy has them.
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("softmax",)])
@pytest.mark.parametrize("width", [4, 37])
def test_not_a_number_anywhere(name: str, width: int) -> None:
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38, -1.0]
    rows = [np.roll(np.resize(np.array(special, "f4"), width), k) for k in range(3)]
    x = np.stack([*rows, np.full(width, np.nan, "f4"), np.full(width, np.inf, "f4"), noise(width)])
    f = td.jit(FUNCTIONS[name])
    with np.errstate(all="ignore"):
        compare(f(x), eager(name, x))
        compare(f(x), eager(name, x))


def test_softmax_of_special_rows() -> None:
    f = td.jit(lambda x: td.nn.softmax(x, axis=-1))
    x = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [3e38, 3e38, -3e38]], "f4")
    result = f(x)
    assert np.isnan(result[0]).all() and np.isnan(result[1, 0])
    np.testing.assert_allclose(result[2:], [[0, 1 / (1 + np.e), np.e / (1 + np.e)], [0.5, 0.5, 0]], rtol=1e-6)


# Eight threads call one function with signatures that are new to it: each is compiled once, nothing is mixed up.
def test_eight_threads_and_one_function() -> None:
    f = td.jit(lambda x, n: np.tanh(x @ x.T) * n)
    sizes = [3, 5, 7]
    expected = {n: np.tanh(noise(n, 9) @ noise(n, 9).T) * 2 for n in sizes}
    wrong: list[str] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        for call in range(30):
            n = sizes[(number + call) % 3]
            try:
                if not np.allclose(f(noise(n, 9), 2.0), expected[n], rtol=1e-5, atol=1e-6):
                    wrong.append(f"thread {number}, call {call}")
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and f.n_compiles == 3


# A forked child calls what its parent compiled, compiles more, and uses a pool of its own, whatever the parent's other
# threads were doing at that moment.
def test_a_forked_child_goes_on() -> None:
    f = td.jit(lambda x: np.tanh(x @ x.T).sum(axis=1))
    x = noise(200, 200)
    with td.config.set(num_threads=2):
        expected = f(x)
        stop = threading.Event()

        def busy() -> None:
            n = 1
            while not stop.is_set():
                n += 1
                f(noise(4 + n % 50, 8))

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(3):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        np.testing.assert_array_equal(f(x), expected)
                        np.testing.assert_allclose(td.jit(np.exp)(x), np.exp(x), rtol=1e-6)
                        f(noise(99, 3))
                        code = 0
                    finally:
                        os._exit(code)
                deadline = time.monotonic() + 40
                done, status = os.waitpid(child, os.WNOHANG)
                while not done and time.monotonic() < deadline:
                    time.sleep(0.01)
                    done, status = os.waitpid(child, os.WNOHANG)
                if not done:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                assert done and status == 0
        finally:
            stop.set()
            thread.join()
        np.testing.assert_array_equal(f(x), expected)


SCRIPT = """
import sys, warnings
import numpy as np
import treadle as td
warnings.simplefilter("always")
x = np.ones((3, 4), np.float32)
for n in range(4):
    f = td.jit(lambda x: np.exp(x) * n + 1)
    np.testing.assert_allclose(f(x), np.exp(x) * n + 1, rtol=1e-6)
print(td.stats().compiles, td.stats().disk_hits)
"""


def python(script: str, tmp_path: Path, cache: Path, *, prelude: str = "") -> subprocess.Popen[str]:
    file = tmp_path / "script.py"
    file.write_text(prelude + textwrap.dedent(script))
    environment = {**os.environ, "TREADLE_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


# As root every directory can be written, so the limits of the disk are those of the process.
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""


# A cache that cannot be used costs one warning, at the user's line, and nothing else.
@pytest.mark.parametrize("kind", ["full", "read-only", "a file", "open to all"])
def test_a_cache_that_cannot_be_used(kind: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    if kind == "a file":
        cache.write_text("not a directory")
    elif kind == "read-only":
        if os.geteuid() == 0:
            cache = Path("/proc/treadle")  # no one can make a directory there
        else:
            cache.mkdir(mode=0o500)
    elif kind == "open to all":
        cache.mkdir()
        cache.chmod(0o777)
    run = python(SCRIPT, tmp_path, cache, prelude=FULL if kind == "full" else "")
    out, err = run.communicate(timeout=50)
    assert run.returncode == 0, err
    assert out.split() == ["4", "0"]
    assert err.count("TD0920: the compilation cache is off") == 1, err
    assert "script.py:" in err, "the user's line"


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    runs = [python(SCRIPT, tmp_path, cache) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=50)
        assert run.returncode == 0 and err == ""
        assert sum(map(int, out.split())) == 4
    assert len(list(cache.glob("*.object"))) >= 4 and not list(cache.glob("*.part"))
    run = python(SCRIPT, tmp_path, cache)
    assert run.communicate(timeout=50)[0].split() == ["0", "4"], "the third compiles nothing"


# What is damaged in the cache is compiled again, silently.
def test_a_damaged_cache_is_mended(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    python(SCRIPT, tmp_path, cache).communicate(timeout=50)
    for number, file in enumerate(sorted(cache.glob("*.object"))):
        data = bytearray(file.read_bytes())
        if number % 2:
            data[len(data) // 2] ^= 1
        file.write_bytes(data if number % 2 else data[: len(data) // 2])
    run = python(SCRIPT, tmp_path, cache)
    out, err = run.communicate(timeout=50)
    assert run.returncode == 0 and err == "" and out.split() == ["4", "0"]


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycles(count: int) -> None:
    for n in range(count):
        f = td.jit(lambda x, n=n: np.exp(x) * n + x.sum())
        f(np.ones(8 + n % 3, "f4"))


# Compiling and dropping again gives all memory back: code, tables, traces and constants.
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_compiling_and_dropping_keeps_no_memory(count: int) -> None:
    import gc

    with td.config.set(cache=False):
        cycles(40)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before = resident()
        cycles(count)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        grown = resident() - before
    assert grown < 0.05 * before, f"{grown / 1e6:.1f} MB more than {before / 1e6:.1f} MB after {count} cycles"
