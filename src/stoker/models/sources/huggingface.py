"""A model in a repository of the Hugging Face hub, or of a mirror that answers as it does."""

from pathlib import Path

import msgspec

from stoker.models.fields import MemberPath, Quantization, RepoId, Revision, Sha256, SizeBytes
from stoker.models.sources.base import Fetched, Progress
from stoker.models.sources.network import Network


class HuggingFaceSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Downloads one GGUF file, or the safetensors folder, of a repository.

    Every file is compared with the SHA-256 that the hub keeps of it (small files: with git's SHA-1).

    Attributes:
        repo: ``owner/name``.
        revision: Branch, tag or commit.
        file: Path of a GGUF file in it, or None.
        quantization: What the GGUF file's name ends in, such as ``Q4_K_M``; ``safetensors`` for the
            safetensors folder; or None. With neither, the repository must hold one model: a single GGUF
            file, or a safetensors folder and no GGUF file.
        sha256: SHA-256 of the GGUF file, or None to take the hub's word.
        size_bytes: Size of the model as lists show it before it is pulled, or None; the hub's word counts.
    """

    repo: RepoId
    revision: Revision = "main"
    file: MemberPath | None = None
    quantization: Quantization | None = None
    sha256: Sha256 | None = None
    size_bytes: SizeBytes | None = None

    def __post_init__(self) -> None:
        if self.file is not None and self.quantization is not None:
            raise ValueError("a source has `file` or `quantization`, not both")
        if self.sha256 is not None and self.file is None:
            raise ValueError("`sha256` needs `file`: it is that of one file")

    @property
    def label(self) -> str:
        """What the source is, for people: ``hf:owner/name:file``."""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        part = self.file or self.quantization
        return f"hf:{self.repo}{revision}{f':{part}' if part else ''}"

    @property
    def peak_bytes(self) -> int:
        """Room is asked for once the hub has told the size."""
        return 0

    @property
    def resume_key(self) -> str:
        """What is fetched; the hub's checksums tell whether it is still the same."""
        return self.label

    def fetch(self, workspace: Path, progress: Progress, network: Network, /) -> Fetched:
        """Download and check; see `Source.fetch`."""
        # The HTTP client takes 60 ms to import, which starting with a stored model need not pay.
        from stoker.models.sources.hub_fetch import fetch_from_hub  # noqa: PLC0415

        return fetch_from_hub(self, workspace, progress, network)
