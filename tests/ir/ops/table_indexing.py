"""Rows of ops whose positions are data: every mode, batch axes, repeated and missing positions, ties and NaN
in sorts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sample import Inputs, Sample, around, at_sizes, draw, kind
from table_reduce import apart, tied, with_specials

from treadle.ir.dtypes import ARITHMETIC, DTYPES
from treadle.ir.graph import Graph
from treadle.ir.ops.indexing import (
    ArgSort,
    DynamicSlice,
    DynamicUpdate,
    Gather,
    Scatter,
    SearchSorted,
    Sort,
    TopK,
)
from treadle.ir.ops.reduce import ORDERED
from treadle.ir.types import TupleType
from treadle.ir.value import Get, Value

Make = Callable[..., Value]

# Modes for which any index has a meaning.
TOTAL = ("clip", "wrap", "fill", "drop")


def given(*types: str, low: int, high: int, **sizes: int) -> Inputs:
    """Whole numbers for floats; for integers, indices in [low, high)."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        found = []
        for text in types:
            shape, dtype = at_sizes(text, sizes), kind(text).dtype
            if dtype.is_integer:
                found.append(rng.integers(low, high, shape).astype(dtype.numpy))
            else:
                found.append(tied(text, **sizes)(rng)[0])
        return found

    return inputs


def smooth_inputs(*types: str, low: int, high: int) -> Inputs:
    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        return [
            rng.integers(low, high, at_sizes(text, {}))
            if kind(text).dtype.is_integer
            else draw(rng, kind(text).dtype, at_sizes(text, {}))
            for text in types
        ]

    return inputs


def row(op: str, make: Make, *types: str, low: int = 0, high: int = 3, label: str = "", **sizes: int) -> Sample:
    shown = " ".join((*types, label)).strip()
    return Sample(op, shown, around(make, *types), given(*types, low=low, high=high, **sizes), sizes=sizes)


def smooth(op: str, make: Make, *types: str, low: int = 0, high: int = 3, label: str = "") -> Sample:
    inputs = smooth_inputs(*types, low=low, high=high)
    return Sample(
        op, f"smooth {' '.join(types)} {label}".strip(), around(make, *types), inputs, ulp=64.0, atol=1e-12, smooth=True
    )


def gather(axes: tuple[int, ...], mode: str = "raise", batch: int = 0) -> Make:
    return lambda x, *indices: Gather(x, indices, axes, mode, batch)


# (axes, batch, types of x and of the indices): positions in 0..2 are inside all of them.
PLACES: tuple[tuple[tuple[int, ...], int, tuple[str, ...]], ...] = (
    ((0,), 0, ("[5]", "[4]")),
    ((0,), 0, ("[3,4]", "[]")),
    ((1,), 0, ("[2,4,3]", "[2,3]")),
    ((0, 2), 0, ("[3,2,4]", "[5]", "[5]")),
    ((2, 0), 0, ("[3,2,4]", "[2,2]", "[2,2]")),
    ((1,), 1, ("[2,4,3]", "[2,5]")),
    ((2,), 2, ("[2,3,4]", "[2,3,2]")),
    ((3, 1), 1, ("[2,3,2,4]", "[2,3]", "[2,3]")),
    ((1,), 1, ("[2,4]", "[2]")),
)


def typed(dtype: str, index: str, shapes: tuple[str, ...]) -> tuple[str, ...]:
    return (dtype + shapes[0], *(index + shape for shape in shapes[1:]))


def updates_of(axes: tuple[int, ...], batch: int, shapes: tuple[str, ...]) -> str:
    """The shape of what is gathered there."""
    x = shapes[0].strip("[]").split(",")
    rest = [n for i, n in enumerate(x) if i >= batch and i not in axes]
    index = [n for n in shapes[1].strip("[]").split(",") if n]
    return f"[{','.join((*index, *rest))}]"


