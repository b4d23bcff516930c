"""docs/numpy.md is kept: every public function of NumPy is called with traced arrays in every position.

NumPy itself is the oracle, in value, dtype and shape. What the page calls refused must raise the page's code at the
user's line, and nothing may happen that it does not say.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_cases import CASES, MADE, REFUSED_CALLS, Call
from tracing import Path as Place
from tracing import at, places, put, run, same, traced

import treadle as td
from treadle.frontend.numpy_table import Row, drawing, rows, text
from treadle.ir.dims import DimName, symbol
from treadle.ir.errors import TreadleError
from treadle.ir.evaluate import evaluate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "numpy.md"
ROWS = {row.path: row for row in rows()}
TRACED = [path for path, row in ROWS.items() if row.status == "traced"]
REFUSED = [path for path, row in ROWS.items() if row.status == "refused"]
FUNCTIONS = [path for path in TRACED if path in CASES]

# Their answers are types and plans, known while tracing; no function may return them.
ANSWERS = ("common_type", "einsum_path", "min_scalar_type", "result_type")
# Modules that td.numpy does not have.
THEIRS = ("emath.", "lib.")
# What NumPy itself leaves open: the order within the parts, the content of what is empty.
FREE = ("argpartition", "empty", "empty_like", "partition")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def member(path: str, root: Any = np) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def ours(path: str) -> Any:
    """The function under `td.numpy`, where that has one."""
    return member(path, np if path.startswith(THEIRS) else td.numpy)


def codes(row: Row) -> set[str]:
    """The codes that the page allows beside an answer."""
    return set(re.findall(r"TD\d{4}", row.text))


def given(call: Call, paths: list[Place], tracers: list[Any]) -> tuple[Any, Any]:
    whole: Any = (call.args, call.kwargs)
    for path, tracer in zip(paths, tracers, strict=True):
        whole = put(whole, path, tracer)
    return whole


def check(path: str, call: Call, got: Any, expected: Any) -> None:
    if path == "partition":
        kth, axis = call.args[1], call.kwargs.get("axis", -1)
        got, expected = (np.take(np.moveaxis(np.asarray(x), axis, -1), kth, -1) for x in (got, expected))
    elif path == "argpartition":
        kth, axis = call.args[1], call.kwargs.get("axis", -1)
        assert np.asarray(got).dtype == expected.dtype
        got, expected = (
            np.take(np.moveaxis(np.take_along_axis(call.args[0], x, axis), axis, -1), kth, -1) for x in (got, expected)
        )
    elif path == "linalg.eigh":
        values, vectors = map(np.asarray, got)
        same(values, expected[0], rtol=1e-5)
        assert (vectors.dtype, vectors.shape) == (expected[1].dtype, expected[1].shape)
        got, expected = (
            v * w[..., None, :] @ v.swapaxes(-1, -2).conj() for v, w in ((vectors, values), expected[::-1])
        )
    elif path == "linalg.svd" and isinstance(expected, tuple):
        same(got[1], expected[1])
        assert [x.shape for x in got] == [x.shape for x in expected]
        size = expected[1].shape[-1]
        got, expected = ((u[..., :size] * s[..., None, :]) @ v[..., :size, :] for u, s, v in (got, expected))
    elif path == "linalg.lstsq" and np.size(got[1]) and not np.size(expected[1]):
        got, expected = ((x, rank, values) for x, _, rank, values in (got, expected))
    elif path in FREE:
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        return
    same(got, expected, rtol=call.rtol)


class User:
    """A user's function of the arrays at `paths` of a call; `answer` is what it found while it was traced."""

    def __init__(self, path: str, function: Callable[..., Any], call: Call, paths: list[Place]) -> None:
        self.path, self.function, self.call, self.paths = path, function, call, paths
        self.arrays = [at((call.args, call.kwargs), p) for p in paths]
        self.answer: Any = None

    def __call__(self, *tracers: Any) -> Any:
        args, kwargs = given(self.call, self.paths, list(tracers))
        self.answer = self.function(*args, **kwargs)
        return None if self.path in ANSWERS else self.answer


