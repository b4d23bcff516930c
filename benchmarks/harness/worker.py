"""One engine in a process of its own, that prepares lines and takes samples as it is told on its standard input.

One JSON object a line goes in and one comes out. What libraries print goes to standard error, so that it cannot be
taken for an answer. An engine that is not installed, or a line that it cannot do, is an answer like any other.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

from . import engines
from .lines import Call, Line, find

WARM_UP = 3  # calls before anything is timed
MOST_REPEATS = 10_000_000


def timer(call: Call) -> timeit.Timer:
    return timeit.Timer(call.statement, globals=dict(call.names))


def repeats_for(clock: timeit.Timer, least: float) -> int:
    """How often to repeat a statement so that it lasts `least` seconds; a call that lasts longer is made once."""
    count = 1
    while True:
        seconds = clock.timeit(count)
        if seconds >= least or count >= MOST_REPEATS:
            return count
        # At least twice as often, so that it ends; at most a hundred times, since the first calls may be slow.
        count = min(count * 100, max(count * 2, int(count * 1.2 * least / max(seconds, 1e-9))))


def empty_loop(least: float) -> float:
    """What one turn of the timing loop costs by itself."""
    clock = timeit.Timer("pass")
    count = repeats_for(clock, least)
    return min(clock.timeit(count) / count for _ in range(3))


def digest(value: Any) -> list[float]:
    """Some numbers of a result, to tell whether two engines computed the same: its mean and eight of its elements."""
    try:
        if isinstance(value, (tuple, list)):
            value = value[0]
        array = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError, RuntimeError):
        return []
    if array.size == 0:
        return []
    places = np.linspace(0, array.size - 1, 8).astype(int)
    return [float(array.mean()), *(float(x) for x in array[places])]


class Worker:
    """The engine's side of the conversation."""

    def __init__(self, engine: str, threads: int) -> None:
        self.engine = engine
        self.library = engines.load(engine, threads)
        self.threads = threads
        self.timed: list[tuple[timeit.Timer, int, int]] = []
        self.figure: Callable[..., float] | None = None
        self.empty = empty_loop(0.002)

    def prepare(self, line: Line, least: float) -> dict[str, Any]:
        self.drop()
        calls = engines.prepare(self.engine, self.library, line)
        values = [digest(call.value()) for call in calls]
        for call in calls:
            clock = timer(call)
            clock.timeit(WARM_UP)
            self.timed.append((clock, repeats_for(clock, least), call.calls))
        self.figure = line.figure
        return {"state": "ready", "digest": values[0] if values else []}

    def limit(self, kind: str, least: float) -> dict[str, Any]:
        """Prepare one of the machine's limits; its samples are rates."""
        from treadle.frontend import limits

        from . import machine

        self.drop()
        if not limits.exists(kind):
            return {"state": "absent", "note": f"this processor has no instruction for {kind}"}
        clock = timer(machine.limit_call(kind, self.threads))
        clock.timeit(1)
        self.timed.append((clock, repeats_for(clock, least), 1))
        total = self.threads * limits.work(kind)
        self.figure = lambda seconds: total / seconds
        return {"state": "ready", "unit": machine.UNITS[kind]}

    def sample(self) -> dict[str, Any]:
        """The figure, from the seconds of one call of each statement; the timing loop's own time is taken off."""
        seconds = []
        for clock, count, calls in self.timed:
            seconds.append(max(clock.timeit(count) / count - self.empty, 1e-10) / calls)
        return {"figure": self.figure(*seconds) if self.figure is not None else seconds[0]}

    def drop(self) -> dict[str, Any]:
        self.timed.clear()
        gc.collect()
        return {}


def answer(worker: Worker, question: dict[str, Any], chapters: Any) -> dict[str, Any]:
    match question["do"]:
        case "prepare":
            return worker.prepare(find(chapters, question["line"]), question["least"])
        case "limit":
            return worker.limit(question["kind"], question["least"])
        case "sample":
            return worker.sample()
        case "drop":
            return worker.drop()
    raise ValueError(question["do"])


def failure(error: BaseException) -> dict[str, Any]:
    text = str(error).strip().splitlines()
    return {"state": "failed", "note": f"{type(error).__name__}: {text[0] if text else ''}"[:300]}


def pin() -> None:
    """Keep this process on the one processor that the measuring side chose, if it chose one."""
    processor = os.environ.get("BENCH_PROCESSOR", "")
    if processor and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(processor)})


def once(line: Line, engine: str) -> dict[str, Any]:
    """A figure that needs a fresh process: the setup does all of it, imports included, and returns it."""
    start = time.perf_counter()
    figure = line.engines[engine]()
    return {"figure": float(figure), "seconds": time.perf_counter() - start}


def main(arguments: list[str]) -> None:
    engine, threads, single = arguments[0], int(arguments[1]), arguments[2] if len(arguments) > 2 else None
    pin()
    # The answers keep the old standard output; what anyone prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    from lines import CHAPTERS

    if single is not None:
        try:
            say(once(find(CHAPTERS, single), engine))
        except ImportError as error:
            say({"state": "absent", "note": str(error)})
        except Exception as error:
            say(failure(error))
        return
    try:
        worker = Worker(engine, threads)
    except ImportError as error:
        say({"state": "absent", "note": str(error)})
        return
    except Exception as error:
        say(failure(error))
        return
    say({"state": "ready", "version": engines.version(engine)})
    for text in sys.stdin:
        try:
            say(answer(worker, json.loads(text), CHAPTERS))
        except ImportError as error:
            say({"state": "absent", "note": str(error)})
        except Exception as error:
            say(failure(error))


if __name__ == "__main__":
    main(sys.argv[1:])
