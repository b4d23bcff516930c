"""Loops as they are written: bodies that attract each other, body by body and step by step.

The loop over bodies has an index, as in a textbook. Its steps do not wait for each other, so the compiler takes all of
them at once; so it does with the counting of the last loop. The loop over time is a recurrence and stays a loop, in
native code. `explain()` says which loop became what, and why.
"""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

import numpy as np

import treadle as td

BODIES, STEPS, DT, SOFT, RINGS = 64, 300, 0.01, 0.05, 8


def pulls(places: Any, masses: Any) -> Any:
    """The acceleration of every body, one after the other."""

    def pull(i: Any, found: Any) -> Any:
        away = places - places[i]
        distance = np.sqrt((away**2).sum(axis=1) + SOFT)
        return found.at[i].set((masses / distance**3) @ away)

    return td.lax.fori_loop(0, BODIES, pull, np.zeros_like(places))


def census(places: Any) -> Any:
    """How many bodies are how far from the middle, counted one by one."""
    rings = np.minimum(np.sqrt((places**2).sum(axis=1)).astype(int), RINGS - 1)
    return td.lax.fori_loop(0, BODIES, lambda i, counts: counts.at[rings[i]].add(1), np.zeros(RINGS, int))


@td.jit
def fly(places: Any, speeds: Any, masses: Any) -> Any:
    """Where the bodies are in the end, and how they are spread then, by leapfrog steps."""

    def step(state: Any, _: Any) -> Any:
        places, speeds, force = state
        speeds = speeds + DT / 2 * force
        places = places + DT * speeds
        force = pulls(places, masses)
        return (places, speeds + DT / 2 * force, force), None

    start = (places, speeds, pulls(places, masses))
    (places, speeds, _), _ = td.lax.scan(step, start, length=STEPS)
    return places, speeds, census(places)


def energy(places: Any, speeds: Any, masses: Any) -> float:
    apart = np.sqrt(((places[:, None] - places) ** 2).sum(axis=2) + SOFT)
    pairs = np.triu(np.outer(masses, masses) / apart, 1).sum()
    return float((masses * (speeds**2).sum(axis=1)).sum() / 2 - pairs)


def in_numpy(places: Any, speeds: Any, masses: Any) -> Any:
    """The same, without a compiler."""

    def force(places: Any) -> Any:
        away = places - places[:, None]
        return (masses / np.sqrt((away**2).sum(axis=2) + SOFT) ** 3)[:, None, :] @ away

    now = force(places)[:, 0]
    for _ in range(STEPS):
        speeds = speeds + DT / 2 * now
        places = places + DT * speeds
        now = force(places)[:, 0]
        speeds = speeds + DT / 2 * now
    return places, speeds


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    rng = np.random.default_rng(0)
    places, speeds = rng.normal(size=(BODIES, 3)), 0.3 * rng.normal(size=(BODIES, 3))
    masses = rng.uniform(0.5, 1.5, BODIES) / BODIES

    after, fast, counts = fly(places, speeds, masses)
    print(f"{BODIES} bodies after {STEPS} steps, by distance from the middle:\n  {counts}")

    print("what became of the loops:")
    said = [line.strip() for line in fly.explain().splitlines() if " vectorize: " in line and "ops, " not in line]
    for line in said:
        print(textwrap.fill(line, 78, initial_indent="  ", subsequent_indent="      "))
    assert sum("vectorized: 64 steps at once" in line for line in said) == 3
    assert sum("stays a loop" in line for line in said) == 1

    expected, expected_speeds = in_numpy(places, speeds, masses)
    assert np.allclose(after, expected, rtol=1e-8) and np.allclose(fast, expected_speeds, rtol=1e-7, atol=1e-9)
    assert (
        counts.tolist()
        == np.bincount(np.minimum(np.linalg.norm(after, axis=1).astype(int), RINGS - 1), minlength=RINGS).tolist()
    )
    lost = abs(energy(after, fast, masses) / energy(places, speeds, masses) - 1)
    print(f"the same as in NumPy; energy kept to {lost:.1e}")
    assert lost < 1e-3


if __name__ == "__main__":
    main()
