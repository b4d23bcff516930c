"""The measuring side: one process per engine, one sample from each in turn, round after round.

Interleaving means that what disturbs the machine disturbs all alike; between its samples an engine's process waits on
its standard input and does nothing. An engine that is missing, fails, crashes or does not answer loses its own column
and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .engines import environment
from .lines import OURS, Line

HERE = Path(__file__).resolve().parents[1]
MACHINE = "machine"


@dataclass(frozen=True)
class Settings:
    """How much is measured: `rounds` caps what a line asks for, `least` is the seconds of one sample."""

    rounds: int | None = None
    least: float = 0.02
    patience: float = 600.0  # seconds until a process that does not answer is given up
    engines: tuple[str, ...] = ()  # only these; all when empty


@dataclass
class Column:
    """What one engine gave for one line: samples in the line's unit, or why there are none."""

    engine: str
    state: str = "ready"  # "ready", "absent", "failed"
    note: str = ""
    samples: list[float] = field(default_factory=list)
    digest: list[float] = field(default_factory=list)


@dataclass
class Result:
    """A measured line. `limits` are the rates of its limit's loop, sampled in the same rounds."""

    line: Line
    columns: list[Column]
    limits: list[float] = field(default_factory=list)

    def column(self, engine: str) -> Column | None:
        return next((each for each in self.columns if each.engine == engine), None)


class Gone(Exception):
    """The process has ended, or does not answer."""