def gathers() -> list[Sample]:
    found: list[Sample] = []
    for axes, batch, shapes in PLACES:
        types = typed("f32", "i64", shapes)
        found.append(row("gather", gather(axes, batch=batch), *types, low=-2, label="raise"))
        found.append(row("gather", gather(axes, "promised", batch), *types, label="promised"))
        found += [row("gather", gather(axes, mode, batch), *types, low=-9, high=9, label=mode) for mode in TOTAL]
        doubles = typed("f64", "i64", shapes)
        found += [
            smooth("gather", gather(axes, mode, batch), *doubles, low=-2, label=f"{mode} {axes} {batch}")
            for mode in ("raise", "clip", "wrap", "drop")
        ]
    found += [row("gather", gather((0,), "fill"), f"{dtype}[3,2]", "i64[6]", low=-2, high=5) for dtype in DTYPES]
    found += [
        row("gather", gather((0,), "wrap"), "f32[3]", f"{dtype}[6]", high=9)
        for dtype in ("i8", "u8", "u16", "i32", "u64")
    ]
    found += [
        row("gather", gather((0,), mode), "f32[0,2]", "i64[3]", low=-2, label=f"{mode}, of none") for mode in TOTAL
    ]
    found += [
        row("gather", gather((0,)), "f32[4,2]", "i64[0]", label="nothing"),
        row("gather", gather((0,)), "f32[0,2]", "i64[0]", label="nothing of none"),
        row("gather", gather((0,)), "f32[V,D]", "i64[B,T]", label="symbolic", V=5, D=2, B=2, T=3),
        row("gather", gather((1,), batch=1), "f32[B,N]", "i64[B,K]", label="symbolic", B=2, N=4, K=3),
        smooth("gather", gather((0,)), "c128[3,2]", "i64[4]"),
    ]
    return found


def scatter(axes: tuple[int, ...], combine: str, mode: str = "raise", batch: int = 0) -> Make:
    return lambda x, *rest: Scatter(x, rest[:-1], rest[-1], axes, combine, mode, batch)


def scatters() -> list[Sample]:
    found: list[Sample] = []
    for combine in ("set", "add", "mul", "max", "min"):
        for axes, batch, shapes in PLACES:
            news = updates_of(axes, batch, shapes)
            types = (*typed("f32", "i64", shapes), f"f32{news}")
            label = f"{combine} {axes} {batch}"
            found.append(row("scatter", scatter(axes, combine, "raise", batch), *types, low=-2, label=label))
            found.append(row("scatter", scatter(axes, combine, "drop", batch), *types, low=-9, high=9, label=label))
            doubles = (*typed("f64", "i64", shapes), f"f64{news}")
            found.append(smooth("scatter", scatter(axes, combine, "raise", batch), *doubles, low=-2, label=label))
        for mode in ("clip", "wrap", "fill", "promised"):
            low, high = (0, 3) if mode == "promised" else (-9, 9)
            make = scatter((0,), combine, mode)
            found.append(
                row("scatter", make, "f32[4,2]", "i64[7]", "f32[7,2]", low=low, high=high, label=f"{combine} {mode}")
            )
            found.append(
                smooth("scatter", make, "f64[4,2]", "i64[7]", "f64[7,2]", low=low, high=high, label=f"{combine} {mode}")
            )
        accepted = {"set": DTYPES, "max": ORDERED, "min": ORDERED}.get(combine, ARITHMETIC)
        found += [
            Sample(
                "scatter",
                f"{combine} {dtype}",
                around(scatter((0,), combine), f"{dtype}[4]", "i64[7]", f"{dtype}[7]"),
                numbered(dtype),
            )
            for dtype in [d.name for d in accepted]
        ]
        found += [
            row("scatter", scatter((0,), combine), "f32[4,2]", "i64[0]", "f32[0,2]", label=f"{combine} nothing"),
            row(
                "scatter",
                scatter((0,), combine, "clip"),
                "f32[0,2]",
                "i64[3]",
                "f32[3,2]",
                label=f"{combine} into none",
            ),
            row("scatter", scatter((0,), combine), "f32[V,D]", "i64[B]", "f32[B,D]", label=combine, V=4, D=2, B=5),
        ]
    found.append(smooth("scatter", scatter((0,), "mul"), "f64[3]", "i64[5]", "f64[5]", label="product of few"))
    zeros = Sample(
        "scatter",
        "smooth mul zeros",
        around(scatter((0,), "mul"), "f64[4]", "i64[8]", "f64[8]"),
        some_zeros,
        ulp=64.0,
        smooth=True,
    )
    return [*found, zeros]


