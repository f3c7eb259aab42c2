"""Takes files out of the page cache."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def drop_from_cache(files: Iterable[Path]) -> None:
    """Have the kernel forget the contents of files."""
    os.sync()
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def models_and_packs(home: Path) -> Iterator[Path]:
    """Yield what a start reads in a home folder."""
    yield from home.glob("models/*/*.gguf")
    yield from home.glob("packs/*.pack")
