"""The model store: one folder per model, with its files and a manifest.

A model's folder appears under its name by one rename, complete and flushed, or not at all; whatever
is half done lies in ``.partial``, where no reader looks, and is swept up by the next pull. Downloads
that can be resumed stay there, until a pull of their model succeeds or they are too old. One lock
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
from hashlib import sha256
from pathlib import Path
from time import time

import msgspec

from stoker.core.errors import SourceError, UnknownModelError
from stoker.models.catalogue import NAME_PATTERN
from stoker.models.manifest import MANIFEST_NAME, Manifest, ManifestFile, folder_sha256, read_manifest
from stoker.models.sources import Fetched
from stoker.models.sources.space import FULL_DISK_ERRNOS, full_disk_error

RESUMABLE_S = 7 * 24 * 3600.0
"""Seconds that a download is kept for being resumed after it was last written."""

_PARTIAL = ".partial"
_LOCKS = ".locks"
_SEPARATOR = "~"  # no model's name has one: what precedes it in `.partial` is the name
_RESUMABLE = "resumable-"  # after the separator: not to be swept while it is young


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that is whole and on this machine.

    Attributes:
        name: Its name.
        path: The GGUF file, or the folder with a ``config.json``.
        size_bytes: Its size, all files together.
        sha256: Its SHA-256 in hex, as checked when it was pulled; of a folder, `folder_sha256`.
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
        if manifest is None or manifest.name != name or not manifest.is_whole(folder):
            return None
        return StoredModel(
            name=name,
            path=folder if manifest.file is None else folder / manifest.file,
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
        """Remove a model's folder, whole or not, and what its unfinished pulls left.

        A server that has the files open keeps serving them.

        Raises:
            UnknownModelError: The store has neither.
            SourceError: The folder cannot be removed.
        """
        missing = UnknownModelError(f"There is no model {name[:100]!r} in the model store {self.folder}.")
        if re.match(NAME_PATTERN, name) is None or not self._has_any(name):
            raise missing
        with self.lock(name), self._writing(0):
            if not self._has_any(name):
                raise missing
            if (self.folder / name).is_dir():
                self._discard(name)
            self._remove_partials(name)

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
    def workspace(self, name: str, needed_bytes: int, resume_key: str | None = None) -> Iterator[Path]:
        """A folder on the store's file system, removed at the end; the lock must be held.

        Without a `resume_key` it is empty. With one, it holds what an earlier pull with this key left
        there, and stays for the next if the body raises `SourceError` or is interrupted; a full disk
        leaves nothing.

        Args:
            name: The model's name.
            needed_bytes: What a full disk's error will say was needed.
            resume_key: Names what is fetched, or None when it cannot be resumed.

        Raises:
            SourceError: The disk is full, or the store cannot be written (raised in the body too).
        """
        with self._writing(needed_bytes):
            self._sweep(name)
            folder = self._new_partial(name) if resume_key is None else self._resumable(name, resume_key)
            kept = False
            try:
                yield folder
            except (SourceError, KeyboardInterrupt):
                kept = resume_key is not None and any(folder.iterdir())
                raise
            else:
                self._remove_partials(name)  # those of other sources too: the model is there
            finally:
                if not kept:
                    _remove_tree(folder)

    def publish(self, name: str, fetched: Fetched, *, source: str, licence: str) -> StoredModel:
        """Move fetched files from a workspace into the store; the lock must be held.

        Raises:
            OSError: The store cannot be written.
        """
        staged = self._new_partial(name)
        files = []
        for each in fetched.files:
            path = staged / each.path.name
            each.path.rename(path)
            _flush(path)
            status = path.stat()
            files.append((path.name, status.st_size, status.st_mtime_ns, each.sha256))
        manifest = _manifest(name, files, is_folder=fetched.is_folder, source=source, licence=licence)
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

    def _resumable(self, name: str, resume_key: str) -> Path:
        key = sha256(resume_key.encode()).hexdigest()[:16]
        folder = self.folder / _PARTIAL / f"{name}{_SEPARATOR}{_RESUMABLE}{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _open_lock(self, name: str) -> int:
        locks = self.folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        return os.open(locks / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _partials(self, name: str) -> list[Path]:
        return list(self.folder.glob(f"{_PARTIAL}/{name}{_SEPARATOR}*"))

    def _has_any(self, name: str) -> bool:
        return (self.folder / name).is_dir() or bool(self._partials(name))

    def _remove_partials(self, name: str) -> None:
        for entry in self._partials(name):
            _remove_tree(entry)

    def _sweep(self, held: str) -> None:
        """Remove what dead writers left: whatever belongs to a lock that we hold or can get.

        Downloads that can be resumed are left while they are young.
        """
        for entry in self.folder.glob(f"{_PARTIAL}/*{_SEPARATOR}*"):
            name, _, rest = entry.name.partition(_SEPARATOR)
            if rest.startswith(_RESUMABLE) and _written_s(entry) > time() - RESUMABLE_S:
                continue
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


def _manifest(
    name: str, files: list[tuple[str, int, int, str]], *, is_folder: bool, source: str, licence: str
) -> Manifest:
    """Return the note for these files, each with its name, size, modification time and SHA-256."""
    listed = tuple(
        ManifestFile(name=file, size_bytes=size_bytes, modified_ns=modified_ns, sha256=digest)
        for file, size_bytes, modified_ns, digest in files
    )
    return Manifest(
        name=name,
        file=None if is_folder else listed[0].name,
        files=listed if is_folder else (),
        size_bytes=sum(file.size_bytes for file in listed),
        modified_ns=max(file.modified_ns for file in listed),
        sha256=folder_sha256({file.name: file.sha256 for file in listed}) if is_folder else listed[0].sha256,
        source=source,
        licence=licence,
        pulled_at=datetime.now(UTC),
    )


def _written_s(folder: Path) -> float:
    """When the folder or a file in it was last written."""
    paths = [folder, *folder.iterdir()] if folder.is_dir() else [folder]
    times = []
    for path in paths:
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # its writer is alive and has just moved it
            continue
    return max(times, default=0.0)


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