def attempt(path: str, function: Callable[..., Any], call: Call, paths: list[Place], expected: Any) -> str | None:
    """Run the call with traced arrays at `paths`: None where it gives NumPy's answer, else the code of the refusal."""
    user = User(path, function, call, paths)
    try:
        got = run(user, *user.arrays)
    except TreadleError as error:
        assert error.location is not None, error
        assert error.location.file == __file__, error
        return error.code
    if path in ANSWERS:
        assert user.answer == expected
    else:
        check(path, call, got, expected)
    return None


def positions(call: Call) -> list[list[Place]]:
    """Every array by itself, and all together."""
    single = list(places((call.args, call.kwargs)))
    return [[p] for p in single] + ([single] if len(single) > 1 else [])


# The page says what the code does.
def test_page(update: bool) -> None:
    if update:
        PAGE.write_text(text(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text(), "make it anew with pytest --update, and read the diff"


# A function that joins NumPy, or is traced from now on, gets its call.
def test_every_function_has_a_call() -> None:
    ufuncs = {path for path in TRACED if isinstance(member(path), np.ufunc)}
    assert sorted(set(TRACED) - ufuncs - CASES.keys() - MADE.keys()) == []
    assert sorted((CASES.keys() | MADE.keys()) - set(TRACED)) == []
    assert sorted(set(REFUSED) ^ REFUSED_CALLS.keys()) == []
    assert [path for path, calls in (CASES | MADE | REFUSED_CALLS).items() if not calls] == []


# Plain NumPy inside a traced function, a traced array in each position and in all.
@pytest.mark.parametrize("path", FUNCTIONS)
def test_traced(path: str) -> None:
    row = ROWS[path]
    found: set[str] = set()
    for call in CASES[path]:
        expected = member(path)(*call.args, **call.kwargs)
        for paths in positions(call):
            code = attempt(path, member(path), call, paths, expected)
            if code is not None:
                found.add(code)
    assert found <= codes(row), f"{path} is refused with {found}, which the page does not say"


# Under our name no position is overlooked, and what is made from nothing is traced, too.
@pytest.mark.parametrize("path", [*FUNCTIONS, *MADE])
def test_traced_under_our_name(path: str) -> None:
    for call in (CASES | MADE)[path]:
        expected = member(path)(*call.args, **call.kwargs)
        for paths in positions(call) or [[]]:
            code = attempt(path, ours(path), call, paths, expected)
            assert code is None or (code in codes(ROWS[path]) and code != "TD0800"), (code, call)


# Without a trace it is NumPy's own.
@pytest.mark.parametrize("path", [*FUNCTIONS, *MADE])
def test_concrete_under_our_name(path: str) -> None:
    for call in (CASES | MADE)[path]:
        expected = member(path)(*call.args, **call.kwargs)
        got = ours(path)(*call.args, **call.kwargs)
        if path in ANSWERS:
            assert got == expected
        else:
            check(path, call, got, expected)


# Long loops of many kernels, of which test_eigen.py compiles some.
LONG = {f"linalg.{name}" for name in ("cond", "eigh", "eigvalsh", "lstsq", "matrix_rank", "pinv", "svd")} | {"polyfit"}


# The same calls as machine code, all of a function in one program.
@pytest.mark.parametrize("path", [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG)) for p in FUNCTIONS])
def test_compiled(path: str) -> None:
    users: list[User] = []
    for call in CASES[path]:
        user = User(path, member(path), call, list(places((call.args, call.kwargs))))
        try:
            traced(user, *user.arrays)
            users.append(user)
        except TreadleError as error:
            assert error.code in codes(ROWS[path]), error
    found = td.jit(lambda *arrays: [user(*each) for user, each in zip(users, arrays, strict=True)])(
        *(tuple(user.arrays) for user in users)
    )
    for user, got in zip(users, found, strict=True):
        if path not in ANSWERS:
            check(path, user.call, got, member(path)(*user.call.args, **user.call.kwargs))


# A traced Python number where NumPy takes one: NumPy's answer, or an error of ours that names the line and the edit.
@pytest.mark.parametrize("path", FUNCTIONS)
def test_traced_numbers(path: str) -> None:
    for call in CASES[path]:
        arrays = list(places((call.args, call.kwargs)))
        expected = member(path)(*call.args, **call.kwargs)
        for place in places((call.args, call.kwargs), (int, float)):
            for function in (member(path), ours(path)):
                for paths in ([place], [*arrays, place]):
                    code = attempt(path, function, call, paths, expected)
                    assert code is None or code in NUMBERS, (code, call, paths)


