"""A model folder in Hugging Face's layout, opened."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stoker.core.errors import CorruptFileError
from stoker.models.config import ModelConfig, Tensor, TokenizerSpec
from stoker.models.digest import DIGEST_CHARS, sample_of
from stoker.models.huggingface.files import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    Quantize,
    folder_digest,
    read_json,
    read_optional,
)
from stoker.models.huggingface.inventory import Inventory
from stoker.models.huggingface.quantization import read_quantization
from stoker.models.huggingface.shape import describe, read_shape
from stoker.models.huggingface.shards import Shards
from stoker.models.huggingface.tensors import map_tensors
from stoker.models.huggingface.tokenizer_json import ADDED_TYPES, UNUSED, read_tokenizer_json
from stoker.models.manifest import recorded_folder_sha256


class OpenedFolder:
    """A folder whose config, tensors and their places have been checked; a `WeightSource`.

    No tensor is read before it is asked for. Also a context manager that closes itself.

    Args:
        path: The folder.
        quantize: How matrices of floats are served.

    Raises:
        UnknownModelError: A file may not be read.
        CorruptFileError: Files are missing, truncated, malformed or contradict each other.
        UnsupportedModelError: A model that Stoker cannot run.
    """

    def __init__(self, path: Path, quantize: Quantize = "none") -> None:
        self._path = path
        self._quantize = quantize
        config = path / CONFIG_NAME
        description = describe(str(config), read_json(config, dict[str, Any], MAX_CONFIG_BYTES))
        quantization = read_quantization(str(config), description.quantization)
        self._shards = Shards(path)
        try:
            inventory = Inventory(str(path), self._shards.tensors, quantization)
            self._config = read_shape(description, inventory.embedding_type)
            self._quantization, self._packed = quantization, inventory.packed
            self._tensors = map_tensors(inventory, description.family, self._config, quantize)
        except BaseException:
            self._shards.close()
            raise

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Size of the files with weights."""
        return self._shards.size_bytes

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self._config

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
        return self._tensors

    @property
    def title(self) -> str | None:
        """The model's name; a folder states none."""
        return None

    @property
    def licence(self) -> str | None:
        """The weights' licence; a folder states none."""
        return None

    @property
    def quantized(self) -> str | None:
        """How the folder's matrices are quantized and how well that is held, or None."""
        scheme = self._quantization
        if scheme is None:
            return None
        counts = Counter(matrix.fidelity for matrix in self._packed)
        held = ", ".join(f"{count} {fidelity}" for fidelity, count in counts.most_common())
        return f"{scheme.method}, {scheme.bits} bits" + (f" ({held})" if held else "")

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """The tokenizer, with a token for each row of the embedding matrix.

        Raises:
            CorruptFileError: Parts are missing or contradict each other.
            UnsupportedModelError: A tokenizer that Stoker does not run.
        """
        return _fitted(str(self._path), read_tokenizer_json(self._path), self._config.vocab_size)

    @cached_property
    def digest(self) -> str:
        """Names these weights, as they are served, in `DIGEST_CHARS` hex digits.

        For a model in the store it is made of the checksums of its files, which were checked when it was
        pulled; for any other folder of the config, the headers and 4 KiB from the middle of each tensor:
        a change of single weights can go unseen, so do not edit a served folder in place.
        """
        if self._recorded_sha256 is not None:
            return folder_digest(self._recorded_sha256, self._quantize)
        state = sha256(f"stoker sampled folder 1\0{self._quantize}\0".encode())
        state.update(read_optional(self._path / CONFIG_NAME, MAX_CONFIG_BYTES) or b"")
        for file in self._shards.files:
            state.update(file.size_bytes.to_bytes(8, "little"))
            state.update(file.header())
            for stored in file.tensors.values():
                state.update(stored.data[sample_of(len(stored.data))])
        return state.hexdigest()[:DIGEST_CHARS]

    @property
    def identity(self) -> str:
        """The checksum of the whole folder if it is known, else each file's size and when it was modified."""
        if self._recorded_sha256 is not None:
            return self._recorded_sha256
        return " ".join(f"{file.size_bytes} {file.modified_ns}" for file in self._shards.files)

    @cached_property
    def _recorded_sha256(self) -> str | None:
        return recorded_folder_sha256(self._path)

    def close(self) -> None:
        """Let go of the files; bytes handed out earlier stay valid."""
        self._tensors, self._packed = {}, []
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _fitted(label: str, spec: TokenizerSpec, vocab_size: int) -> TokenizerSpec:
    """A tokenizer of exactly `vocab_size` tokens.

    Embedding matrices are often padded: their last rows get tokens without a text. Some tokenizers name
    tokens that the text model has no row for (Gemma 3's of images): such added tokens are left out.
    """
    n_tokens = len(spec.tokens)
    if n_tokens <= vocab_size:
        missing = vocab_size - n_tokens
        return replace(
            spec, tokens=spec.tokens + ("",) * missing, token_types=spec.token_types + (UNUSED,) * missing
        )
    needed = {*spec.end_token_ids, *([] if spec.bos_token_id is None else [spec.bos_token_id])}
    for token_id in range(vocab_size, n_tokens):
        if spec.token_types[token_id] not in ADDED_TYPES or token_id in needed:
            raise CorruptFileError(
                f"{label}: the tokenizer has the token {token_id}, but the model has {vocab_size} embeddings."
            )
    return replace(
        spec,
        tokens=spec.tokens[:vocab_size],
        token_types=spec.token_types[:vocab_size],
        lstrip_ids=frozenset(each for each in spec.lstrip_ids if each < vocab_size),
        rstrip_ids=frozenset(each for each in spec.rstrip_ids if each < vocab_size),
    )
