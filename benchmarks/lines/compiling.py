"""What the first call costs: programs of many kernels, programs of many ops, and the import. Each sample is a fresh
process."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness.lines import Chapter, at_most

CHAPTER = Chapter("compiling")

KERNELS = 200
MANY_KERNELS = 500
# Unary and binary steps of a chain, written for both NumPy and jax.numpy.
STEPS: tuple[Callable[[Any, Any, Any, float], Any], ...] = (
    lambda xp, h, x, c: h + c,
    lambda xp, h, x, c: h * c,
    lambda xp, h, x, c: h - x,
    lambda xp, h, x, c: h * x,
    lambda xp, h, x, c: h / (1 + c * c),
    lambda xp, h, x, c: xp.maximum(h, c),
    lambda xp, h, x, c: xp.minimum(h, x),
    lambda xp, h, x, c: xp.abs(h),
    lambda xp, h, x, c: xp.sqrt(xp.abs(h)),
    lambda xp, h, x, c: xp.where(h > c, h, x),
    lambda xp, h, x, c: h * h,
    lambda xp, h, x, c: -h,
)


def many_kernels(xp: Any, count: int = KERNELS) -> Callable[..., Any]:
    """A chain of eight random steps on each array: no two chains are alike, and no two arrays of one size, so that
    neither deduplication nor joining neighbours makes them fewer."""
    draw = random.Random(0)
    chains = [[(draw.choice(STEPS), round(draw.uniform(-2, 2), 3)) for _ in range(8)] for _ in range(count)]

    def program(arrays: Any) -> Any:
        results = []
        for chain, x in zip(chains, arrays, strict=True):
            h = x
            for step, constant in chain:
                h = step(xp, h, x, constant)
            results.append(h)
        return results

    return program


def many_arrays(count: int = KERNELS) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(100 + k).astype(np.float32) for k in range(count)]


def _cache(folder: str) -> None:
    os.environ["TREADLE_CACHE_DIR"] = folder


def _first_call(count: int = KERNELS) -> float:
    """From the call to its results, in a process that has imported treadle and nothing else of it."""
    import treadle as td

    function, arrays = td.jit(many_kernels(np, count)), many_arrays(count)
    start = time.perf_counter()
    results = function(arrays)
    seconds = time.perf_counter() - start
    expected = many_kernels(np, count)(arrays)
    for found, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return seconds


def _cold() -> float:
    with tempfile.TemporaryDirectory() as folder:
        _cache(folder)
        return _first_call()


def _many_cold(processes: int) -> Callable[[], float]:
    def seconds() -> float:
        os.environ["TREADLE_COMPILE_PROCESSES"] = str(processes)
        with tempfile.TemporaryDirectory() as folder:
            _cache(folder)
            return _first_call(MANY_KERNELS)

    return seconds


def _warm() -> float:
    """This process fills the cache; another one, fresh, finds it filled."""
    with tempfile.TemporaryDirectory() as folder:
        script = f"from lines import compiling; compiling._cache({folder!r}); print(compiling._first_call())"
        command = [sys.executable, "-c", script]
        subprocess.run(command, check=True, capture_output=True)
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(found.stdout)


def _jax_cold() -> float:
    import jax

    function, arrays = jax.jit(many_kernels(jax.numpy)), many_arrays()
    start = time.perf_counter()
    jax.block_until_ready(function(arrays))
    return time.perf_counter() - start


CHAPTER.line(f"{KERNELS} distinct kernels, cold", way="process", bar=at_most(1.0), treadle=_cold, jax=_jax_cold)
CHAPTER.line(
    f"{KERNELS} distinct kernels, a new process with a warm cache", way="process", bar=at_most(0.08), treadle=_warm
)

for _processes, _how in ((1, "in one process"), (2, "with a worker")):
    CHAPTER.line(
        f"{MANY_KERNELS} distinct kernels, cold, code generated {_how}",
        way="process",
        threads=2,
        rounds=3,
        treadle=_many_cold(_processes),
    )


def layers(xp: Any, count: int) -> Callable[..., Any]:
    """About `count` ops: layers of a product, a normalization, an activation and a residual, each with its constant."""

    def program(x: Any, w: Any, b: Any) -> Any:
        h = x
        for layer in range(round(count / OPS_PER_LAYER)):
            centred = h - h.mean(axis=1, keepdims=True)
            spread = (centred * centred).mean(axis=1, keepdims=True)
            normed = centred / xp.sqrt(spread + 1e-5)
            h = h + xp.tanh(normed @ w + b) * (1 + layer / 1024)
        return h

    return program


OPS_PER_LAYER = 22  # counted in the traced graph


def _growth(first: int, last: int) -> Callable[[], float]:
    def ratio() -> float:
        import treadle as td

        with tempfile.TemporaryDirectory() as folder:
            _cache(folder)
            arrays = [np.ones((8, 32), np.float32), np.eye(32, dtype=np.float32), np.ones(32, np.float32)]
            td.jit(layers(np, 100))(*arrays)  # what is imported and made once belongs to neither
            seconds = []
            for count in (first, last):
                start = time.perf_counter()
                td.jit(layers(np, count))(*arrays)
                seconds.append(time.perf_counter() - start)
                print(f"{count} ops: {seconds[-1]:.2f} s", file=sys.stderr)
            return seconds[1] / seconds[0]

    return ratio


def _seconds(count: int) -> Callable[[], float]:
    def seconds() -> float:
        import treadle as td

        with tempfile.TemporaryDirectory() as folder:
            _cache(folder)
            arrays = [np.ones((8, 32), np.float32), np.eye(32, dtype=np.float32), np.ones(32, np.float32)]
            td.jit(layers(np, 100))(*arrays)
            start = time.perf_counter()
            td.jit(layers(np, count))(*arrays)
            return time.perf_counter() - start

    return seconds


def _jax_seconds(count: int) -> Callable[[], float]:
    def seconds() -> float:
        import jax

        arrays = [np.ones((8, 32), np.float32), np.eye(32, dtype=np.float32), np.ones(32, np.float32)]
        jax.block_until_ready(jax.jit(layers(jax.numpy, 100))(*arrays))
        start = time.perf_counter()
        jax.block_until_ready(jax.jit(layers(jax.numpy, count))(*arrays))
        return time.perf_counter() - start

    return seconds


CHAPTER.line("1 000 ops to first result", way="process", rounds=3, treadle=_seconds(1_000), jax=_jax_seconds(1_000))
CHAPTER.line(
    "10 000 ops over 1 000",
    way="process",
    rounds=3,
    unit="times the time",
    bar=at_most(round(10 * math.log(10_000) / math.log(1_000), 2)),
    treadle=_growth(1_000, 10_000),
    note="n log n is 13.33 times the time",
)

# jit is asked for because the import itself is lazy: a program that imports treadle uses it.
_IMPORT = "import numpy, time; start = time.perf_counter(); import {0} as m; m.jit; print(time.perf_counter() - start)"


def _import(module: str) -> Callable[[], float]:
    def seconds() -> float:
        command = [sys.executable, "-c", _IMPORT.format(module)]
        subprocess.run(command, capture_output=True, check=False)  # writes the bytecode, as installing does
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if "ModuleNotFoundError" in run.stderr:
            raise ImportError(run.stderr.strip().splitlines()[-1])
        return float(run.stdout)

    return seconds


CHAPTER.line(
    "import over numpy, with jit",
    way="process",
    bar=at_most(0.03),
    treadle=_import("treadle"),
    jax=_import("jax"),
    numba=_import("numba"),
)
