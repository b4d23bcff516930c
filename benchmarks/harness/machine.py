"""What this machine can do at most, as statements that a worker times.

A limit is the rate of one of the loops of `frontend/limits.py` on one processor, or of the same loop on several at
once, each thread pinned to its own.
"""

from __future__ import annotations

import os
import threading

from treadle.codegen.llvm.limits import MEMORY, NAMES
from treadle.frontend.limits import code, kernel

from .lines import Call, call

UNITS = {**dict.fromkeys(NAMES, "op/s"), **dict.fromkeys(MEMORY, "B/s")}


class Together:
    """The same loop on several processors at once, a thread pinned to each; done when the last one is."""

    def __init__(self, kind: str, threads: int) -> None:
        processors = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []
        code()  # made by this thread: two that make it at once would each have their own, and one is dropped
        self.begin = threading.Barrier(threads + 1)
        self.end = threading.Barrier(threads + 1)
        for number in range(threads):
            place = processors[number] if number < len(processors) else None
            threading.Thread(target=self._serve, args=(kind, place), daemon=True).start()
        self.begin.wait()
        self.end.wait()

    def _serve(self, kind: str, processor: int | None) -> None:
        if processor is not None:
            os.sched_setaffinity(0, {processor})
        run = kernel(kind)
        while True:
            self.begin.wait()
            run()
            self.end.wait()

    def __call__(self) -> None:
        self.begin.wait()
        self.end.wait()


def limit_call(kind: str, threads: int) -> Call:
    """The statement that a worker times; its rate is `threads * work(kind)` over its seconds."""
    return call("f()", f=kernel(kind) if threads == 1 else Together(kind, threads))
