"""The model store: one folder per model, with the weights file and a manifest.

A model's folder appears under its name by one rename, complete and flushed, or not at all; whatever
is half done lies in ``.partial``, where no reader looks, and is swept up by the next pull. One lock
file per model (in ``.locks``, never removed) keeps writers apart, across processes too; the kernel
lets go of it however its holder dies.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from stoker.core.errors import SourceError, UnknownModelError
from stoker.models.catalogue import NAME_PATTERN
from stoker.models.manifest import MANIFEST_NAME, Manifest, read_manifest
from stoker.models.sources import Fetched
from stoker.models.sources.space import FULL_DISK_ERRNOS, full_disk_error

_PARTIAL = ".partial"
_LOCKS = ".locks"
_SEPARATOR = "~"  # no model's name has one: what precedes it in `.partial` is the name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model whose file is whole and on this machine.

    Attributes:
        name: Its name.
        path: The weights file.
        size_bytes: Its size.
        sha256: Its SHA-256 in hex, as checked when it was pulled.
        source: Where it came from, for people.
        licence: The weights' licence.
        pulled_at: When.
    """

    name: str
    path: Path
    size_bytes: int
    sha256: str
    source: str
    licence: str
    pulled_at: datetime


class ModelStore:
    """Models below one folder, which is made when the first model is pulled.

    Args:
        folder: The store's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> StoredModel | None:
        """The whole model of this name, or None."""
        if re.match(NAME_PATTERN, name) is None:
            return None
        folder = self.folder / name
        manifest = read_manifest(folder)
        if manifest is None or manifest.name != name:
            return None
        path = folder / manifest.file
        if not path.is_file() or path.stat().st_size != manifest.size_bytes:
            return None
        return StoredModel(
            name=name,
            path=path,
            size_bytes=manifest.size_bytes,
            sha256=manifest.sha256,
            source=manifest.source,
            licence=manifest.licence,
            pulled_at=manifest.pulled_at,
        )

    def list_models(self) -> list[StoredModel]:
        """Every whole model, by name."""
        if not self.folder.is_dir():
            return []
        found = (self.find(entry.name) for entry in sorted(self.folder.iterdir()) if entry.is_dir())
        return [model for model in found if model is not None]

    def remove(self, name: str) -> None:
        """Remove a model's folder, whole or not. A server that has the file open keeps serving it.

        Raises:
            UnknownModelError: The store has no such folder.
            SourceError: The folder cannot be removed.
        """
        missing = UnknownModelError(f"There is no model {name[:100]!r} in the model store {self.folder}.")
        if re.match(NAME_PATTERN, name) is None or not (self.folder / name).is_dir():
            raise missing
        with self.lock(name), self._writing(0):
            if not (self.folder / name).is_dir():
                raise missing
            self._discard(name)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the model's lock, waiting for whoever has it.

        Raises:
            SourceError: The store's folder cannot be written.
        """
        with self._writing(0):
            descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def workspace(self, name: str, needed_bytes: int) -> Iterator[Path]:
        """An empty folder on the store's file system, removed at the end; the lock must be held.

        Args:
            name: The model's name.
            needed_bytes: What a full disk's error will say was needed.

        Raises:
            SourceError: The disk is full, or the store cannot be written (raised in the body too).
        """
        with self._writing(needed_bytes):
            self._sweep(name)
            folder = self._new_partial(name)
            try:
                yield folder
            finally:
                _remove_tree(folder)

    def publish(self, name: str, fetched: Fetched, *, source: str, licence: str) -> StoredModel:
        """Move a fetched file from a workspace into the store; the lock must be held.

        Raises:
            OSError: The store cannot be written.
        """
        staged = self._new_partial(name)
        path = staged / fetched.path.name
        fetched.path.rename(path)
        _flush(path)
        status = path.stat()
        manifest = Manifest(
            name=name,
            file=path.name,
            size_bytes=status.st_size,
            modified_ns=status.st_mtime_ns,
            sha256=fetched.sha256,
            source=source,
            licence=licence,
            pulled_at=datetime.now(UTC),
        )
        note = staged / MANIFEST_NAME
        note.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        _flush(note)
        _flush(staged)
        if (self.folder / name).exists():  # not whole, or it would have been found
            self._discard(name)
        staged.rename(self.folder / name)
        _flush(self.folder)
        stored = self.find(name)
        if stored is None:
            raise SourceError(f"The model {name} is damaged right after it was written to {self.folder}.")
        return stored

    def _discard(self, name: str) -> None:
        """Take the model's folder out of sight by one rename, then remove it."""
        grave = self._new_partial(name)
        (self.folder / name).rename(grave / name)
        _remove_tree(grave)

    def _new_partial(self, name: str) -> Path:
        partial = self.folder / _PARTIAL
        partial.mkdir(exist_ok=True)
        folder = partial / f"{name}{_SEPARATOR}{secrets.token_hex(8)}"
        folder.mkdir()
        return folder

    def _open_lock(self, name: str) -> int:
        locks = self.folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        return os.open(locks / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _sweep(self, held: str) -> None:
        """Remove what dead writers left: whatever belongs to a lock that we hold or can get."""
        for entry in self.folder.glob(f"{_PARTIAL}/*{_SEPARATOR}*"):
            name = entry.name.partition(_SEPARATOR)[0]
            if name == held:
                _remove_tree(entry)
                continue
            descriptor = self._open_lock(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its writer is alive
                continue
            else:
                _remove_tree(entry)
            finally:
                os.close(descriptor)

    @contextmanager
    def _writing(self, needed_bytes: int) -> Iterator[None]:
        """Turn the operating system's refusals into errors that say what to do."""
        try:
            yield
        except BrokenPipeError:  # nothing in the store is a pipe: the caller's terminal has gone
            raise
        except OSError as error:
            if error.errno in FULL_DISK_ERRNOS and self.folder.is_dir():
                raise full_disk_error(self.folder, needed_bytes) from error
            raise SourceError(
                f"Cannot write the model store {self.folder}: {error.strerror or error}. "
                "Make it writable, or choose another folder for models."
            ) from error


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(folder: Path) -> None:
    """Remove as much as can be removed; the next pull sweeps up the rest.

    A killed pull can leave a downloader that still writes here for a moment.
    """
    shutil.rmtree(folder, ignore_errors=True)