def numbered(dtype: str) -> Inputs:
    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        return [*tied(f"{dtype}[4]")(rng), np.array([3, 0, 3, 1, 0, -1, 3]), *tied(f"{dtype}[7]")(rng)]

    return inputs


def some_zeros(rng: np.random.Generator) -> list[np.ndarray]:
    """Place 0 gets one zero, place 1 two, place 2 holds one, place 3 none."""
    x, updates = rng.uniform(0.5, 2, 4), rng.uniform(0.5, 2, 8)
    x[2] = updates[1] = updates[2] = updates[3] = 0
    return [x, np.array([0, 0, 1, 1, 2, 2, 3, 3]), updates]


def block(sizes: tuple[int | str, ...]) -> Make:
    from treadle.ir.dims import parse

    wanted = tuple(parse(str(size)) for size in sizes)
    return lambda x, *starts: DynamicSlice(x, starts, wanted)


def blocks() -> list[Sample]:
    def update(x: Value, news: Value, *starts: Value) -> Value:
        return DynamicUpdate(x, news, starts)

    found = [row("dynamic_slice", block((2, 3)), "f32[4,5]", "i64[]", "i64[]", high=6, label=str(i)) for i in range(4)]
    found += [
        row("dynamic_slice", block((2,)), "f32[6]", "i64[]", low=-9, high=0, label="before"),
        row("dynamic_slice", block((4, 2)), "i8[4,5]", "i64[]", "i64[]", low=9, high=20, label="after"),
        row("dynamic_slice", block((3,)), "f32[3]", "i64[]", high=9, label="whole"),
        row("dynamic_slice", block((0, 2)), "f32[0,3]", "i64[]", "i64[]"),
        row("dynamic_slice", block(()), "f32[]"),
        row("dynamic_slice", block(("K", 2)), "f32[K + 3,4]", "i64[]", "i64[]", high=9, K=2),
        row("dynamic_update", update, "f32[4,5]", "f32[2,3]", "i64[]", "i64[]", high=6),
        row("dynamic_update", update, "f32[6]", "f32[2]", "i64[]", low=-9, high=0, label="before"),
        row("dynamic_update", update, "u8[4,5]", "u8[4,2]", "i64[]", "i64[]", low=9, high=20, label="after"),
        row("dynamic_update", update, "f32[3]", "f32[3]", "i64[]", high=9, label="whole"),
        row("dynamic_update", update, "f32[]", "f32[]"),
        row("dynamic_update", update, "f32[K + 3,4]", "f32[K,2]", "i64[]", "i64[]", high=9, K=2),
    ]
    for dtype in DTYPES:
        types = (f"{dtype}[4,5]", f"{dtype}[2,3]")
        at = ("i64[]", "i64[]")
        for op, make, given in (("dynamic_slice", block((2, 3)), types[:1]), ("dynamic_update", update, types)):
            inputs = corners(*given)
            found.append(Sample(op, f"of {dtype}", around(make, *given, *at), inputs))
    for i in range(3):
        found += [
            smooth("dynamic_slice", block((2, 3)), "f64[4,5]", "i64[]", "i64[]", low=-1, high=6, label=str(i)),
            smooth("dynamic_update", update, "f64[4,5]", "f64[2,3]", "i64[]", "i64[]", low=-1, high=6, label=str(i)),
        ]
    return found


def corners(*types: str) -> Inputs:
    """Arrays of these types, and a corner inside one axis and behind the other."""
    return lambda rng: [*tied(*types)(rng), np.array(1), np.array(9)]


def results(make: Make, *types: str) -> Callable[[], Graph]:
    """A graph that gives every element of the tuple."""

    def build() -> Graph:
        graph = around(make, *types)()
        (value,) = graph.results
        assert isinstance(value.type, TupleType)
        return graph.with_results([Get(value, i) for i in range(len(value.type.elements))])

    return build