NUMBERS = {
    "TD0800", "TD0801", "TD0802", "TD0803", "TD0804", "TD0806", "TD0810", "TD0811", "TD0812", "TD0813", "TD0814",
}  # fmt: skip


# The dtypes that the arrays of all calls are turned into, by what they were.
F2, F4, F8, C8, C16, I8 = map(np.dtype, ("f2", "f4", "f8", "c8", "c16", "i8"))
OTHERS: dict[str, dict[np.dtype, str]] = {
    "f4": {F8: "f4", C16: "c8"},
    "f2": {F8: "f2", F4: "f2"},
    "f8": {F4: "f8", I8: "f8"},
    "integers": {I8: "i4", F8: "i4", F4: "i2"},
    "unsigned": {I8: "u1", F8: "u1", np.dtype("i4"): "u2"},
    "bool": {F8: "bool", I8: "bool"},
    "complex": {F8: "c16", F4: "c8"},
}
# NumPy computes with what a NaN or a singular matrix became, multiplies bools on the way of its own choice, or trims.
APART = {
    ("f2", "polyfit"), ("integers", "nanpercentile"), ("integers", "polymul"), ("unsigned", "polymul"),
    ("bool", "einsum"), ("bool", "searchsorted"), ("complex", "interp"), ("complex", "poly"),
    ("integers", "linalg.cond"), ("unsigned", "linalg.cond"), ("bool", "linalg.cond"),
}  # fmt: skip


def cast(x: Any, kinds: dict[np.dtype, str]) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return x.astype(kinds[x.dtype]) if x.dtype in kinds else x
    if isinstance(x, list | tuple):
        return type(x)(cast(each, kinds) for each in x)
    return {key: cast(each, kinds) for key, each in x.items()} if isinstance(x, dict) else x


# The same calls on arrays of other dtypes: NumPy's results, or a refusal where NumPy refuses.
@pytest.mark.parametrize("kind", OTHERS)
def test_other_dtypes(kind: str) -> None:
    near = {"f4": 2e-3, "f2": 2e-2}.get(kind, 1e-5)
    wrong: list[str] = []
    for path in (path for path in FUNCTIONS if (kind, path) not in APART):
        for call in CASES[path]:
            other = Call(cast(call.args, OTHERS[kind]), cast(call.kwargs, OTHERS[kind]), near)
            paths = list(places((other.args, other.kwargs)))
            try:
                expected = member(path)(*other.args, **other.kwargs)
            except np.linalg.LinAlgError:
                continue  # of values, which are not known
            except (TypeError, ValueError, IndexError, OverflowError) as error:
                expected = error
            try:
                if isinstance(expected, Exception):
                    user = User(path, member(path), other, paths)
                    run(user, *user.arrays)
                    wrong.append(f"{path}: NumPy raises {expected}")
                    continue
                code = attempt(path, member(path), other, paths, expected)
                if code is not None and code not in codes(ROWS[path]):
                    wrong.append(f"{path}: {code}")
            except TreadleError:
                continue
            except AssertionError as error:
                wrong.append(f"{path}: {error}")
    assert wrong == []


# Where a size with a name is not enough for every call: each of these asks for a number, or for a comparison.
NUMBERS_OF_SIZES = {
    "broadcast_to",
    "compress",
    "convolve",
    "correlate",
    "cross",
    "delete",
    "diag_indices_from",
    "einsum_path",
    "extract",
    "fft.fft",
    "fft.fft2",
    "fft.fftn",
    "fft.hfft",
    "fft.ifft",
    "fft.ifft2",
    "fft.ifftn",
    "fft.ihfft",
    "fft.irfft",
    "fft.irfft2",
    "fft.irfftn",
    "fft.rfft",
    "fft.rfft2",
    "fft.rfftn",
    "insert",
    "lexsort",
    "linalg.cond",
    "linalg.cross",
    "linalg.eigh",
    "linalg.eigvalsh",
    "linalg.lstsq",
    "linalg.matrix_rank",
    "linalg.norm",
    "linalg.pinv",
    "linalg.svd",
    "linalg.svdvals",
    "linalg.tensorinv",
    "linalg.tensorsolve",
    "pad",
    "percentile",
    "poly",
    "polyadd",
    "polyder",
    "polyfit",
    "polyint",
    "polysub",
    "polyval",
    "quantile",
    "repeat",
    "reshape",
    "resize",
    "tril_indices_from",
    "triu_indices_from",
    "unstack",
    "vander",
    "vsplit",
}


