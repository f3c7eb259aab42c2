"""Room on the disk."""

import errno
import shutil
from pathlib import Path

from stoker.core.errors import SourceError

FULL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Operating-system errors that mean "no more room"."""


def require_space(folder: Path, needed_bytes: int) -> None:
    """Check that the file system of `folder` has room.

    Raises:
        SourceError: It has not.
    """
    if shutil.disk_usage(folder).free < needed_bytes:
        raise full_disk_error(folder, needed_bytes)


def full_disk_error(folder: Path, needed_bytes: int) -> SourceError:
    """An error that says how much room is needed and how much there is."""
    free = shutil.disk_usage(folder).free
    return SourceError(
        f"Fetching this model needs {_mebibytes(needed_bytes)} of free disk space in {folder}, "
        f"but {_mebibytes(free)} are free. Free some, or choose another folder for models."
    )


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"
