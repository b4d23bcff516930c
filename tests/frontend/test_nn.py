"""`td.nn` against its definitions written out in NumPy, and against torch where that is installed.

Every function runs three ways: at once on NumPy arrays, traced, and compiled. The definitions are loops and sums as a
textbook has them, in double precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tracing import run

import treadle as td
from treadle import nn
from treadle.ir.errors import TreadleError

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def close(got: Any, expected: Any, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol)


def three_ways(function: Callable[..., Any], expected: Any, *args: Any, compiled: bool = True) -> None:
    close(function(*args), expected)
    close(run(function, *args), expected)
    if compiled:
        close(td.jit(function)(*args), expected)


# --- activations --------------------------------------------------------------------------------------------------

erf = np.vectorize(math.erf)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def expm1(x: np.ndarray) -> np.ndarray:
    return np.expm1(np.minimum(x, 0))


ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (nn.relu, lambda x: np.maximum(x, 0)),
    "relu6": (nn.relu6, lambda x: np.clip(x, 0, 6)),
    "gelu": (nn.gelu, lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2)))),
    "gelu by tanh": (
        lambda x: nn.gelu(x, approximate=True),
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "silu": (nn.silu, lambda x: x * sigmoid(x)),
    "swish": (nn.swish, lambda x: x * sigmoid(x)),
    "sigmoid": (nn.sigmoid, sigmoid),
    "log_sigmoid": (nn.log_sigmoid, lambda x: -softplus(-x)),
    "softplus": (nn.softplus, softplus),
    "softplus beta": (lambda x: nn.softplus(x, beta=2.0), lambda x: softplus(2 * x) / 2),
    "tanh": (nn.tanh, np.tanh),
    "leaky_relu": (nn.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x)),
    "leaky_relu slope": (lambda x: nn.leaky_relu(x, 0.3), lambda x: np.where(x > 0, x, 0.3 * x)),
    "elu": (nn.elu, lambda x: np.where(x > 0, x, expm1(x))),
    "elu alpha": (lambda x: nn.elu(x, 0.5), lambda x: np.where(x > 0, x, 0.5 * expm1(x))),
    "celu": (lambda x: nn.celu(x, 2.0), lambda x: np.where(x > 0, x, 2 * expm1(x / 2))),
    "selu": (nn.selu, lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * expm1(x))),
    "soft_sign": (nn.soft_sign, lambda x: x / (1 + np.abs(x))),
    "mish": (nn.mish, lambda x: x * np.tanh(softplus(x))),
    "hard_tanh": (nn.hard_tanh, lambda x: np.clip(x, -1, 1)),
    "hard_sigmoid": (nn.hard_sigmoid, lambda x: np.clip(x + 3, 0, 6) / 6),
    "hard_silu": (nn.hard_silu, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "hard_swish": (nn.hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "soft_shrink": (nn.soft_shrink, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0)),
    "hard_shrink": (nn.hard_shrink, lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    "tanh_shrink": (nn.tanh_shrink, lambda x: x - np.tanh(x)),
    "threshold": (lambda x: nn.threshold(x, 0.2, 9.0), lambda x: np.where(x > 0.2, x, 9.0)),
    "glu": (nn.glu, lambda x: x[..., :8] * sigmoid(x[..., 8:])),
    "prelu": (lambda x: nn.prelu(x, np.float32(0.2)), lambda x: np.where(x > 0, x, np.float32(0.2) * x)),
    "prelu of channels": (
        lambda x: nn.prelu(x, np.arange(16, dtype=np.float32) / 10),
        lambda x: np.where(x > 0, x, x * np.arange(16, dtype=np.float32) / 10),
    ),
    "softmax": (nn.softmax, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "softmax of axis 0": (lambda x: nn.softmax(x, 0), lambda x: np.exp(x) / np.exp(x).sum(0)),
    "softmax of both": (lambda x: nn.softmax(x, (0, 1)), lambda x: np.exp(x) / np.exp(x).sum()),
    "softmax of some": (
        lambda x: nn.softmax(x, where=x > 0),
        lambda x: np.exp(x) * (x > 0) / (np.exp(x) * (x > 0)).sum(-1, keepdims=True),
    ),
    "log_softmax": (nn.log_softmax, lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
    "logsumexp": (nn.logsumexp, lambda x: np.log(np.exp(x).sum())),
    "logsumexp of axis": (
        lambda x: nn.logsumexp(x, 1, keepdims=True),
        lambda x: np.log(np.exp(x).sum(1, keepdims=True)),
    ),
    "logsumexp weighted": (
        lambda x: nn.logsumexp(x, 0, b=np.array([[1.0], [2.0], [0.0]], np.float32)),
        lambda x: np.log(np.exp(x[0]) + 2 * np.exp(x[1])),
    ),
    "standardize": (
        nn.standardize,
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5),
    ),
    "normalize": (nn.normalize, lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    function, definition = ACTIVATIONS[name]
    x = noise(3, 16) * 3
    three_ways(function, definition(x.astype(np.float64)), x, compiled=False)


# The same as machine code, all in one program; the dtype of floats stays, integers become float64.
def test_activations_compiled() -> None:
    x = noise(3, 16) * 3
    got = td.jit(lambda x: [function(x) for function, _ in ACTIVATIONS.values()])(x)
    for (_, definition), value in zip(ACTIVATIONS.values(), got, strict=True):
        assert value.dtype == np.float32
        close(value, definition(x.astype(np.float64)))
    for name, (function, _) in ACTIVATIONS.items():
        if name not in ("prelu", "prelu of channels", "logsumexp weighted"):  # they meet a float32
            for kind in (np.float16, ml_dtypes.bfloat16, np.float64):
                assert np.asarray(function(x.astype(kind))).dtype == kind, name
    assert nn.silu(x.astype(ml_dtypes.float8_e4m3fn)).dtype == ml_dtypes.float8_e4m3fn
    assert nn.silu(np.arange(3)).dtype == np.float64
    assert nn.relu(np.arange(-1, 2)).dtype == np.int64


SMOOTH = ["gelu", "gelu by tanh", "silu", "sigmoid", "log_sigmoid", "softplus", "tanh", "elu", "celu", "selu", "mish",
          "soft_sign", "tanh_shrink", "softmax", "log_softmax", "logsumexp"]  # fmt: skip


# Far out there is no NaN, neither in the value nor in the derivative.
@pytest.mark.parametrize("name", SMOOTH)
def test_far_out(name: str) -> None:
    function, _ = ACTIVATIONS[name]
    x = np.array([[-3e38, -1e4, -90.0, 0.0, 90.0, 1e4, 3e38]], np.float32)
    assert not np.isnan(function(x)).any()
    slopes = td.grad(lambda v: np.sum(function(v)))(np.clip(x, -1e4, 1e4))
    assert np.isfinite(slopes).all()


# --- convolution --------------------------------------------------------------------------------------------------


def conv_loops(
    x: np.ndarray, w: np.ndarray, stride: tuple[int, ...], pads: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> np.ndarray:
    """The sum over the window, written out: one output position at a time."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    rank = x.ndim - 2
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in pads)))
    sizes = [(x.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(rank)]
    found = np.zeros((x.shape[0], w.shape[0], *sizes))
    share, outs = w.shape[1], w.shape[0] // groups
    for place in itertools.product(*map(range, sizes)):
        cut = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(place, stride, dilation, w.shape[2:], strict=True)
        )
        for g in range(groups):
            block = x[(slice(None), slice(g * share, (g + 1) * share), *cut)]
            kernel = w[g * outs : (g + 1) * outs]
            axes = tuple(range(1, block.ndim))
            found[(slice(None), slice(g * outs, (g + 1) * outs), *place)] = np.tensordot(block, kernel, (axes, axes))
    return found


