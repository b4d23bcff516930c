"""What is said about a function: why it was compiled, what it captured, and what the compiler decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .arguments import Key
    from .compiled import Compiled
    from .jit import State


def explain(state: State) -> str:
    """The text of `f.explain()`."""
    lines = [f"{state.name}{state.signature}: {state.n_compiles} compiled, {state.hits} found in memory"]
    previous: Key | None = None
    for number, (key, compiled) in enumerate(state.cache.items()):
        lines.append(f"\nsignature {number}: {_signature(compiled)}")
        if previous is not None:
            lines.append(f"  compiled because {difference(previous, key, compiled)}")
        lines += _captured(compiled)
        lines += _decisions(compiled)
        previous = key
    return "\n".join(lines)


def _signature(compiled: Compiled) -> str:
    inside = ", ".join(
        f"{spec.path}: {spec.type if spec.kind == 'array' else spec.kind}" for spec in compiled.traced.specs
    )
    static = ", ".join(f"{name}={value.value!r}" for name, value in compiled.traced.key.static)
    return f"({inside}){f' with {static}' if static else ''}"


def difference(before: Key, now: Key, compiled: Compiled) -> str:
    """The first thing that sets a signature apart from the one before: `x is f32[4] and was f32[3]`."""
    if before.structure != now.structure:
        return f"the arguments are {now.structure} and were {before.structure}"
    for (name, value), (_, old) in zip(now.static, before.static, strict=False):
        if value != old:
            return f"{name} is {value.value!r} and was {old.value!r}"
    for spec, (_, kind), (_, old_kind) in zip(compiled.traced.specs, now.leaves, before.leaves, strict=True):
        if kind != old_kind:
            return f"{spec.path} is {kind} and was {old_kind}"
    for spec, (weak, _), (old_weak, _) in zip(compiled.traced.specs, now.leaves, before.leaves, strict=True):
        if weak != old_weak:
            return f"{spec.path} is {weak} and was {old_weak}"
    return "its program had been dropped from the cache"


def _captured(compiled: Compiled) -> list[str]:
    return [f"  constant: {each}" for each in compiled.traced.trace.captured]


def _decisions(compiled: Compiled) -> list[str]:
    executed = compiled.executed
    manifest = executed.built.manifest
    where = "found on disk" if executed.from_disk else f"compiled in {executed.compilation.timings}"
    lines = [
        f"  {where}",
        f"  {manifest['kernels']} kernels, {len(executed.built.code)} bytes of code, "
        f"arena {manifest['arena_bytes']} bytes (lower bound {manifest['lower_bound']})",
    ]
    for step in executed.compilation.steps:
        lines += [f"  {step}"] if step.changed else []
        lines += [f"    {remark}" for remark in step.remarks]
    return lines
