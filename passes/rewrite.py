"""Apply a table of local rewrites to a graph until nothing changes.

A rule takes an op whose operands are already rewritten and returns a replacement, or None. A replacement is offered to
the rules again, so that chains settle in one walk; a budget per op turns rules that undo each other into an error
instead of a hang.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir.errors import CheckFailed
from ..ir.graph import Graph, inline, rebuild
from ..ir.location import at
from ..ir.value import Get, Parameter, Value, replace

Rule = Callable[[Value], Value | None]
BUDGET = 64  # rewrites of one position before it counts as a cycle


def rewrite(graph: Graph, rule: Rule, *, bodies: bool = True) -> Graph:
    """The graph after `rule` has settled everywhere, closed bodies included. The graph itself when nothing matched."""
    fired = False
    settled: dict[int, Value] = {}
    # Values built by a rule are kept alive until the walk ends: `settled` knows them by identity.
    alive: list[Value] = []

    def settle(value: Value) -> Value:
        """Rewrite `value` until no rule matches, newly built operands first."""
        nonlocal fired
        for _ in range(BUDGET):
            replacement = rule(value)
            if replacement is None or replacement is value:
                return value
            if replacement.type != value.type:
                raise CheckFailed(
                    f"a rewrite of {value!r} gives {replacement!r}", code="TD0305", location=value.location
                )
            fired = True
            replacement = _settle_new(replacement)
            if id(replacement) in settled:
                return settled[id(replacement)]
            value = replacement
        raise CheckFailed(f"rewrites of {value.name} do not settle", code="TD0303", location=value.location)

    def _settle_new(value: Value) -> Value:
        """Settle the operands that a rule has just built (they are not in the graph yet)."""
        if isinstance(value, Parameter) or id(value) in settled:
            return value
        stack: list[tuple[Value, bool]] = [(value, False)]
        while stack:
            current, ready = stack.pop()
            if id(current) in settled:
                continue
            if not ready:
                stack.append((current, True))
                stack.extend((operand, False) for operand in current.operands if id(operand) not in settled)
                continue
            if current is value:
                with at(current.origin):
                    return current.with_operands(tuple(settled[id(o)] for o in current.operands))
            with at(current.origin):
                rebuilt = current.with_operands(tuple(settled[id(o)] for o in current.operands))
                found = settle(rebuilt) if not isinstance(rebuilt, Parameter) else rebuilt
            for each in (current, rebuilt, found):
                alive.append(each)
                settled[id(each)] = found
        return settled[id(value)]

    def step(value: Value) -> Value | None:
        if bodies and value.bodies:
            value = in_bodies(value, lambda body: rewrite(body, rule))
        found = settle(value)
        alive.extend((value, found))
        settled[id(value)] = settled[id(found)] = found
        return found

    for param in graph.params:
        settled[id(param)] = param
    result = rebuild(graph, step)
    changed = fired or any(a is not b for a, b in zip(result.results, graph.results, strict=True))
    return result if changed else graph


def opened(graph: Graph, body_of: Callable[[Value], Graph | None]) -> Graph:
    """The graph in which each op that `body_of` gives a body for, here or within bodies, is replaced by that body on
    its operands. The graph itself when there is none."""
    if not any(value.bodies or body_of(value) is not None for value in graph.ops):
        return graph
    memo: dict[int, Value] = {id(param): param for param in graph.params}
    parts: dict[int, tuple[Value, ...]] = {}
    for value in graph.ops:
        with at(value.origin):
            if isinstance(value, Get) and id(value.x) in parts:
                memo[id(value)] = parts[id(value.x)][value.index]
                continue
            operands = tuple(memo[id(operand)] for operand in value.operands)
            body = body_of(value)
            if body is not None:
                parts[id(value)] = inline(opened(body, body_of), operands)
            else:
                memo[id(value)] = in_bodies(value.with_operands(operands), lambda inner: opened(inner, body_of))
    if all(memo[id(result)] is result for result in graph.results):
        return graph
    return graph.with_results([memo[id(result)] for result in graph.results])


def in_bodies(value: Value, change: Callable[[Graph], Graph]) -> Value:
    """The op with each closed body changed; itself when none changes."""
    changes: dict[str, object] = {}
    for field in value.schema:
        old = value.__dict__[field.name]
        if field.kind == "body":
            new = change(old)
            if new is not old:
                changes[field.name] = new
        elif field.kind == "bodies":
            several = tuple(change(body) for body in old)
            if any(a is not b for a, b in zip(several, old, strict=True)):
                changes[field.name] = several
    return replace(value, **changes) if changes else value


def in_all_bodies(graph: Graph, change: Callable[[Value, Graph], Graph]) -> Graph:
    """The graph with the bodies of its ops changed, by op and body; itself when none changes."""
    if not any(value.bodies for value in graph.ops):
        return graph
    changed = False

    def step(value: Value) -> Value | None:
        nonlocal changed
        if not value.bodies:
            return None
        found = in_bodies(value, lambda body: change(value, body))
        changed |= found is not value
        return found

    found = rebuild(graph, step)
    return found if changed else graph
