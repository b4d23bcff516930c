"""The disk cache: whatever is wrong with the disk, compilation goes on."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import pytest

from treadle.runtime.cache import ObjectCache
from treadle.runtime.errors import CacheWarning


def key(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def test_what_is_put_is_got_in_another_process_too(tmp_path: Path) -> None:
    """That is the point: a fresh process finds the object, and an unknown key nothing."""
    ObjectCache(tmp_path / "deep" / "cache").put(key(1), b"object")
    cache = ObjectCache(tmp_path / "deep" / "cache")
    assert (cache.get(key(1)), cache.get(key(2))) == (b"object", None)
    assert (cache.hits, cache.misses) == (1, 1)


def test_a_cache_that_was_never_written_makes_no_directory(tmp_path: Path) -> None:
    """Reading must leave nothing behind in the user's home."""
    assert ObjectCache(tmp_path / "cache").get(key(1)) is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_entry_is_absent_and_removed(tmp_path: Path, damage: str) -> None:
    """Its bytes would be run."""
    cache = ObjectCache(tmp_path)
    cache.put(key(1), bytes(range(256)) * 10)
    path = cache.path(key(1))
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-1]), "empty": b"", "foreign": b"x" * 99}[damage])
    assert cache.get(key(1)) is None
    assert not path.exists()


def test_the_directory_is_bounded_and_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    """An entry that is used stays, though it is the oldest."""
    cache = ObjectCache(tmp_path, limit_bytes=10_000)
    for number in range(9):
        cache.put(key(number), bytes(1000))
        past = time.time() - 10_000 + number
        os.utime(cache.path(key(number)), (past, past))
    assert cache.get(key(0)) is not None  # marks it as used now
    for number in range(9, 12):
        cache.put(key(number), bytes(1000))
    assert cache.size_bytes() <= 10_000
    assert cache.get(key(0)) is not None
    assert cache.get(key(1)) is None
    assert cache.get(key(11)) is not None


def test_an_object_larger_than_the_bound_is_not_stored(tmp_path: Path) -> None:
    """It would push out everything, itself included."""
    cache = ObjectCache(tmp_path, limit_bytes=1000)
    cache.put(key(1), bytes(500))
    cache.put(key(2), bytes(5000))
    assert (cache.get(key(1)), cache.get(key(2))) == (bytes(500), None)


@pytest.mark.parametrize("place", ["/proc/treadle", "a file", "/dev/full/x"])
def test_a_directory_that_cannot_be_made_is_one_warning(tmp_path: Path, place: str) -> None:
    """Then every compilation goes on without the cache, silently."""
    if place == "a file":
        place = str(tmp_path / "file" / "cache")
        (tmp_path / "file").write_text("")
    cache = ObjectCache(place)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for number in range(5):
            cache.put(key(number), b"object")
            assert cache.get(key(number)) is None
    assert [w.category for w in seen] == [CacheWarning]
    assert "TD0920" in str(seen[0].message)


def test_a_full_or_read_only_directory_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither can be made for root in a test without a file system of its own, so the system call says so."""
    cache = ObjectCache(tmp_path)
    cache.put(key(0), b"before")
    original = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for number in range(1, 5):
            cache.put(key(number), b"object")
    assert [str(w.message) for w in seen] == [
        f"TD0920: the compilation cache is off: cannot write to {tmp_path}: No space left on device"
    ]
    assert cache.get(key(0)) == b"before"


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    """Whoever writes there would choose what code this process runs."""
    ObjectCache(tmp_path).put(key(1), b"object")
    tmp_path.chmod(0o777)
    cache = ObjectCache(tmp_path)
    with pytest.warns(CacheWarning, match="others can write"):
        assert cache.get(key(1)) is None


def fill(directory: Path, start: int) -> None:
    cache = ObjectCache(directory, limit_bytes=200_000)
    for round_number in range(60):
        number = (start + round_number) % 30
        found = cache.get(key(number))
        assert found is None or found == bytes([number]) * 9000
        if found is None:
            cache.put(key(number), bytes([number]) * 9000)


def test_processes_may_fill_one_directory_together(tmp_path: Path) -> None:
    """Nobody reads half an entry, nobody fails because another removed one."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(tmp_path, start)) for start in (0, 11)]
    for process in processes:
        process.start()
    fill(tmp_path, 20)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert ObjectCache(tmp_path).size_bytes() <= 200_000 + 2 * 9100
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_what_a_dead_process_left_is_swept_up(tmp_path: Path) -> None:
    """Half-written files must not fill the disk over the years."""
    left = tmp_path / ".abc-1-2.part"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    cache = ObjectCache(tmp_path)
    cache.put(key(1), b"object")
    assert not left.exists()


def test_clear_removes_the_entries_and_nothing_else(tmp_path: Path) -> None:
    """The user may have pointed it at a directory with other things in it."""
    (tmp_path / "notes.txt").write_text("mine")
    cache = ObjectCache(tmp_path)
    cache.put(key(1), b"object")
    cache.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_only_digests_are_keys(tmp_path: Path) -> None:
    """A key becomes a file name."""
    for bad in ("", "abc", "../../etc/passwd", key(1).upper()):
        with pytest.raises(ValueError, match="not a key"):
            ObjectCache(tmp_path).put(bad, b"")
