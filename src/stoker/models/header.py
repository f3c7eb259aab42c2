"""What a GGUF file says of its text side, whatever its architecture and its tensors' types.

The native engine's reader (`stoker.models.opened`) refuses what that engine does not compute. Another
engine may: then the gateway needs a tokenizer and the length of the context, and nothing of the weights.
"""

from functools import cached_property
from hashlib import sha256
from pathlib import Path

from stoker.core.errors import CorruptFileError, ModelError, UnsupportedModelError
from stoker.models.config import TokenizerSpec
from stoker.models.digest import DIGEST_CHARS, SAMPLE_BYTES
from stoker.models.gguf import Metadata
from stoker.models.gguf.cursor import Cursor
from stoker.models.gguf.file import MAGIC, read_preamble
from stoker.models.gguf.metadata import read_metadata
from stoker.models.manifest import recorded_sha256
from stoker.models.mapped_file import map_file
from stoker.models.opening import open_model
from stoker.models.tokenizer_spec import read_tokenizer

MAX_CONTEXT = 2**27
"""Longest context that a header may claim."""

_SAMPLES = 256


class ModelHeader:
    """The metadata of a GGUF file, read as untrusted bytes; tensors are neither listed nor checked.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size_bytes: Its size.
        metadata: Everything that it says of itself.
        architecture: GGUF's name of its architecture.
        context_length: Most tokens that the model was made for.

    Raises:
        UnknownModelError: There is no such file, or it may not be read.
        CorruptFileError: It is not GGUF, or its header is truncated or malformed.
        UnsupportedModelError: A version or byte order that Stoker does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map, modified_ns = map_file(path, kind="GGUF model file", least_bytes=len(MAGIC))
        cursor = Cursor(self._map, str(path))
        _, n_keys = read_preamble(cursor)
        self.metadata: Metadata = read_metadata(cursor, n_keys)
        self.size_bytes = cursor.size
        self._end = cursor.position
        self._recorded_sha256 = recorded_sha256(path, self.size_bytes, modified_ns)
        self.architecture = self.metadata.text("general.architecture")
        key = f"{self.architecture}.context_length"
        self.context_length = self.metadata.integer(key)
        if not 1 <= self.context_length <= MAX_CONTEXT:
            raise CorruptFileError(f"{path}: {key} is {self.context_length}, expected 1 to {MAX_CONTEXT}.")

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """The tokenizer.

        Raises:
            CorruptFileError: Parts are missing or contradict each other.
            UnsupportedModelError: A tokenizer that Stoker does not run.
        """
        return read_tokenizer(str(self.path), self.metadata)

    @cached_property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self.metadata.length("tokenizer.ggml.tokens")

    @property
    def title(self) -> str | None:
        """The model's name as it states it itself, or None."""
        return self._stated("general.name")

    @property
    def licence(self) -> str | None:
        """The weights' licence likewise, or None."""
        return self._stated("general.license")

    def _stated(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    @cached_property
    def digest(self) -> str:
        """Names these weights in `DIGEST_CHARS` hex digits, without reading the whole file.

        For a model in the store it begins the SHA-256 that was checked when the file was pulled, else it
        is a SHA-256 of the size, the metadata and evenly spread samples.
        """
        if self._recorded_sha256 is not None:
            return self._recorded_sha256[:DIGEST_CHARS]
        state = sha256(b"stoker sampled header digest 1\0")
        state.update(self.size_bytes.to_bytes(8, "little"))
        state.update(self._map[: self._end])
        for sample in range(_SAMPLES):
            start = self._end + (self.size_bytes - self._end) * sample // _SAMPLES
            state.update(self._map[start : start + SAMPLE_BYTES])
        return state.hexdigest()[:DIGEST_CHARS]


def check_model(path: Path) -> None:
    """Check that some engine may run a model: the native one, or one that needs its text side alone.

    Raises:
        CorruptFileError: The file is truncated or malformed.
        UnsupportedModelError: The native engine does not run it, nor can its text be tokenized.
    """
    try:
        open_model(path).close()
    except UnsupportedModelError as refusal:
        if path.is_dir():
            raise
        try:
            _ = ModelHeader(path).tokenizer
        except ModelError:
            raise refusal from None
