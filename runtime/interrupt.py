"""Ctrl-C while native code runs on the main thread.

Python runs its own handler only once native code has returned, so native loops read a stop word, and
something must set it the moment the signal arrives. That is a dozen instructions put before Python's C
handler: they add to a counter, whose upper half is the stop word, and jump on to Python's handler, which then
raises `KeyboardInterrupt` as ever. No thread, no pipe and no wake-up descriptor is needed, nothing of
asyncio's or the user's is replaced, and a forked child has a word of its own. A program with a SIGINT handler
of its own gets the first Ctrl-C for itself (to finish its step and save, say); the second one within a call
stops the call.

Nothing is done for other threads (Python gives them no signals either), nor when SIGINT goes to something
that is not Python's handler.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # the same without making an enum: 2 us less
from types import FrameType

from .elf import AARCH64, X86_64
from .loader import HOST
from .pages import mapped, protect
from .relocate import store

# struct sigaction of Linux's C libraries on both machines: the handler, the mask, the flags, the restorer.
SIGACTION_BYTES = 152
ONE_PRESS = 0x80000000  # what the handler adds: two of them, or one on top of one set before, reach the stop word

_libc = ctypes.CDLL(None, use_errno=True)
_sigaction = _libc.sigaction
_sigaction.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

_number = int(signal.SIGINT)
_main = threading.main_thread().ident
_watch: Watch | None = None
_unavailable = HOST is None


class Watch:
    """The handler in memory: a page of code, then a page with the counter (8 bytes) and Python's handler
    (8)."""

    def __init__(self, python_handler: int) -> None:
        page = mmap.PAGESIZE
        code = mapped(2 * page)
        if not code:
            raise MemoryError("no memory for a signal handler")
        text = handler_code(HOST or X86_64, page)
        ctypes.memmove(code, text, len(text))
        if protect(code, page, mmap.PROT_READ | mmap.PROT_EXEC):
            raise MemoryError("this system does not let memory become executable")
        # Never unmap: a signal may arrive at any time, until the process ends.
        self.handler = code
        self.python_handler = python_handler
        self.counter = ctypes.c_uint64.from_address(self.handler + page)
        self.word = self.handler + page + 4  # both machines are little-endian: the upper half
        ctypes.c_uint64.from_address(self.handler + page + 8).value = python_handler
        self.current = ctypes.create_string_buffer(SIGACTION_BYTES)
        self.current_handler = ctypes.c_uint64.from_buffer(self.current)
        self.current_address = ctypes.addressof(self.current)

    def installed(self) -> bool:
        """Whether SIGINT comes to us, after putting us before Python's handler if that is what it comes
        to."""
        _sigaction(_number, None, self.current_address)
        now = self.current_handler.value
        if now == self.python_handler:
            self.current_handler.value = self.handler
            _sigaction(_number, self.current_address, None)
            return True
        return now == self.handler


def stop_word() -> int:
    """The address of the i32 that SIGINT sets during the native call now beginning, set to zero; 0 if
    there is none for this thread."""
    if threading.get_ident() != _main or _unavailable:
        return 0
    watch = _watch or _start()
    if watch is None or not watch.installed():
        return 0
    watch.counter.value = ONE_PRESS if getsignal(_number) is signal.default_int_handler else 0
    return watch.word


def _start() -> Watch | None:
    global _watch, _unavailable
    try:
        _watch = Watch(_python_handler())
    except (ValueError, OSError, MemoryError):  # not the main interpreter, or a system that forbids it
        _unavailable = True
    return _watch


def _python_handler() -> int:
    """The address of the C function that Python installs, learnt from a signal that nobody uses."""

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    current = ctypes.create_string_buffer(SIGACTION_BYTES)
    for spare in range(signal.SIGRTMAX, signal.SIGRTMIN, -1):
        if signal.getsignal(spare) is signal.SIG_DFL:
            signal.signal(spare, nothing)
            try:
                _sigaction(spare, None, ctypes.addressof(current))
            finally:
                signal.signal(spare, signal.SIG_DFL)
            return int(ctypes.c_uint64.from_buffer(current).value)
    raise OSError("no signal is free")


def handler_code(machine: int, data: int) -> bytes:
    """Machine code that adds ONE_PRESS to the word `data` bytes from its start and jumps to what the next
    one holds, arguments untouched."""
    if machine == AARCH64:
        # bti c; adr x16, data; mov x10, ONE_PRESS; 1: ldxr x11, [x16]; add x11, x11, x10; stxr w12, x11,
        # [x16]; cbnz w12, 1b; ldr x16, [x16, 8]; br x16
        words = (
            0xD503245F,
            0x10000010,
            0xD2B0000A,
            0xC85F7E0B,
            0x8B0A016B,
            0xC80C7E0B,
            0x35FFFFAC,
            0xF9400610,
            0xD61F0200,
        )
        code = bytearray(struct.pack("<9I", *words))
        store("adr", code, 4, data)
        return bytes(code)
    # endbr64; mov eax, ONE_PRESS; lock add [rip + data], rax; jmp [rip + data + 8]
    return (
        b"\xf3\x0f\x1e\xfa\xb8\x00\x00\x00\x80"
        + b"\xf0\x48\x01\x05" + struct.pack("<i", data - 17)
        + b"\xff\x25" + struct.pack("<i", data + 8 - 23)
    )  # fmt: skip


def _after_fork() -> None:
    global _main
    _main = threading.get_ident()


os.register_at_fork(after_in_child=_after_fork)
