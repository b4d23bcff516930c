"""Derivatives, loops of tiny ops, and batched gradients: what the transforms cost where the work of a step is small.

Loops are `lax.scan` in treadle and JAX, and Python's own in torch; for Inductor the step is compiled and the loop is
Python's, since a loop of a thousand steps that is unrolled into one graph compiles for minutes.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from harness.lines import Call, Chapter, at_most, call, normal, times

CHAPTER = Chapter("transforms")

RNN_STEPS, ODE_STEPS, KALMAN_STEPS, ROUNDS = 1000, 500, 1000, 60


# --- programs, written for NumPy's, JAX's and torch's vocabulary ------------------------------------------------------


def rnn_step(xp: Any) -> Callable[..., Any]:
    return lambda h, x, w, u, b: xp.tanh(w @ h + u @ x + b)


def rnn(step: Any, scan: Any) -> Callable[..., Any]:
    """All states of an Elman network of width 32."""

    def run(w: Any, u: Any, b: Any, start: Any, xs: Any) -> Any:
        return scan(lambda h, x: (step(h, x, w, u, b),) * 2, start, xs)[1]

    return run


def rnn_arrays() -> list[Any]:
    w, u = normal(32, 32) * np.float32(0.15), normal(32, 32, seed=1) * np.float32(0.15)
    return [w, u, normal(32, seed=2), normal(32, seed=3), normal(RNN_STEPS, 32, seed=4)]


def ode_step(xp: Any) -> Callable[..., Any]:
    """One step of Runge and Kutta's for y' = W2 tanh(W1 y + b1) + b2."""
    h = 0.01

    def step(y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        def slope(y: Any) -> Any:
            return w2 @ xp.tanh(w1 @ y + b1) + b2

        k1 = slope(y)
        k2 = slope(y + 0.5 * h * k1)
        k3 = slope(y + 0.5 * h * k2)
        k4 = slope(y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return step


def ode(step: Any, scan: Any) -> Callable[..., Any]:
    """Where the state of a neural ODE of widths 8-16-8 is after 500 steps."""

    def run(w1: Any, b1: Any, w2: Any, b2: Any, start: Any) -> Any:
        return scan(lambda y, _: (step(y, w1, b1, w2, b2), None), start, None, length=ODE_STEPS)[0]

    return run


def ode_arrays() -> list[Any]:
    half = np.float32(0.5)
    return [
        normal(16, 8) * half,
        normal(16, seed=1),
        normal(8, 16, seed=2) * half,
        normal(8, seed=3),
        normal(8, seed=4),
    ]


def kalman_step(xp: Any) -> Callable[..., Any]:
    """Predict and correct; the innovation's covariance is 2 x 2, and its inverse is written out."""

    def step(mean: Any, cov: Any, z: Any, f: Any, h: Any, q: Any, r: Any) -> Any:
        mean = f @ mean
        cov = f @ cov @ f.T + q
        s = h @ cov @ h.T + r
        a, b, c, d = s[0, 0], s[0, 1], s[1, 0], s[1, 1]
        inverse = xp.stack([xp.stack([d, -b]), xp.stack([-c, a])]) / (a * d - b * c)
        gain = cov @ h.T @ inverse
        return mean + gain @ (z - h @ mean), cov - gain @ h @ cov

    return step


def kalman(step: Any, scan: Any) -> Callable[..., Any]:
    """The filtered means of a body in the plane (position and velocity) whose position is seen."""

    def run(f: Any, h: Any, q: Any, r: Any, mean: Any, cov: Any, zs: Any) -> Any:
        def each(state: Any, z: Any) -> Any:
            state = step(*state, z, f, h, q, r)
            return state, state[0]

        return scan(each, (mean, cov), zs)[1]

    return run


def kalman_arrays() -> list[Any]:
    f = np.eye(4, dtype=np.float32)
    f[0, 2] = f[1, 3] = 0.1
    eye = np.eye(4, dtype=np.float32)
    arrays = [f, eye[:2], eye * 0.01, eye[:2, :2] * 0.1, np.zeros(4), eye, normal(KALMAN_STEPS, 2)]
    return [np.ascontiguousarray(x, np.float32) for x in arrays]


def rounds(xp: Any) -> Callable[..., Any]:
    """Sixty rounds of sin, tanh and a sum, with no loop in the program. Each value has two readers: a compiler that
    computes it again for each of them does exponential work."""

    def run(x: Any) -> Any:
        for _ in range(ROUNDS):
            y = xp.sin(x)
            z = xp.tanh(y)
            x = y + z / (1 + z.sum(0) ** 2)
        return x

    return run


