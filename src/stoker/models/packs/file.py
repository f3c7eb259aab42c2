"""`PackFile`: a pack, mapped and checked to the last byte."""

import errno
import fcntl
import mmap
import os
import stat
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from stoker.core.errors import CorruptFileError
from stoker.models.packs.format import CHUNK_BYTES, PackPart, read_header

MAX_VERIFIERS = 8
"""Most threads that compute checksums."""

_POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ: fault pages in, and tell of a disk that fails by an error, not by SIGBUS."""


class PackFile:
    """A mapped pack whose header has been checked; its data are the page cache's, shared by all who map it.

    As long as a view of it lives, a lock on the file says that it is in use. Whoever removes the file
    or puts another in its place does not disturb that; nobody may write into it.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is none.
        CorruptFileError: It is not a pack, or of another version of the format, or damaged.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                raise CorruptFileError(f"{path} is not a pack file.")
            with suppress(OSError):  # a file system without locks: then nobody knows that it is in use
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            # The mapping has a copy of the descriptor, and with it the lock.
            self._map = mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._map)
        self.header = read_header(self._view, str(path))
        self.parts: Mapping[str, PackPart] = {part.name: part for part in self.header.description.parts}

    def data(self, part: PackPart) -> memoryview:
        """Return a part's bytes; they stay mapped as long as the view lives."""
        start = self.header.data_start + part.start
        return self._view[start : start + part.size_bytes]

    def load(self, n_threads: int) -> None:
        """Read the data into memory and compare it with its checksums.

        Raises:
            CorruptFileError: It is damaged, or the disk does not give it.
        """
        with suppress(OSError):
            self._map.madvise(mmap.MADV_HUGEPAGE)  # a hint, for file systems that keep files in huge pages
        with suppress(OSError):
            self._map.madvise(mmap.MADV_WILLNEED)
        n_chunks = len(self.header.checksums)
        with ThreadPoolExecutor(min(n_threads, MAX_VERIFIERS)) as pool:
            for index, whole in enumerate(pool.map(self._chunk_is_whole, range(n_chunks))):
                if not whole:
                    pool.shutdown(cancel_futures=True)
                    start = self._chunk_start(index)
                    raise CorruptFileError(f"{self.path} is damaged in the {CHUNK_BYTES} bytes from {start}.")

    def _chunk_start(self, index: int) -> int:
        return self.header.data_start + index * CHUNK_BYTES

    def _chunk_is_whole(self, index: int) -> bool:
        start = self._chunk_start(index)
        chunk = self._view[start : start + CHUNK_BYTES]
        try:
            self._map.madvise(_POPULATE_READ, start, len(chunk))
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel that does not know it
                return False
        return zlib.crc32(chunk) == self.header.checksums[index]
