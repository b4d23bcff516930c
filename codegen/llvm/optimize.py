"""LLVM text to object bytes or to assembly: parse, verify, generate code.

The text already says what the machine is to do (explicit vectors, explicit unrolling), and LLVM's own
optimisation pipeline was measured to add nothing to it but time; so none runs unless `pipeline` asks for one,
which hand-written scalar code does. Equal arguments give equal bytes: there is one context per compilation,
and nothing of the process, the clock or the machine enters. llvmlite is imported by the functions, because
importing it costs tens of milliseconds.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...ir.errors import CheckFailed, InvalidValue

# LLVM runs in one thread at a time (llvmlite sees to that), and a process that forks waits until it is idle: a child
# would inherit llvmlite's lock, held by a thread that it does not have.
_idle = threading.RLock()
os.register_at_fork(before=_idle.acquire, after_in_parent=_idle.release, after_in_child=_idle.release)


def object_code(text: str, triple: str, cpu: str, features: str, opt: int = 1, pipeline: int = 0) -> bytes:
    """The relocatable object of one module of LLVM text.

    `cpu` is one of LLVM's names, or empty; LLVM ends the process over an x86-64 name that it does not know.
    `features` is LLVM's list (`+avx2,+fma`). `opt` is the level of the code generator: 1, 2 and 3 were
    measured equal on kernels, 0 a third as fast. `pipeline` is the level of the pass pipeline before it, 0
    for none.
    """
    with _module(text, triple, cpu, features, opt, pipeline) as (module, machine):
        code: bytes = machine.emit_object(module)
    return code


def assembly(text: str, triple: str, cpu: str, features: str, opt: int = 1, pipeline: int = 0) -> str:
    """The same code, as the assembly text that a person reads."""
    with _module(text, triple, cpu, features, opt, pipeline) as (module, machine):
        code: str = machine.emit_assembly(module)
    return code


@contextmanager
def _module(text: str, triple: str, cpu: str, features: str, opt: int, pipeline: int) -> Iterator[tuple[Any, Any]]:
    """A verified module in a context of its own, and the machine to emit it for."""
    with _idle:
        yield from _alone(text, triple, cpu, features, opt, pipeline)


def _alone(text: str, triple: str, cpu: str, features: str, opt: int, pipeline: int) -> Iterator[tuple[Any, Any]]:
    import llvmlite.binding as llvm

    machine, layout = _target_machine(triple, cpu, features, opt)
    context = llvm.create_context()
    try:
        try:
            module = llvm.parse_assembly(text, context)
        except RuntimeError as error:
            raise CheckFailed(f"LLVM cannot read the emitted text: {error}", code="TD0506") from None
        try:
            # Parsing does not verify, and this LLVM is built with assertions: the code generator would end
            # the process over a module that the verifier refuses.
            try:
                module.verify()
            except RuntimeError as error:
                raise CheckFailed(f"LLVM refuses the emitted text: {error}", code="TD0506") from None
            if module.triple not in ("", triple):
                raise CheckFailed(
                    f"the emitted text is for {module.triple}, the object is asked for {triple}", code="TD0507"
                )
            module.triple = triple
            module.data_layout = layout
            if pipeline:
                builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(pipeline))
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
        raise InvalidValue(f"LLVM has no target {triple!r}: {error}", code="TD0508") from None
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
