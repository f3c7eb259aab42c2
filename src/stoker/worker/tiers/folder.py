"""The folder of KV files: written whole or not at all, bounded, the longest unused removed first.

::

    kv/<identity>/<first two digits of the name>/<name>.kv

An identity is a model, a KV type, a build and a block size; files of others are not read, but count, and
are removed as they age. Several engines may use the folder at the same time.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from stoker.core.errors import CorruptFileError
from stoker.kvcache import Link
from stoker.worker.tiers.format import HEADER_BYTES, check, encode_header

LOW_WATER = 0.9
"""A sweep leaves this share of the bound."""

DEAD_S = 3600.0
"""A file that is half written for so long has no writer any more."""

_SUFFIX, _PARTIAL = ".kv", ".partial"


class _Found(NamedTuple):
    used_at: float
    size_bytes: int
    path: str


class KVFolder:
    """The KV files of one identity, in a folder that others share; used by one thread.

    Args:
        folder: The folder of all identities.
        root: Names what the bytes of a block depend on, beside its tokens.
        max_bytes: Most bytes of all files there.
    """

    def __init__(self, folder: Path, root: str, max_bytes: int) -> None:
        self.folder = folder
        self.identity = blake2b(root.encode(), digest_size=32, person=b"stoker-kv-files").digest()
        self._own = folder / self.identity.hex()[:32]
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._n_written = 0

    def path(self, name: bytes) -> Path:
        """Return where the file of a block is."""
        digits = name.hex()
        return self._own / digits[:2] / (digits + _SUFFIX)

    def scan(self) -> list[bytes]:
        """Look at all files; return the names of the identity's own.

        Raises:
            OSError: The folder cannot be read.
        """
        used_bytes = 0
        names = []
        own = str(self._own) + os.sep
        for found in self._files():
            used_bytes += found.size_bytes
            if found.path.startswith(own):
                with suppress(ValueError):
                    names.append(_name_of(found.path))
        self._used_bytes = used_bytes
        return names

    def read(self, link: Link, into: memoryview) -> None:
        """Read a block.

        Args:
            link: The block.
            into: Where its bytes go, as many as it has.

        Raises:
            FileNotFoundError: There is no such file.
            CorruptFileError: It is not what it should be.
            OSError: It cannot be read.
        """
        path = self.path(link.name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size_bytes, whole_bytes = os.fstat(descriptor).st_size, HEADER_BYTES + len(into)
            if size_bytes != whole_bytes:
                raise CorruptFileError(
                    f"the KV file {path} is not used: it has {size_bytes} bytes, not {whole_bytes}"
                )
            header = bytearray(HEADER_BYTES)
            _read_all(descriptor, header, into)
            with suppress(OSError):  # a folder that may only be read
                os.utime(descriptor)
        finally:
            os.close(descriptor)
        try:
            check(header, into, self.identity, link)
        except CorruptFileError as error:
            raise CorruptFileError(f"the KV file {path} is not used: {error}") from error

    def remove(self, name: bytes) -> None:
        """Remove a file that is of no use, if that can be done."""
        with suppress(OSError):
            self.path(name).unlink()

    def write(self, link: Link, data: memoryview) -> list[bytes]:
        """Write a block's file, which appears complete or not at all.

        It is not flushed: what a power failure damages is found out by its checksums.

        Returns:
            The names of the identity's own files that were removed to make room.

        Raises:
            OSError: It cannot be written; nothing is left of it.
        """
        size_bytes = HEADER_BYTES + len(data)
        if size_bytes > self._max_bytes:
            raise OSError(errno.EFBIG, f"a block of {size_bytes} bytes is more than max_kv_disk_bytes allows")
        removed = self._sweep(size_bytes) if self._used_bytes + size_bytes > self._max_bytes else []
        path = self.path(link.name)
        self._n_written += 1
        partial = path.with_name(f"{path.stem[:16]}-{os.getpid()}-{self._n_written}{_PARTIAL}")
        try:
            descriptor = self._create(partial)
            try:
                _write_all(descriptor, encode_header(self.identity, link, data), data)
            finally:
                os.close(descriptor)
            partial.rename(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        self._used_bytes += size_bytes
        return removed

    @staticmethod
    def _create(path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, flags, 0o600)

    def _sweep(self, needed_bytes: int) -> list[bytes]:
        """Remove the files that were not used for the longest time, down to the low water mark."""
        files = sorted(self._files())
        used_bytes = sum(found.size_bytes for found in files)
        goal_bytes = min(int(self._max_bytes * LOW_WATER), self._max_bytes - needed_bytes)
        own = str(self._own) + os.sep
        removed = []
        for found in files:
            if used_bytes <= goal_bytes:
                break
            with suppress(FileNotFoundError):
                os.unlink(found.path)  # noqa: PTH108 - there may be a great many
            used_bytes -= found.size_bytes
            if found.path.startswith(own):
                with suppress(ValueError):
                    removed.append(_name_of(found.path))
        self._used_bytes = used_bytes
        return removed

    def _files(self) -> Iterator[_Found]:
        """Yield every KV file of every identity; remove what dead writers have left."""
        for identity in _entries(self.folder):
            for shard in _entries(identity.path):
                for entry in _entries(shard.path, of_files=True):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if entry.name.endswith(_SUFFIX):
                        yield _Found(status.st_mtime, status.st_size, entry.path)
                    elif entry.name.endswith(_PARTIAL) and time.time() - status.st_mtime > DEAD_S:
                        with suppress(OSError):
                            os.unlink(entry.path)  # noqa: PTH108 - likewise


def _entries(folder: Path | str, *, of_files: bool = False) -> list["os.DirEntry[str]"]:
    """Return a folder's files or folders; none if there is no such folder (any more)."""
    try:
        with os.scandir(folder) as entries:
            return [
                entry
                for entry in entries
                if (entry.is_file if of_files else entry.is_dir)(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def _name_of(path: str) -> bytes:
    return bytes.fromhex(os.path.basename(path).removesuffix(_SUFFIX))  # noqa: PTH119 - there may be many


def _read_all(descriptor: int, header: bytearray, data: memoryview) -> None:
    """Fill both; a file that ends earlier leaves what is left as it is, which its checksums tell."""
    n = os.readv(descriptor, [header, data])
    while 0 < n < len(header) + len(data):
        done = max(0, n - len(header))
        more = os.pread(descriptor, len(data) - done, len(header) + done) if n >= len(header) else b""
        if not more:
            return
        data[done : done + len(more)] = more
        n += len(more)


def _write_all(descriptor: int, header: bytes, data: memoryview) -> None:
    n = os.writev(descriptor, [header, data])
    while n < len(header) + len(data):
        rest = header[n:] if n < len(header) else data[n - len(header) :]
        n += os.write(descriptor, rest)
