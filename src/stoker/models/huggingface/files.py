"""Reading the small files of a model folder, each bounded."""

from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar, get_args

import msgspec

from stoker.core.errors import CorruptFileError
from stoker.models.digest import DIGEST_CHARS

MAX_CONFIG_BYTES = 2**23
"""Largest file of settings; a ``tokenizer_config.json`` that lists every added token has some 1 MB."""

CONFIG_NAME = "config.json"
"""What makes a folder a model."""

TOKENIZER_NAME = "tokenizer.json"
"""The tokenizer of such a folder."""

Quantize = Literal["none", "q8", "q4"]
"""``none``: matrices are served as they are stored. ``q8``: those of floats as 8-bit codes. ``q4``: as 4-bit
codes, but embeddings and output matrix as 8-bit ones. Vectors, and the routers of experts, stay floats.
"""

QUANTIZE: tuple[Quantize, ...] = get_args(Quantize)

_T = TypeVar("_T")


def is_model_folder(path: Path) -> bool:
    """Tell whether there is a folder with a ``config.json``."""
    return (path / CONFIG_NAME).is_file()


def folder_digest(recorded_sha256: str, quantize: Quantize) -> str:
    """Name the weights of a stored folder, as they are served, in `DIGEST_CHARS` hex digits.

    Args:
        recorded_sha256: Its `stoker.models.manifest.folder_sha256`.
        quantize: How it is served.
    """
    return sha256(f"stoker folder 1\0{quantize}\0{recorded_sha256}".encode()).hexdigest()[:DIGEST_CHARS]


def read_optional(path: Path, max_bytes: int) -> bytes | None:
    """Return a file's bytes, or None when there is none.

    Raises:
        CorruptFileError: It cannot be read, or is larger than `max_bytes`.
    """
    try:
        if not path.is_file():  # a named pipe would wait for a writer
            return None
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > max_bytes:
        raise CorruptFileError(f"{path} has more than {max_bytes} bytes, the most that Stoker reads of it.")
    return data


def read_json(path: Path, kind: type[_T], max_bytes: int, *, default: _T | None = None) -> _T:
    """Decode a JSON file.

    Args:
        path: The file.
        kind: What it must be.
        max_bytes: Its largest size.
        default: Returned when there is no such file; None for a file that must be there.

    Raises:
        CorruptFileError: It is missing, too large or malformed.
    """
    data = read_optional(path, max_bytes)
    if data is None:
        if default is not None:
            return default
        raise CorruptFileError(f"{path} is missing: a model folder needs it.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is malformed: {str(error)[:400]}.") from error
