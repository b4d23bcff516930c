"""`td.lax` written in ordinary Python over NumPy arrays: what loops and branches of a compiled function must equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from treadle.frontend import tree


class Plain:
    """Control flow as Python has it."""

    @staticmethod
    def cond(pred: Any, yes: Any, no: Any, *operands: Any) -> Any:
        return (yes if pred else no)(*operands)

    @staticmethod
    def switch(index: Any, branches: Any, *operands: Any) -> Any:
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)

    @staticmethod
    def while_loop(cond: Any, body: Any, init: Any, *, max_steps: int | None = None) -> Any:
        steps = 0
        while cond(init):
            init, steps = body(init), steps + 1
            assert max_steps is None or steps <= max_steps
        return init

    @staticmethod
    def fori_loop(low: Any, high: Any, body: Any, init: Any) -> Any:
        for i in range(int(low), int(high)):
            init = body(i, init)
        return init

    @staticmethod
    def scan(f: Any, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> Any:
        count = len(tree.leaves(xs)[0]) if length is None else length
        ys: list[Any] = [None] * count
        for i in reversed(range(count)) if reverse else range(count):
            init, ys[i] = f(init, tree.map(lambda x, i=i: x[i], xs))
        if not count:
            # What one step would have given tells the shape of nothing.
            return init, tree.map(
                lambda y: np.zeros((0, *np.shape(y))),
                f(init, tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), xs))[1],
            )
        return init, stacked(ys)

    @staticmethod
    def map(f: Any, xs: Any) -> Any:
        return stacked([f(tree.map(lambda x, i=i: x[i], xs)) for i in range(len(tree.leaves(xs)[0]))])

    @staticmethod
    def pfor(f: Any, n: int) -> Any:
        return stacked([f(i) for i in range(n)])

    @staticmethod
    def associative_scan(fn: Any, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
        """One after the other; `fn` sees pieces of size 1 along the axis."""
        count = tree.leaves(elems)[0].shape[axis]
        pieces = [tree.map(lambda x, i=i: np.take(x, [i], axis), elems) for i in range(count)]
        found: list[Any] = []
        for piece in reversed(pieces) if reverse else pieces:
            found.append(fn(found[-1], piece) if found else piece)
        found = found[::-1] if reverse else found
        return tree.map(lambda *xs: np.concatenate(xs, axis), *found) if found else elems


def stacked(values: list[Any]) -> Any:
    return tree.map(lambda *leaves: np.stack(leaves), *values)
