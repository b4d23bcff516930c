"""Convolutions: products whose rows overlap, for every layout, against the einsum of windows, the naive nest and, bit
for bit, the machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_cases import check, graph_of, tensor, two_threads

from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.ir.dtypes import DType, bf16, f16, f32, f64, i8, i32, u8
from treadle.ir.graph import Graph
from treadle.ir.loops.build import stored
from treadle.ir.ops.contract import Conv, Dot
from treadle.ir.ops.elementwise import Tanh
from treadle.ir.ops.movement import Broadcast
from treadle.ir.program import KernelDef

WIDE = {"avx512": MODELS["avx512"]}
FIRST, LAST = "NIhw,OIhw->NOhw", "NhwI,hwIO->NhwO"


def conv(x: tuple[int | str, ...], w: tuple[int | str, ...], spec: str, dtype: DType = f32, **numbers: Any) -> Graph:
    return graph_of([tensor(*x, dtype=dtype), tensor(*w, dtype=dtype)], lambda x, w: Conv(x, w, spec, **numbers))


PADDED: dict[str, Any] = {"padding": ((1, 1), (1, 1))}


@pytest.mark.parametrize(
    ("x", "w", "spec", "numbers"),
    [
        # Windows inside: a product as it stands.
        ((2, 3, 6, 7), (5, 3, 3, 2), FIRST, {}),
        # Zeros around, on one side only, and cropped; one and many positions of a window.
        ((1, 3, 5, 18), (4, 3, 3, 3), FIRST, PADDED),
        ((2, 5, 6, 3), (3, 3, 3, 20), LAST, PADDED),
        ((2, 5, 6, 3), (3, 2, 3, 7), LAST, {"padding": ((2, 0), (0, 1))}),
        ((1, 2, 6, 9), (3, 2, 2, 3), FIRST, {"padding": ((-1, 1), (1, -2))}),
        ((1, 1, 4, 4), (1, 1, 3, 3), FIRST, PADDED),
        ((1, 2, 5, 5), (4, 2, 1, 1), FIRST, PADDED),
        # Strides, dilation, and the dilation of x that transposed convolutions have.
        ((2, 3, 9, 11), (4, 3, 3, 3), FIRST, {"strides": (2, 3), **PADDED}),
        ((2, 9, 11, 3), (3, 3, 3, 4), LAST, {"strides": (2, 1), "dilation": (1, 2), "padding": ((2, 1), (3, 2))}),
        ((1, 2, 4, 5), (3, 2, 3, 3), FIRST, {"x_dilation": (2, 3), "padding": ((1, 2), (0, 1))}),
        ((2, 4, 5, 2), (3, 3, 2, 17), LAST, {"x_dilation": (2, 2), "padding": ((-1, 2), (1, -1))}),
        # Groups, depthwise in both layouts, one and three dimensions, windows of both operands exchanged.
        ((2, 2, 3, 5, 6), (2, 4, 3, 3, 3), "NGIhw,GOIhw->NGOhw", PADDED),
        ((2, 5, 6, 2, 3), (3, 3, 2, 3, 4), "NhwGI,hwGIO->NhwGO", PADDED),
        ((2, 3, 7, 9), (3, 3, 3), "NGhw,Ghw->NGhw", PADDED),
        ((2, 5, 6, 19), (3, 3, 19), "NhwG,hwG->NhwG", PADDED),
        ((2, 3, 20), (4, 3, 5), "NIw,OIw->NOw", {"padding": ((2, 2),)}),
        ((1, 2, 3, 4, 5), (2, 2, 2, 3, 2), "NIdhw,OIdhw->NOdhw", {"padding": ((1, 0), (1, 1), (0, 1))}),
        ((2, 3, 5, 6), (2, 4, 5, 6), "NIhw,NOhw->OIhw", PADDED),
    ],
)
def test_every_form(x: tuple[int, ...], w: tuple[int, ...], spec: str, numbers: dict[str, Any]) -> None:
    check(conv(x, w, spec, **numbers))


# Tiles and panels end where they want: sizes around the lanes and the rows of a tile.
@pytest.mark.parametrize(("channels", "width"), [(1, 7), (15, 1), (16, 14), (17, 17), (33, 7), (70, 5)])
def test_sizes(channels: int, width: int) -> None:
    check(conv((1, 3, width, 2), (3, 3, 2, channels), LAST, **PADDED), targets=WIDE)
    check(conv((1, 2, 3, width), (channels, 2, 3, 3), FIRST, **PADDED), targets=WIDE)


@pytest.mark.parametrize("dtype", [f64, f16, bf16, i8, u8, i32], ids=str)
@pytest.mark.parametrize("spec", [FIRST, LAST])
def test_dtypes(spec: str, dtype: DType) -> None:
    x, w = ((2, 3, 5, 18), (4, 3, 3, 3)) if spec == FIRST else ((2, 5, 6, 3), (3, 3, 3, 18))
    check(conv(x, w, spec, dtype, **PADDED))


# Small integers are summed wide, so no product is lost.
def test_integers_summed_wide() -> None:
    graph = graph_of(
        [tensor(1, 3, 5, 18, dtype=u8), tensor(4, 3, 3, 3, dtype=i8)],
        lambda x, w: Conv(x, w, FIRST, padding=((1, 1), (1, 1)), accumulate=i32),
    )
    check(graph)


# Bias and activation are applied to the sums in registers.
@pytest.mark.parametrize(("spec", "axis"), [(FIRST, 1), (LAST, 3)])
def test_epilogue(spec: str, axis: int) -> None:
    x, w, features = ((2, 3, 5, 18), (4, 3, 3, 3), 4) if spec == FIRST else ((2, 5, 6, 3), (3, 3, 3, 18), 18)

    def build(x, w, b):
        sums = Conv(x, w, spec, padding=((1, 1), (1, 1)))
        return Tanh(sums + Broadcast(b, sums.shape, (axis,)))

    # Terms that nearly cancel leave the error of the sum.
    check(graph_of([tensor(*x), tensor(*w), tensor(features)], build), ulp=512)


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("spec", [FIRST, LAST])
def test_sizes_known_at_run_time(spec: str, size: int) -> None:
    x, w = (("B", 3, "W", 6), (4, 3, 3, 3)) if spec == FIRST else (("B", "W", 6, 3), (3, 3, 3, 18))
    check(conv(x, w, spec, **PADDED), targets=WIDE, sizes={"B": 2, "W": size})
    check(conv(x, w, spec, **PADDED), targets=WIDE, sizes={"B": size, "W": 4})


def test_two_threads() -> None:
    graph = conv((2, 16, 17, 24), (3, 3, 24, 40), LAST, **PADDED)
    check(graph, targets=WIDE, context=two_threads())


# The weights of all positions are packed once, ahead of the loops over images and rows, which only read them.
def test_shared_panels_are_packed_once() -> None:
    graph = conv((8, 14, 14, 32), (3, 3, 32, 64), LAST, **PADDED)
    work = choose.workspace(graph, MODELS["avx512"])
    assert [each.shape for each in work] == [(8, 16, 16, 32), (2, 3 * 3 * 32, 32)]
    kernel = choose.kernel(KernelDef("kernel", graph, (), work), MODELS["avx512"])
    padded, panels = (param.name for param in kernel.params[-2:])
    assert [panels in stored([stmt]) for stmt in kernel.body].count(True) == 1
    assert not {padded, panels} & dict.fromkeys(stored(kernel.body[-1:])).keys()
    assert padded in stored(kernel.body[:2])


# An infinite weight times a zero around the operand is NaN, as where the zeros were written out.
def test_zeros_are_multiplied() -> None:
    graph = conv((1, 1, 3, 3), (1, 1, 3, 3), FIRST, **PADDED)
    w = np.full((1, 1, 3, 3), np.inf, np.float32)
    check(graph, np.ones((1, 1, 3, 3), np.float32), w)


# What is added to the sums may be the memory they go to, in the sums that are put down between blocks of k too.
@pytest.mark.parametrize(("depth", "columns"), [(5, 18), (700, 40), ("K", 70)])
def test_sums_added_in_place(depth: int | str, columns: int) -> None:
    graph = graph_of(
        [tensor(9, depth), tensor(depth, columns), tensor(9, columns)],
        lambda x, y, z: z + Dot(x, y, (), (), (1,), (0,)),
    )
    check(graph, updates=((0, 2),), targets=WIDE, sizes={"K": 1100} if depth == "K" else {}, ulp=512)
