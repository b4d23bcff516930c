"""Checkpoints: the same numbers in less memory for more work, each as predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle as td

WIDTH, ROWS, LAYERS = 16, 64, 6
RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal((WIDTH, WIDTH)).astype("f4") * np.float32(0.3) for _ in range(LAYERS)]
X = RNG.standard_normal((ROWS, WIDTH)).astype("f4")
ACTIVATION = X.nbytes


def layer(w: Any, x: Any) -> Any:
    return np.sin(np.tanh(x @ w)) * 2


def network(weights: Any, x: Any) -> Any:
    for w in weights:
        x = layer(w, x)
    return np.sum(x * x)


def in_layers(weights: Any, x: Any) -> Any:
    one = td.checkpoint(layer)
    for w in weights:
        x = one(w, x)
    return np.sum(x * x)


def compiled(f: Any) -> Any:
    return td.jit(td.value_and_grad(f)).compile(WEIGHTS, X)


def test_checkpoints_lower_the_peak() -> None:
    """A layer keeps two activations for its gradient. With checkpoints it keeps one, its input; the work grows by one
    more run forward of each layer at most."""
    plain, less = compiled(network), compiled(in_layers)
    assert plain.memory_analysis().temp_size_in_bytes >= 2 * LAYERS * ACTIVATION
    saved = plain.memory_analysis().temp_size_in_bytes - less.memory_analysis().temp_size_in_bytes
    assert saved >= (LAYERS - 2) * ACTIVATION
    forward = td.jit(network).compile(WEIGHTS, X).cost_analysis()
    for kind in ("flops", "transcendentals"):
        assert less.cost_analysis()[kind] <= plain.cost_analysis()[kind] + forward[kind]
    (value, gradients), (again, others) = plain(WEIGHTS, X), less(WEIGHTS, X)
    np.testing.assert_array_equal(value, again)
    for a, b in zip(gradients, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_budgets() -> None:
    """`remat="..."` keeps no more than so many bytes for the way back, and says which ways there were. The plan needs
    what the choice predicts, but for two activations that are on their way."""
    plain = td.jit(td.grad(network)).compile(WEIGHTS, X)
    expected, most = plain(WEIGHTS, X), plain.memory_analysis().temp_size_in_bytes
    for kept in (0, 2, 3, LAYERS, 2 * LAYERS):
        budget = kept * ACTIVATION
        choice = td.checkpoint(network, policy=budget).frontier(WEIGHTS, X)
        assert choice.bytes <= budget
        assert "<- chosen" in str(choice)
        program = td.jit(td.grad(network, remat=budget)).compile(WEIGHTS, X)
        planned = program.memory_analysis().temp_size_in_bytes
        assert abs(planned - choice.peak) <= 2 * ACTIVATION
        assert planned <= most + WEIGHTS[0].nbytes  # a turned weight, for products that are computed again
        # Two values part six layers in three: two layers of two values each are there beside the first of them.
        assert kept not in (2, 3) or planned <= 8 * ACTIVATION < most
        for a, b in zip(program(WEIGHTS, X), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_plan_shrinks_by_what_is_predicted() -> None:
    """Between any two ways to choose, the arena differs by what their peaks do, but for the cotangent that is on its
    way. Layers of a product and a tanh: what a derivative reads is what is made, so there is nothing else to guess."""

    def chain(weights: Any, x: Any) -> Any:
        for w in weights:
            x = np.tanh(x @ w)
        return np.sum(x)

    weights = WEIGHTS + WEIGHTS
    ways = {}
    for kept in (0, 1, 2, 3, 4, 6, 11):
        choice = td.checkpoint(chain, policy=kept * ACTIVATION).frontier(weights, X)
        assert choice.bytes <= kept * ACTIVATION
        program = td.jit(td.grad(chain, (0, 1), remat=kept * ACTIVATION)).compile(weights, X)
        ways[kept] = choice.peak, program.memory_analysis().temp_size_in_bytes
    for peak, planned in ways.values():
        for other, instead in ways.values():
            assert abs((planned - instead) - (peak - other)) <= ACTIVATION + WEIGHTS[0].nbytes, ways
    # The least is near twice the root of the number of layers.
    assert min(peak for peak, _ in ways.values()) <= 7 * ACTIVATION <= ways[0][0] / 1.5, ways


@pytest.mark.parametrize("policy", ["nothing", "dots", "min_cut", str(3 * ACTIVATION)])
def test_explain_shows_what_there_was_to_choose(policy: str) -> None:
    """The same table as `frontier` has, with the function, the policy and the user's line; each checkpoint once."""
    gradient = td.jit(td.grad(network, (0, 1), remat=policy))
    gradient(WEIGHTS, X)
    text = gradient.explain()
    assert f"checkpoint: network, policy {policy}" in text
    rows = str(td.checkpoint(network, policy=policy).frontier(WEIGHTS, X)).splitlines()
    assert len(rows) >= 3 and sum("<- chosen" in row for row in rows) == 1
    for row in rows:
        assert row in text
    layers = td.jit(td.grad(in_layers))
    layers(WEIGHTS, X)
    (said,) = [line for line in layers.explain().splitlines() if "checkpoint: " in line]
    assert "layer, policy nothing  at test_checkpoint.py:" in said
    plain = td.jit(td.grad(network))
    plain(WEIGHTS, X)
    assert "checkpoint: " not in plain.explain()


