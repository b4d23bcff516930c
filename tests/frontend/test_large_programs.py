"""Programs whose code is generated in parts: the same as one module's, whoever generates it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import treadle as td
from treadle.codegen.llvm import assemble, workers
from treadle.frontend import compile as driver
from treadle.frontend.compile import Compilation, target_named
from treadle.frontend.options import Options
from treadle.runtime import elf
from treadle.runtime.link import link


def chains(arrays, table, places):
    """A kernel for each array, each of its own size; one with a constant table, one that can fail, one of tasks."""
    found = [np.tanh(x * (i + 1) + i) - x / (i + 2) for i, x in enumerate(arrays)]
    return [*found, table[places], np.exp(table) @ np.ones((table.shape[0], 3)), np.sin(np.outer(table, table))]


COUNT = 12
ARRAYS = [np.linspace(-2, 2, 20 + i) for i in range(COUNT)]
TABLE = np.linspace(0, 1, 300)
PLACES = np.array([0, 299, 7])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that every kernel is one, and a program of three large."""
    monkeypatch.setattr(assemble, "PART_BYTES", 1)
    monkeypatch.setattr(workers, "LEAST_BYTES", 1)


def compiled(processes: int, **options):
    with td.config.set(cache=False, compile_processes=processes, **options):
        return td.jit(chains).compile(ARRAYS, TABLE, PLACES)


def test_the_code_is_the_same_for_any_number_of_processes(small_parts: None, tmp_path: Path) -> None:
    """The object in the cache and the saved model, byte by byte; and it computes what NumPy does."""
    programs = [compiled(processes) for processes in (1, 2, 3)]
    said = [program.executed.compilation.generation for program in programs]
    assert all("modules" in each for each in said) and "by 0 workers" in said[0]
    assert len({program.executed.built.pack() for program in programs}) == 1
    saved = []
    for number, program in enumerate(programs):
        program.save(tmp_path / f"{number}.so", name="model")
        saved.append((tmp_path / f"{number}.so").read_bytes())
    assert saved[0] == saved[1] == saved[2]
    for function in (programs[2], td.load(tmp_path / "2.so")):
        for found, expected in zip(function(ARRAYS, TABLE, PLACES), chains(ARRAYS, TABLE, PLACES), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_parts_are_one_program(small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes the bits of the undivided program, exports the same names, wants the same of the machine, fails at
    the same line, and is profiled kernel by kernel."""
    divided = compiled(1)
    monkeypatch.setattr(assemble, "PART_BYTES", 256 << 10)
    whole = compiled(1)
    assert whole.executed.compilation.generation == ""
    for found, expected in zip(divided(ARRAYS, TABLE, PLACES), whole(ARRAYS, TABLE, PLACES), strict=True):
        assert found.tobytes() == expected.tobytes()
    for names in (elf.defined_symbols, elf.undefined_symbols):
        assert names(divided.executed.built.code) == names(whole.executed.built.code)
    assert divided.executed.built.manifest == whole.executed.built.manifest
    kernels = {kernel.name for kernel in whole.executed.compilation.program.kernels}
    for code in (divided.executed.built.code, whole.executed.built.code):
        assert kernels <= {symbol.name for symbol in elf.Elf(code).symbols() if symbol.binding == elf.LOCAL}
    for program in (divided, whole):
        with pytest.raises(IndexError, match=r"table\[places\]|TD0301"):
            program(ARRAYS, TABLE, np.array([0, 300, 1]))


def test_profiles_of_parts(small_parts: None) -> None:
    """The clock round each kernel stands in the entry, which is in another part."""
    profile = compiled(2).profile(ARRAYS, TABLE, PLACES, calls=3)
    assert len(profile.rows) >= COUNT and all(row.seconds > 0 for row in profile.rows)


@pytest.mark.parametrize("target", ["avx2", "avx512", "neon"])
def test_parts_for_other_machines(small_parts: None, target: str) -> None:
    """What one part needs of a CPU the program needs; references between parts resolve on every architecture."""
    graph = td.jit(chains).trace(ARRAYS, TABLE, PLACES).graph
    code, features = Compilation(graph, target_named(target), processes=2).object_code()
    assert "treadle_entry" in elf.defined_symbols(code)
    assert set(elf.undefined_symbols(code)) <= {"memcpy", "memset"}
    assert link(code, soname="x.so")
    assert set(features) <= set(target_named(target).features)


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as threads, no more than processors that are idle; a number that is set is an order."""
    monkeypatch.setattr(driver, "default_threads", lambda: 8)
    for idle, wanted, threads, found in (
        (7, 0, 0, 8),
        (2, 0, 0, 3),
        (0, 0, 0, 1),
        (7, 0, 2, 2),
        (7, 0, 99, 8),
        (0, 5, 1, 5),
    ):
        monkeypatch.setattr(driver, "idle_processors", lambda idle=idle: idle)
        assert driver.processes(Options(compile_processes=wanted, num_threads=threads)) == found


# A few hundred kernels are where workers begin to pay; what is said about them is for whoever asks where the time went.
SCRIPT = """
import numpy as np, treadle as td
arrays = [np.ones(100 + i, np.float32) for i in range(120)]
f = td.jit(lambda xs: [np.tanh(x * (i + 0.5)) / (x + i) for i, x in enumerate(xs)])
found = f(arrays)
assert all(np.allclose(y, np.tanh(i + 0.5) / (1 + i), rtol=1e-5) for i, y in enumerate(found))
"""


def test_a_large_program_is_shared_and_a_small_one_is_not(tmp_path: Path) -> None:
    """Nothing is set but the number of processes, since this machine may have one processor; the cached object is the
    same, and the environment switches workers off."""
    kept = []
    for processes in ("2", "1"):
        environment = {"TREADLE_DEBUG": "1", "TREADLE_CACHE_DIR": str(tmp_path / processes)}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"TREADLE_COMPILE_PROCESSES": processes, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"generated by {'1 worker' if processes == '2' else '0 workers'}\n" in run.stderr
        entries = {path.name: path.read_bytes() for path in (tmp_path / processes).glob("*.object")}
        kept.append(entries)
    assert kept[0] == kept[1]
    small = SCRIPT.replace("120", "9")
    run = subprocess.run(
        [sys.executable, "-c", small],
        env={"TREADLE_DEBUG": "1", "TREADLE_CACHE": "0", "TREADLE_COMPILE_PROCESSES": "9"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "compiled in" in run.stderr and "modules" not in run.stderr


def test_threads_compile_at_once(small_parts: None) -> None:
    """Each thread has a program of its own; workers are shared out among them, and results are each program's."""

    def compute(number: int) -> list[np.ndarray]:
        with_number = td.jit(lambda xs: [np.tanh(x * (i + number)) - number for i, x in enumerate(xs)])
        return with_number(ARRAYS)

    with td.config.set(cache=False, compile_processes=3), ThreadPoolExecutor(4) as threads:
        for number, found in enumerate(threads.map(compute, range(8))):
            for i, (x, y) in enumerate(zip(ARRAYS, found, strict=True)):
                np.testing.assert_allclose(y, np.tanh(x * (i + number)) - number, rtol=1e-12, atol=1e-13)
    assert workers._running == 0
