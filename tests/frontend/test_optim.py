"""Optimizers, schedules and initial values: equal to plain NumPy, to torch where it is installed, and one loop each.

The reference is written as the papers have it, for one float64 array at a time, in Python's own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import treadle as td
from treadle import optim
from treadle.frontend import tree

STEPS = 100
RNG = np.random.default_rng(0)
START = {"w": RNG.standard_normal((5, 3)), "b": (RNG.standard_normal(7), RNG.standard_normal(()))}
PULL = tree.map(lambda p: RNG.standard_normal(p.shape), START)

Rates = Callable[[int], float]


def slopes(params: Any, step: Any) -> Any:
    """Of a convex bowl that swings with time: what two ways round differently does not grow from step to step."""
    return tree.map(lambda p, c: np.tanh(p - c) + 0.5 * np.sin(0.1 * step + c), params, PULL)


# --- the references -----------------------------------------------------------------------------------------------

Update = Callable[[np.ndarray, np.ndarray, float, int, dict[str, Any]], np.ndarray]


def plain_sgd(momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Update:
    def update(p: np.ndarray, g: np.ndarray, rate: float, t: int, kept: dict[str, Any]) -> np.ndarray:
        g = g + decay * p
        kept["v"] = momentum * kept.get("v", 0.0) + g
        return p - rate * (g + momentum * kept["v"] if nesterov else kept["v"])

    return update


def plain_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, decay: float = 0.0) -> Update:
    def update(p: np.ndarray, g: np.ndarray, rate: float, t: int, kept: dict[str, Any]) -> np.ndarray:
        kept["m"] = b1 * kept.get("m", 0.0) + (1 - b1) * g
        kept["v"] = b2 * kept.get("v", 0.0) + (1 - b2) * g**2
        mean, square = kept["m"] / (1 - b1**t), kept["v"] / (1 - b2**t)
        return p - rate * decay * p - rate * mean / (np.sqrt(square) + eps)

    return update


def cosine_rate(rate: float, steps: int, final: float) -> Rates:
    return lambda t: final + (rate - final) * (1 + math.cos(math.pi * min(t, steps) / steps)) / 2


def warm_rate(after: Rates, steps: int) -> Rates:
    return lambda t: after(max(t - steps, 0)) * min((t + 1) / steps, 1)


CASES: dict[str, tuple[optim.Optimizer, Update, Rates]] = {
    "sgd": (optim.sgd(0.1), plain_sgd(), lambda t: 0.1),
    "sgd with decay": (optim.sgd(0.1, weight_decay=0.05), plain_sgd(decay=0.05), lambda t: 0.1),
    "momentum": (optim.sgd(0.03, 0.9), plain_sgd(0.9), lambda t: 0.03),
    "nesterov": (
        optim.sgd(0.03, 0.9, nesterov=True, weight_decay=0.01), plain_sgd(0.9, True, 0.01), lambda t: 0.03,
    ),
    "adam": (optim.adam(0.05), plain_adam(), lambda t: 0.05),
    "adam, other settings": (optim.adam(0.05, 0.8, 0.95, 1e-3), plain_adam(0.8, 0.95, 1e-3), lambda t: 0.05),
    "adamw": (optim.adamw(0.05), plain_adam(decay=0.01), lambda t: 0.05),
    "adamw, constant": (
        optim.adamw(optim.constant(0.05), weight_decay=0.2), plain_adam(decay=0.2), lambda t: 0.05,
    ),
    "adamw, cosine": (
        optim.adamw(optim.cosine(0.1, 60, 0.01)), plain_adam(decay=0.01), cosine_rate(0.1, 60, 0.01),
    ),
    "momentum, warmed up": (
        optim.sgd(optim.warm_up(optim.cosine(0.05, 80), 10), 0.9),
        plain_sgd(0.9), warm_rate(cosine_rate(0.05, 80, 0.0), 10),
    ),
    "adam, warmed up to a number": (
        optim.adam(optim.warm_up(0.05, 20)), plain_adam(), warm_rate(lambda t: 0.05, 20),
    ),
}  # fmt: skip


def by_reference(update: Update, rates: Rates) -> Any:
    leaves, structure = tree.flatten(START)
    kept: list[dict[str, Any]] = [{} for _ in leaves]
    for t in range(STEPS):
        gradients = tree.leaves(slopes(structure.unflatten(leaves), t))
        leaves = [update(p, g, rates(t), t + 1, k) for p, g, k in zip(leaves, gradients, kept, strict=True)]
    return structure.unflatten(leaves)


def by_us(optimizer: optim.Optimizer, dtype: Any, jit: bool = True) -> Any:
    def one(params: Any, state: Any) -> Any:
        gradients = slopes(params, state["step"].astype(np.float64))
        return optimizer.update(gradients, state, params)

    step = td.jit(one, donate_argnames=("params", "state")) if jit else one
    params = tree.map(lambda p: np.array(p, dtype), START)
    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    assert int(state["step"]) == STEPS and np.asarray(state["step"]).dtype == np.int32
    return params


def close(found: Any, wanted: Any, tolerance: float) -> None:
    for a, b in zip(tree.leaves(found), tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- the same numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps(case: str) -> None:
    """In float64 to ten digits, so no constant of an update may have been rounded to float32 on its way."""
    optimizer, update, rates = CASES[case]
    wanted = by_reference(update, rates)
    close(by_us(optimizer, np.float64), wanted, 1e-10)
    found = by_us(optimizer, np.float32)
    assert {leaf.dtype for leaf in tree.leaves(found)} == {np.dtype(np.float32)}
    close(found, wanted, 1e-5)


@pytest.mark.parametrize("case", ["nesterov", "adamw, cosine"])
def test_without_a_trace(case: str) -> None:
    """`update` is plain NumPy: it runs on arrays as it is."""
    optimizer, update, rates = CASES[case]
    close(by_us(optimizer, np.float64, jit=False), by_reference(update, rates), 1e-10)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("jit", [True, False], ids=["compiled", "at once"])
def test_half_floats_stay_what_they_are(jit: bool, dtype: Any) -> None:
    """Their arithmetic is float32's: the square of a small gradient must not make Adam divide by nothing."""
    found = by_us(CASES["adamw, cosine"][0], dtype, jit)
    assert {leaf.dtype for leaf in tree.leaves(found)} == {np.dtype(dtype)}
    assert all(np.isfinite(leaf.astype(float)).all() for leaf in tree.leaves(found))
    p = {"w": np.full(3, 1, dtype)}
    found, _ = ADAM.update({"w": np.full(3, 1e-4, dtype)}, ADAM.init(p), p)
    assert np.isfinite(found["w"].astype(float)).all()


