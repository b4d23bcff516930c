"""How far results are from the true ones. No clock enters, so each engine answers once. Vector functions in units of
the last place against f64; sums against the bound that the fixed tree of additions promises; and one or two threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from harness.lines import Chapter, at_most

CHAPTER = Chapter("accuracy")
POINTS = 1 << 20


def _erf(x: Any) -> Any:
    return np.array([math.erf(v) for v in x.tolist()])


def _gelu(x: Any) -> Any:
    return np.array([0.5 * v * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


# Name: the function in f64, the range that is sampled, and the bar in units of the last place.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float, float, float]] = {
    "exp": (np.exp, -87.0, 88.0, 2.5),
    "log": (np.log, 1e-30, 1e30, 2.5),
    "tanh": (np.tanh, -12.0, 12.0, 2.5),
    "erf": (_erf, -5.0, 5.0, 2.5),
    "sigmoid": (_sigmoid, -80.0, 80.0, 2.5),
    "gelu": (_gelu, -5.0, 10.0, 2.5),
    "sin": (np.sin, -1e4, 1e4, 2.0),
    "cos": (np.cos, -1e4, 1e4, 2.0),
}


def points(low: float, high: float) -> Any:
    """Half of them uniform, half with uniform exponents, of both signs where the range has both."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(low, high, POINTS // 2)
    small = np.exp(rng.uniform(math.log(1e-30), math.log(high), POINTS // 2))
    if low < 0:
        small[::2] *= -1
    found = np.concatenate([spread, small]).astype(np.float32)
    return found[(found >= low) & (found <= high)]


def ulp(found: Any, true: Any) -> float:
    """The largest distance in units of the last place of the f32 nearest to the true value; results that f32 only holds
    with fewer digits are left out."""
    with np.errstate(all="ignore"):
        nearest = np.abs(true).astype(np.float32)
        normal = (nearest >= np.finfo(np.float32).tiny) & np.isfinite(nearest)
        distance = np.abs(found[normal].astype(np.float64) - true[normal]) / np.spacing(nearest[normal])
    return float(distance.max())


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)


def wrong_specials(name: str, found: Any) -> list[str]:
    """NaN, the infinities and both zeros: these results are exact, with the right sign; others only as near as the bar
    says."""
    reference = FUNCTIONS[name][0]
    with np.errstate(all="ignore"):
        wanted = np.asarray(reference(SPECIAL.astype(np.float64)))
    if name == "gelu":
        wanted[2] = -0.0  # the limit; the formula itself says 0 * infinity
    return [
        f"{name}({x}) is {f}, not {w}"
        for x, f, w in zip(SPECIAL.tolist(), found.tolist(), wanted.tolist(), strict=True)
        if not (f != f and w != w)
        and not (0 < abs(w) < math.inf)
        and (f != w or math.copysign(1, f) != math.copysign(1, w))
    ]


def _treadle_ulp(name: str) -> Callable[[], float]:
    def measured() -> float:
        import treadle as td

        functions = {"erf": td.lax.erf, "sigmoid": td.nn.sigmoid, "gelu": td.nn.gelu}
        function = td.jit(functions.get(name) or getattr(np, name))
        reference, low, high, _ = FUNCTIONS[name]
        wrong = wrong_specials(name, function(SPECIAL))
        if wrong:
            raise ArithmeticError("; ".join(wrong))
        x = points(low, high)
        return ulp(function(x), reference(x.astype(np.float64)))

    return measured


def _torch_ulp(name: str) -> Callable[[], float]:
    def measured() -> float:
        import torch

        functions = {"erf": torch.special.erf, "gelu": torch.nn.functional.gelu}
        reference, low, high, _ = FUNCTIONS[name]
        x = points(low, high)
        found = (functions.get(name) or getattr(torch, name))(torch.from_numpy(x)).numpy()
        return ulp(found, reference(x.astype(np.float64)))

    return measured


def _jax_ulp(name: str) -> Callable[[], float]:
    def measured() -> float:
        import jax

        functions = {
            "erf": jax.scipy.special.erf,
            "sigmoid": jax.nn.sigmoid,
            "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        }
        reference, low, high, _ = FUNCTIONS[name]
        x = points(low, high)
        found = np.asarray(jax.jit(functions.get(name) or getattr(jax.numpy, name))(x))
        return ulp(found, reference(x.astype(np.float64)))

    return measured


for _name, (_, _low, _high, _bar) in FUNCTIONS.items():
    CHAPTER.line(
        f"{_name} from {_low:g} to {_high:g}",
        way="value",
        unit="ulp",
        bar=at_most(_bar),
        treadle=_treadle_ulp(_name),
        torch=_torch_ulp(_name),
        jax=_jax_ulp(_name),
    )

LENGTHS = (1, 127, 128, 129, 1000, 4096, 1 << 20)


def sum_error(total: Callable[[Any], Any]) -> float:
    """The largest error of sums of several lengths, as a part of (ceil(log2(n/128)) + 128) u sum |x|."""
    worst = 0.0
    for length in LENGTHS:
        for seed in range(4):
            x = np.random.default_rng(seed).standard_normal(length, np.float32) * np.float32(10.0) ** (seed - 2)
            exact = math.fsum(x.tolist())
            size = math.fsum(abs(v) for v in x.tolist())
            allowed = (max(math.ceil(math.log2(length / 128)), 0) + 128) * 2.0**-24 * size
            worst = max(worst, abs(float(total(x)) - exact) / allowed)
    return worst


def _treadle_sum() -> float:
    import treadle as td

    return sum_error(td.jit(lambda x: x.sum()))


def _torch_sum() -> float:
    import torch

    return sum_error(lambda x: torch.from_numpy(x).sum())


CHAPTER.line(
    "error of a sum",
    way="value",
    unit="of its bound",
    bar=at_most(1.0),
    treadle=_treadle_sum,
    numpy=lambda: sum_error(np.sum),
    torch=_torch_sum,
)


def _thread_bits() -> float:
    """How many of these programs give other bits on two threads than on one."""
    import treadle as td

    x = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    programs = (
        lambda x: x.sum(),
        lambda x: x.sum(axis=0),
        lambda x: x.sum(axis=1),
        lambda x: x @ x,
        lambda x: np.exp(x) / (1 + x * x),
        lambda x: td.nn.softmax(x),
        lambda x: td.nn.layer_norm(x),
    )
    differing = 0
    for program in programs:
        one, two = (np.asarray(td.jit(program, threads=n)(x)) for n in (1, 2))
        differing += one.tobytes() != two.tobytes()
    return float(differing)


CHAPTER.line(
    "programs whose bits differ between 1 and 2 threads",
    way="value",
    unit="of 7",
    threads=2,
    bar=at_most(0.0),
    treadle=_thread_bits,
)
