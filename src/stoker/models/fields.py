"""Checked field types of catalogue files, manifests and a hub's replies."""

from typing import Annotated

from msgspec import Meta

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A SHA-256 in lower-case hex."""

GitSha1 = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
"""A git object's SHA-1 in lower-case hex."""

PackageName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z", max_length=200)]
"""A Python package's name; the pattern leaves no room for an option or a path."""

PackageVersion = Annotated[str, Meta(pattern=r"^[0-9][A-Za-z0-9.!+_-]*\Z", max_length=100)]
"""An exact version."""

SizeBytes = Annotated[int, Meta(ge=1, le=2**44)]
"""Size of a file, up to 16 TiB."""

MemberPath = Annotated[str, Meta(pattern=r"^([^/\\\x00]+/)*[^/\\\x00]+\.gguf\Z", max_length=1000)]
"""A model file's path inside an archive or a repository."""

LocalPath = Annotated[str, Meta(pattern=r"^[^\x00]*[^/\x00]\.gguf\Z", max_length=4096)]
"""A model file's path on this machine."""

FileName = Annotated[str, Meta(pattern=r"^[^/\x00]+\.gguf\Z", max_length=255)]
"""A model file's name, without folders."""

PartName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.(json|jinja|safetensors)\Z", max_length=255)
]
"""Name of one file of a model that is a folder."""

_REPO_PART = r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
RepoId = Annotated[str, Meta(pattern=rf"^(?!.*(--|\.\.)){_REPO_PART}/{_REPO_PART}\Z")]
"""A repository of a hub: ``owner/name``; neither has ``--`` in it, as on the hub itself."""

Revision = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}\Z")]
"""A branch, tag or commit; never ``..``, since the hub's URL holds it in quoted form."""

Quantization = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}\Z")]
"""How a file's name spells its quantization: ``Q4_K_M``."""

Url = Annotated[str, Meta(pattern=r"^https?://[^\s\x00-\x1f\x7f]+\Z", max_length=4096)]
"""An address to download from."""
