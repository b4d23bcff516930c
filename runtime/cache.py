"""Compiled objects on disk, so that the next process need not compile them again.

The key, a hex digest, says everything the object depends on; that is the caller's promise. An entry carries
the hash of its bytes and is checked when read: what is damaged counts as absent and is removed. Entries
appear by an atomic rename, so any number of processes may fill one directory. The directory is bounded in
bytes, and the entries used longest ago go first. When it cannot be written (read-only, full, or not ours to
trust) there is one warning, and compilation goes on without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
import time
import warnings
import weakref
from pathlib import Path

from .errors import CacheWarning, users_level

MAGIC = b"TREADLE-OBJECT-1"
HEADER_BYTES = len(MAGIC) + hashlib.sha256().digest_size
SUFFIX = ".object"
UNFINISHED = ".part"
KEY = re.compile(r"[0-9a-f]{16,128}")

# An entry that was used is marked so at most this often: one system call in a hundred hits is enough to order
# them.
MARK_AFTER_SECONDS = 60
# What a process that died while writing left behind is removed after this long.
UNFINISHED_SECONDS = 3600


class ObjectCache:
    """One directory of compiled objects. `get` and `put` never raise for what is wrong with the disk."""

    def __init__(self, directory: str | os.PathLike[str], limit_bytes: int = 1 << 30) -> None:
        self.directory = Path(directory)
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._trusted: bool | None = None  # whether the directory exists and nobody else can write there
        self._writable = True
        self._warned = False
        _caches.add(self)
        self._bytes: int | None = None  # what the directory held when last looked at, plus what we added

    def get(self, key: str) -> bytes | None:
        """The bytes put under that key, or None."""
        data = self._read(self.path(key)) if self._usable() else None
        with self._lock:
            if data is None:
                self.misses += 1
            else:
                self.hits += 1
        return data

    def put(self, key: str, data: bytes) -> None:
        """Store the bytes under that key, if that is possible."""
        path = self.path(key)
        if not self._usable(create=True) or not self._writable:
            return
        if HEADER_BYTES + len(data) > self.limit_bytes:
            return
        part = path.with_name(f".{path.stem}-{os.getpid()}-{threading.get_ident()}{UNFINISHED}")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(MAGIC + hashlib.sha256(data).digest() + data)
                os.replace(part, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
        except OSError as error:
            self._writable = False
            self._warn(f"cannot write to {self.directory}: {error.strerror}")
            return
        self._make_room(HEADER_BYTES + len(data))

    def clear(self) -> None:
        """Remove every entry."""
        for path, _, _ in self._entries():
            _remove(path)
        self._bytes = None

    def size_bytes(self) -> int:
        """What the entries take now."""
        return sum(size for _, size, _ in self._entries())

    def path(self, key: str) -> Path:
        """Where the entry of that key lies."""
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key of the cache: {key!r}")
        return self.directory / (key + SUFFIX)

    def _read(self, path: Path) -> bytes | None:
        try:
            with open(path, "rb") as file:
                content = file.read()
                used = os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        data = content[HEADER_BYTES:]
        if content[: len(MAGIC)] != MAGIC or hashlib.sha256(data).digest() != content[len(MAGIC) : HEADER_BYTES]:
            _remove(path)
            return None
        if time.time() - used > MARK_AFTER_SECONDS:
            with contextlib.suppress(OSError):  # a read-only cache has no order of use, and needs none
                os.utime(path)
        return data

    def _usable(self, create: bool = False) -> bool:
        """Whether the directory is there and may be trusted: its entries are run as code."""
        if self._trusted is None or (create and not self._trusted and not self._warned):
            try:
                if create:
                    self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                elif not self.directory.exists():
                    return False
                status = os.stat(self.directory)
            except OSError as error:
                self._trusted = False
                self._warn(f"cannot use {self.directory}: {error.strerror}")
                return False
            owned = status.st_uid in (os.geteuid(), 0)
            directory = stat.S_ISDIR(status.st_mode)
            self._trusted = directory and owned and not status.st_mode & stat.S_IWOTH
            if not directory:
                self._warn(f"{self.directory} is not a directory")
            elif not self._trusted:
                self._warn(f"{self.directory} is not used: others can write there, and its entries are run as code")
        return self._trusted

    def _make_room(self, added: int) -> None:
        """Remove the entries used longest ago until a tenth of the room is free, once the limit is passed."""
        with self._lock:
            if self._bytes is not None:
                self._bytes += added
                if self._bytes <= self.limit_bytes:
                    return
            entries = sorted(self._entries(), key=lambda entry: (entry[2], entry[0]))
            total = sum(size for _, size, _ in entries)
            if total > self.limit_bytes:
                for path, size, _ in entries[:-1]:  # never the one just added
                    if total <= self.limit_bytes * 9 // 10:
                        break
                    _remove(path)
                    total -= size
            self._bytes = total

    def _entries(self) -> list[tuple[str, int, float]]:
        """Path, bytes and time of last use of every entry; what a dead process left half written is
        removed."""
        entries = []
        try:
            with os.scandir(self.directory) as directory:
                for entry in directory:
                    with contextlib.suppress(OSError):  # another process may have removed it meanwhile
                        status = entry.stat(follow_symlinks=False)
                        if entry.name.endswith(SUFFIX):
                            entries.append((entry.path, status.st_size, status.st_mtime))
                        elif entry.name.endswith(UNFINISHED) and time.time() - status.st_mtime > UNFINISHED_SECONDS:
                            _remove(entry.path)
        except OSError:
            return []
        return entries

    def _warn(self, reason: str) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        message = f"TD0920: the compilation cache is off: {reason}"
        warnings.warn(message, CacheWarning, stacklevel=users_level())


def _remove(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


_caches: weakref.WeakSet[ObjectCache] = weakref.WeakSet()


def _renew_locks() -> None:
    # Another thread may have held a lock while the process forked; in the child nobody will release it.
    for cache in _caches:
        cache._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