def test_random_draws_stay() -> None:
    """The mask of a dropout that is drawn again is the mask of the way there."""

    def dropped(key: Any, x: Any) -> Any:
        keep = td.random.bernoulli(key, 0.5, (ROWS, WIDTH))
        return np.where(keep, np.tanh(x), 0)

    def loss(f: Any) -> Any:
        return lambda key, x: np.sum(np.exp(f(key, np.sin(f(key, x)))))

    key = td.random.key(3)
    plain = td.jit(td.value_and_grad(loss(dropped), 1))(key, X)
    again = td.jit(td.value_and_grad(loss(td.checkpoint(dropped)), 1))(key, X)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a, b)


def long_loop(checkpoint: int | bool, reverse: bool = False) -> Any:
    def loop(x: Any, rows: Any) -> Any:
        def step(c: Any, row: Any) -> Any:
            c = np.sin(c * 2) + np.tanh(row * c)
            return c, np.sum(c)

        last, sums = td.lax.scan(step, x, rows, reverse=reverse, checkpoint=checkpoint)
        return np.sum(last) + np.sum(sums * np.arange(sums.shape[0]))

    return loop


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("every", [True, 1, 7, 50])
def test_loops_in_pieces(every: int | bool, reverse: bool) -> None:
    """A carry every so many steps, and what is left over: values and gradients stay."""
    rng = np.random.default_rng(1)
    x, rows = rng.standard_normal(4), rng.standard_normal((23, 4))
    plain = td.jit(td.value_and_grad(long_loop(False, reverse), (0, 1)))(x, rows)
    found = td.jit(td.value_and_grad(long_loop(every, reverse), (0, 1)))(x, rows)
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-12)
    for a, b in zip(found[1], plain[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_loops_in_pieces_store_a_root() -> None:
    """256 steps: 16 carries, and the residuals of 16 steps at a time."""
    rows = np.ones((256, 4))

    def stored(every: int | bool) -> int:
        found: int = td.jit(td.grad(long_loop(every))).compile(np.ones(4), rows).memory_analysis().temp_size_in_bytes
        return found

    assert stored(True) < stored(False) / 3


def test_what_is_no_array_steers_the_trace() -> None:
    def f(x: Any, power: int, name: str, more: Any = None) -> Any:
        assert isinstance(power, int) and isinstance(name, str) and more is None
        return np.sum(x**power)

    np.testing.assert_allclose(td.grad(lambda x: td.checkpoint(f)(x, 3, "cube"))(np.array([1.0, 2.0])), [3, 12])
    assert td.checkpoint(f)(np.ones(2), 2, "square") == 2


def test_policies_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="TD0345"):
        td.checkpoint(network, policy="all of it")
