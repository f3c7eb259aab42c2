"""A file that this machine already has, such as one on a shared folder."""

from pathlib import Path

import msgspec

from stoker.core.errors import SourceError
from stoker.models.fields import LocalPath, Sha256
from stoker.models.sources.base import Fetched, FetchedFile, Progress
from stoker.models.sources.copying import copy_and_hash
from stoker.models.sources.network import Network


class LocalFileSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Copies a file into the store.

    Attributes:
        path: The file; the catalogue makes it absolute.
        sha256: Its SHA-256 in hex, or None to take whatever is there.
    """

    path: LocalPath
    sha256: Sha256 | None = None

    @property
    def label(self) -> str:
        """What the source is, for people."""
        return f"file {self.path}"

    @property
    def size_bytes(self) -> int | None:
        """The file's size, or None when it is not there."""
        path = Path(self.path)
        return path.stat().st_size if path.is_file() else None

    @property
    def peak_bytes(self) -> int:
        """The copy's size."""
        return self.size_bytes or 0

    def fetch(self, workspace: Path, progress: Progress, _network: Network, /) -> Fetched:
        """Copy and check; see `Source.fetch`."""
        path = Path(self.path)
        if not path.is_file():
            raise SourceError(f"There is no file {path}.")
        size_bytes = path.stat().st_size
        target = workspace / path.name
        try:
            source = path.open("rb")
        except OSError as error:
            raise SourceError(f"Cannot read {path}: {error.strerror}.") from error
        with source, target.open("xb") as copy:
            _, digest = copy_and_hash(source, copy, size_bytes, lambda done: progress(done, size_bytes))
        if self.sha256 not in (None, digest):
            raise SourceError(
                f"{path} has the SHA-256 {digest}, but the catalogue expects {self.sha256}: "
                "it is another file, or damaged."
            )
        return Fetched(files=(FetchedFile(target, digest),), source=self.label)
