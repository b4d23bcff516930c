"""Random numbers: published vectors, distributions against those of SciPy, streams that only key and shape decide."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

import treadle as td
from treadle.ir.ops.random import threefry_2x32

KEY = td.random.key(20)
COUNT = 20_000


def drawn(f: Callable[[Any], Any], key: Any = KEY) -> np.ndarray:
    """What compiled code draws; the warning of a key that serves many tests is no news here."""
    found: np.ndarray = td.jit(f)(key)
    return found


# --- the bits -----------------------------------------------------------------------------------------------------

# Random123's known answers of threefry2x32 with 20 rounds: (counter, key, result), each of two words.
KNOWN = (
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_bits_are_threefrys(counter: Any, key: Any, words: Any) -> None:
    """In the reference, and natively: folding in a counter is one evaluation of the function."""
    of = [np.array([word], np.uint32) for word in (*key, *counter)]
    reference = threefry_2x32((of[0], of[1]), (of[2], of[3]))
    assert tuple(int(word[0]) for word in reference) == words
    whole = np.uint64(counter[0] << 32 | counter[1])
    native = td.jit(lambda key, data: td.random.fold_in(key, data))(np.array(key, np.uint32), whole)
    assert tuple(map(int, native)) == words


def test_elements_are_numbered() -> None:
    """Element i of a draw is the function at counter i, in every width and shape: a part of a draw is that part."""
    key = np.zeros(2, np.uint32)
    assert int(drawn(lambda k: td.random.bits(k, (), "uint64"), key)) == 0x6B20015999BA4EFE
    long = drawn(lambda k: td.random.bits(k, (60,), "uint64"))
    np.testing.assert_array_equal(drawn(lambda k: td.random.bits(k, (7,), "uint64")), long[:7])
    np.testing.assert_array_equal(drawn(lambda k: td.random.bits(k, (3, 4, 5), "uint64")), long.reshape(3, 4, 5))
    for dtype in ("uint8", "uint16", "uint32"):
        np.testing.assert_array_equal(drawn(lambda k, d=dtype: td.random.bits(k, (60,), d)), long.astype(dtype))


def test_keys() -> None:
    """A seed's words, and as many keys as asked for, all different; eager, traced and compiled alike."""
    np.testing.assert_array_equal(td.random.key(2**32 + 5), np.array([1, 5], np.uint32))
    np.testing.assert_array_equal(td.random.key(-1), np.array([2**32 - 1] * 2, np.uint32))
    np.testing.assert_array_equal(td.random.PRNGKey(7), td.random.key(7))
    key = td.random.key(1)
    keys = td.random.split(key, 100)
    assert keys.shape == (100, 2) and keys.dtype == np.uint32
    assert len({tuple(k) for k in keys.tolist()}) == 100
    np.testing.assert_array_equal(keys, drawn(lambda k: td.random.split(k, 100), td.random.key(1)))
    np.testing.assert_array_equal(keys[:3], td.random.split(td.random.key(1), 3))
    np.testing.assert_array_equal(keys[17], td.random.fold_in(td.random.key(1), 17))


# --- distributions ------------------------------------------------------------------------------------------------

