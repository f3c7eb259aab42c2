"""Checked field types of catalogue files and manifests."""

from typing import Annotated

from msgspec import Meta

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A SHA-256 in lower-case hex."""

PackageName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z", max_length=200)]
"""A Python package's name; the pattern leaves no room for an option or a path."""

PackageVersion = Annotated[str, Meta(pattern=r"^[0-9][A-Za-z0-9.!+_-]*\Z", max_length=100)]
"""An exact version."""

SizeBytes = Annotated[int, Meta(ge=1, le=2**44)]
"""Size of a file, up to 16 TiB."""

MemberPath = Annotated[str, Meta(pattern=r"^([^/\\\x00]+/)*[^/\\\x00]+\.gguf\Z", max_length=1000)]
"""A model file's path inside an archive."""

LocalPath = Annotated[str, Meta(pattern=r"^[^\x00]*[^/\x00]\.gguf\Z", max_length=4096)]
"""A model file's path on this machine."""

FileName = Annotated[str, Meta(pattern=r"^[^/\x00]+\.gguf\Z", max_length=255)]
"""A model file's name, without folders."""
