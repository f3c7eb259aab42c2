"""Model files, mapped: how every reader of weights gets at their bytes."""

import mmap
import os
import stat
from pathlib import Path

from stoker.core.errors import CorruptFileError, UnknownModelError


def map_file(path: Path, *, kind: str, least_bytes: int) -> tuple[mmap.mmap, int]:
    """Map a file; also returns when it was modified last, in nanoseconds since 1970.

    Args:
        path: The file.
        kind: What it should be, for messages (``GGUF model file``).
        least_bytes: Its smallest size; at least 1.

    Raises:
        UnknownModelError: There is no such file, or it may not be read.
        CorruptFileError: It is not a regular file, or too short.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnknownModelError(f"Cannot open the model file {path}: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptFileError(f"{path} is not a regular file; expected a {kind}.")
        if status.st_size < least_bytes:
            raise CorruptFileError(f"{path} has {status.st_size} bytes: too short for a {kind}.")
        return mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ), status.st_mtime_ns
    finally:
        os.close(descriptor)