def torch_optimizers(torch: Any) -> Iterator[tuple[str, Callable[[Any], Any], Callable[[Any], Any] | None]]:
    o, rates = torch.optim, torch.optim.lr_scheduler
    yield "sgd", lambda p: o.SGD(p, 0.1), None
    yield "sgd with decay", lambda p: o.SGD(p, 0.1, weight_decay=0.05), None
    yield "momentum", lambda p: o.SGD(p, 0.03, 0.9), None
    yield "nesterov", lambda p: o.SGD(p, 0.03, 0.9, nesterov=True, weight_decay=0.01), None
    yield "adam", lambda p: o.Adam(p, 0.05), None
    yield "adam, other settings", lambda p: o.Adam(p, 0.05, (0.8, 0.95), 1e-3), None
    yield "adamw", lambda p: o.AdamW(p, 0.05), None
    cosine = lambda made: rates.LambdaLR(made, lambda t: cosine_rate(1.0, 60, 0.1)(t))  # noqa: E731
    yield "adamw, cosine", lambda p: o.AdamW(p, 0.1), cosine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_hundred_steps_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    for case, make, scheduler in torch_optimizers(torch):
        leaves, structure = tree.flatten(tree.map(lambda p: np.array(p, dtype), START))
        theirs = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in leaves]
        optimizer = make(theirs)
        rates = scheduler(optimizer) if scheduler else None
        for t in range(STEPS):
            at = structure.unflatten([p.detach().numpy() for p in theirs])
            for p, g in zip(theirs, tree.leaves(slopes(at, t)), strict=True):
                p.grad = torch.tensor(np.asarray(g, dtype))
            optimizer.step()
            if rates:
                rates.step()
        found = by_us(CASES[case][0], dtype)
        for a, b in zip(tree.leaves(found), theirs, strict=True):
            tolerance = 1e-10 if dtype == "float64" else 1e-5
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=tolerance, atol=tolerance, err_msg=case)


