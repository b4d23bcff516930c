"""What every test gets: a time limit, a cache directory of its own, and examples that can be repeated.

`--update` rewrites the expectations of `.text` files; read the diff afterwards. Nothing here knows about
treadle: a test that needs a machine, a target or a package says so itself.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

pytest_plugins = ("text_cases", "round_trip")

HERE = Path(__file__).parent
STDERR = pytest.StashKey[int]()

# Deadlines measure the machine, not the program; the test's own time limit finds what hangs.
hypothesis.settings.register_profile("local", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, database=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=5000)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the expectations of .text files")
    parser.addini("time_limit", "seconds a test may take")
    parser.addini("time_limit_slow", "seconds a test marked slow may take")


def pytest_configure(config: pytest.Config) -> None:
    if config.rootpath.resolve() != HERE.resolve():
        raise pytest.UsageError("name the directory, or tests/pytest.ini is not found: pytest tests")
    if config.getoption("--update") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--update writes files, which two processes cannot share: leave -n out")
    # Before any test module is imported: a cache of an earlier run, or the user's, must not answer for us.
    directory = tempfile.mkdtemp(prefix="treadle-tests-")
    os.environ["TREADLE_CACHE_DIR"] = directory
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    # The terminal's own stderr, past pytest's capture, whose content dies with the process.
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[STDERR] = os.dup(2)


@pytest.fixture
def update(pytestconfig: pytest.Config) -> bool:
    """Whether expectations kept in files are to be rewritten."""
    return bool(pytestconfig.getoption("--update"))


def seconds_for(item: pytest.Item) -> float:
    marker = item.get_closest_marker("time_limit")
    if marker is not None:
        return float(marker.args[0])
    return float(item.config.getini("time_limit_slow" if item.get_closest_marker("slow") else "time_limit"))


@contextmanager
def limited(item: pytest.Item) -> Iterator[None]:
    """Fail the test by an alarm; where native code never returns to Python to hear it, end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = seconds_for(item)

    def ring(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(2 * seconds + 10, exit=True, file=item.config.stash[STDERR])
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        return (yield)
