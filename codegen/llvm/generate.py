"""LLVM text to object bytes or to assembly: parse, verify, generate code. Run as a script it is a worker that does so
for another process, one text after the other (`workers.py` is the other end).

The file needs nothing but the standard library and llvmlite, because a worker has to be at work before its caller could
have done the work: neither NumPy nor another file of ours is imported for it. Both ends run these functions, so they
make the same bytes. `optimize.py` says what the arguments mean, and turns a refusal into an error of ours.
"""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

# A message between the two: this mark, its bytes, their checksum, then the bytes. What a library prints is none.
MARK = b"\x7ftreadle"
FRAME = struct.Struct("<8sQI")


class Refused(Exception):
    """What LLVM does not take, under a code of ours."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Job(NamedTuple):
    """One module of text, and what to make it for."""

    text: str
    triple: str
    cpu: str
    features: str
    opt: int = 1
    pipeline: int = 0


def object_code(job: Job) -> bytes:
    """The relocatable object."""
    with _module(job) as (module, machine):
        code: bytes = machine.emit_object(module)
    return code


def assembly(job: Job) -> str:
    """The same code, as the assembly text that a person reads."""
    with _module(job) as (module, machine):
        code: str = machine.emit_assembly(module)
    return code


@contextmanager
def _module(job: Job) -> Iterator[tuple[Any, Any]]:
    """A verified module in a context of its own, and the machine to emit it for."""
    import llvmlite.binding as llvm

    machine, layout = _target_machine(job.triple, job.cpu, job.features, job.opt)
    context = llvm.create_context()
    try:
        try:
            module = llvm.parse_assembly(job.text, context)
        except RuntimeError as error:
            raise Refused(f"LLVM cannot read the emitted text: {error}", code="TD0506") from None
        try:
            # Parsing does not verify, and this LLVM is built with assertions: the code generator would end
            # the process over a module that the verifier refuses.
            try:
                module.verify()
            except RuntimeError as error:
                raise Refused(f"LLVM refuses the emitted text: {error}", code="TD0506") from None
            if module.triple not in ("", job.triple):
                raise Refused(
                    f"the emitted text is for {module.triple}, the object is asked for {job.triple}", code="TD0507"
                )
            module.triple = job.triple
            module.data_layout = layout
            if job.pipeline:
                builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(job.pipeline))
                # Once per module: this manager may not be asked for twice, nor run twice.
                builder.getModulePassManager().run(module, builder)
            yield module, machine
        finally:
            module.close()
    finally:
        context.close()


@functools.cache
def _target_machine(triple: str, cpu: str, features: str, opt: int) -> tuple[Any, str]:
    """The code generator for one machine and its data layout; kept, since making one costs more than a small kernel."""
    import llvmlite.binding as llvm

    _initialize()
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError as error:
        raise Refused(f"LLVM has no target {triple!r}: {error}", code="TD0508") from None
    # pic and small: what a shared library needs, and what our own loader relocates. See machine-limits, part
    # 6: any other pair brings relocations that linkers refuse or that end the process.
    machine = target.create_target_machine(cpu=cpu, features=features, opt=opt, reloc="pic", codemodel="small")
    return machine, str(machine.target_data)


@functools.cache
def _initialize() -> None:
    """Every target, not only this machine's: objects are also made for other machines (2.5 ms, once)."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


# --- the worker -------------------------------------------------------------------------------------------------------


def version() -> bytes:
    """What two processes must share to make the same bytes."""
    import llvmlite

    return f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, _llvm_version()))}".encode()


def _llvm_version() -> tuple[int, ...]:
    import llvmlite.binding as llvm

    found: tuple[int, ...] = llvm.llvm_version_info
    return found


def packed(payload: bytes) -> bytes:
    """A message."""
    return FRAME.pack(MARK, len(payload), crc32(payload)) + payload


def request(job: Job) -> bytes:
    """A job as a payload; no part of it holds a zero byte."""
    return b"\0".join(str(part).encode() for part in job)


def asked(payload: bytes) -> Job:
    """The job of a request."""
    text, triple, cpu, features, opt, pipeline = payload.decode().split("\0")
    return Job(text, triple, cpu, features, int(opt), int(pipeline))


def answer(payload: bytes) -> bytes:
    """The object behind a plus, or why there is none behind a minus."""
    try:
        return b"+" + object_code(asked(payload))
    except Refused as refused:
        return b"-" + refused.message.encode()


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Say who is here, then answer until the other end is closed."""
    _initialize()
    payload = version()
    while True:
        sink.write(packed(payload))
        sink.flush()
        head = source.read(FRAME.size)
        if len(head) < FRAME.size:
            return
        mark, size, checksum = FRAME.unpack(head)
        payload = source.read(size)
        if mark != MARK or crc32(payload) != checksum:
            return
        payload = answer(payload)


def main(packages: str, caller: str) -> None:
    """A worker for the process `caller`, which finds llvmlite in the directory `packages`."""
    import os
    import signal

    # Ctrl-C reaches every process of the terminal; it is the caller who ends a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.append(packages)
    import ctypes

    # PR_SET_PDEATHSIG: a caller that was killed cannot end anyone.
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    if os.getppid() != int(caller):
        return
    # What a library prints must not stand between messages.
    sink = os.dup(1)
    os.dup2(2, 1)
    serve(sys.stdin.buffer, os.fdopen(sink, "wb"))


if __name__ == "__main__":
    main(*sys.argv[1:])