CONVOLUTIONS = [
    # x, w, stride, padding, dilation, groups
    ((2, 3, 9), (4, 3, 3), 1, 0, 1, 1),
    ((2, 4, 11), (6, 2, 3), 2, 1, 2, 2),
    ((1, 3, 7, 6), (5, 3, 3, 2), 1, 0, 1, 1),
    ((2, 3, 7, 6), (4, 3, 3, 3), 2, 1, 1, 1),
    ((1, 4, 8, 8), (4, 1, 3, 3), 1, 1, 1, 4),  # depthwise
    ((1, 4, 9, 8), (8, 2, 3, 2), (2, 1), (1, 0), (1, 2), 2),
    ((2, 3, 5, 5), (7, 3, 1, 1), 1, 0, 1, 1),
    ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), 1, 1, 1, 1),
    ((1, 4, 5, 5, 5), (4, 2, 3, 2, 3), (1, 2, 1), (1, 0, 2), (2, 1, 1), 2),
]


def each(n: Any, rank: int) -> tuple[int, ...]:
    return n if isinstance(n, tuple) else (n,) * rank


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_convolutions(x_shape: Any, w_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    x, w, b = noise(*x_shape), noise(*w_shape), noise(w_shape[0])
    rank = len(x_shape) - 2
    numbers = (each(stride, rank), each(padding, rank), each(dilation, rank))
    expected = conv_loops(x, w, *numbers, groups) + b.reshape(-1, *(1,) * rank)

    def function(x: Any, w: Any, b: Any) -> Any:
        return nn.conv(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)

    for got in (function(x, w, b), td.jit(function)(x, w, b)):
        close(got, expected, 1e-4, 1e-4)

    def last(x: Any, w: Any, b: Any) -> Any:
        layout = "N" + "DHW"[-rank:] + "C"
        return nn.conv(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups, layout=layout)

    moved = last(np.moveaxis(x, 1, -1).copy(), w.transpose(*range(2, w.ndim), 1, 0).copy(), b)
    close(np.moveaxis(moved, -1, 1), expected, 1e-4, 1e-4)


def transpose_loops(
    x: np.ndarray, w: np.ndarray, stride: tuple[int, ...], pads: tuple[int, ...], extra: tuple[int, ...],
    dilation: tuple[int, ...], groups: int,
) -> np.ndarray:  # fmt: skip
    """Every element of x adds its window to the result; then the padding is cut off."""
    rank, outs, share = x.ndim - 2, w.shape[1], x.shape[1] // groups
    reach = [(k - 1) * d for k, d in zip(w.shape[2:], dilation, strict=True)]
    sizes = [(x.shape[2 + i] - 1) * stride[i] + reach[i] + 1 + extra[i] for i in range(rank)]
    found = np.zeros((x.shape[0], outs * groups, *sizes))
    for place in itertools.product(*map(range, x.shape[2:])):
        cut = tuple(slice(p * s, p * s + r + 1, d) for p, s, r, d in zip(place, stride, reach, dilation, strict=True))
        for g in range(groups):
            kernel = w[g * share : (g + 1) * share].astype(np.float64)
            value = x[(slice(None), slice(g * share, (g + 1) * share), *place)].astype(np.float64)
            found[(slice(None), slice(g * outs, (g + 1) * outs), *cut)] += np.tensordot(value, kernel, (1, 0))
    kept = tuple(slice(p, n - p) for p, n in zip(pads, sizes, strict=True))
    return found[(slice(None), slice(None), *kept)]


TRANSPOSES = [
    # x, w, stride, padding, output_padding, dilation, groups
    ((2, 3, 5), (3, 4, 3), 2, 1, 1, 1, 1),
    ((1, 4, 4, 5), (4, 3, 3, 2), 1, 0, 0, 1, 1),
    ((2, 4, 4, 3), (4, 2, 3, 3), 2, 1, 1, 1, 2),
    ((1, 2, 4, 4), (2, 3, 2, 3), (2, 3), (0, 1), (1, 2), (2, 1), 1),
    ((1, 2, 3, 3, 2), (2, 2, 2, 2, 2), 2, 0, 0, 1, 1),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding", "extra", "dilation", "groups"), TRANSPOSES)
def test_transposed_convolutions(
    x_shape: Any, w_shape: Any, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int
) -> None:
    x, w, b = noise(*x_shape), noise(*w_shape), noise(w_shape[1] * groups)
    rank = len(x_shape) - 2
    numbers = (each(stride, rank), each(padding, rank), each(extra, rank), each(dilation, rank))
    expected = transpose_loops(x, w, *numbers, groups) + b.reshape(-1, *(1,) * rank)

    def function(x: Any, w: Any, b: Any) -> Any:
        return nn.conv_transpose(
            x, w, b, stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups
        )

    for got in (function(x, w, b), td.jit(function)(x, w, b)):
        close(got, expected, 1e-4, 1e-4)


# "same" keeps the size at stride 1 and gives its quotient at others, the odd one at the end.
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_by_name(stride: int) -> None:
    x, w = noise(1, 1, 10), noise(1, 1, 4)
    same = nn.conv(x, w, stride=stride, padding="same")
    assert same.shape[-1] == -(-10 // stride)
    total = max((same.shape[-1] - 1) * stride + 4 - 10, 0)
    pair = (total // 2, total - total // 2)
    close(same, nn.conv(np.pad(x, ((0, 0), (0, 0), pair)), w, stride=stride))
    close(nn.conv(x, w, padding="valid"), nn.conv(x, w))


# --- pooling ------------------------------------------------------------------------------------------------------


def windows(
    x: np.ndarray, k: tuple[int, ...], s: tuple[int, ...], p: tuple[int, ...], d: tuple[int, ...], fill: float
) -> np.ndarray:
    """[N, C, *out, elements of the window]."""
    rank = x.ndim - 2
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *((n, n) for n in p)), constant_values=fill)
    sizes = [(x.shape[2 + i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in range(rank)]
    found = np.empty((*x.shape[:2], *sizes, math.prod(k)))
    for place in itertools.product(*map(range, sizes)):
        cut = tuple(slice(q * a, q * a + b * (c - 1) + 1, b) for q, a, b, c in zip(place, s, d, k, strict=True))
        found[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *cut)].reshape(*x.shape[:2], -1)
    return found


POOLS = [
    ((2, 3, 9), 3, None, 0, 1), ((1, 2, 8, 7), 2, None, 0, 1), ((1, 2, 8, 7), 3, 2, 1, 1),
    ((2, 2, 9, 8), (3, 2), (2, 1), (1, 0), 1), ((1, 2, 5, 6, 5), 2, 1, 0, 1), ((1, 2, 9, 9), 2, 1, 0, 3),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "window", "stride", "padding", "dilation"), POOLS)
def test_pools(shape: Any, window: Any, stride: Any, padding: Any, dilation: int) -> None:
    x, rank = noise(*shape), len(shape) - 2
    numbers = (each(window, rank), each(window if stride is None else stride, rank), each(padding, rank))
    spread = each(dilation, rank)
    three_ways(
        lambda x: nn.max_pool(x, window, stride, padding, dilation),
        windows(x, *numbers, spread, -np.inf).max(-1), x,
    )  # fmt: skip
    close(nn.min_pool(x, window, stride, padding, dilation), windows(x, *numbers, spread, np.inf).min(-1))
    if dilation == 1:
        three_ways(lambda x: nn.avg_pool(x, window, stride, padding), windows(x, *numbers, spread, 0).mean(-1), x)
        there = np.nanmean(windows(x, *numbers, spread, np.nan), -1)
        close(nn.avg_pool(x, window, stride, padding, count_include_pad=False), there)
    axes = (0, *range(2, x.ndim), 1)
    layout = "N" + "DHW"[-rank:] + "C"
    last = nn.max_pool(x.transpose(axes).copy(), window, stride, padding, dilation, layout=layout)
    close(np.moveaxis(last, -1, 1), nn.max_pool(x, window, stride, padding, dilation))


@pytest.mark.parametrize("out", [1, 2, 3, (3, 5), (4, 7)])
def test_adaptive_pools(out: Any) -> None:
    x = noise(2, 3, 8, 7)
    sizes = each(out, 2)
    mean, most = np.empty((2, 3, *sizes)), np.empty((2, 3, *sizes))
    for i, j in itertools.product(*map(range, sizes)):
        rows = slice(i * 8 // sizes[0], -(-(i + 1) * 8 // sizes[0]))
        block = x[:, :, rows, j * 7 // sizes[1] : -(-(j + 1) * 7 // sizes[1])].astype(np.float64)
        mean[:, :, i, j], most[:, :, i, j] = block.mean((2, 3)), block.max((2, 3))
    three_ways(lambda x: nn.adaptive_avg_pool(x, out), mean, x)
    three_ways(lambda x: nn.adaptive_max_pool(x, out), most, x)


def test_global_pools() -> None:
    x = noise(2, 3, 4, 5)
    close(nn.global_avg_pool(x), x.mean((2, 3)))
    close(nn.global_avg_pool(x, keepdims=True), x.mean((2, 3), keepdims=True))
    close(nn.global_avg_pool(x, layout="NHWC"), x.mean((1, 2)))


# --- resampling ---------------------------------------------------------------------------------------------------


def resampled(x: np.ndarray, sizes: tuple[int, ...], mode: str, corners: bool) -> np.ndarray:
    """Each axis in turn: the nearest element, or the two neighbours weighted."""
    x = x.astype(np.float64)
    for axis, out in enumerate(sizes, 2):
        n = x.shape[axis]
        if mode == "nearest":
            x = np.take(x, [math.floor(i * n / out) for i in range(out)], axis)
            continue
        if corners:
            places = np.array([i * (n - 1) / (out - 1) if out > 1 else 0.0 for i in range(out)])
        else:
            places = np.clip((np.arange(out) + 0.5) * n / out - 0.5, 0, None)
        low = np.minimum(np.floor(places).astype(int), n - 1)
        part = (places - low).reshape(-1, *(1,) * (x.ndim - axis - 1))
        x = np.take(x, low, axis) * (1 - part) + np.take(x, np.minimum(low + 1, n - 1), axis) * part
    return x


@pytest.mark.parametrize(("mode", "corners"), [("nearest", False), ("linear", False), ("linear", True)])
def test_interpolation(mode: str, corners: bool) -> None:
    for shape, sizes in (
        ((2, 3, 5), (8,)),
        ((1, 2, 4, 6), (8, 9)),
        ((1, 2, 5, 4), (3, 4)),
        ((1, 1, 2, 3, 2), (4, 3, 5)),
    ):
        x = noise(*shape)
        expected = resampled(x, sizes, mode, corners)
        three_ways(
            lambda x, s=sizes: nn.interpolate(x, s, mode=mode, align_corners=corners), expected, x, compiled=False
        )
    x = noise(1, 2, 4, 6)
    close(td.jit(lambda x: nn.interpolate(x, scale=2, mode=mode))(x), resampled(x, (8, 12), mode, False))


def test_pixel_shuffle() -> None:
    x = noise(2, 12, 3, 4)
    expected = np.empty((2, 3, 6, 8), np.float32)
    for c, i, j in itertools.product(range(3), range(2), range(2)):
        expected[:, c, i::2, j::2] = x[:, c * 4 + i * 2 + j]
    three_ways(lambda x: nn.pixel_shuffle(x, 2), expected, x)
    close(nn.pixel_unshuffle(expected, 2), x)


# --- norms --------------------------------------------------------------------------------------------------------


def standard(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def test_norms() -> None:
    x, g, b = noise(4, 6, 5) * 3 + 1, noise(5), noise(5)
    three_ways(nn.layer_norm, standard(x, (2,), 1e-5) * g + b, x, g, b)
    three_ways(lambda x: nn.layer_norm(x, axis=(1, 2), eps=1e-3), standard(x, (1, 2), 1e-3), x)
    rms = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    three_ways(nn.rms_norm, rms * g, x, g)
    g, b = noise(6), noise(6)
    column = (slice(None), None)
    grouped = standard(x.reshape(4, 2, 15), (2,), 1e-5).reshape(4, 6, 5) * g[column] + b[column]
    three_ways(lambda x, g, b: nn.group_norm(x, 2, g, b), grouped, x, g, b)
    three_ways(nn.instance_norm, standard(x, (2,), 1e-5) * g[column] + b[column], x, g, b)
    mean, var = x.mean((0, 2)), x.var((0, 2))
    normed = (x - mean[column]) / np.sqrt(var[column] + 1e-5) * g[column] + b[column]
    three_ways(nn.batch_norm, normed, x, mean, var, g, b)
    for got, expected in zip(nn.batch_stats(x), (mean, var), strict=True):
        close(got, expected, 1e-4, 1e-5)
    local = x.astype(np.float64) ** 2
    near = sum(np.pad(local, ((0, 0), (1, 1), (0, 0)))[:, i : i + 6] for i in range(3))
    three_ways(lambda x: nn.local_response_norm(x, 3, alpha=0.1), x / (1 + 0.1 * near / 3) ** 0.75, x)


# --- attention ----------------------------------------------------------------------------------------------------


def attention_loops(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, scale: float) -> np.ndarray:
    """[N, T, H] with a mask that is added."""
    scores = np.einsum("nth,nsh->nts", q.astype(np.float64), k) * scale
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("nts,nsh->nth", weights / weights.sum(-1, keepdims=True), v)


def test_attention() -> None:
    q, k, v = noise(4, 5, 8), noise(4, 7, 8), noise(4, 7, 6)
    chosen = RNG.random((4, 5, 7)) < 0.7
    chosen[..., 0] = True
    bias = noise(4, 5, 7)
    scale = 1 / math.sqrt(8)
    hidden = np.where(chosen, 0.0, -np.inf)
    causal = np.where(np.arange(7) <= np.arange(5)[:, None] + 2, 0.0, -np.inf)
    f = nn.scaled_dot_product_attention
    three_ways(f, attention_loops(q, k, v, None, scale), q, k, v)
    three_ways(f, attention_loops(q, k, v, hidden, scale), q, k, v, chosen)
    three_ways(f, attention_loops(q, k, v, bias, scale), q, k, v, bias)
    three_ways(lambda q, k, v: f(q, k, v, is_causal=True, offset=2), attention_loops(q, k, v, causal, scale), q, k, v)
    three_ways(lambda q, k, v: f(q, k, v, scale=0.3), attention_loops(q, k, v, None, 0.3), q, k, v)
    # Heads stand before last in jax's form.
    swapped = [x.swapaxes(0, 1).copy() for x in (q, k, v)]
    expected = attention_loops(q, k, v, hidden + bias, scale).swapaxes(0, 1)
    three_ways(lambda *xs: nn.dot_product_attention(*xs, mask=chosen, bias=bias), expected, *swapped)
    # Two heads of queries share one of the keys.
    shared = attention_loops(q, np.repeat(k[:2], 2, 0), np.repeat(v[:2], 2, 0), None, scale)
    three_ways(f, shared, q, k[:2].copy(), v[:2].copy())


# --- tables, dropout, losses --------------------------------------------------------------------------------------


def test_tables() -> None:
    i = np.array([[0, 2], [1, 3]])
    table = noise(4, 5)
    three_ways(nn.embedding, table[i], i, table)
    three_ways(lambda i: nn.one_hot(i, 4), np.eye(4)[i], i)
    close(nn.one_hot(i, 3, axis=0, dtype=np.float64), np.moveaxis(np.eye(4)[i][..., :3], -1, 0))
    with pytest.raises(IndexError):
        td.jit(nn.embedding)(i + 2, table)


def test_dropout() -> None:
    x = np.ones((200, 50), np.float32)
    key = td.random.key(0)
    got = td.jit(lambda x, k: nn.dropout(x, 0.25, k))(x, key)
    assert set(np.unique(got)) <= {np.float32(0), np.float32(1 / 0.75)}
    assert abs((got == 0).mean() - 0.25) < 0.02
    close(nn.dropout(x, 0.25, deterministic=True), x)


LABELS = np.array([2, 0, 1, 2])
LOGITS = noise(4, 3)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def picked(x: np.ndarray) -> np.ndarray:
    return -log_softmax(x)[np.arange(4), LABELS]


P, Q = nn.softmax(noise(4, 3)), nn.softmax(noise(4, 3))
X, Y, Z, SIDE = noise(4, 3), noise(4, 3) * 2, noise(4, 3), np.where(noise(4) > 0, 1, -1)
WEIGHT = np.array([0.5, 1.0, 2.0], np.float32)
LOSSES: dict[str, tuple[Callable[[], Any], Any]] = {
    "cross_entropy": (lambda: nn.cross_entropy(LOGITS, LABELS), picked(LOGITS).mean()),
    "cross_entropy summed": (lambda: nn.cross_entropy(LOGITS, LABELS, reduction="sum"), picked(LOGITS).sum()),
    "cross_entropy each": (lambda: nn.cross_entropy(LOGITS, LABELS, reduction="none"), picked(LOGITS)),
    "cross_entropy weighted": (
        lambda: nn.cross_entropy(LOGITS, LABELS, weight=WEIGHT),
        (picked(LOGITS) * WEIGHT[LABELS]).sum() / WEIGHT[LABELS].sum(),
    ),
    "cross_entropy smoothed": (
        lambda: nn.cross_entropy(LOGITS, LABELS, label_smoothing=0.1),
        (0.9 * picked(LOGITS) - 0.1 / 3 * log_softmax(LOGITS).sum(-1)).mean(),
    ),
    "cross_entropy ignoring": (
        lambda: nn.cross_entropy(LOGITS, LABELS, ignore_index=2),
        picked(LOGITS)[LABELS != 2].mean(),
    ),
    "cross_entropy of probabilities": (
        lambda: nn.cross_entropy(LOGITS, P), -(P * log_softmax(LOGITS)).sum(-1).mean(),
    ),
    "cross_entropy along axis 1": (
        lambda: nn.cross_entropy(LOGITS.T[None], LABELS[None], axis=1), picked(LOGITS).mean(),
    ),
    "nll": (lambda: nn.nll(nn.log_softmax(LOGITS), LABELS), picked(LOGITS).mean()),
    "binary_cross_entropy": (
        lambda: nn.binary_cross_entropy(X, P),
        -(P * np.log(sigmoid(X)) + (1 - P) * np.log(1 - sigmoid(X))).mean(),
    ),
    "binary_cross_entropy weighted": (
        lambda: nn.binary_cross_entropy(X, P, pos_weight=3.0),
        -(3 * P * np.log(sigmoid(X)) + (1 - P) * np.log(1 - sigmoid(X))).mean(),
    ),
    "mse": (lambda: nn.mse(X, Y), ((X - Y) ** 2).mean()),
    "mae": (lambda: nn.mae(X, Y), np.abs(X - Y).mean()),
    "huber": (
        lambda: nn.huber(X, Y, 0.7),
        np.where(np.abs(X - Y) < 0.7, 0.5 * (X - Y) ** 2, 0.7 * (np.abs(X - Y) - 0.35)).mean(),
    ),
    "smooth_l1": (
        lambda: nn.smooth_l1(X, Y, 0.7),
        np.where(np.abs(X - Y) < 0.7, 0.5 * (X - Y) ** 2 / 0.7, np.abs(X - Y) - 0.35).mean(),
    ),
    "log_cosh": (lambda: nn.log_cosh(X, Y), np.log(np.cosh((X - Y).astype(np.float64))).mean()),
    "hinge": (lambda: nn.hinge(X[:, 0], SIDE), np.maximum(0, 1 - X[:, 0] * SIDE).mean()),
    "poisson_nll": (lambda: nn.poisson_nll(X, Y), (np.exp(X) - Y * X).mean()),
    "kl_divergence": (
        lambda: nn.kl_divergence(np.log(Q), P), (P * (np.log(P) - np.log(Q))).sum(-1).mean(),
    ),
    "cosine_similarity": (
        lambda: nn.cosine_similarity(X, Y),
        (X * Y).sum(-1) / (np.linalg.norm(X, axis=-1) * np.linalg.norm(Y, axis=-1)),
    ),
    "triplet_margin": (
        lambda: nn.triplet_margin(X, Y, Z),
        np.maximum(
            0, np.linalg.norm(X - Y + 1e-6, axis=-1) - np.linalg.norm(X - Z + 1e-6, axis=-1) + 1
        ).mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    loss, expected = LOSSES[name]
    close(loss(), expected, 1e-5, 1e-6)


# The whole of them as machine code: the arrays are constants of the program's closure, so X is passed to trace.
def test_losses_compiled() -> None:
    def losses(x: Any, y: Any, logits: Any, labels: Any, p: Any) -> Any:
        return (
            nn.cross_entropy(logits, labels, weight=WEIGHT, label_smoothing=0.1), nn.nll(logits, labels),
            nn.binary_cross_entropy(x, p), nn.mse(x, y), nn.mae(x, y), nn.huber(x, y), nn.smooth_l1(x, y),
            nn.log_cosh(x, y), nn.poisson_nll(x, y), nn.kl_divergence(x, p), nn.cosine_similarity(x, y),
            nn.triplet_margin(x, y, x * y), nn.hinge(x, y),
        )  # fmt: skip

    for got, expected in zip(td.jit(losses)(X, Y, LOGITS, LABELS, P), losses(X, Y, LOGITS, LABELS, P), strict=True):
        close(got, expected, 1e-5, 1e-6)


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "complex numbers": (lambda: nn.sigmoid(X * 1j), "TD0831"),
    "channels": (lambda: nn.conv(noise(1, 3, 5), noise(2, 4, 3)), "TD0832"),
    "ranks": (lambda: nn.conv(noise(1, 3, 5), noise(2, 3, 3, 3)), "TD0832"),
    "a bias of two axes": (lambda: nn.conv(noise(1, 3, 5), noise(2, 3, 3), noise(2, 1)), "TD0832"),
    "strides": (lambda: nn.conv(noise(1, 3, 5, 5), noise(2, 3, 3, 3), stride=(1, 2, 3)), "TD0830"),
    "a name of padding": (lambda: nn.conv(noise(1, 3, 5), noise(2, 3, 3), padding="full"), "TD0830"),
    "a layout": (lambda: nn.max_pool(noise(1, 3, 5), 2, layout="NHWC"), "TD0830"),
    "an array without channels": (lambda: nn.max_pool(noise(3, 5), 2), "TD0832"),
    "heads": (lambda: nn.scaled_dot_product_attention(noise(3, 5, 8), noise(2, 5, 8), noise(2, 5, 8)), "TD0833"),
    "a mask of numbers": (
        lambda: nn.dot_product_attention(noise(5, 2, 8), noise(5, 2, 8), noise(5, 2, 8), mask=noise(2, 5, 5)),
        "TD0833",
    ),
    "labels of floats": (lambda: nn.cross_entropy(LOGITS, LABELS.astype(bool)), "TD0831"),
    "classes of floats": (lambda: nn.one_hot(X, 3), "TD0831"),
    "a rate": (lambda: nn.dropout(X, 1.5, td.random.key(0)), "TD0830"),
    "no key": (lambda: nn.dropout(X, 0.5), "TD0830"),
    "a reduction": (lambda: nn.mse(X, Y, reduction="avg"), "TD0830"),
    "an approximation": (lambda: nn.gelu(X, approximate="fast"), "TD0830"),
    "a mode": (lambda: nn.interpolate(noise(1, 1, 4), (8,), mode="cubic"), "TD0830"),
    "channels of pixels": (lambda: nn.pixel_shuffle(noise(1, 3, 2, 2), 2), "TD0832"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, code = REFUSED[name]
    with pytest.raises(TreadleError) as caught:
        call()
    assert caught.value.code == code
    assert "nn." in str(caught.value)


# Every function says what it takes and gives.
def test_docstrings() -> None:
    for name in nn.__all__:
        text = getattr(nn, name).__doc__ or ""
        assert len(text) > 10 and text.endswith((".", ". ", "\n", "    ")), name


# --- torch --------------------------------------------------------------------------------------------------------


def pairs(torch: Any) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]]:
    f = torch.nn.functional
    x, image = noise(4, 16) * 3, noise(2, 4, 9, 8)
    q = noise(2, 4, 5, 8)
    names = [
        ("relu", "relu"), ("relu6", "relu6"), ("gelu", "gelu"), ("silu", "silu"), ("sigmoid", "sigmoid"),
        ("log_sigmoid", "logsigmoid"), ("softplus", "softplus"), ("tanh", "tanh"), ("leaky_relu", "leaky_relu"),
        ("elu", "elu"), ("celu", "celu"), ("selu", "selu"), ("soft_sign", "softsign"), ("mish", "mish"),
        ("hard_tanh", "hardtanh"), ("hard_sigmoid", "hardsigmoid"), ("hard_silu", "hardswish"), ("glu", "glu"),
        ("soft_shrink", "softshrink"), ("hard_shrink", "hardshrink"), ("tanh_shrink", "tanhshrink"),
        ("normalize", "normalize"),
    ]  # fmt: skip
    found = {name: (getattr(nn, name), getattr(f, theirs), (x,)) for name, theirs in names if name != "normalize"}
    w, b = noise(6, 2, 3, 3), noise(6)
    wt = noise(4, 3, 3, 3)
    labels = np.array([1, 0, 3, 2])
    mask = RNG.random((5, 5)) < 0.7
    mask[:, 0] = True
    return found | {
        "softmax": (nn.softmax, lambda x: f.softmax(x, -1), (x,)),
        "log_softmax": (nn.log_softmax, lambda x: f.log_softmax(x, -1), (x,)),
        "gelu by tanh": (lambda x: nn.gelu(x, "tanh"), lambda x: f.gelu(x, approximate="tanh"), (x,)),
        "threshold": (lambda x: nn.threshold(x, 0.1, 2.0), lambda x: f.threshold(x, 0.1, 2.0), (x,)),
        "prelu": (nn.prelu, f.prelu, (x, np.array([0.25], np.float32))),
        "conv": (
            lambda x, w, b: nn.conv(x, w, b, stride=(2, 1), padding=1, dilation=(1, 2), groups=2),
            lambda x, w, b: f.conv2d(x, w, b, stride=(2, 1), padding=1, dilation=(1, 2), groups=2), (image, w, b),
        ),
        "conv_transpose": (
            lambda x, w: nn.conv_transpose(x, w, stride=2, padding=1, output_padding=1, groups=2),
            lambda x, w: f.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1, groups=2), (image, wt),
        ),
        "max_pool": (lambda x: nn.max_pool(x, 3, 2, 1), lambda x: f.max_pool2d(x, 3, 2, 1), (image,)),
        "max_pool, rounded up": (
            lambda x: nn.max_pool(x, 2, 2, ceil_mode=True), lambda x: f.max_pool2d(x, 2, 2, ceil_mode=True), (image,),
        ),
        "avg_pool, rounded up": (
            lambda x: nn.avg_pool(x, 3, 2, 1, ceil_mode=True),
            lambda x: f.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (image,),
        ),
        "avg_pool of what is there": (
            lambda x: nn.avg_pool(x, 3, 2, 1, count_include_pad=False, ceil_mode=True),
            lambda x: f.avg_pool2d(x, 3, 2, 1, count_include_pad=False, ceil_mode=True), (image,),
        ),
        "adaptive_avg_pool": (
            lambda x: nn.adaptive_avg_pool(x, (4, 3)), lambda x: f.adaptive_avg_pool2d(x, (4, 3)), (image,),
        ),
        "adaptive_max_pool": (
            lambda x: nn.adaptive_max_pool(x, (4, 3)), lambda x: f.adaptive_max_pool2d(x, (4, 3)), (image,),
        ),
        "interpolate": (
            lambda x: nn.interpolate(x, (5, 13), mode="linear"),
            lambda x: f.interpolate(x, (5, 13), mode="bilinear"), (image,),
        ),
        "interpolate to the corners": (
            lambda x: nn.interpolate(x, (5, 13), mode="linear", align_corners=True),
            lambda x: f.interpolate(x, (5, 13), mode="bilinear", align_corners=True), (image,),
        ),
        "interpolate to the nearest": (
            lambda x: nn.interpolate(x, (5, 13)), lambda x: f.interpolate(x, (5, 13)), (image,),
        ),
        "pixel_shuffle": (lambda x: nn.pixel_shuffle(x, 2), lambda x: f.pixel_shuffle(x, 2), (image,)),
        "pixel_unshuffle": (
            lambda x: nn.pixel_unshuffle(x[:, :, :8], 2), lambda x: f.pixel_unshuffle(x[:, :, :8], 2), (image,),
        ),
        "layer_norm": (
            lambda x, w: nn.layer_norm(x, w), lambda x, w: f.layer_norm(x, (16,), w), (x, noise(16)),
        ),
        "group_norm": (lambda x: nn.group_norm(x, 2), lambda x: f.group_norm(x, 2), (image,)),
        "instance_norm": (nn.instance_norm, f.instance_norm, (image,)),
        "local_response_norm": (
            lambda x: nn.local_response_norm(x, 3), lambda x: f.local_response_norm(x, 3), (image,),
        ),
        "attention": (
            lambda q, m: nn.scaled_dot_product_attention(q, q, q, m),
            lambda q, m: f.scaled_dot_product_attention(q, q, q, m), (q, mask),
        ),
        "causal attention": (
            lambda q: nn.scaled_dot_product_attention(q, q, q, is_causal=True),
            lambda q: f.scaled_dot_product_attention(q, q, q, is_causal=True), (q,),
        ),
        "cross_entropy": (
            lambda x, y: nn.cross_entropy(x, y, label_smoothing=0.2, ignore_index=3),
            lambda x, y: f.cross_entropy(x, y, label_smoothing=0.2, ignore_index=3), (x, labels),
        ),
        "smooth_l1": (nn.smooth_l1, f.smooth_l1_loss, (x, x[::-1].copy())),
        "huber": (nn.huber, f.huber_loss, (x, x[::-1].copy())),
        "poisson_nll": (nn.poisson_nll, f.poisson_nll_loss, (x, np.abs(x[::-1]))),
        "triplet_margin": (nn.triplet_margin, f.triplet_margin_loss, (x, x[::-1].copy(), x + 1)),
        "cosine_similarity": (
            nn.cosine_similarity, lambda a, b: f.cosine_similarity(a, b, -1), (x, x[::-1].copy()),
        ),
    }  # fmt: skip


def test_like_torch() -> None:
    torch = pytest.importorskip("torch")
    for name, (ours, theirs, args) in pairs(torch).items():
        expected = theirs(*map(torch.from_numpy, args)).numpy()
        np.testing.assert_allclose(ours(*args), expected, rtol=1e-4, atol=1e-5, err_msg=name)