# The same calls on arrays whose first sizes have names, and all sizes that are equal to them.
@pytest.mark.parametrize("path", FUNCTIONS)
def test_sizes_with_names(path: str) -> None:
    for call in CASES[path]:
        user = User(path, member(path), call, list(places((call.args, call.kwargs))))
        sizes = {np.shape(x)[0] for x in user.arrays if np.ndim(x)} - {0, 1}
        shapes = tuple(tuple(symbol(f"n{n}") if n in sizes else n for n in np.shape(x)) for x in user.arrays)
        promised = tuple(DimName(f"n{n}", low=1) for n in sorted(sizes))
        try:
            found = traced(user, *user.arrays, shapes=shapes, dims=promised)
            got = found.out_tree.unflatten(evaluate(found.graph, *map(np.asarray, user.arrays)))
        except TreadleError as error:
            assert path in NUMBERS_OF_SIZES or error.code in codes(ROWS[path]), (call, error)
            continue
        if path not in ANSWERS:
            check(path, call, got, member(path)(*call.args, **call.kwargs))


# Refused functions raise the page's code at the user's line, with the page's edit, whatever the position.
@pytest.mark.parametrize("path", REFUSED)
def test_refused(path: str) -> None:
    row = ROWS[path]
    for call in REFUSED_CALLS[path]:
        for paths in positions(call):
            user = User(path, ours(path), call, paths)
            with pytest.raises(TreadleError) as caught:
                traced(user, *user.arrays)
            assert (caught.value.code, caught.value.edit) == (row.code, row.text)
            assert "self.answer = self.function(*args, **kwargs)" in str(caught.value)
            if row.dispatches:
                assert attempt(path, member(path), call, paths, None) == row.code


# --- what the page says in sentences ------------------------------------------------------------------------------

COUNT = np.int64(3)
# Functions that NumPy computes while tracing: with a traced argument they raise, or tell what is known without values.
SILENT: dict[str, tuple[Any, ...]] = {
    "asarray_chkfinite": (np.ones(3),),
    "asmatrix": (np.ones(3),),
    "base_repr": (COUNT, 2),
    "binary_repr": (COUNT,),
    "bmat": ([[np.ones((2, 2))]],),
    "broadcast_shapes": (COUNT,),
    "diag_indices": (COUNT,),
    "fft.fftfreq": (COUNT,),
    "fft.rfftfreq": (COUNT,),
    "format_float_positional": (np.float64(2.5),),
    "format_float_scientific": (np.float64(2.5),),
    "from_dlpack": (np.ones(3),),
    "frombuffer": (np.ones(3),),
    "fromiter": (np.ones(3), float),
    "isfortran": (np.ones((2, 3)),),
    "iterable": (np.ones(3),),
    "isscalar": (np.ones(3),),
    "lib.stride_tricks.as_strided": (np.ones(4), (2, 2), (16, 8)),
    "nested_iters": (np.ones((2, 2)), [[0], [1]]),
    "row_stack": ((np.ones(3), np.ones(3)),),
    "tril_indices": (COUNT,),
    "triu_indices": (COUNT,),
}
# They take no numbers: texts, files, types, settings.
WITHOUT_NUMBERS = {
    "datetime_data", "frompyfunc", "fromfile", "fromregex", "fromstring", "genfromtxt", "get_include",
    "get_printoptions", "getbufsize", "geterr", "geterrcall", "info", "isdtype", "issubdtype", "load", "loadtxt",
    "mintypecode", "printoptions", "promote_types", "set_printoptions", "setbufsize", "seterr", "seterrcall",
    "show_config", "show_runtime", "typename",
}  # fmt: skip


