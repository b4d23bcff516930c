"""The engines: how each is imported, kept to its threads, given arrays, and called.

A setup of a line is called with the engine's module (treadle's with `td`, jax's with `jax` ...) and returns a function
of the line's arrays, or `Call`s of its own. Each engine's functions take and give its own arrays; converting them is
outside the measured time. "inductor" is torch with `torch.compile` around what torch's setup returns.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .lines import Call, Line

BYTECODE = Path(__file__).resolve().parents[2] / "build" / "bench" / "bytecode"


@dataclass(frozen=True)
class Engine:
    """`module` is imported first; where it is missing the engine is reported as not installed."""

    name: str
    module: str
    array: Callable[[Any, Any], Any] = lambda library, x: x
    function: Callable[[Any, Any], Any] = lambda library, f: f
    out: bool = True  # whether its functions can write into an array that is given
    finish: str = "{}"  # what makes a call's result be there when the statement ends
    start: Callable[[Any, int], None] = lambda library, threads: None


def _start_torch(torch: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def _tensor(torch: Any, x: Any) -> Any:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def _inductor(torch: Any, function: Any) -> Any:
    return torch.compile(function, dynamic=False)


def _start_treadle(treadle: Any, threads: int) -> None:
    treadle.set_num_threads(threads)


ENGINES = {
    each.name: each
    for each in (
        Engine("treadle", "treadle", start=_start_treadle),
        Engine("numpy", "numpy"),
        Engine("torch", "torch", _tensor, start=_start_torch),
        Engine("inductor", "torch", _tensor, _inductor, out=False, start=_start_torch),
        Engine("jax", "jax", lambda jax, x: jax.device_put(x), out=False, finish="{}.block_until_ready()"),
        Engine("numba", "numba"),
        Engine("sklearn", "sklearn"),
        Engine("machine", "llvmlite"),
    )
}


def environment(threads: int, processor: int | None) -> dict[str, str]:
    """Variables of an engine's process: as many threads as the line says, and no pool that spins after its work, since
    a spinning pool takes the processor from whoever is measured next."""
    n = str(threads)
    flags = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    found = {
        **os.environ,
        "OMP_NUM_THREADS": n,
        "MKL_NUM_THREADS": n,
        "OPENBLAS_NUM_THREADS": n,
        "NUMEXPR_NUM_THREADS": n,
        "NUMBA_NUM_THREADS": n,
        "TREADLE_NUM_THREADS": n,
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "GOMP_SPINCOUNT": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PYTHONPYCACHEPREFIX": str(BYTECODE),
        "BENCH_PROCESSOR": "" if processor is None else str(processor),
    }
    # The first two name the kernels of another processor than the one that runs: NumPy would be measured with the wrong
    # ones. Without bytecode every start would compile Python's sources anew, which no installed package does.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE"):
        found.pop(name, None)
    return found


def load(name: str, threads: int) -> Any:
    """Import an engine and keep it to its threads. Raises ImportError where it is not installed."""
    engine = ENGINES[name]
    library = importlib.import_module(engine.module)
    engine.start(library, threads)
    return library


def version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    module = ENGINES[name].module
    try:
        return installed({"sklearn": "scikit-learn"}.get(module, module))
    except PackageNotFoundError:
        return ""


def prepare(name: str, library: Any, line: Line) -> list[Call]:
    """The calls of one engine for one line, ready to be timed."""
    engine = ENGINES[name]
    made = line.engines[name](library)
    if isinstance(made, Call):
        return [made]
    if isinstance(made, Sequence):
        return list(made)
    function = engine.function(library, made)
    arrays = [engine.array(library, x) for x in line.arguments()]
    names = {"f": function, **{f"x{i}": x for i, x in enumerate(arrays)}}
    given = [*(f"x{i}" for i in range(len(arrays)))]
    if line.out and engine.out:
        names["y"] = function(*arrays)
        given.append("out=y")
    return [Call(engine.finish.format(f"f({', '.join(given)})"), names)]