def test_schedules_are_functions_of_a_number() -> None:
    """At their ends, on numbers, on NumPy's scalars, and in a trace."""
    falling = optim.cosine(0.4, 10, 0.1)
    for t, want in ((0, 0.4), (5, 0.25), (10, 0.1), (99, 0.1)):
        for step in (t, np.int32(t), np.asarray(t)):
            np.testing.assert_allclose(falling(step), want, rtol=1e-15)
        np.testing.assert_allclose(td.jit(falling)(np.int32(t)), want, rtol=1e-15)
    rising = optim.warm_up(falling, 4)
    assert [float(rising(t)) for t in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert float(rising(14)) == pytest.approx(0.1)
    assert optim.constant(0.2)(7) == 0.2


def test_a_rate_may_be_an_argument() -> None:
    """One compiled step for every rate."""

    @td.jit
    def step(rate: Any, p: Any) -> Any:
        optimizer = optim.sgd(rate)
        return optimizer.update(p, optimizer.init(p), p)[0]

    p = np.array([1.0, 2.0], np.float32)
    for rate in (0.5, 0.25):
        np.testing.assert_array_equal(step(rate, p), p * np.float32(1 - rate))
    assert step.n_compiles == 1


# --- one loop, in place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_an_update_is_one_loop_in_place(case: str) -> None:
    """Every array is read and written once by one kernel, whose results lie where its operands lay. Beside it there are
    numbers only: the step, and what is made of it."""
    optimizer = CASES[case][0]
    params = {"w": np.ones((40, 30), np.float32), "b": np.ones(50, np.float32)}
    state = optimizer.init(params)
    update = td.jit(optimizer.update, donate_argnames=("state", "params"))
    compiled = update.compile(params, state, params)
    memory = compiled.memory_analysis()
    moments = len(state) - 1
    arrays = (1 + moments) * sum(p.nbytes for p in params.values())
    assert memory.alias_size_in_bytes == memory.output_size_in_bytes == arrays + 4
    assert memory.temp_size_in_bytes <= 3 * 64
    calls = [line for line in compiled.as_text("program").splitlines() if line.startswith("  call ")]
    for shape in ("f32[40,30]", "f32[50]"):
        (call,) = [line for line in calls if shape in line]
        reads, results = call.split(" -> ")
        assert reads.count(shape) == 2 + moments and results.count(shape) == 1 + moments
        assert "arena" not in results
    assert not [line for line in calls if "copy" in line]
    donated = tree.leaves((params, state))
    found = update(tree.map(np.copy, params), state, params)
    assert {id(leaf) for leaf in tree.leaves(found)} == {id(leaf) for leaf in donated}


# --- clipping -----------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_by_their_norm() -> None:
    flat = np.concatenate([leaf.ravel() for leaf in tree.leaves(START)])
    size = np.linalg.norm(flat)
    np.testing.assert_allclose(td.jit(optim.global_norm)(START), size, rtol=1e-14)
    for limit in (0.5 * size, 2 * size):
        wanted = tree.map(lambda g, limit=limit: g * min(1.0, limit / (size + 1e-6)), START)
        close(optim.clip_by_norm(START, limit), wanted, 1e-14)
        close(td.jit(lambda g, limit=limit: optim.clip_by_norm(g, limit))(START), wanted, 1e-14)


def test_the_norm_of_half_floats_is_taken_in_float32() -> None:
    """300 squared is beyond float16; a gradient of nothing stays one."""
    found = td.jit(lambda g: optim.clip_by_norm(g, 3.0))(np.full(4, 300, np.float16))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, 1.5, rtol=1e-3)
    assert not optim.clip_by_norm(np.zeros(3), 1.0).any()


def test_gradients_are_clipped_as_torchs() -> None:
    torch = pytest.importorskip("torch")
    for limit in (0.1, 5.0, 1e3):
        theirs = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in tree.leaves(START)]
        for p in theirs:
            p.grad = p.detach().clone()
        torch.nn.utils.clip_grad_norm_(theirs, limit)
        for a, b in zip(tree.leaves(optim.clip_by_norm(START, limit)), theirs, strict=True):
            np.testing.assert_allclose(a, b.grad.numpy(), rtol=1e-12)


