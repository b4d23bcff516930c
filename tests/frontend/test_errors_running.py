"""What a user can get wrong at a call or while the program runs: each is an error of ours, at their line."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_errors_tracing import carets, raises

import treadle as td

X = np.arange(12, dtype="f4").reshape(3, 4)


def row(x: Any, i: Any) -> Any:
    return x[i] * 2


# An index is out of range only at run time: the complete path, the fast one, a compiled program and a saved one say so.
def test_an_index_out_of_range_at_run_time(tmp_path: Path) -> None:
    f = td.jit(row)
    good, bad = np.array([0, 2]), np.array([0, 3])
    compiled = f.compile(X, good)
    compiled.save(tmp_path / "row.so")
    for call in (f, f, f, compiled, td.load(tmp_path / "row.so")):
        np.testing.assert_array_equal(call(X, good), X[good] * 2)
        error = raises(lambda call=call: call(X, bad), IndexError, "TD0170")
        assert carets(error) == ["x[i] * 2"] and "index 3 is outside axis 0 of size 3" in str(error)
        assert "edit: np.clip(i, 0, 2)" in str(error)
        assert "from the call at test_errors_running.py" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
        np.testing.assert_array_equal(call(X, good), X[good] * 2)


def test_an_empty_axis_has_no_index_to_clip_to() -> None:
    error = raises(lambda: td.jit(row)(X[:0], np.array([0])), IndexError, "TD0170")
    assert "index 0 is outside axis 0 of size 0" in str(error) and "edit: x.at[i].get(mode='fill')" in str(error)


# The message has the very index, its axis, and the size that the axis has in this call.
@pytest.mark.parametrize("threads", [1, 2])
def test_the_index_is_told(threads: int, tmp_path: Path) -> None:
    def pick(x: Any, i: Any, j: Any) -> Any:
        return x[i, j] + 1

    sizes = td.ShapeDtype(("B", 4), "f4"), td.ShapeDtype(("N",), "i4"), td.ShapeDtype(("N",), "i4")
    compiled = td.jit(pick, threads=threads).compile(*sizes)
    compiled.save(tmp_path / "pick.so")
    loaded = td.load(tmp_path / "pick.so")
    rows, columns = np.arange(50_000, dtype="i4") % 3, np.arange(50_000, dtype="i4") % 4
    for number, (which, wrong, told) in enumerate([
        (rows, 7, "index 7 is outside axis 0 of size 3"),
        (columns, -5, "index -5 is outside axis 1 of size 4"),
        (rows, -(2**31), "index -2147483648 is outside axis 0 of size 3"),
    ]):  # fmt: skip
        kept = which.copy()
        which[40_000 + number] = wrong  # the first of several, which are others
        which[49_000] = 99
        for call in (compiled, compiled, loaded, loaded):
            error = raises(lambda call=call: call(X, rows, columns), IndexError, "TD0170")
            assert error.message == f"gather: {told}"
            assert "np.clip of each index to its axis" in str(error.edit)
        which[:] = kept
        np.testing.assert_array_equal(compiled(X, rows, columns), X[rows, columns] + 1)


# Compiled once and found on disk by another function: the error names the line of the function that was called.
def test_the_line_is_that_of_the_function_called() -> None:
    def one(x: Any, i: Any) -> Any:
        return np.take(x, i, axis=1) + 40.5

    def other(x: Any, i: Any) -> Any:
        y = np.take(x, i, axis=1)
        return y + 40.5

    for fn, line in ((one, "np.take(x, i, axis=1) + 40.5"), (other, "np.take(x, i, axis=1)")):
        f = td.jit(fn)
        error = raises(lambda f=f: f(X, np.array([4])), IndexError, "TD0170")
        assert carets(error) == [line]
    assert f.compile(X, np.array([4])).executed.from_disk


# Of several failures the first in the program is told, whatever the number of threads.
def test_the_first_failure_is_told() -> None:
    def several(x: Any, i: Any, j: Any) -> Any:
        a = x[i]
        b = x[j]
        return a + b

    f = td.jit(several)
    ok, bad = np.array([1]), np.array([9])
    f(X, ok, ok)
    for i, j, line in ((bad, ok, "x[i]"), (ok, bad, "x[j]"), (bad, bad, "x[i]")):
        assert carets(raises(lambda i=i, j=j: f(X, i, j), IndexError, "TD0170")) == [line]


@pytest.mark.parametrize("where", [lambda x, i: x.at[i].set(1.0), lambda x, i: x.at[i].add(x[0])])
def test_a_write_out_of_range(where: Callable[..., Any]) -> None:
    f = td.jit(where)
    f(X, 1)
    error = raises(lambda: f(X, 3), IndexError, "TD0170")
    assert "scatter: index 3 is outside axis 0 of size 3" in str(error)
    np.testing.assert_array_equal(X, np.arange(12, dtype="f4").reshape(3, 4))


def test_a_negative_power_of_integers() -> None:
    f = td.jit(lambda x, y: x**y)
    n = np.arange(1, 4)
    for _ in range(2):
        np.testing.assert_array_equal(f(n, n), n**n)
        error = raises(lambda: f(n, -n), ValueError, "TD0130")
        assert carets(error)[0].startswith("x**y") and "float" in str(error.edit)


def call_unhashable() -> Any:
    return td.jit(lambda x, n: x, static_argnames="n")(X, [1, 2])


def call_cyclic() -> Any:
    tree: list[Any] = [X]
    tree.append(tree)
    return td.jit(lambda t: t[0])(tree)


class Far:
    """An array that cannot be lent, as one on another device."""

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("it is on device 1")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 1)


@cache
def compiled() -> Any:
    """A program for any number of rows above one."""
    rows = td.ShapeDtype(("B", 4), "f4")
    return td.jit(lambda x, y: x * y, dims={"B": (2, 9)}).compile(rows, rows)


Y = X.copy()
TWO = td.jit(lambda x: (x, -x))
GIVEN = td.jit(lambda x, y: (-x, -y), donate_argnums=(0, 1))


@dataclass
class Loose:
    """Settings that may change, and so have no hash."""

    rate: float = 0.5


F = td.jit(lambda x, y=1.0: x * y)
STATIC = td.jit(lambda x, n: x, static_argnames="n")
CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "too few": (lambda: F(), TypeError, "TD0620", "missing a required argument: 'x'"),
    "too many": (lambda: F(X, X, X), TypeError, "TD0620", "too many positional"),
    "twice": (lambda: F(X, x=X), TypeError, "TD0620", "multiple values"),
    "misspelt": (lambda: F(X, yy=X), TypeError, "TD0601", "did you mean y?"),
    "an object": (lambda: F(object()), TypeError, "TD0622", "static_argnames='x'"),
    "a set": (lambda: F({1.0}), TypeError, "TD0622", "x is of type set"),
    "an object inside": (lambda: F({"a": [X, object()]}), TypeError, "TD0622", "x['a'][1] is of type object"),
    "a container of itself": (call_cyclic, TypeError, "TD0622", "contains itself"),
    "unhashable": (call_unhashable, TypeError, "TD0621", "pass a tuple"),
    "unhashable dict": (lambda: STATIC(X, {"a": 1}), TypeError, "TD0621", "pass tuple(n.items())"),
    "unhashable set": (lambda: STATIC(X, {1}), TypeError, "TD0621", "pass frozenset(n)"),
    "unhashable array": (lambda: STATIC(X, X), TypeError, "TD0621", "leave n out of the static"),
    "unhashable in a tuple": (lambda: STATIC(X, ([1],)), TypeError, "TD0621", "instead of the lists inside"),
    "unhashable object": (lambda: STATIC(X, Loose()), TypeError, "TD0621", "@dataclass(frozen=True)"),
    "an array of objects": (lambda: F(np.array([object()])), TypeError, "TD0101", "x is an array of object"),
    "a ragged array": (lambda: F(np.array([[1], [1, 2]], dtype=object)), TypeError, "TD0101", "differ in length"),
    "ragged lists": (lambda: td.jit(td.numpy.sum)([[1.0], [1.0, 2.0]]), ValueError, "TD0822", "same shape"),
    "text": (lambda: F(np.array(["a"])), TypeError, "TD0101", "x is an array of <U1"),
    "dates": (lambda: F(np.array(["2020"], "M8[Y]")), TypeError, "TD0101", "datetime64"),
    "records": (lambda: F(np.zeros(2, [("a", "f4")])), TypeError, "TD0101", "'a'"),
    "long doubles": (lambda: F(np.zeros(2, np.longdouble)), TypeError, "TD0101", "float128"),
    "a masked array": (lambda: F(np.ma.array(X)), TypeError, "TD0820", "x.filled"),
    "a matrix": (lambda: F(np.asmatrix(X)), TypeError, "TD0820", "np.asarray"),
    "another device": (lambda: F(Far()), TypeError, "TD0626", "it is on device 1"),
    "a huge integer": (lambda: F(X, 2**70), OverflowError, "TD0948", "edit: pass it as a float"),
    "a large integer": (lambda: F(X, 2**63), OverflowError, "TD0948", "edit: pass np.uint64(9223372036854775808)"),
    "a size as an argument": (lambda: F(td.ShapeDtype((3,), "f4")), TypeError, "TD0627", "call with arrays"),
    "no function": (lambda: td.jit(3), TypeError, "TD0624", "takes a function"),
    "keyword": (lambda: td.jit(F.__wrapped__, static_argnms="x"), TypeError, "TD0601", "did you mean static_argnames?"),
    "parameter": (lambda: td.jit(F.__wrapped__, static_argnames="z"), ValueError, "TD0601", "known: x, y"),
    "position": (lambda: td.jit(F.__wrapped__, static_argnums=2), ValueError, "TD0623", "no parameter number 2"),
    "positions": (lambda: td.jit(F.__wrapped__, static_argnums=1.5), TypeError, "TD0625", "names or positions"),
    "donate": (lambda: td.jit(F.__wrapped__, donate="maybe"), ValueError, "TD0625", "donate='try'"),
    "threads": (lambda: td.jit(F.__wrapped__, threads=0), ValueError, "TD0625", "threads is 0"),
    "dims": (lambda: td.jit(F.__wrapped__, dims={"B": 3}), ValueError, "TD0625", "(1, 64)"),
    "dims that cannot be": (lambda: td.jit(F.__wrapped__, dims={"B": (9, 3)}), ValueError, "TD0206", "B"),
    "target": (lambda: td.jit(F.__wrapped__, target=3), TypeError, "TD0625", "target='host'"),
    "static and donated": (
        lambda: td.jit(F.__wrapped__, static_argnums=0, donate_argnums=0), ValueError, "TD0625", "x is static and don",
    ),
    "a parameter out": (lambda: td.jit(lambda x, out: x), ValueError, "TD0625", "another name"),
    "another shape than compiled for": (lambda: compiled()(X[:, :2], X), ValueError, "TD0943", "found float32[3,2]"),
    "another dtype": (lambda: compiled()(X.astype("f8"), X), TypeError, "TD0942", "x.astype('float32')"),
    "another tree": (lambda: compiled()([X], X), TypeError, "TD0642", "pass the same containers"),
    "a list where an array was": (lambda: compiled()(X, None), TypeError, "TD0642", "pass the same containers"),
    "two sizes of one name": (lambda: compiled()(X, X[:2]), ValueError, "TD0944", "edit: arrays whose sizes"),
    "a promise of a size": (lambda: compiled()(X[:1], X[:1]), ValueError, "TD0945", "td.jit(dims={'B': ...})"),
    "out that does not fit": (lambda: F(X, out=X[:2]), ValueError, "TD0950", "np.empty((3, 4), 'float32')"),
    "out in another tree": (lambda: F(X, out=[X]), TypeError, "TD0641", "out has the structure"),
    "results in one array": (lambda: TWO(X, out=(Y, Y)), ValueError, "TD0952", "shares memory"),
    "donated twice": (lambda: GIVEN(Y, Y), ValueError, "TD0951", "donate another array"),
    "donated in vain": (
        lambda: td.jit(lambda x: x.sum(), donate_argnums=0)(X.copy()), ValueError, "TD0640", "donat",
    ),
    "a keyword of a transform": (
        lambda: td.grad(np.sum, argnms=0), TypeError, "TD0601", "did you mean argnums?",
    ),
    "a gradient of an array": (lambda: td.grad(lambda x: x)(X), TypeError, "TD0701", "a real scalar is needed"),
    "an axis to map over": (lambda: td.vmap(lambda x: x, in_axes=5)(X), ValueError, "TD0712", "no axis 5"),
    "trees that differ": (lambda: td.tree.map(max, {"a": 1}, {"b": 1}), TypeError, "TD0611", "{'b': *}"),
    "no model": (lambda: td.load(__file__), ValueError, "TD0962", "is not a model file"),
    "no file": (lambda: td.load("nowhere.so"), FileNotFoundError, "TD0653", "nowhere.so: No such file"),
    "a directory": (lambda: td.load("/tmp"), OSError, "TD0653", "directory"),
    "keyword of load": (lambda: td.load("x.so", verfy=True), TypeError, "TD0601", "did you mean verify?"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "code", "said"), CALLS.values(), ids=CALLS)
def test_a_wrong_call_is_answered_at_its_line(
    call: Callable[[], Any], kind: type[Exception], code: str, said: str
) -> None:
    error = raises(call, kind, code)
    assert said in str(error), str(error)
    assert error.location is not None and error.location.file == __file__ and carets(error)
    np.testing.assert_array_equal(F(X), X * 1.0)


def cut(data: bytearray) -> None:
    del data[len(data) // 3 :]


def flip(data: bytearray) -> None:
    data[len(data) // 3] ^= 4


def flip_a_weight(data: bytearray) -> None:
    data[-200] ^= 4


def foreign(data: bytearray) -> None:
    data[64:72] = b"somebody"


def newer(data: bytearray) -> None:
    data[72] = 99


def lesser_cpu(data: bytearray) -> None:
    """The file as if it had been saved for a CPU of the future, rightly sealed."""
    at = data.index(b'"cpu_features":["') + len(b'"cpu_features":["')
    end = data.index(b'"', at)
    data[at:end] = b"warp-drive"[: end - at].ljust(end - at, b"x")
    head = int.from_bytes(data[80:88], "little")
    data[96:128] = bytes(32)
    data[96:128] = hashlib.sha256(data[:head]).digest()


# A saved model that is not as it was saved: refused at the line that loads it, before the system has mapped any of it.
@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        (cut, "TD0964", "copy it again"),
        (flip, "TD0965", "copy it again"),
        (flip_a_weight, "TD0968", "copy it again"),
        (foreign, "TD0962", "compiled.save"),
        (newer, "TD0963", "the version that saved it"),
        (lesser_cpu, "TD0967", "target='generic'"),
    ],
)
def test_a_model_that_is_not_as_it_was_saved(
    damage: Callable[[bytearray], None], code: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.so"
    w = np.random.default_rng(0).standard_normal((4, 300)).astype("f4")
    td.jit(lambda x: np.exp(x @ w)).compile(X).save(path)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    error = raises(lambda: td.load(path, verify=True), ValueError, code)
    assert carets(error) == ["td.load(path, verify=True), ValueError, code)"]
    assert str(path) in error.message and said in str(error.edit)
    if code == "TD0967":
        assert "this machine lacks: war" in error.message
    assert str(path) not in Path("/proc/self/maps").read_text()


def python(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    return subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TREADLE_CACHE_DIR": str(tmp_path / "cache")},
    )


# Ctrl-C ends a loop that never would, in one kernel or in several, as a KeyboardInterrupt; the next call works.
@pytest.mark.parametrize("body", ["c + 1", "np.sort(c @ c)"])
def test_ctrl_c_ends_an_endless_loop(body: str, tmp_path: Path) -> None:
    run = python(
        f"""
        import os, signal, threading
        import numpy as np
        import treadle as td

        @td.jit
        def forever(x, go):
            return td.lax.while_loop(lambda c: go | (c.sum() < 0), lambda c: {body}, x)

        x, never, always = np.ones((4, 4), "f4"), np.zeros((), bool), np.ones((), bool)
        for _ in range(2):
            forever(x, never)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                forever(x, always)
            except KeyboardInterrupt:
                print("stopped")
            np.testing.assert_array_equal(forever(x, never), x)
        """,
        tmp_path,
    )
    assert run.stdout.split() == ["stopped", "stopped"], run.stderr


# Ctrl-C while a function is traced or compiled: nothing is left half done, and the same call works afterwards.
def test_ctrl_c_while_compiling(tmp_path: Path) -> None:
    run = python(
        """
        import os, signal
        import numpy as np
        import treadle as td
        from treadle.codegen.llvm import optimize

        state = {"where": None}

        def press(where, original):
            def then(*args, **kwargs):
                if state["where"] == where:
                    state["where"] = None
                    os.kill(os.getpid(), signal.SIGINT)
                return original(*args, **kwargs)
            return then

        optimize.object_code = press("codegen", optimize.object_code)

        def f(x):
            if state["where"] == "tracing":
                state["where"] = None
                os.kill(os.getpid(), signal.SIGINT)
            return np.exp(x) + 1

        x = np.ones(3, "f4")
        for where in ("tracing", "codegen"):
            g = td.jit(f)
            td.config.cache = False
            state["where"] = where
            try:
                g(x)
            except KeyboardInterrupt:
                print("stopped", g.n_compiles, g.cache_info().currsize)
            np.testing.assert_allclose(g(x), np.exp(x) + 1, rtol=1e-6)
        """,
        tmp_path,
    )
    assert run.stdout.splitlines() == ["stopped 0 0"] * 2, run.stderr


def test_the_signal_is_pythons_again() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
