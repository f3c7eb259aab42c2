"""The note that the store keeps beside each model's files."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.models.fields import FileName, PartName, Sha256, SizeBytes

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
_MAX_BYTES = 2**20


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a stored model that is a folder.

    Attributes:
        name: Its name.
        size_bytes: Its size.
        modified_ns: Its modification time; together with the size it tells an edited file.
        sha256: Its SHA-256 in hex, as checked when it was pulled.
    """

    name: PartName
    size_bytes: SizeBytes
    modified_ns: int
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stored model.

    Attributes:
        format: `MANIFEST_FORMAT`; a manifest of another format is not read.
        name: The model's name.
        file: Name of the model file, in the manifest's folder; None when the model is the folder.
        files: Every file of a model that is a folder; else empty.
        size_bytes: Its size, all files together.
        modified_ns: The model file's modification time; of a folder, the latest.
        sha256: The model file's SHA-256 in hex, as checked when it was pulled; of a folder, the
            `folder_sha256`.
        source: Where it came from, for people.
        licence: The weights' licence.
        pulled_at: When.
    """

    format: Annotated[int, Meta(ge=MANIFEST_FORMAT, le=MANIFEST_FORMAT)] = MANIFEST_FORMAT
    name: str
    file: FileName | None
    files: tuple[ManifestFile, ...] = ()
    size_bytes: SizeBytes
    modified_ns: int
    sha256: Sha256
    source: str
    licence: str
    pulled_at: datetime

    def is_whole(self, folder: Path) -> bool:
        """Tell whether every file is there in its full size."""
        if self.file is not None:
            return _size_of(folder / self.file) == self.size_bytes
        return bool(self.files) and all(
            _size_of(folder / each.name) == each.size_bytes for each in self.files
        )


def folder_sha256(checksums: Mapping[str, str]) -> str:
    """One SHA-256 for a folder: that of its files' lines as ``sha256sum`` prints them, by name."""
    lines = "".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums))
    return sha256(lines.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, or None when there is none that can be understood."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def recorded_sha256(path: Path, size_bytes: int, modified_ns: int) -> str | None:
    """SHA-256 of a model file from the manifest beside it.

    None when there is no manifest, or it is of another file, or the file was changed since.
    """
    manifest = read_manifest(path.parent)
    expected = (path.name, size_bytes, modified_ns)
    if manifest is None or (manifest.file, manifest.size_bytes, manifest.modified_ns) != expected:
        return None
    return manifest.sha256


def recorded_folder_sha256(folder: Path) -> str | None:
    """SHA-256 of a model that is a folder (`folder_sha256`), from the manifest in it.

    None when there is no manifest, or a file that it lists was changed since.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.file is not None or not manifest.is_whole(folder):
        return None
    if any((folder / each.name).stat().st_mtime_ns != each.modified_ns for each in manifest.files):
        return None
    return manifest.sha256


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
