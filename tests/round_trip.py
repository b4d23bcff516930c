"""Every text that a test prints is one that can be read: printing, parsing and printing again gives the same text.

The printers of graphs, programs and kernels note what they print while a test runs; when it has passed, each text that
is new to this process is read back. Tests that print need to say nothing. Kernels that `check` refuses are printed for
messages alone and are left out. Nothing happens in a test that does not import treadle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from types import ModuleType
from typing import Any

import pytest

PRINTERS = {"treadle.ir.text": "graph", "treadle.ir.program_text": "program", "treadle.ir.loops.text": "kernel"}

Again = Callable[[], tuple[str, str]]  # the text, and what reading and printing it gives

noted: list[Again] = []
hooked: dict[str, ModuleType] = {}
seen: set[bytes] = set()
running = False


def hook() -> None:
    """Let the printers that have been imported by now note what they print."""
    for name, method in PRINTERS.items():
        module = sys.modules.get(name)
        if module is not None and hooked.get(name) is not module:
            hooked[name] = module
            module._Printer = noting(module._Printer, method)  # type: ignore[attr-defined]


def noting(printer: type[Any], method: str) -> type[Any]:
    def show(self: Any, what: Any, *rest: Any) -> Any:
        found = getattr(super(Noting, self), method)(what, *rest)
        nested = bool(rest and rest[0])  # a body inside a graph is part of that graph's text
        if running and not nested:
            noted.append(AGAIN[method](what, self))
        return found

    Noting: type[Any] = type("Noting", (printer,), {method: show})
    return Noting


def of_graph(graph: Any, printer: Any) -> Again:
    from treadle.ir.parse import parse_graph
    from treadle.ir.text import show

    def again() -> tuple[str, str]:
        how = {"locations": printer.locations, "sequences": printer.sequences}
        text = show(graph, **how)
        return text, known(text) or show(parse_graph(text, constants_of(graph)), **how)

    return again


def of_program(program: Any, printer: Any) -> Again:
    from treadle.ir.program_text import parse_program, show

    def again() -> tuple[str, str]:
        text = show(program)
        constants: dict[str, Any] = {}
        for kernel in program.kernels:
            constants |= constants_of(kernel.graph)
        return text, known(text) or show(parse_program(text, constants))

    return again


def of_kernel(kernel: Any, printer: Any) -> Again:
    from treadle.ir.loops.check import check
    from treadle.ir.loops.parse import parse_kernel
    from treadle.ir.loops.text import show

    def again() -> tuple[str, str]:
        text = show(kernel)
        if found := known(text):
            return text, found
        try:
            return text, show(parse_kernel(text))
        except Exception:
            check(kernel)
            raise

    return again


AGAIN: dict[str, Callable[[Any, Any], Again]] = {"graph": of_graph, "program": of_program, "kernel": of_kernel}


def constants_of(graph: Any) -> dict[str, Any]:
    from treadle.ir.forms import everywhere
    from treadle.ir.text import digest
    from treadle.ir.value import Constant

    return {digest(value): value.data for value in everywhere(graph) if isinstance(value, Constant)}


def known(text: str) -> str | None:
    """The text itself, where it has been read before."""
    name = sha256(text.encode()).digest()
    if name in seen:
        return text
    seen.add(name)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    global running
    hook()
    noted.clear()
    running = True
    try:
        result = yield
    finally:
        running = False
        texts = list(noted)
        noted.clear()
    for again in texts:
        text, found = again()
        assert found == text, f"reading back changes what the test printed:\n{text}"
    return result