CONTINUOUS: dict[str, tuple[Callable[..., Any], Any]] = {
    "uniform": (lambda k, d: td.random.uniform(k, (COUNT,), d), stats.uniform()),
    "uniform between bounds": (lambda k, d: td.random.uniform(k, (COUNT,), d, -2.0, 3.0), stats.uniform(-2, 5)),
    "normal": (lambda k, d: td.random.normal(k, (COUNT,), d), stats.norm()),
    "truncated normal": (
        lambda k, d: td.random.truncated_normal(k, -1.0, 2.0, (COUNT,), d), stats.truncnorm(-1, 2)
    ),
    "the upper tail": (lambda k, d: td.random.truncated_normal(k, 4.0, 9.0, (COUNT,), d), stats.truncnorm(4, 9)),
    "the lower tail": (lambda k, d: td.random.truncated_normal(k, -8.0, -6.0, (COUNT,), d), stats.truncnorm(-8, -6)),
    "gumbel": (lambda k, d: td.random.gumbel(k, (COUNT,), d), stats.gumbel_r()),
    "exponential": (lambda k, d: td.random.exponential(k, (COUNT,), d), stats.expon()),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_distributions(name: str, dtype: str) -> None:
    """Kolmogorov and Smirnov's distance to SciPy's distribution, and the first moments within five deviations."""
    draw, law = CONTINUOUS[name]
    found = drawn(lambda k: draw(k, dtype))
    assert found.dtype == dtype and np.isfinite(found).all()
    assert stats.kstest(found, law.cdf).pvalue > 1e-3
    assert abs(found.mean(dtype=float) - law.mean()) < 5 * law.std() / COUNT**0.5
    assert abs(found.var(dtype=float) / law.var() - 1) < 0.1
    low, high = law.support()
    assert found.min() >= low and found.max() <= high
    # Neighbours do not tell of each other.
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 5 / COUNT**0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_floats(dtype: str) -> None:
    """Below 1, and evenly spread over what the type can hold there."""
    found = drawn(lambda k: td.random.uniform(k, (COUNT,), dtype)).astype(float)
    assert found.min() >= 0 and found.max() < 1
    assert abs(found.mean() - 0.5) < 0.01
    normal = drawn(lambda k: td.random.normal(k, (COUNT,), dtype)).astype(float)
    assert abs(normal.std() - 1) < 0.02


def chances(found: np.ndarray, expected: Any) -> None:
    """Pearson's test of counts."""
    counts = np.bincount(found.ravel().astype(np.int64), minlength=len(expected))
    wanted = np.asarray(expected) / np.sum(expected) * found.size
    assert not counts[wanted == 0].any()
    kept = wanted > 0
    assert stats.chisquare(counts[kept], wanted[kept]).pvalue > 1e-3


def test_discrete_distributions() -> None:
    weights = np.array([0.1, 0.4, 0.0, 0.2, 0.3])
    with np.errstate(divide="ignore"):
        logits = np.log(weights) + 3.0
    chances(drawn(lambda k: td.random.bernoulli(k, 0.3, (COUNT,))), [0.7, 0.3])
    many = drawn(lambda k: td.random.categorical(k, np.broadcast_to(logits, (COUNT, 5))))
    assert many.dtype == np.int64
    chances(many, weights)
    chances(drawn(lambda k: td.random.categorical(k, np.broadcast_to(logits[:, None], (5, COUNT)), axis=0)), weights)
    chances(drawn(lambda k: td.random.randint(k, (COUNT,), 3, 10)) - 3, np.ones(7))
    chances(drawn(lambda k: td.random.choice(k, 5, (COUNT,), p=weights)), weights)
    chances(drawn(lambda k: td.random.choice(k, 5, (COUNT,))), np.ones(5))
    assert drawn(lambda k: td.random.randint(k, (4,), -5, -1, "int8")).dtype == np.int8
    each = drawn(lambda k: td.random.bernoulli(k, np.array([0.0, 1.0, 0.5])))
    assert each[:2].tolist() == [False, True]


def test_permutations() -> None:
    """Every order of three has the same chance; rows stay together."""
    keys = td.random.split(td.random.key(4), 6000)
    orders = td.jit(td.vmap(lambda k: td.random.permutation(k, 3)))(keys)
    assert (np.sort(orders, axis=1) == np.arange(3)).all()
    chances(orders @ np.array([9, 3, 1]) % 26, [n in (5, 7, 11, 15, 19, 21) for n in range(26)])
    rows = np.arange(12).reshape(4, 3)
    moved = drawn(lambda k: td.random.permutation(k, rows))
    assert sorted(moved.tolist()) == rows.tolist()


def test_choices_without_replacement() -> None:
    """No element twice; with chances, the first one drawn has them."""
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    keys = td.random.split(td.random.key(5), 4000)
    plain = td.jit(td.vmap(lambda k: td.random.choice(k, 6, (4,), replace=False)))(keys)
    assert all(len(set(row)) == 4 for row in plain.tolist())
    chances(plain[:, 0], np.ones(6))
    weighted = td.jit(td.vmap(lambda k: td.random.choice(k, 4, (2,), replace=False, p=weights)))(keys)
    assert (weighted[:, 0] != weighted[:, 1]).all()
    chances(weighted[:, 0], weights)
    with pytest.raises(td.TreadleError, match="TD0733"):
        td.random.choice(td.random.key(0), 3, (4,), replace=False)


# --- streams ------------------------------------------------------------------------------------------------------

DRAWS: dict[str, Callable[[Any], Any]] = {
    "bits": lambda k: td.random.bits(k, (5,)),
    "uniform": lambda k: td.random.uniform(k, (5, 2)),
    "normal": lambda k: td.random.normal(k, (5,)),
    "truncated normal": lambda k: td.random.truncated_normal(k, -1, 1, (5,)),
    "bernoulli": lambda k: td.random.bernoulli(k, 0.5, (5,)),
    "categorical": lambda k: td.random.categorical(k, np.arange(12.0).reshape(3, 4)),
    "gumbel": lambda k: td.random.gumbel(k, (5,)),
    "permutation": lambda k: td.random.permutation(k, 7),
    "choice": lambda k: td.random.choice(k, 9, (3,), replace=False),
    "split": lambda k: td.random.split(k, 3),
    "fold in": lambda k: td.random.fold_in(k, 7),
    "bytes": lambda k: td.random.bits(k, (3, 5), "uint8"),
    "uniform, double": lambda k: td.random.uniform(k, (3,), "float64", -2.0, 5.0),
    "normal, half": lambda k: td.random.normal(k, (2, 3), "float16"),
    "truncated normal, a tail": lambda k: td.random.truncated_normal(k, 3.0, 4.0, (5,)),
    "bernoulli of each": lambda k: td.random.bernoulli(k, np.linspace(0, 1, 6)),
    "exponential": lambda k: td.random.exponential(k, (5,)),
    "integers": lambda k: td.random.randint(k, (4, 2), -3, 1000),
    "permutation of rows": lambda k: td.random.permutation(k, np.arange(12).reshape(6, 2)),
    "choice again": lambda k: td.random.choice(k, 9, (2, 3)),
    "choice by chances": lambda k: td.random.choice(k, 4, (6,), p=np.array([0.1, 0.2, 0.3, 0.4])),
    "choice of rows": lambda k: td.random.choice(k, np.arange(12).reshape(6, 2), (3,)),
    "choice once by chances": lambda k: td.random.choice(k, 4, (3,), replace=False, p=np.array([0.1, 0.2, 0.3, 0.4])),
}


@pytest.mark.parametrize("name", DRAWS)
def test_streams_depend_on_the_key_alone(name: str) -> None:
    """The same numbers eagerly, compiled, under vmap, in a scan, in a map, and for every key of a batch."""
    draw = DRAWS[name]
    keys = td.random.split(td.random.key(6), 4)
    batched = td.jit(td.vmap(draw))(keys)
    scanned = td.jit(lambda keys: td.lax.scan(lambda c, k: (c, draw(k)), 0, keys)[1])(keys)
    np.testing.assert_array_equal(batched, scanned)
    for key, row in zip(keys, batched, strict=True):
        np.testing.assert_array_equal(drawn(draw, key), row)
        # Our own bits and NumPy's last places: the eager path evaluates transcendentals by NumPy.
        np.testing.assert_allclose(draw(key.copy()), row, rtol=1e-6, atol=1e-6)


def test_streams_do_not_know_threads() -> None:
    def draw(key: Any) -> Any:
        a, b = td.random.split(key)
        return td.random.normal(a, (300, 400)), td.random.uniform(b, (300, 400)).sum()

    one, two = (td.jit(draw, threads=n)(KEY) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_draws_have_derivatives_by_their_bounds() -> None:
    """The bits do not move; what is made of them does."""
    unit = drawn(lambda k: td.random.uniform(k, (8,), "float64"))
    by_high = td.grad(lambda high: td.random.uniform(KEY.copy(), (8,), "float64", 0.0, high).sum())(2.0)
    np.testing.assert_allclose(by_high, unit.sum(), rtol=1e-12)


# --- keys that are used twice -------------------------------------------------------------------------------------


def reuses(f: Callable[..., Any], *args: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f(*args)
    return [str(w.message) for w in caught if issubclass(w.category, td.random.KeyReuseWarning)]


def test_a_key_used_twice_is_told_with_both_lines() -> None:
    def f(key):
        first = td.random.normal(key, (3,))
        again = td.random.uniform(key, (3,))
        return first + again

    (message,) = reuses(lambda: td.jit(f)(td.random.key(0)))
    for words in ("TD0734", "first = td.random.normal(key, (3,))", "again = td.random.uniform(key, (3,))", "split"):
        assert words in message


def test_what_is_a_second_use() -> None:
    def in_a_loop(key):
        return sum(td.random.normal(key, ()) for _ in range(2))

    def of_a_split_key(key):
        keys = td.random.split(key)
        return td.random.normal(keys[0], ()) + td.random.normal(keys[0], ())

    def in_a_body(key):
        x = td.random.normal(key, ())
        return td.lax.scan(lambda c, _: (c + td.random.normal(key, ()), ()), x, None, length=2)[0]

    def eagerly(key):
        td.random.normal(key)
        td.random.uniform(key)

    key = np.array([0, 1], np.uint32)
    for f in (in_a_loop, of_a_split_key, in_a_body):
        assert len(reuses(lambda f=f: td.jit(f)(key))) == 1, f.__name__
    assert len(reuses(eagerly, td.random.key(0))) == 1


def test_a_key_of_every_step_is_told_with_both_lines() -> None:
    """All steps of a loop draw the same when their key comes from outside, or is handed on as it came."""

    def captured(key):
        return td.lax.scan(
            lambda c, _: (c + td.random.normal(key, ()), ()), 0.0, None, length=3
        )[0]  # fmt: skip

    def handed_on(key):
        return td.lax.fori_loop(0, 3, lambda i, s: (s[0], s[1] + td.random.normal(s[0], ())), (key, 0.0))[1]

    def while_it_runs(key):
        return td.lax.while_loop(lambda s: s < 3, lambda s: s + td.random.uniform(key, ()) + 0.5, 0.0)

    def while_it_is_told_to(key):
        return td.lax.while_loop(lambda s: td.random.uniform(s[1], ()) > s[0], lambda s: (s[0] + 1, s[1]), (0.0, key))

    def to_data(key):
        return td.lax.fori_loop(0, key[1], lambda i, s: s + td.random.normal(key, ()), 0.0)

    def up_to_a_bound(key):
        return td.lax.while_loop(lambda s: s < 3, lambda s: s + td.random.uniform(key, ()) + 1, 0.0, max_steps=9)

    def in_an_inner_loop(key):
        step = lambda k: td.lax.pfor(lambda i: td.random.normal(k, ()), 2).sum()  # noqa: E731
        return td.lax.map(step, td.random.split(key, 3))

    for f in (
        captured, handed_on, while_it_runs, while_it_is_told_to, to_data, up_to_a_bound, in_an_inner_loop,
    ):  # fmt: skip
        (message,) = reuses(lambda f=f: td.jit(f)(np.array([0, 1], np.uint32)))
        assert "TD0734: all steps of a loop use one key" in message and "fold_in" in message, message
        assert "first" in message and "in every step" in message
    (message,) = reuses(lambda: td.jit(captured)(np.array([0, 1], np.uint32)))
    assert "td.random.normal(key, ())" in message and "return td.lax.scan(" in message


def test_keys_of_steps_are_no_second_use() -> None:
    def split_on(key):
        def step(key, _):
            key, mine = td.random.split(key)
            return key, td.random.normal(mine, ())

        return td.lax.scan(step, key, None, length=3)[1]

    def folded(key):
        return td.lax.pfor(lambda i: td.random.normal(td.random.fold_in(key, i), ()), 3)

    def given(key):
        return td.lax.map(lambda k: td.random.normal(k, ()), td.random.split(key, 3))

    for f in (split_on, folded, given):
        assert reuses(lambda f=f: td.jit(f)(np.array([0, 1], np.uint32))) == [], f.__name__


def test_what_is_no_second_use() -> None:
    def split(key):
        a, b = td.random.split(key)
        return td.random.normal(a, ()) + td.random.normal(b, ())

    def folded(key):
        return sum(td.random.normal(td.random.fold_in(key, i), ()) for i in range(3))

    def branches(key):
        return td.lax.cond(key[0] > 3, lambda: td.random.normal(key, ()), lambda: td.random.uniform(key, ()))

    def differentiated(key):
        return td.value_and_grad(lambda x: td.random.normal(key, ()) * x)(2.0)

    def checkpointed(key):
        return td.grad(td.checkpoint(lambda x: np.sin(td.random.normal(key, ()) * x)))(2.0)

    for f in (split, folded, branches, differentiated, checkpointed):
        assert reuses(lambda f=f: td.jit(f)(td.random.key(0))) == [], f.__name__

    def twice(function, key):
        function(key)
        function(key)

    assert reuses(twice, td.jit(split), td.random.key(0)) == []


# --- what is refused ----------------------------------------------------------------------------------------------


def test_refusals() -> None:
    key = td.random.key(0)
    for call, code in (
        (lambda: td.random.normal(np.zeros(2)), "TD0730"),
        (lambda: td.random.normal(np.zeros((3, 2), np.uint32)), "TD0730"),
        (lambda: td.random.uniform(key.copy(), (2,), "int32"), "TD0731"),
        (lambda: td.random.randint(key.copy(), (2,), 5, 5), "TD0732"),
        (lambda: td.random.truncated_normal(key.copy(), 1.0, 1.0), "TD0732"),
        (lambda: td.random.bits(key.copy(), (2,), "int32"), "TD0235"),
    ):
        with pytest.raises(td.TreadleError) as caught:
            call()
        assert caught.value.code == code
