"""Copying bytes while hashing them."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import IO

CHUNK_BYTES = 2**20


def copy_and_hash(
    source: IO[bytes], target: IO[bytes], max_bytes: int, copied: Callable[[int], None]
) -> tuple[int, str]:
    """Copy until the end, or until `max_bytes` are exceeded by at most one chunk.

    Args:
        source: Read from here.
        target: Write to here.
        max_bytes: Stop soon after this many.
        copied: Called after each chunk with the bytes copied so far.

    Returns:
        The number of bytes copied and their SHA-256 in hex.
    """
    state, done = sha256(), 0
    while done <= max_bytes and (chunk := source.read(CHUNK_BYTES)):
        target.write(chunk)
        state.update(chunk)
        done += len(chunk)
        copied(done)
    return done, state.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex."""
    state = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()