def sorts() -> list[Sample]:
    found: list[Sample] = []
    for descending in (False, True):
        way = "down" if descending else "up"

        def sort(*xs: Value, axis: int = 0, keys: int = 1, descending: bool = descending) -> Value:
            return Sort(xs, axis, keys, descending)

        def along(axis: int, keys: int = 1, sort: Make = sort) -> Make:
            return lambda *xs: sort(*xs, axis=axis, keys=keys)

        for dtype in ORDERED:
            types = (f"{dtype}[3,9]", "i32[3,9]")
            found.append(Sample("sort", f"{dtype} {way}", results(along(1), *types), tied(*types)))
            if dtype.kind == "float":
                text = f"{dtype}[20,6]"
                found.append(Sample("sort", f"{dtype} special {way}", results(along(0), text), with_specials(text)))
                found.append(
                    Sample(
                        "arg_sort",
                        f"{dtype} special {way}",
                        around(lambda x, d=descending: ArgSort(x, 0, d), text),
                        with_specials(text),
                    )
                )
            found.append(row("arg_sort", lambda x, d=descending: ArgSort(x, -1, d), f"{dtype}[3,9]", label=way))
        keyed = ("i8[12]", "f32[12]", "bool[12]", "c64[12]")
        found += [
            Sample("sort", f"three keys {way}", results(along(0, 3), *keyed), tied(*keyed)),
            Sample("sort", f"none {way}", results(along(0), "f32[0,3]"), tied("f32[0,3]")),
            Sample("sort", f"symbolic {way}", results(along(1), "f32[2,B]"), tied("f32[2,B]", B=5), sizes={"B": 5}),
            Sample("sort", f"smooth {way}", results(along(1), "f64[3,5]"), apart("f64[3,5]"), smooth=True),
            row("arg_sort", lambda x, d=descending: ArgSort(x, 0, d, stable=False), "f32[B]", label=way, B=1),
        ]
        for dtype in ORDERED:
            for k in (0, 1, 4) if dtype.name in ("f32", "i16", "bool", "bf16") else (2,):
                text = f"{dtype}[3,4]"
                make = results(lambda x, k=k, d=descending: TopK(x, k, 1, d), text)
                found.append(Sample("top_k", f"{text} {k} {way}", make, tied(text)))
        some = results(lambda x, d=descending: TopK(x, x.shape[0] - 1, 0, d), "f32[K + 2,3]")
        found.append(Sample("top_k", f"symbolic {way}", some, tied("f32[K + 2,3]", K=2), sizes={"K": 2}))
        special = results(lambda x, d=descending: TopK(x, 7, 0, d), "f32[20,6]")
        found += [
            Sample("top_k", f"special {way}", special, with_specials("f32[20,6]")),
            Sample(
                "top_k",
                f"smooth {way}",
                results(lambda x, d=descending: TopK(x, 3, 0, d), "f64[5,2]"),
                apart("f64[5,2]"),
                smooth=True,
            ),
        ]
    return found


def searches() -> list[Sample]:
    found: list[Sample] = []
    for side in ("left", "right"):

        def search(among: Value, values: Value, side: str = side) -> Value:
            return SearchSorted(among, values, side)

        for among, values, sizes in (
            ("[6]", "[4]", {}), ("[6]", "[]", {}), ("[6]", "[2,3]", {}), ("[0]", "[3]", {}), ("[2,5]", "[2,3]", {}),
            ("[2,5]", "[2]", {}), ("[N]", "[B,3]", {"N": 4, "B": 2}),
        ):  # fmt: skip
            types = (f"f32{among}", f"f32{values}")
            found.append(
                Sample(
                    "search_sorted",
                    f"{among} {values} {side}",
                    around(search, *types),
                    ascending(*types, **sizes),
                    sizes=sizes,
                )
            )
        for dtype in ORDERED:
            types = (f"{dtype}[6]", f"{dtype}[5]")
            found.append(Sample("search_sorted", f"{dtype} {side}", around(search, *types), ascending(*types)))
    return found


def ascending(among: str, values: str, **sizes: int) -> Inputs:
    """Repeated elements in order, a NaN last where there can be one, and NaN among what is looked for."""

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        table, wanted = tied(among, values, **sizes)(rng)
        table.sort(axis=-1)
        if kind(among).dtype.kind == "float" and table.size:
            table[..., -1] = np.nan
            wanted.reshape(-1)[:1] = np.nan
        return [table, wanted]

    return inputs


def samples() -> list[Sample]:
    return [*gathers(), *scatters(), *blocks(), *sorts(), *searches()]