def mlp(xp: Any, params: Any, x: Any) -> Any:
    """Layers of a product, a bias and tanh; the last one without."""
    for w, b in params[:-1]:
        x = xp.tanh(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def loss(xp: Any, params: Any, x: Any, y: Any) -> Any:
    error = mlp(xp, params, x) - y
    return (error * error).mean()


def mlp_arrays(*widths: int) -> list[tuple[Any, Any]]:
    pairs = enumerate(pairwise(widths))
    return [(normal(n, m, seed=k) / np.float32(math.sqrt(n)), normal(m, seed=9 + k)) for k, (n, m) in pairs]


# --- loops ------------------------------------------------------------------------------------------------------------

Run = Callable[..., Any]


def squared(run: Run) -> Run:
    return lambda *arrays: (run(*arrays) ** 2).sum()


def _jax_call(jax: Any, function: Run, arrays: Sequence[Any]) -> Call:
    return call("ready(f(*x))", ready=jax.block_until_ready, f=jax.jit(function), x=jax.device_put(list(arrays)))


def _torch_scan(f: Any, init: Any, xs: Any, length: int = 0) -> Any:
    import torch

    found = []
    for t in range(length if xs is None else len(xs)):
        init, y = f(init, None if xs is None else xs[t])
        found.append(y)
    return init, None if found[0] is None else torch.stack(found)


def _torch_call(torch: Any, function: Run, arrays: Sequence[Any]) -> Call:
    return call("f(*x)", f=function, x=[torch.from_numpy(x) for x in arrays])


def _torch_grad(torch: Any, function: Run, count: int, arrays: Sequence[Any]) -> Call:
    given = [torch.from_numpy(x).requires_grad_(i < count) for i, x in enumerate(arrays)]

    def run() -> Any:
        with torch.enable_grad():
            return torch.autograd.grad(function(*given), given[:count])

    return call("f()", f=run)


def _loop(
    name: str,
    program: Callable[[Any, Any], Run],
    step: Callable[[Any], Run],
    arrays: Callable[[], list[Any]],
    weights: int,
) -> None:
    """The line of a loop and, with `weights`, that of the gradient by so many first arguments."""

    def compiled(torch: Any) -> Run:
        return program(torch.compile(step(torch), dynamic=False), _torch_scan)

    CHAPTER.line(
        name,
        arguments=arrays,
        bar=times(2.5, "jax"),
        treadle=lambda td: td.jit(program(step(np), td.lax.scan)),
        jax=lambda jax: _jax_call(jax, program(step(jax.numpy), jax.lax.scan), arrays()),
        torch=lambda torch: _torch_call(torch, program(step(torch), _torch_scan), arrays()),
        inductor=lambda torch: _torch_call(torch, compiled(torch), arrays()),
        rounds=9,
    )
    if not weights:
        return
    by = tuple(range(weights))
    CHAPTER.line(
        f"{name}, gradient",
        arguments=arrays,
        bar=times(4, "jax"),
        treadle=lambda td: td.jit(td.grad(squared(program(step(np), td.lax.scan)), argnums=by)),
        jax=lambda jax: _jax_call(jax, jax.grad(squared(program(step(jax.numpy), jax.lax.scan)), by), arrays()),
        torch=lambda torch: _torch_grad(torch, squared(program(step(torch), _torch_scan)), weights, arrays()),
        inductor=lambda torch: _torch_grad(torch, squared(compiled(torch)), weights, arrays()),
        rounds=7,
    )


_loop(f"Elman network of width 32, {RNN_STEPS} steps", rnn, rnn_step, rnn_arrays, 3)
_loop(f"neural ODE 8-16-8, {ODE_STEPS} steps of RK4", ode, ode_step, ode_arrays, 4)
_loop(f"Kalman filter of 4 states, {KALMAN_STEPS} steps", kalman, kalman_step, kalman_arrays, 0)

CHAPTER.line(
    f"{ROUNDS} rounds of sin, tanh, sum on 16 x 16",
    arguments=lambda: [normal(16, 16)],
    bar=times(50, "jax"),
    treadle=lambda td: td.jit(rounds(np)),
    jax=lambda jax: jax.jit(rounds(jax.numpy)),
    torch=lambda torch: rounds(torch),
    inductor=lambda torch: rounds(torch),
    rounds=9,
)


# --- gradients of a multilayer perceptron -----------------------------------------------------------------------------

BIG, SMALL = (784, 512, 512, 10), (128, 256, 256, 128)
EXAMPLES, ROWS = 256, 64


def batch(rows: int) -> tuple[Any, Any]:
    return normal(rows, BIG[0], seed=7), normal(rows, BIG[-1], seed=8)


def _torch_params(torch: Any, *widths: int) -> Any:
    return [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in mlp_arrays(*widths)]


def _per_example(td: Any) -> Call:
    x, y = batch(EXAMPLES)
    gradients = td.vmap(td.grad(lambda p, x, y: loss(np, p, x, y)), in_axes=(None, 0, 0))
    return call("f(p, x, y)", f=td.jit(gradients), p=mlp_arrays(*BIG), x=x, y=y)


def _jax_per_example(jax: Any) -> Call:
    gradients = jax.vmap(jax.grad(lambda p, x, y: loss(jax.numpy, p, x, y)), in_axes=(None, 0, 0))
    return _jax_call(jax, gradients, [mlp_arrays(*BIG), *batch(EXAMPLES)])


def _torch_per_example(torch: Any) -> Call:
    x, y = map(torch.from_numpy, batch(EXAMPLES))
    gradients = torch.func.vmap(torch.func.grad(lambda p, x, y: loss(torch, p, x, y)), in_dims=(None, 0, 0))
    return call("f(p, x, y)", f=gradients, p=_torch_params(torch, *BIG), x=x, y=y)


CHAPTER.line(
    f"gradients of each of {EXAMPLES} examples, MLP 784-512-512-10",
    bar=times(5, "jax"),
    treadle=_per_example,
    jax=_jax_per_example,
    torch=_torch_per_example,
    rounds=7,
)


def _jacobian(td: Any) -> Call:
    jacobian = td.jacrev(lambda p, x: mlp(np, p, x), argnums=1)
    return call("f(p, x)", f=td.jit(jacobian), p=mlp_arrays(*SMALL), x=normal(SMALL[0]))


def _jax_jacobian(jax: Any) -> Call:
    jacobian = jax.jacrev(lambda p, x: mlp(jax.numpy, p, x), argnums=1)
    return _jax_call(jax, jacobian, [mlp_arrays(*SMALL), normal(SMALL[0])])


def _torch_jacobian(torch: Any) -> Call:
    jacobian = torch.func.jacrev(lambda p, x: mlp(torch, p, x), argnums=1)
    return call("f(p, x)", f=jacobian, p=_torch_params(torch, *SMALL), x=torch.from_numpy(normal(SMALL[0])))


CHAPTER.line(
    "Jacobian of an MLP 128-256-256-128",
    bar=times(1, "jax"),
    treadle=_jacobian,
    jax=_jax_jacobian,
    torch=_torch_jacobian,
)


def _tangents() -> Any:
    return [(normal(*w.shape, seed=20 + k), normal(*b.shape, seed=30 + k)) for k, (w, b) in enumerate(mlp_arrays(*BIG))]


def _hessian(td: Any) -> Call:
    def product(p: Any, v: Any, x: Any, y: Any) -> Any:
        return td.jvp(td.grad(lambda p: loss(np, p, x, y)), (p,), (v,))[1]

    x, y = batch(ROWS)
    return call("f(p, v, x, y)", f=td.jit(product), p=mlp_arrays(*BIG), v=_tangents(), x=x, y=y)


def _jax_hessian(jax: Any) -> Call:
    def product(p: Any, v: Any, x: Any, y: Any) -> Any:
        return jax.jvp(jax.grad(lambda p: loss(jax.numpy, p, x, y)), (p,), (v,))[1]

    return _jax_call(jax, product, [mlp_arrays(*BIG), _tangents(), *batch(ROWS)])


def _torch_hessian(torch: Any) -> Call:
    x, y = map(torch.from_numpy, batch(ROWS))
    v = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in _tangents()]

    def product(p: Any) -> Any:
        return torch.func.jvp(torch.func.grad(lambda p: loss(torch, p, x, y)), (p,), (v,))[1]

    return call("f(p)", f=product, p=_torch_params(torch, *BIG))


