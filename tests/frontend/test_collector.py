"""The collector of cycles rests while a program is compiled, and is as it was afterwards, whatever happens."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import treadle as td
from treadle.frontend import compile as driver
from treadle.frontend.collector import resting
from treadle.passes.manager import Pipeline, graph_pass


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_it_rests_while_passes_run_and_works_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user's function makes is the user's; what passes make is ours."""
    seen: dict[str, bool] = {}

    @graph_pass()
    def look(graph: Any, cx: Any) -> Any:
        """Changes nothing."""
        seen["pass"] = gc.isenabled()
        return graph

    monkeypatch.setattr(driver, "DEFAULT", Pipeline("looked at", (look, *driver.DEFAULT.passes)))

    @td.jit
    def f(x):
        seen["trace"] = gc.isenabled()
        return x + 1

    with td.config.set(cache=False):
        f(np.ones(3))
    assert seen == {"trace": True, "pass": False} and gc.isenabled()


def test_it_works_again_after_an_error() -> None:
    """Ctrl-C and refusals end a compilation anywhere."""
    with pytest.raises(KeyboardInterrupt), resting():
        raise KeyboardInterrupt
    assert gc.isenabled()


def test_it_stays_off_where_the_user_switched_it_off() -> None:
    """Some programs run without it."""
    gc.disable()
    with resting():
        pass
    assert not gc.isenabled()


def test_several_compilations_at_once() -> None:
    """It works again when the last of them is over, in whatever order they end."""
    begun, end = threading.Event(), threading.Event()

    def compile_() -> None:
        with resting():
            begun.set()
            end.wait()

    thread = threading.Thread(target=compile_)
    with resting():
        thread.start()
        begun.wait()
    assert not gc.isenabled()
    end.set()
    thread.join()
    assert gc.isenabled()


def test_a_child_that_was_forked_meanwhile_collects() -> None:
    """Another thread may fork; in the child nobody will end the compilation."""
    begun, end = threading.Event(), threading.Event()

    def compile_() -> None:
        with resting():
            begun.set()
            end.wait()

    thread = threading.Thread(target=compile_)
    thread.start()
    begun.wait()
    child = os.fork()
    if not child:
        works = gc.isenabled()
        with resting():
            works &= not gc.isenabled()
        os._exit(0 if works and gc.isenabled() else 1)
    _, status = os.waitpid(child, 0)
    end.set()
    thread.join()
    assert status == 0 and gc.isenabled()
