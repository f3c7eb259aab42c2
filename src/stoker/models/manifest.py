"""The note that the store keeps beside each model file."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.models.fields import FileName, Sha256, SizeBytes

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
_MAX_BYTES = 2**16


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stored model file.

    Attributes:
        format: `MANIFEST_FORMAT`; a manifest of another format is not read.
        name: The model's name.
        file: Name of the file, in the manifest's folder.
        size_bytes: Its size.
        modified_ns: Its modification time; together with the size it tells an edited file.
        sha256: Its SHA-256 in hex, as checked when it was pulled.
        source: Where it came from, for people.
        licence: The weights' licence.
        pulled_at: When.
    """

    format: Annotated[int, Meta(ge=MANIFEST_FORMAT, le=MANIFEST_FORMAT)] = MANIFEST_FORMAT
    name: str
    file: FileName
    size_bytes: SizeBytes
    modified_ns: int
    sha256: Sha256
    source: str
    licence: str
    pulled_at: datetime


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, or None when there is none that can be understood."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Manifest)
    except (OSError, ValueError, RecursionError, msgspec.DecodeError):  # ValueError: not UTF-8
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
