"""A pendulum learns to stand: gradients through a simulation.

The equation of motion is integrated by Runge-Kutta steps inside `td.lax.scan`, so the simulation is one native loop;
its gradient with respect to the controller runs the loop backward. Three gains are found that bring the pendulum up and
hold it there, also from starts that were not trained on.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import treadle as td

STEPS, DT = 400, 0.01


def motion(state: Any, torque: Any) -> Any:
    """Angle from upright, and its speed: gravity pulls away from the top, friction slows."""
    angle, speed = state[0], state[1]
    return np.stack([speed, 9.81 * np.sin(angle) - 0.2 * speed + torque])


def torque(gains: Any, state: Any) -> Any:
    """A controller of three numbers, with a motor that gives at most 12 units."""
    angle, speed = state[0], state[1]
    return 12 * np.tanh(-gains[0] * np.sin(angle) - gains[1] * speed - gains[2] * angle)


def moved(gains: Any, state: Any) -> Any:
    """The state one step later, by the classical Runge-Kutta method."""
    force = torque(gains, state)
    k1 = motion(state, force)
    k2 = motion(state + DT / 2 * k1, force)
    k3 = motion(state + DT / 2 * k2, force)
    k4 = motion(state + DT * k3, force)
    return state + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def simulate(gains: Any, start: Any) -> Any:
    """The states at every step: (STEPS, 2)."""
    return td.lax.scan(lambda state, _: (moved(gains, state),) * 2, start, length=STEPS)[1]


def cost(gains: Any, starts: Any) -> Any:
    """How far from upright and at rest, over time, for a batch of starts."""
    paths = td.vmap(simulate, in_axes=(None, 0))(gains, starts)
    return (paths[..., 0] ** 2 + 0.1 * paths[..., 1] ** 2).mean()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    rng = np.random.default_rng(0)
    starts = rng.uniform([-1.0, -1.0], [1.0, 1.0], (16, 2))
    optimizer = td.optim.adam(0.05)

    @td.jit(donate_argnames=("gains", "state"))
    def improve(gains: Any, state: Any, starts: Any) -> Any:
        value, slope = td.value_and_grad(cost)(gains, starts)
        return *optimizer.update(slope, state, gains), value

    gains = np.zeros(3)
    state = optimizer.init(gains)
    for turn in range(80):
        gains, state, value = improve(gains, state, starts)
        if turn % 20 == 0 or turn == 79:
            print(f"turn {turn:2}: cost {float(value):9.4f}, gains {gains.round(2)}")

    # The same simulation as a loop of NumPy; and the gradient against differences of it.
    def in_numpy(gains: Any) -> Any:
        states, total = starts[:2].T, 0.0
        for _ in range(STEPS):
            states = moved(gains, states)
            total += (states[0] ** 2 + 0.1 * states[1] ** 2).mean()
        return total / STEPS

    few = starts[:2]
    assert np.isclose(td.jit(cost)(gains, few), in_numpy(gains), rtol=1e-9)
    differences = [(in_numpy(gains + h) - in_numpy(gains - h)) / 2e-6 for h in np.eye(3) * 1e-6]
    assert np.allclose(td.grad(cost)(gains, few), differences, rtol=1e-4, atol=1e-6)
    print("value and gradient are those of the loop in NumPy")

    fresh = rng.uniform([-1.0, -1.0], [1.0, 1.0], (64, 2))
    paths = td.jit(td.vmap(simulate, in_axes=(None, 0)))(gains, fresh)
    worst = float(np.abs(paths[:, -1]).max())
    print(f"64 new starts, after {STEPS * DT:.0f} s: at most {worst:.4f} from upright and at rest")
    assert worst < 0.05


if __name__ == "__main__":
    main()
