"""The folder that packs are kept in: found, written, bounded in size, removed.

A pack appears under its name by one rename, complete and flushed, or not at all; what is half
written lies in ``.partial``. One writer at a time holds the folder's lock, so whatever lies there when
it begins is a dead writer's and is removed. The packs used least recently go when there are too many;
those in use never do.
"""

import fcntl
import logging
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stoker import __version__
from stoker.core.errors import CorruptFileError
from stoker.models.packs.file import PackFile
from stoker.models.packs.format import (
    ALIGNMENT,
    CHUNK_BYTES,
    PACK_NAME,
    PackDescription,
    PackKey,
    data_start,
    encode_header,
    placed,
)

LOCK_WAIT_S = 120.0
"""How long one waits for another writer; a large model takes its time."""

LOCK_CHECK_S = 0.02

_PARTIAL = ".partial"
_LOCK = ".lock"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewPart:
    """A matrix or vector to be written: as in `PackPart`, with its bytes."""

    name: str
    kind: str
    data: memoryview


class PackFolder:
    """Packs below one folder, which is made when the first one is written.

    Args:
        folder: The folder.
        max_bytes: Most bytes of all packs together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._refused: set[tuple[int, int, int]] = set()  # files found unfit, by device, number and time

    def open(self, key: PackKey, *, layout: int, n_threads: int) -> PackFile | None:
        """Return the pack of this key, mapped, read and compared with its checksums, or None.

        What is wrong with one that is not used is logged.

        Args:
            key: What it must be the pack of.
            layout: The packed layout that it must have.
            n_threads: Threads that compute checksums.
        """
        path = self.folder / key.file_name
        try:
            status = path.stat()
            file = (status.st_dev, status.st_ino, status.st_mtime_ns)
            if file in self._refused:  # as read before, and told
                return None
            self._refused.add(file)
            pack = PackFile(path)
            reason = _unfit(pack, key, layout)
            if reason is not None:
                _log.info("the pack %s is not used: %s", path, reason)
                return None
            pack.load(n_threads)
        except FileNotFoundError:
            return None
        except (CorruptFileError, OSError) as error:
            _log.warning("a pack is not used: %s", error)
            return None
        self._refused.discard(file)
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return pack

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder's lock; make the folder if there is none.

        Raises:
            OSError: The folder cannot be written to.
            TimeoutError: Another writer holds it for `LOCK_WAIT_S`; an OSError too.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / _PARTIAL).mkdir(exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def write(self, key: PackKey, parts: Sequence[NewPart], *, layout: int) -> None:
        """Write a pack in place of the one there may be; the lock must be held.

        Raises:
            OSError: The disk is full, or the folder cannot be written to; nothing of it is left.
        """
        sizes = [(part.name, part.kind, len(part.data)) for part in parts]
        description = PackDescription(__version__, key.digest, key.recipe, placed(sizes))
        start = data_start(description)
        self._sweep()
        self._make_room(key, start + description.data_bytes)
        partial = self.folder / _PARTIAL / f"{key.file_name}.{os.getpid()}"
        try:
            with partial.open("xb", buffering=0) as file:
                os.fchmod(file.fileno(), 0o600)
                # All of the room at once, so that a full disk is known before anything is written.
                os.posix_fallocate(file.fileno(), 0, start + description.data_bytes)
                file.seek(start)
                checksums = _write_data(file.fileno(), parts)
                os.fsync(file.fileno())
                file.seek(0)
                _write_all(file.fileno(), memoryview(encode_header(layout, description, checksums)))
                os.fsync(file.fileno())
            partial.rename(self.folder / key.file_name)
        finally:
            partial.unlink(missing_ok=True)
        _flush_folder(self.folder)

    def remove(self, digest: str) -> None:
        """Remove every pack of a model; engines that use one go on.

        Raises:
            OSError: One cannot be removed.
        """
        for path in self._packs():
            if path.name.startswith(f"{digest}-"):
                path.unlink(missing_ok=True)

    def in_use_bytes(self, *, beside: PackKey) -> int:
        """Return how many bytes of other packs are in use; those of `beside` are not counted.

        In a folder that cannot be read none are known of.
        """
        try:
            others = [path for path in self._packs() if path.name != beside.file_name]
        except OSError:
            return 0
        return sum(_size(path) for path in others if _is_in_use(path))

    def _packs(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if PACK_NAME.match(path.name)]

    def _make_room(self, key: PackKey, needed_bytes: int) -> None:
        """Remove the packs used least recently until there is room for one more.

        Raises:
            OSError: There cannot be.
        """
        others = [path for path in self._packs() if path.name != key.file_name]
        total = sum(map(_size, others)) + needed_bytes
        idle = sorted((path for path in others if not _is_in_use(path)), key=_used_s)
        if total - sum(map(_size, idle)) > self.max_bytes:
            raise OSError(
                f"it takes {needed_bytes} bytes, and max_packs_bytes allows {self.max_bytes}, those in use "
                "included"
            )
        for path in idle:
            if total <= self.max_bytes:
                return
            total -= _size(path)
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what dead writers left."""
        for path in (self.folder / _PARTIAL).iterdir():
            path.unlink(missing_ok=True)


def _unfit(pack: PackFile, key: PackKey, layout: int) -> str | None:
    """Return why a whole pack is not the one that is looked for, or None."""
    found = pack.header.description
    if pack.header.layout != layout:
        return f"its layout is number {pack.header.layout}, not {layout}"
    if found.stoker != __version__:
        return f"Stoker {found.stoker} made it"
    if (found.digest, found.recipe) != (key.digest, key.recipe):
        return "it is of another model"
    return None


def _lock(descriptor: int) -> None:
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"another engine has been writing for {LOCK_WAIT_S:g} s") from None
            time.sleep(LOCK_CHECK_S)
        else:
            return


def _write_data(descriptor: int, parts: Sequence[NewPart]) -> list[int]:
    """Write the parts with zeros between them; return the checksum of each chunk."""
    checksums: list[int] = []
    chunk = chunk_bytes = 0
    padding = memoryview(bytes(ALIGNMENT))
    for index, part in enumerate(parts):
        n_padding = -len(part.data) % ALIGNMENT if index < len(parts) - 1 else 0
        for data in (part.data, padding[:n_padding]):
            at = 0
            while at < len(data):
                piece = data[at : at + CHUNK_BYTES - chunk_bytes]
                _write_all(descriptor, piece)
                chunk = zlib.crc32(piece, chunk)
                chunk_bytes += len(piece)
                at += len(piece)
                if chunk_bytes == CHUNK_BYTES:
                    checksums.append(chunk)
                    chunk = chunk_bytes = 0
    if chunk_bytes:
        checksums.append(chunk)
    return checksums


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _is_in_use(path: Path) -> bool:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # also where locks cannot be had: whoever maps it must not lose it
            return True
        finally:
            os.close(descriptor)
    return False


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _used_s(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _flush_folder(folder: Path) -> None:
    """Wait until the folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