# --- initial values -----------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[tuple[int, ...], dict[str, int], tuple[int, int]]] = {
    "of x @ w": ((300, 200), {}, (300, 200)),
    "of a convolution": ((60, 40, 3, 3), {}, (360, 540)),
    "by name": ((4, 100, 150), {"in_axis": 1, "out_axis": -1}, (400, 600)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_initial_values_have_their_variance(shape: str, dtype: str) -> None:
    """And mean 0, the shape of their distribution, and the dtype that was asked for."""
    sizes, axes, (fan_in, fan_out) = SHAPES[shape]
    key, other = td.random.split(td.random.key(1))
    uniform = np.asarray(optim.glorot(key, sizes, dtype, **axes))
    normal = np.asarray(optim.he(other, sizes, dtype, **axes))
    count = uniform.size
    limit = math.sqrt(6 / (fan_in + fan_out))
    for drawn, variance, kurtosis in ((uniform, limit**2 / 3, 1.8), (normal, 2 / fan_in, 3.0)):
        assert drawn.shape == sizes and str(drawn.dtype) == dtype
        wide = drawn.astype(np.float64) / math.sqrt(variance)
        # Five standard errors of the mean, of the variance and of the fourth moment.
        assert abs(wide.mean()) < 5 / math.sqrt(count)
        assert abs((wide**2).mean() - 1) < 5 * math.sqrt((kurtosis - 1) / count) + 1e-3
        assert abs((wide**4).mean() - kurtosis) < 5 * math.sqrt(96 / count) + 1e-2
    assert np.abs(uniform.astype(np.float64)).max() <= limit * 1.004


@pytest.mark.parametrize("draw", [optim.glorot, optim.he], ids=["glorot", "he"])
def test_initial_values_are_one_stream(draw: Any) -> None:
    """The same numbers at once, compiled, for every key of a batch, and in a loop: the key says all."""
    keys = td.random.split(td.random.key(2), 3)
    batch = td.jit(td.vmap(lambda k: draw(k, (6, 5))))(keys)
    loop = td.jit(lambda keys: td.lax.map(lambda k: draw(k, (6, 5)), keys))(keys)
    np.testing.assert_array_equal(batch, loop)
    for key, row in zip(keys, batch, strict=True):
        np.testing.assert_array_equal(td.jit(lambda k: draw(k, (6, 5)))(key), row)
        np.testing.assert_allclose(draw(key.copy(), (6, 5)), row, rtol=1e-5, atol=1e-7)
    assert np.abs(batch[0] - batch[1]).max() > 0


# --- a rule of one's own ------------------------------------------------------------------------------------------


def lion(rate: Any, b1: float = 0.9, b2: float = 0.99) -> optim.Optimizer:
    """Chen et al. 2023."""

    def rule(g: Any, p: Any, now: Any, count: Any, m: Any) -> Any:
        return p - now * np.sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g

    return optim.from_rule(rate, ("m",), rule)


def plain_lion(p: np.ndarray, g: np.ndarray, rate: float, t: int, kept: dict[str, Any]) -> np.ndarray:
    m = kept.get("m", np.zeros_like(p))
    kept["m"] = 0.99 * m + 0.01 * g
    return p - rate * np.sign(0.9 * m + 0.1 * g)


def test_an_optimizer_is_a_rule_for_one_array() -> None:
    close(by_us(lion(0.01), np.float64), by_reference(plain_lion, lambda t: 0.01), 1e-10)


# --- what is refused ----------------------------------------------------------------------------------------------

P = {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
ADAM = optim.adam(0.1)
REFUSED: dict[str, tuple[Callable[[], Any], str, type[Exception], tuple[str, ...]]] = {
    "nesterov without momentum": (lambda: optim.sgd(0.1, nesterov=True), "TD0720", ValueError, ("momentum=0.9",)),
    "a rate below 0": (lambda: optim.adam(-0.1), "TD0720", ValueError, ("rate=-0.1",)),
    "no number": (lambda: optim.adam(math.nan), "TD0720", ValueError, ("rate=nan",)),
    "a share above 1": (lambda: optim.adam(0.1, 1.0), "TD0720", ValueError, ("b1=1.0", "[0, 1)")),
    "no steps": (lambda: optim.cosine(0.1, 0), "TD0720", ValueError, ("steps=0",)),
    "no steps to warm up": (lambda: optim.warm_up(0.1, 0), "TD0720", ValueError, ("steps=0",)),
    "a limit below 0": (lambda: optim.clip_by_norm(P, -1.0), "TD0720", ValueError, ("limit=-1.0",)),
    "a vector's fans": (lambda: optim.he(td.random.key(0), (3,)), "TD0721", ValueError, ("(3,)",)),
    "one axis of two": (lambda: optim.he(td.random.key(0), (3, 2, 2), in_axis=1), "TD0721", ValueError, ("None",)),
    "one axis twice": (
        lambda: optim.he(td.random.key(0), (3, 2, 2), in_axis=2, out_axis=-1), "TD0721", ValueError, ("axes 2 and -1",),
    ),
    "a generator": (lambda: optim.glorot(np.random.default_rng(0), (3, 2)), "TD0730", TypeError, ("td.random.key",)),
    "another structure": (lambda: ADAM.update({"w": P["w"]}, ADAM.init(P), P), "TD0611", TypeError, ("'b'",)),
    "another shape": (
        lambda: ADAM.update({"w": P["b"], "b": P["b"]}, ADAM.init(P), P), "TD0722", ValueError, ("['w']", "(3, 2)"),
    ),
    "whole numbers": (lambda: ADAM.init({"n": np.arange(3)}), "TD0723", TypeError, ("['n']",)),
    "complex numbers": (lambda: ADAM.init({"z": np.ones(2) * 1j}), "TD0723", TypeError, ("['z']",)),
    "a misspelt name": (lambda: optim.adamw(0.1, weight_deacy=0.1), "TD0601", TypeError, ("weight_decay",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, code, kind, says = REFUSED[name]
    with pytest.raises(td.TreadleError) as caught:
        call()
    error = caught.value
    assert error.code == code and isinstance(error, kind), str(error)
    assert error.location is not None and error.location.file == __file__, str(error)
    for words in says:
        assert words in str(error), str(error)