CHAPTER.line(
    f"Hessian-vector product, MLP 784-512-512-10, {ROWS} rows",
    bar=times(1, "jax"),
    treadle=_hessian,
    jax=_jax_hessian,
    torch=_torch_hessian,
)


def adam(xp: Any, gradient: Any) -> Run:
    """A training step with Adam, written out, so that all engines compute one thing."""
    rate, first, second, least = 1e-3, 0.9, 0.999, 1e-8

    def step(state: Any, x: Any, y: Any) -> Any:
        params, means, squares, count = state
        count = count + 1
        bars = gradient(params, x, y)
        new: list[Any] = []
        for p, m, v, g in zip(params, means, squares, bars, strict=True):
            layer = []
            for p_, m_, v_, g_ in zip(p, m, v, g, strict=True):
                m_ = first * m_ + (1 - first) * g_
                v_ = second * v_ + (1 - second) * g_ * g_
                p_ = p_ - rate * (m_ / (1 - first**count)) / (xp.sqrt(v_ / (1 - second**count)) + least)
                layer.append((p_, m_, v_))
            new.append(layer)
        p, m, v = ([tuple(leaf[i] for leaf in layer) for layer in new] for i in range(3))
        return p, m, v, count

    return step


def _adam_state() -> Any:
    params = mlp_arrays(*BIG)
    zeros = [(np.zeros_like(w), np.zeros_like(b)) for w, b in params]
    return params, zeros, zeros, np.float32(0)


