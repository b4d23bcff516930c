"""Ctrl-C while native code runs: each case in a process of its own, whose program loops until its stop
word is set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = """
import os, signal, sys, threading, time
sys.path.insert(0, {here!r})
import conftest
import numpy as np
from treadle.runtime import interrupt, loader
from treadle.runtime.executable import Executable
from treadle.runtime.signature import Dim, Signature, Tensor

loaded = loader.load(conftest.compile_text(conftest.ENTRY))
tensor = Tensor("x", np.dtype(np.float32), ("B", 4))
w = np.ones(4, np.float32)
add = Executable(Signature([tensor], [tensor], [Dim("B")]), loaded.address("treadle_entry"),
                 loaded.address("treadle_arena_bytes"), constants=[w.ctypes.data], keep=(loaded, w))
endless = np.full((1, 4), 1e30, np.float32)
plain = np.zeros((1, 4), np.float32)

def press(after, times=1):
    def run():
        for _ in range(times):
            time.sleep(after)
            os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run, daemon=True).start()

def works():
    assert (add([plain])[0] == 1).all()
"""


def run(body: str) -> str:
    code = PROLOGUE.format(here=str(Path(__file__).parent)) + body
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctrl_c_stops_an_endless_program_and_the_next_call_works() -> None:
    """Twice over, so that nothing of the first press is left behind."""
    body = """
for _ in range(2):
    press(0.2)
    try:
        add([endless])
    except KeyboardInterrupt:
        print("stopped")
    works()
"""
    assert run(body) == "stopped\nstopped\n"


def test_a_press_between_calls_is_no_business_of_the_next_one() -> None:
    """It was raised and caught where it belonged."""
    body = """
works()
for _ in range(50):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
    except KeyboardInterrupt:
        pass
    works()
print("ok")
"""
    assert run(body) == "ok\n"


def test_a_handler_of_the_users_gets_the_first_press_for_itself() -> None:
    """It may want to finish the step and save; a second press in the same call stops the call."""
    body = """
pressed = []
signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
works()
press(0.2, times=2)
start = time.monotonic()
try:
    add([endless])
except KeyboardInterrupt:
    print("stopped", len(pressed) > 0, time.monotonic() - start > 0.3)
works()
"""
    assert run(body) == "stopped True True\n"


def test_a_handler_that_is_set_later_is_followed() -> None:
    """Python puts its own C handler back whenever `signal.signal` is called."""
    body = """
works()
class Enough(Exception): pass
def handler(number, frame): raise Enough
signal.signal(signal.SIGINT, handler)
press(0.2, times=2)
try:
    add([endless])
except Enough:
    print("the handler's own exception")
signal.signal(signal.SIGINT, signal.default_int_handler)
press(0.2)
try:
    add([endless])
except KeyboardInterrupt:
    print("stopped")
"""
    assert run(body) == "the handler's own exception\nstopped\n"


def test_an_ignored_signal_stays_ignored() -> None:
    """Someone who ignores SIGINT means it."""
    body = """
works()
signal.signal(signal.SIGINT, signal.SIG_IGN)
works()
os.kill(os.getpid(), signal.SIGINT)
assert interrupt.stop_word() == 0
signal.signal(signal.SIGINT, signal.default_int_handler)
assert interrupt.stop_word() != 0
print("ok")
"""
    assert run(body) == "ok\n"


def test_pythons_own_ways_with_the_signal_are_untouched() -> None:
    """What Python says the handler is, wake-up descriptors (asyncio), and other signals."""
    body = """
import socket
works()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
here, there = socket.socketpair()
there.setblocking(False)
signal.set_wakeup_fd(there.fileno())
rung = []
signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.05)
press(0.3)
try:
    add([endless])
except KeyboardInterrupt:
    print("stopped", sorted(here.recv(10)), rung)
"""
    assert run(body) == "stopped [2, 14] [14]\n"


def test_a_forked_child_has_a_word_of_its_own() -> None:
    """Stopping the child must not stop the parent, nor the other way round."""
    body = """
works()
child = os.fork()
if child == 0:
    try:
        add([endless])
    except KeyboardInterrupt:
        works()
        os._exit(7)
    os._exit(1)
time.sleep(0.3)
os.kill(child, signal.SIGINT)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
word = interrupt.stop_word()
works()
print(code)
"""
    assert run(body) == "7\n"


def test_other_threads_are_not_stopped() -> None:
    """Python delivers no signals to them: Ctrl-C belongs to the main thread."""
    body = """
import ctypes
words = []
thread = threading.Thread(target=lambda: words.append(interrupt.stop_word()))
thread.start(); thread.join()
assert words == [0]
word = interrupt.stop_word()
assert ctypes.c_int32.from_address(word).value == 0
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except KeyboardInterrupt:
    assert ctypes.c_int32.from_address(word).value == 1
    print("ok")
"""
    assert run(body) == "ok\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_it_lives_with_asyncio(when: str) -> None:
    """Whose runner sets a handler of its own for SIGINT: the second press stops the native call."""
    body = """
import asyncio
async def main():
    add([endless])
if WHEN == "after":
    works()
press(0.2, times=2)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("stopped")
""".replace("WHEN", repr(when))
    assert run(body) == "stopped\n"
