"""What is said about a function: why it was compiled, what it captured, and what the compiler decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arguments import spelt

if TYPE_CHECKING:
    from ..ir.types import TensorType
    from .arguments import Key
    from .compiled import Compiled
    from .jit import State


def explain(state: State) -> str:
    """The text of `f.explain()`."""
    free = [p for p in state.signature.parameters.values() if p.name not in state.bound]
    lines = [f"{state.name}{spelt(free)}: {state.n_compiles} compiled, {state.hits} found in memory"]
    previous: Key | None = None
    for number, (key, compiled) in enumerate(state.cache.items()):
        lines.append(f"\nsignature {number}: {_signature(compiled)}")
        if previous is not None:
            lines.append(f"  compiled because {difference(previous, key, compiled)}")
        lines += _captured(compiled)
        lines += _kept(compiled)
        lines += _decisions(compiled)
        previous = key
    return "\n".join(lines)


def _signature(compiled: Compiled) -> str:
    inside = ", ".join(f"{spec.path}: {_described(spec.kind, spec.type)}" for spec in compiled.traced.specs)
    static = ", ".join(f"{name}={value.value!r}" for name, value in compiled.traced.key.static)
    return f"({inside}){f' with {static}' if static else ''}"


def difference(before: Key, now: Key, compiled: Compiled) -> str:
    """The first thing that sets a signature apart from the one before: `x is f32[4] and was f32[3]`."""
    if before.structure != now.structure:
        return f"the arguments are {now.structure} and were {before.structure}"
    for (name, value), (_, old) in zip(now.static, before.static, strict=False):
        if value != old:
            return f"{name} is {value.value!r} and was {old.value!r}"
    for spec, leaf, was in zip(compiled.traced.specs, now.leaves, before.leaves, strict=True):
        if leaf != was:
            return f"{spec.path} is {_described(*leaf)} and was {_described(*was)}"
    if now.constants != before.constants:
        return "the constant arguments have another content"
    return "its program had been dropped from the cache"


def _described(kind: str, tensor: TensorType) -> str:
    return str(tensor) if kind == "array" else f"a Python {kind}"


def _captured(compiled: Compiled) -> list[str]:
    return [f"  constant: {each}" for each in compiled.traced.trace.captured]


def _kept(compiled: Compiled) -> list[str]:
    """What checkpoints keep for the way back, of which ways to choose; those that are alike once."""
    lines: list[str] = []
    for text in dict.fromkeys(map(str, compiled.traced.trace.choices)):
        first, *table = text.splitlines()
        lines += [f"  checkpoint: {first}", *(f"    {row}" for row in table)]
    return lines


def _decisions(compiled: Compiled) -> list[str]:
    executed = compiled.executed
    manifest = executed.built.manifest
    where = "found on disk" if executed.from_disk else f"compiled in {executed.compilation.timings}"
    count = manifest["kernels"]
    lines = [
        f"  {where}",
        f"  {count} kernel{'' if count == 1 else 's'}, {len(executed.built.code)} bytes of code, "
        f"arena {manifest['arena_bytes']} bytes (lower bound {manifest['lower_bound']})",
    ]
    for step in executed.compilation.steps:
        lines += [f"  {step}"] if step.changed else []
        lines += [f"    {remark}" for remark in step.remarks]
    return lines