def _adam(td: Any) -> Call:
    step = td.jit(adam(np, td.grad(lambda p, x, y: loss(np, p, x, y))))
    x, y = batch(ROWS)
    return call("f(s, x, y)", f=step, s=_adam_state(), x=x, y=y)


def _jax_adam(jax: Any) -> Call:
    step = adam(jax.numpy, jax.grad(lambda p, x, y: loss(jax.numpy, p, x, y)))
    return _jax_call(jax, step, [_adam_state(), *batch(ROWS)])


def _torch_adam(torch: Any) -> Call:
    params = [(w.requires_grad_(), b.requires_grad_()) for w, b in _torch_params(torch, *BIG)]
    optimizer = torch.optim.Adam([leaf for pair in params for leaf in pair], lr=1e-3, foreach=True)
    x, y = map(torch.from_numpy, batch(ROWS))

    def step() -> None:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss(torch, params, x, y).backward()
        optimizer.step()

    return call("f()", f=step)


CHAPTER.line(
    f"training step with Adam, MLP 784-512-512-10, {ROWS} rows",
    treadle=_adam,
    jax=_jax_adam,
    torch=_torch_adam,
    note="no donation: the old state stays; torch's optimizer works in place",
)


# --- what compiling them costs ----------------------------------------------------------------------------------------


Program = tuple[Callable[[Any], Callable[..., Any]], Sequence[Any]]


def _first_calls(*programs: Program) -> list[float]:
    """What the first call of each program takes, in a process that has compiled something before and finds nothing on
    disk."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TREADLE_CACHE_DIR"] = folder
        import treadle as td

        td.jit(lambda x: x + 1)(normal(3))
        seconds = []
        for program, arrays in programs:
            compiled = td.jit(program(td))
            start = time.perf_counter()
            compiled(*arrays)
            seconds.append(time.perf_counter() - start)
        return seconds


def _rounds_compile() -> float:
    return _first_calls((lambda td: rounds(np), [normal(16, 16)]))[0]


def _jax_rounds_compile() -> float:
    import jax

    jax.jit(lambda x: x + 1)(normal(3))
    function = jax.jit(rounds(jax.numpy))
    start = time.perf_counter()
    function(normal(16, 16)).block_until_ready()
    return time.perf_counter() - start


CHAPTER.line(
    f"{ROUNDS} rounds of sin, tanh, sum, first call",
    way="process",
    bar=at_most(0.3),
    treadle=_rounds_compile,
    jax=_jax_rounds_compile,
    rounds=2,
)


def _compile_ratio() -> float:
    arrays = [mlp_arrays(*BIG), *batch(ROWS)]
    forward, gradient = _first_calls(
        (lambda td: lambda p, x, y: loss(np, p, x, y), arrays),
        (lambda td: td.grad(lambda p, x, y: loss(np, p, x, y)), arrays),
    )
    return gradient / forward


CHAPTER.line(
    "first call of a gradient by that of its function, MLP",
    way="process",
    unit="x",
    bar=at_most(4),
    treadle=_compile_ratio,
    rounds=3,
)


def _length_ratio() -> float:
    w, u, b, start, xs = rnn_arrays()
    program = lambda td: rnn(rnn_step(np), td.lax.scan)  # noqa: E731
    few, many = _first_calls(*[(program, [w, u, b, start, xs[:steps]]) for steps in (10, RNN_STEPS)])
    return many / few


CHAPTER.line(
    f"first call of a scan of {RNN_STEPS} steps by that of 10",
    way="process",
    unit="x",
    bar=at_most(1.2),
    treadle=_length_ratio,
    rounds=3,
)


def _checkpointed_peak() -> float:
    """What a budget is predicted to take off the peak of a gradient, by what it takes off the plan: both in bytes."""
    import treadle as td

    def network(params: Any, x: Any) -> Any:
        return (mlp(np, params, x) ** 2).sum()

    params, x = mlp_arrays(*[256] * 17), normal(256, 256)

    def peaks(budget: int) -> tuple[int, int]:
        planned = td.jit(td.grad(network, remat=budget)).compile(params, x).memory_analysis().temp_size_in_bytes
        return td.checkpoint(network, policy=budget).frontier(params, x).peak, planned

    (predicted, planned), (most_predicted, most_planned) = peaks(4 * x.nbytes), peaks(64 * x.nbytes)
    return (most_predicted - predicted) / (most_planned - planned)


CHAPTER.line(
    "peak that a checkpoint is predicted to save by what it saves, 16 layers",
    way="value",
    unit="x",
    bar=at_most(1.05),
    treadle=_checkpointed_peak,
)