def test_never_traced() -> None:
    concrete = {path for path, row in ROWS.items() if row.status == "concrete"}
    assert concrete <= SILENT.keys() | WITHOUT_NUMBERS
    for path in sorted(concrete & SILENT.keys()):
        call = Call(SILENT[path])
        expected = member(path)(*call.args)
        for place in places((call.args, {})):
            try:
                code = attempt(path, member(path), call, [place], expected)
            except (TypeError, ValueError) as error:
                # NumPy says what it cannot take.
                assert any(word in str(error) for word in ("Tracer", "traced", "should be an integer")), path
                continue
            assert code is None or code in NUMBERS | {"TD0815"}, path


DRAWS: dict[str, tuple[Any, ...]] = {
    "beta": (1, 1), "binomial": (3, 0.5), "bytes": (3,), "chisquare": (2,), "choice": (3,), "dirichlet": ([1, 1],),
    "f": (1, 1), "gamma": (1,), "geometric": (0.5,), "hypergeometric": (3, 3, 2), "logseries": (0.5,),
    "multinomial": (3, [0.5, 0.5]), "multivariate_normal": ([0, 0], np.eye(2)), "negative_binomial": (1, 0.5),
    "noncentral_chisquare": (1, 1), "noncentral_f": (1, 1, 1), "pareto": (1,), "permutation": (9,), "power": (1,),
    "randint": (9,), "random_integers": (9,), "seed": (1,), "shuffle": ([1, 2, 3],), "standard_gamma": (1,),
    "set_state": (np.random.RandomState(5).get_state(),), "standard_t": (1,), "triangular": (0, 0.5, 1),
    "vonmises": (0, 1), "wald": (1, 1), "weibull": (1,), "zipf": (2,),
}  # fmt: skip


# Every function that draws, or changes what is drawn, is found and located.
@pytest.mark.parametrize("name", drawing())
def test_random_numbers(name: str) -> None:
    state = np.random.get_state()  # noqa: NPY002 - the global generator is the subject

    def user(x: Any) -> Any:
        getattr(np.random, name)(*DRAWS.get(name, ()))
        return x

    try:
        with pytest.raises(TreadleError) as caught:
            traced(user, np.ones(3))
    finally:
        np.random.set_state(state)  # noqa: NPY002
    assert caught.value.code == "TD0809"
    assert "getattr(np.random, name)(" in str(caught.value)


METHODS = [u for u in map(member, TRACED) if isinstance(u, np.ufunc) and u.nin == 2 and u.nout == 1 and not u.signature]


# The methods of ufuncs, of every ufunc that has them.
@pytest.mark.parametrize("ufunc", sorted(set(METHODS), key=lambda u: u.__name__), ids=lambda u: u.__name__)
def test_methods_of_ufuncs(ufunc: np.ufunc) -> None:
    floats, whole = np.array([[0.5, 2.0, 1.5], [1.0, 0.25, 3.0]]), np.array([[5, 2, 7], [1, 4, 3]])
    for x in (floats, whole, floats.astype(np.float32), whole.astype(np.uint8), whole > 3):
        for f, last in (
            (lambda v: ufunc.reduce(v), False),
            (lambda v: ufunc.reduce(v, axis=1, keepdims=True), True),
            (lambda v: ufunc.accumulate(v), False),
            (lambda v: ufunc.accumulate(v, axis=1), False),
            (lambda v: ufunc.outer(v, v[0]), False),
            (lambda v: ufunc.reduceat(v, [0, 2, 1], axis=1), True),
            (lambda v: ufunc.reduce(v, axis=None, initial=1), True),
            (lambda v: ufunc.reduce(v, axis=(0, 1)), True),
            (lambda v: ufunc.reduce(v, axis=0, where=np.array([True, False, True])), False),
        ):
            if last and ufunc in (np.power, np.arctan2):
                continue  # NumPy 2.4 reads only the first and the last number there
            try:
                expected = f(x)
            except (TypeError, ValueError) as error:
                with pytest.raises((TypeError, ValueError)) as caught:
                    run(f, x)
                assert isinstance(caught.value, TreadleError), error
                continue
            same(run(f, x), expected, rtol=1e-4)
    with pytest.raises(TreadleError) as refused:
        traced(lambda v: ufunc.at(np.zeros(3), [0], v[0, 0]), floats)
    assert refused.value.code == "TD0806"
