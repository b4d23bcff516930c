"""Functions as users write them, over the whole of NumPy: compiled, they give what NumPy gives.

Statistics, signals, images, geometry, physics, learning: two hundred short programs, each compiled once on float32 (or
integers) and compared in value, dtype and shape with its own run in NumPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td

R = np.random.default_rng(0)
x = R.standard_normal((8, 16))
w = R.standard_normal((16, 4))
v = R.standard_normal(16)
S = R.standard_normal((5, 5))
img = R.random((12, 10, 3))
t = np.linspace(0, 1, 64)
n = R.integers(0, 10, (6, 7))

FUNCTIONS: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("zscore", lambda x: (x - x.mean(0)) / x.std(0), (x,)),
    ("minmax", lambda x: (x - x.min(axis=1, keepdims=True)) / np.ptp(x, axis=1, keepdims=True), (x,)),
    (
        "softmax",
        lambda x: np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True),
        (x,),
    ),
    ("logsumexp", lambda x: np.log(np.sum(np.exp(x), axis=1)), (x,)),
    ("pairwise", lambda x: np.sqrt(((x[:, None, :] - x[None, :, :]) ** 2).sum(-1)), (x,)),
    ("pairwise2", lambda x: np.sqrt(np.maximum((x**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * x @ x.T, 0)), (x,)),
    ("cosine", lambda x: (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1)), (x,)),
    ("relu mlp", lambda x, w: np.maximum(x @ w, 0) @ w.T, (x, w)),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), (x,)),
    ("gelu", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), (x,)),
    ("layernorm", lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5), (x,)),
    ("onehot2", lambda n: (n[..., None] == np.arange(10)).astype(float), (n,)),
    ("argmaxacc", lambda x, y: np.mean(np.argmax(x, 1) == y), (x, np.arange(8))),
    ("topk", lambda x: np.sort(x, axis=1)[:, ::-1][:, :3], (x,)),
    ("topk idx", lambda x: np.argsort(-x, axis=1)[:, :3], (x,)),
    ("take_along", lambda x: np.take_along_axis(x, np.argsort(x, 1), 1), (x,)),
    ("rank", lambda x: np.argsort(np.argsort(x, axis=1), axis=1), (x,)),
    ("cumprod ret", lambda x: np.cumprod(1 + x * 0.01, axis=1) - 1, (x,)),
    ("drawdown", lambda x: (np.maximum.accumulate(np.cumsum(x, 1), axis=1) - np.cumsum(x, 1)).max(1), (x,)),
    ("moving avg", lambda v: np.convolve(v, np.ones(4) / 4, "valid"), (v,)),
    ("moving avg2", lambda v: (np.cumsum(v)[3:] - np.concatenate([[0], np.cumsum(v)[:-4]])) / 4, (v,)),
    ("diff", lambda v: np.diff(v, 2), (v,)),
    ("gradient", lambda x: np.gradient(x, axis=0), (x,)),
    ("trapz", lambda v: np.trapezoid(v**2, dx=0.1), (v,)),
    ("interp", lambda v: np.interp(v, np.linspace(-2, 2, 9), np.linspace(-2, 2, 9) ** 3), (v,)),
    ("histogram", lambda v: np.histogram(v, bins=np.linspace(-3, 3, 7))[0], (v,)),
    ("bincount", lambda n: np.bincount(n.ravel(), minlength=10), (n,)),
    ("digitize", lambda v: np.digitize(v, [-1, 0, 1]), (v,)),
    ("percentiles", lambda x: np.percentile(x, [5, 50, 95], axis=0), (x,)),
    ("median", lambda x: np.median(x, axis=1), (x,)),
    ("mad", lambda x: np.median(np.abs(x - np.median(x))), (x,)),
    ("clip", lambda x: np.clip(x, -1, 1), (x,)),
    ("winsor", lambda x: np.clip(x, np.quantile(x, 0.1), np.quantile(x, 0.9)), (x,)),
    ("cov", lambda x: np.cov(x, rowvar=False), (x,)),
    ("corr", lambda x: np.corrcoef(x), (x,)),
    ("pca", lambda x: np.linalg.eigvalsh(np.cov((x - x.mean(0)).T))[::-1][:3], (x,)),
    ("pca svd", lambda x: np.linalg.svd(x - x.mean(0), full_matrices=False)[1], (x,)),
    ("lstsq", lambda x: np.linalg.lstsq(x[:, :4], x[:, 4], rcond=None)[0], (x,)),
    ("normal eq", lambda x: np.linalg.solve(x[:, :4].T @ x[:, :4], x[:, :4].T @ x[:, 5]), (x,)),
    ("ridge", lambda x: np.linalg.inv(x.T @ x + 0.1 * np.eye(16)) @ x.T, (x,)),
    ("det", lambda S: np.linalg.det(S), (S,)),
    ("slogdet", lambda S: np.linalg.slogdet(S @ S.T + np.eye(5))[1], (S,)),
    ("chol", lambda S: np.linalg.cholesky(S @ S.T + np.eye(5)), (S,)),
    ("mahal", lambda x: np.einsum("ij,jk,ik->i", x, np.linalg.inv(np.cov(x, rowvar=False) + np.eye(16)), x), (x,)),
    ("mpower", lambda S: np.linalg.matrix_power(S, 5), (S,)),
    ("trace", lambda S: np.trace(S @ S), (S,)),
    ("kron", lambda S: np.kron(S[:2, :2], S[2:4, 2:4]), (S,)),
    ("outer", lambda v: np.outer(v, v) - np.diag(v), (v,)),
    ("triu", lambda S: np.triu(S, 1) + np.tril(S, -1).T, (S,)),
    ("gray", lambda im: im @ np.array([0.299, 0.587, 0.114]), (img,)),
    ("flip", lambda im: im[::-1, :, ::-1], (img,)),
    ("crop", lambda im: im[2:-2, 1:-1], (img,)),
    ("pad", lambda im: np.pad(im, ((1, 1), (2, 2), (0, 0)), mode="reflect"), (img,)),
    ("downsample", lambda im: im.reshape(6, 2, 5, 2, 3).mean(axis=(1, 3)), (img,)),
    ("upsample", lambda im: np.repeat(np.repeat(im, 2, 0), 2, 1), (img,)),
    (
        "sobel",
        lambda im: (lambda g: np.abs(g[1:-1, 2:] - g[1:-1, :-2]) + np.abs(g[2:, 1:-1] - g[:-2, 1:-1]))(im.mean(-1)),
        (img,),
    ),
    ("box blur", lambda im: sum(im[i : i + 10, j : j + 8] for i in range(3) for j in range(3)) / 9, (img,)),
    ("windows", lambda v: np.lib.stride_tricks.sliding_window_view(v, 4).mean(-1), (v,)),
    ("rot90", lambda im: np.rot90(im), (img,)),
    ("threshold", lambda im: np.where(im > 0.5, 1.0, 0.0), (img,)),
    ("gamma", lambda im: im ** (1 / 2.2), (img,)),
    ("hist eq", lambda im: np.cumsum(np.histogram(im, 16, (0, 1))[0]) / im.size, (img,)),
    ("transpose", lambda im: np.transpose(im, (2, 0, 1)).reshape(3, -1), (img,)),
    ("stack", lambda a, b: np.stack([a, b, a + b], -1), (x, x * 2)),
    ("concat", lambda a, b: np.concatenate([a, b[:, :3]], axis=1), (x, x * 2)),
    ("vstack", lambda a, b: np.vstack([a, b]), (x, x * 2)),
    ("split", lambda a: np.split(a, 4, axis=1)[2], (x,)),
    ("tile", lambda v: np.tile(v, (3, 2)), (v,)),
    ("roll", lambda v: np.roll(v, 3) - np.roll(v, -3), (v,)),
    ("meshgrid", lambda v: np.add(*np.meshgrid(v, v[:5], indexing="ij")), (v,)),
    ("polyval", lambda v: np.polyval([1, -2, 3, 4], v), (v,)),
    ("vander", lambda v: np.vander(v, 4), (v,)),
    ("polyfit", lambda v: np.polyfit(np.arange(16.0), v, 2), (v,)),
    ("fft power", lambda v: np.abs(np.fft.rfft(v)) ** 2, (v,)),
    ("fft filt", lambda v: np.fft.irfft(np.fft.rfft(v) * (np.arange(9) < 4), 16), (v,)),
    ("autocorr", lambda v: np.correlate(v - v.mean(), v - v.mean(), "full")[15:], (v,)),
    ("hann", lambda v: v * np.hanning(16), (v,)),
    (
        "spectrogram",
        lambda t: np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(t, 16)[::8] * np.hamming(16), axis=-1)),
        (t,),
    ),
    ("sinc", lambda t: np.sinc(t * 4), (t,)),
    ("unwrap", lambda t: np.unwrap(np.angle(np.exp(1j * t * 20))), (t,)),
    ("chirp", lambda t: np.sin(2 * np.pi * (5 * t + 10 * t**2)), (t,)),
    ("complex mag", lambda t: np.abs(np.exp(2j * np.pi * t) - 1), (t,)),
    ("euler", lambda t: np.cumsum(np.cos(t)) * 0.1, (t,)),
    (
        "haversine",
        lambda a, b: (
            2 * 6371 * np.arcsin(np.sqrt(np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin((b - a) / 2) ** 2))
        ),
        (x * 0.1, x * 0.2),
    ),
    ("logistic map", lambda v: (lambda f: f(f(f(v))))(lambda z: 3.7 * z * (1 - z)), (v * 0.1,)),
    (
        "black scholes",
        lambda s: (lambda d1: s * 0.5 * (1 + np.tanh(d1)) - 100 * np.exp(-0.05) * 0.5 * (1 + np.tanh(d1 - 0.2)))(
            (np.log(s / 100) + 0.07) / 0.2
        ),
        (np.abs(v) * 100 + 50,),
    ),
    (
        "nbody",
        lambda p: ((p[None] - p[:, None]) / (((p[None] - p[:, None]) ** 2).sum(-1) + 1e-2)[..., None] ** 1.5).sum(1),
        (R.random((6, 3)),),
    ),
    ("heat", lambda u: u[1:-1] + 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2]), (v,)),
    (
        "laplace2d",
        lambda u: u[1:-1, 1:-1] + 0.25 * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]),
        (x,),
    ),
    (
        "game of life",
        lambda b: (lambda c: ((c == 3) | ((c == 2) & (b == 1))).astype(np.int64))(
            sum(np.roll(b, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
        ),
        (n % 2,),
    ),
    (
        "mandel",
        lambda c: (lambda z: np.abs(z) < 2)((lambda f: f(f(f(c))))(lambda z: z * z + c)),
        (x[:, :8] + 1j * x[:, 8:],),
    ),
    (
        "kmeans step",
        lambda x, c: (
            lambda a: np.stack(
                [np.where((a == k)[:, None], x, 0).sum(0) / np.maximum((a == k).sum(), 1) for k in range(3)]
            )
        )(np.argmin(((x[:, None] - c[None]) ** 2).sum(-1), 1)),
        (x, x[:3]),
    ),
    ("knn", lambda x: np.argsort(((x[:, None] - x[None]) ** 2).sum(-1), axis=1)[:, 1:4], (x,)),
    (
        "naive bayes",
        lambda x, y: np.stack([np.mean(x, axis=0, where=(y == k)[:, None]) for k in (0, 1)]),
        (x, np.arange(8) % 2),
    ),
    (
        "confusion",
        lambda a, b: np.bincount(a * 4 + b, minlength=16).reshape(4, 4),
        (np.arange(8) % 4, np.arange(8) // 2),
    ),
    ("entropy", lambda p: -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)), (img,)),
    ("kl", lambda p, q: np.sum(p * np.log(p / q)), (img + 0.1, img[::-1] + 0.1)),
    ("mse", lambda a, b: np.mean((a - b) ** 2), (x, x * 1.1)),
    ("huber", lambda a, b: np.mean(np.where(np.abs(a - b) < 1, 0.5 * (a - b) ** 2, np.abs(a - b) - 0.5)), (x, x * 3)),
    ("bce", lambda a, y: -np.mean(y * np.log(a) + (1 - y) * np.log1p(-a)), (img * 0.9 + 0.05, img > 0.5)),
    ("dropout mask", lambda x, m: x * m / 0.8, (x, x > 0)),
    ("int ops", lambda n: (n // 3, n % 3, n << 2, n >> 1, n & 5, n | 8, n ^ 3, ~n), (n,)),
    ("popcount", lambda n: np.bitwise_count(n), (n,)),
    ("gcd", lambda n: np.gcd(n, 12) + np.lcm(n + 1, 4), (n,)),
    ("isprime-ish", lambda n: np.all(n[..., None] % np.arange(2, 4) != 0, axis=-1), (n,)),
    ("count", lambda n: np.count_nonzero(n > 4, axis=1), (n,)),
    ("any all", lambda n: np.any(n > 8, axis=0) & ~np.all(n > 2, axis=0), (n,)),
    ("isin", lambda n: np.isin(n, [1, 3, 5]), (n,)),
    ("searchsorted", lambda v: np.searchsorted(np.sort(v), [0.0, 0.5]), (v,)),
    ("partition", lambda v: np.partition(v, 5)[5], (v,)),
    ("lexsort", lambda n: np.lexsort((n[0], n[1])), (n,)),
    ("nan stats", lambda x: np.nanmean(np.where(x > 1, np.nan, x), axis=0), (x,)),
    ("nanmax", lambda x: np.nanmax(np.where(x > 1, np.nan, x)), (x,)),
    ("nan_to_num", lambda x: np.nan_to_num(np.log(x)), (x,)),
    ("isfinite", lambda x: np.isfinite(np.log(x)), (x,)),
    ("floor ceil", lambda x: np.floor(x) + np.ceil(x) * 2 + np.round(x, 1) + np.trunc(x), (x,)),
    ("mod", lambda x: np.mod(x, 0.7) + np.fmod(x, 0.7) + x // 0.7, (x,)),
    ("hypot atan2", lambda x: np.hypot(x, 1) + np.arctan2(x, 2), (x,)),
    ("trig", lambda x: np.sin(x) ** 2 + np.cos(x) ** 2 + np.tan(x) + np.arctan(x), (x,)),
    ("hyper", lambda x: np.sinh(x) + np.cosh(x) + np.tanh(x) + np.arcsinh(x), (x,)),
    ("logs", lambda x: np.log2(np.abs(x)) + np.log10(np.abs(x)) + np.log1p(np.abs(x)) + np.expm1(x) + np.exp2(x), (x,)),
    ("cbrt", lambda x: np.cbrt(x) + np.sign(x) * np.sqrt(np.abs(x)), (x,)),
    ("power", lambda x: np.power(np.abs(x), x) + 2.0**x, (x,)),
    ("float_power", lambda n: np.float_power(n, 0.5), (n,)),
    ("logaddexp", lambda x: np.logaddexp(x, x[::-1]) + np.logaddexp2(x, 1), (x,)),
    ("copysign", lambda x: np.copysign(2, x) + np.signbit(x), (x,)),
    ("nextafter", lambda x: np.nextafter(x, 10) - np.spacing(x), (x,)),
    ("frexp", lambda x: np.ldexp(*np.frexp(x)), (x,)),
    ("modf", lambda x: np.modf(x)[0] + np.modf(x)[1], (x,)),
    ("heaviside", lambda x: np.heaviside(x, 0.5), (x,)),
    ("deg", lambda x: np.rad2deg(np.deg2rad(x)), (x,)),
    ("fancy", lambda x: x[[0, 2, 4], [1, 3, 5]], (x,)),
    ("fancy2", lambda x: x[np.array([[0, 1], [2, 3]])], (x,)),
    ("fancy mixed", lambda x: x[1:4, [0, 2]], (x,)),
    ("fancy traced", lambda x, i: x[i, i + 1], (x, np.array([0, 3, 5]))),
    ("neg idx", lambda x, i: x[-i - 1], (x, np.array([0, 3, 5]))),
    ("row scalar", lambda x, i: x[i], (x, 3)),
    ("known mask", lambda x: x[:, np.arange(16) % 2 == 0], (x,)),
    ("ellipsis", lambda im: im[..., 0] + im[..., -1], (img,)),
    ("newaxis", lambda v: v[:, None] * v[None, :], (v,)),
    ("steps", lambda x: x[::2, ::-3], (x,)),
    ("neg slices", lambda x: x[-3:, :-2][::-1], (x,)),
    ("where idx", lambda x: np.where(x > 0, x, np.arange(16)), (x,)),
    ("select", lambda x: np.select([x < -1, x > 1], [-1, 1], 0), (x,)),
    ("piecewise", lambda x: np.piecewise(x, [x < 0, x >= 0], [lambda z: -z, lambda z: z**2]), (x,)),
    ("choose", lambda n: np.choose(n % 3, [n, n * 10, n * 100]), (n,)),
    ("einsum bmm", lambda a: np.einsum("bij,bjk->bik", a, a), (R.random((3, 4, 4)),)),
    ("einsum attn", lambda q, k: np.einsum("bthd,bshd->bhts", q, k), (R.random((2, 5, 3, 4)), R.random((2, 6, 3, 4)))),
    ("einsum trace", lambda S: np.einsum("ii", S) + np.einsum("ij->", S), (S,)),
    ("tensordot", lambda a: np.tensordot(a, a, axes=([1, 2], [1, 2])), (R.random((3, 4, 5)),)),
    ("matmul bcast", lambda a, b: a @ b, (R.random((3, 1, 4, 5)), R.random((2, 5, 6)))),
    ("vecdot", lambda a: np.vecdot(a, a), (x,)),
    ("inner", lambda a: np.inner(a, a), (x,)),
    ("cross", lambda p: np.cross(p[:3], p[3:]), (R.random((6, 3)),)),
    (
        "quat rot",
        lambda q, p: p + 2 * np.cross(q[1:], np.cross(q[1:], p) + q[0] * p),
        (np.array([0.7, 0.1, 0.2, 0.3]), R.random((4, 3))),
    ),
    (
        "rot matrix",
        lambda a: np.stack([np.stack([np.cos(a), -np.sin(a)], -1), np.stack([np.sin(a), np.cos(a)], -1)], -2),
        (v,),
    ),
    ("blocks", lambda S: np.block([[S, np.zeros((5, 1))], [np.ones((1, 6))]]), (S,)),
    ("mean axis tuple", lambda im: im.mean((0, 1)), (img,)),
    ("average", lambda x: np.average(x, axis=0, weights=np.arange(1.0, 9)), (x,)),
    ("std ddof", lambda x: np.std(x, axis=0, ddof=1), (x,)),
    ("argmin flat", lambda x: np.unravel_index(np.argmin(x), x.shape), (x,)),
    ("prod", lambda x: np.prod(1 + x * 0.01), (x,)),
    ("cummax", lambda x: np.maximum.accumulate(x, axis=1), (x,)),
    ("reduceat", lambda v: np.add.reduceat(v, [0, 4, 9]), (v,)),
    ("outer ufunc", lambda v: np.subtract.outer(v, v), (v,)),
    ("multiply reduce", lambda v: np.multiply.reduce(v), (v,)),
    ("astype", lambda x: (x * 100).astype(np.uint8).astype(np.float32), (np.abs(x),)),
    ("view", lambda x: x.view(np.int64 if x.dtype == np.float64 else np.int32), (x,)),
    ("packbits", lambda x: np.unpackbits(np.packbits(x > 0, axis=1), axis=1), (x,)),
    ("methods", lambda x: x.T.reshape(-1).clip(-1, 1).cumsum().round(2).max(), (x,)),
    ("methods2", lambda x: x.swapaxes(0, 1).squeeze().ravel().dot(x.T.flatten()), (x,)),
    ("real imag", lambda c: c.real + c.imag + np.conj(c).imag, (x + 1j * x,)),
    ("angle", lambda c: np.angle(c), (x + 1j * x[::-1],)),
    ("cexp", lambda c: np.exp(c) + np.log(c) + np.sqrt(c) + c**2, (x[:, :4] + 1j * x[::-1, :4],)),
    ("cmatmul", lambda c: c @ c.conj().T, (x[:, :4] + 1j * x[::-1, :4],)),
    ("isclose", lambda x: np.isclose(x, x + 1e-9), (x,)),
    ("array_equal", lambda x: np.array_equal(x, x), (x,)),
    ("f16", lambda x: (x.astype(np.float16) * 2 + 1).sum(), (x,)),
    ("bool sum", lambda x: (x > 0).sum() + (x > 0).mean(), (x,)),
    ("py loop", lambda S: (lambda f: f(f(f(S))))(lambda A: A @ A / np.linalg.norm(A)), (S,)),
    ("newton", lambda v: (lambda g: g(g(g(np.abs(v) + 1))))(lambda z: 0.5 * (z + (np.abs(v) + 1) / z)), (v,)),
    ("list return", lambda x: [x.sum(), {"a": x.max(), "b": (x.min(), None)}], (x,)),
    ("scalars", lambda x, a, b: a * x + b, (x, 2.5, 3)),
    ("mixed dtypes", lambda x, n: x[:6, :7] + n, (x, n)),
    ("int mean", lambda n: n.mean(axis=0) + n.sum() + n.std(), (n,)),
    ("uint8 wrap", lambda n: n.astype(np.uint8) * np.uint8(50), (n,)),
    ("int div zero", lambda n: n // (n % 3), (n,)),
    ("trunc cast", lambda x: (x * 1e3).astype(np.int32) % 7, (x,)),
    ("apply_along", lambda x: np.apply_along_axis(lambda r: r - r.mean(), 1, x), (x,)),
    ("put_along", lambda x: np.where(np.arange(16) == np.argmax(x, 1)[:, None], 0, x), (x,)),
    ("diag ops", lambda S: np.diag(np.diag(S)) + np.diagflat(S[0, :4], 1)[:5, :5], (S,)),
    ("fill diag", lambda S: np.where(np.eye(5, dtype=bool), 0, S), (S,)),
    ("tri idx", lambda S: S[np.triu_indices(5, 1)], (S,)),
    ("ravel multi", lambda n: np.ravel_multi_index((n[0] % 3, n[1] % 4), (3, 4)), (n,)),
    ("resize", lambda v: np.resize(v, (3, 7)), (v,)),
    ("ediff", lambda v: np.ediff1d(v, to_begin=0.0), (v,)),
    ("angle wrap", lambda v: (v * 9 + np.pi) % (2 * np.pi) - np.pi, (v,)),
    ("cumtrapz", lambda v: np.concatenate([np.zeros(1), np.cumsum((v[1:] + v[:-1]) / 2)]), (v,)),
    ("cubic", lambda t: np.where(t < 0.5, 4 * t**3, 1 - (-2 * t + 2) ** 3 / 2), (t,)),
    (
        "bezier",
        lambda t, p: (
            ((1 - t) ** 3)[:, None] * p[0]
            + 3 * ((1 - t) ** 2 * t)[:, None] * p[1]
            + 3 * ((1 - t) * t**2)[:, None] * p[2]
            + (t**3)[:, None] * p[3]
        ),
        (t, R.random((4, 2))),
    ),
    (
        "convolve2d",
        lambda im, k: sum(im[i : i + 10, j : j + 8] * k[i, j] for i in range(3) for j in range(3)),
        (img[..., 0], R.random((3, 3))),
    ),
    (
        "adam",
        lambda p, g, m, v_: (lambda m2, v2: (p - 0.001 * m2 / (np.sqrt(v2) + 1e-8), m2, v2))(
            0.9 * m + 0.1 * g, 0.999 * v_ + 0.001 * g * g
        ),
        (x, x * 0.1, x * 0, x * 0),
    ),
    ("rnn step", lambda h, x, W: np.tanh(h @ W + x), (S, S, S)),
    (
        "posenc",
        lambda t: np.concatenate(
            [np.sin(t[:, None] / 10000 ** (np.arange(4) / 4)), np.cos(t[:, None] / 10000 ** (np.arange(4) / 4))], 1
        ),
        (t,),
    ),
    (
        "attention",
        lambda q, k, v: (
            lambda s: (
                (np.exp(s - s.max(-1, keepdims=True)) / np.exp(s - s.max(-1, keepdims=True)).sum(-1, keepdims=True)) @ v
            )
        )(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])),
        (R.random((2, 5, 4)), R.random((2, 6, 4)), R.random((2, 6, 3))),
    ),
    (
        "im2col",
        lambda im: np.stack([im[i : i + 10, j : j + 8, :] for i in range(3) for j in range(3)], -1).reshape(80, 27),
        (img,),
    ),
    ("maxpool", lambda im: im.reshape(6, 2, 5, 2, 3).max((1, 3)), (img,)),
]


def short(z: Any) -> Any:
    """Floats as float32, complex numbers as complex64."""
    kinds = {"f": np.float32, "c": np.complex64}
    return z.astype(kinds[z.dtype.kind]) if isinstance(z, np.ndarray) and z.dtype.kind in kinds else z


@pytest.mark.parametrize(("function", "args"), [row[1:] for row in FUNCTIONS], ids=[row[0] for row in FUNCTIONS])
def test_like_numpy(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    given = tuple(map(short, args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = function(*given)
    got = td.jit(function)(*given)
    for a, b in zip(td.tree.leaves(got), td.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