class Process:
    """A worker and the conversation with it."""

    def __init__(self, engine: str, threads: int, settings: Settings, line: str | None = None) -> None:
        self.patience = settings.patience
        processor = _processor() if threads == 1 else None
        found = environment(threads, processor)
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), found.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "harness.worker", engine, str(threads)]
        self.child = subprocess.Popen(
            command if line is None else [*command, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=found,
        )
        self.buffer = b""
        self.said = b""

    def read(self) -> dict[str, Any]:
        """The next answer. Standard error is read along, so that a talkative library does not fill its pipe."""
        child = self.child
        assert child.stdout is not None and child.stderr is not None
        streams = [child.stdout, child.stderr]
        while b"\n" not in self.buffer:
            ready, _, _ = select.select(streams, [], [], self.patience)
            if not ready:
                self.close()
                raise Gone(f"no answer within {self.patience:g} s")
            for stream in ready:
                data = os.read(stream.fileno(), 1 << 16)
                if stream is child.stderr:
                    self.said = (self.said + data)[-4000:]
                    if not data:
                        streams.remove(stream)
                elif data:
                    self.buffer += data
                else:
                    status = child.wait()
                    while child.stderr in select.select(streams, [], [], 0)[0] and (
                        data := os.read(child.stderr.fileno(), 1 << 16)
                    ):
                        self.said = (self.said + data)[-4000:]
                    last = self.said.decode(errors="replace").strip().splitlines()
                    self.close()
                    raise Gone(f"the process ended with status {status}" + (f": {last[-1]}" if last else ""))
        line, _, self.buffer = self.buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading says why
            self.child.stdin.write(json.dumps(question).encode() + b"\n")
            self.child.stdin.flush()
        return self.read()

    def close(self) -> None:
        """End the process; its standard input's end tells it to, and if it does not listen it is killed."""
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        try:
            self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for stream in (self.child.stdout, self.child.stderr):
            assert stream is not None
            stream.close()


def _processor() -> int | None:
    """The last processor this process may use: interrupts mostly arrive at the first."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


class Session:
    """The engines' processes, started when first needed and kept for all lines."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes: dict[tuple[str, int], Process] = {}
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes.values():
            process.close()
        self.processes.clear()

    def process(self, engine: str, threads: int) -> Process:
        key = (engine, threads)
        if key not in self.processes:
            if engine in self.absent:
                raise ImportError(self.absent[engine])
            process = Process(engine, threads, self.settings)
            answer = process.read()
            if answer["state"] == "absent":
                self.absent[engine] = answer["note"]
                process.close()
                raise ImportError(answer["note"])
            if answer["state"] == "failed":
                process.close()
                raise Gone(answer["note"])
            self.versions[engine] = answer["version"]
            self.processes[key] = process
        return self.processes[key]

    def _ask(self, column: Column, threads: int, **question: Any) -> dict[str, Any]:
        """An answer, or an empty one after noting in the column why there is none."""
        try:
            answer = self.process(column.engine, threads).ask(**question)
        except ImportError as error:
            column.state, column.note = "absent", str(error)
            return {}
        except Gone as gone:
            self.processes.pop((column.engine, threads), None)
            column.state, column.note = "failed", str(gone)
            return {}
        if answer.get("state") in ("absent", "failed"):
            column.state, column.note = answer["state"], answer["note"]
            return {}
        return answer

    def measure(self, line: Line, watch: Callable[[str], None] = lambda text: None) -> Result:
        """Every engine's samples of one line."""
        wanted = [name for name in line.engines if not self.settings.engines or name in self.settings.engines]
        columns = [Column(name) for name in wanted]
        result = Result(line, columns)
        rounds = min(line.rounds, self.settings.rounds or line.rounds)
        if line.way != "calls":
            for number in range(1 if line.way == "value" else min(rounds, 7)):
                for column in turned(columns, number):
                    watch(column.engine)
                    self._once(line, column)
            return result
        for column in columns:
            watch(column.engine)
            answer = self._ask(column, line.threads, do="prepare", line=line.name, least=self.settings.least)
            column.digest = answer.get("digest", [])
        sampled = list(columns)
        limit = Column(MACHINE)
        if line.limit is not None and any(column.state == "ready" for column in columns):
            self._ask(limit, line.threads, do="limit", kind=line.limit.name, least=self.settings.least)
            sampled.append(limit)
        for number in range(rounds):
            watch(f"round {number + 1} of {rounds}")
            for column in turned(sampled, number):
                if column.state == "ready":
                    answer = self._ask(column, line.threads, do="sample")
                    if answer:
                        column.samples.append(answer["figure"])
        for column in sampled:
            if (column.engine, line.threads) in self.processes:
                self._ask(column, line.threads, do="drop")
        result.limits = limit.samples
        return result

    def _once(self, line: Line, column: Column) -> None:
        """One figure from a fresh process."""
        if column.state != "ready":
            return
        process = Process(column.engine, line.threads, self.settings, line.name)
        try:
            answer = process.read()
        except Gone as gone:
            column.state, column.note = "failed", str(gone)
            return
        process.close()
        if "figure" in answer:
            column.samples.append(answer["figure"])
        else:
            column.state, column.note = answer["state"], answer["note"]

    def limits(self, kinds: Sequence[str], threads: Sequence[int], rounds: int) -> Iterator[tuple[str, int, Column]]:
        """The machine's limits by themselves: rates, for each number of threads."""
        for count in threads:
            for kind in kinds:
                column = Column(MACHINE)
                self._ask(column, count, do="limit", kind=kind, least=self.settings.least)
                for _ in range(rounds):
                    if column.state == "ready":
                        answer = self._ask(column, count, do="sample")
                        if answer:
                            column.samples.append(answer["figure"])
                self._ask(column, count, do="drop") if column.state == "ready" else None
                yield kind, count, column


def turned(columns: Sequence[Column], number: int) -> list[Column]:
    """Each round begins with another engine: whoever comes first may find the machine in another state."""
    start = number % len(columns) if columns else 0
    return [*columns[start:], *columns[:start]]


def agree(first: Sequence[float], second: Sequence[float], tolerance: float = 2e-3) -> bool:
    """Whether two engines' digests tell of the same result; an engine without a digest agrees."""
    if not first or not second or len(first) != len(second):
        return True
    scale = max(max(map(abs, first)), 1e-6)
    return all(abs(a - b) <= tolerance * scale or (a != a and b != b) for a, b in zip(first, second, strict=True))


def disagreeing(result: Result) -> list[str]:
    """The engines whose result differs from treadle's: their times are of something else."""
    ours = result.column(OURS)
    if ours is None:
        return []
    return [each.engine for each in result.columns if each is not ours and not agree(ours.digest, each.digest)]
