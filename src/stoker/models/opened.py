"""A GGUF file, opened: ready to be loaded by an engine or read by the text side."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from stoker.models.architectures import locate_tensors, read_config
from stoker.models.config import ModelConfig, Tensor, TokenizerSpec
from stoker.models.digest import DIGEST_CHARS, sample_of
from stoker.models.gguf import GgufFile, Metadata, TensorInfo
from stoker.models.manifest import recorded_sha256
from stoker.models.tokenizer_spec import read_tokenizer


class TensorMap(Mapping[str, Tensor]):
    """A model's tensors by the names of `expected_shapes`; views of the mapped file, made when asked for.

    Args:
        file: The file.
        places: Where each tensor lies.
    """

    def __init__(self, file: GgufFile, places: Mapping[str, TensorInfo]) -> None:
        self._file = file
        self._places = places

    def __getitem__(self, name: str) -> Tensor:
        info = self._places[name]
        data = self._file.view(info.start, info.size_bytes)
        return Tensor(info.name, info.type.name, info.shape, lambda: data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class OpenedGguf:
    """A model file whose header and tensor table have been checked; a `WeightSource`.

    Nothing is decoded before it is asked for: the engine process never touches the vocabulary, the
    gateway never touches a tensor. Also a context manager that closes itself.

    Args:
        file: The opened file; closed with this object.
        recorded_sha256: SHA-256 of the whole file when it is already known, else None.
    """

    def __init__(self, file: GgufFile, recorded_sha256: str | None = None) -> None:
        self._file = file
        self._recorded_sha256 = recorded_sha256
        self._config = read_config(file)
        self._tensors = TensorMap(file, locate_tensors(str(file.path), self._config, file.tensors))

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._file.size_bytes

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self._config

    @property
    def metadata(self) -> Metadata:
        """Everything that the file says of itself."""
        return self._file.metadata

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by the names of `expected_shapes`; the data is mapped, not copied."""
        return self._tensors

    @property
    def tensor_infos(self) -> Mapping[str, TensorInfo]:
        """Type, shape and place of every tensor as the file stores it, by the file's name."""
        return self._file.tensors

    @property
    def title(self) -> str | None:
        """The model's name in the file, or None."""
        return self._stated("general.name")

    @property
    def licence(self) -> str | None:
        """The weights' licence in the file, or None."""
        return self._stated("general.license")

    @property
    def quantized(self) -> None:
        """Nothing beside the tensors' types."""
        return

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        """The tokenizer.

        Raises:
            CorruptFileError: Parts are missing or contradict each other.
            UnsupportedModelError: A tokenizer that Stoker does not run.
        """
        return read_tokenizer(str(self._file.path), self._file.metadata)

    @cached_property
    def digest(self) -> str:
        """Names these weights in `DIGEST_CHARS` hex digits, without reading the whole file.

        For a model in the store it begins the SHA-256 that was checked when the file was pulled.
        For any other file it is a SHA-256 of the size, the header and 4 KiB from the middle of each
        tensor: files of different models differ in it, but a change of single weights can go
        unseen, so do not edit a served file in place.
        """
        if self._recorded_sha256 is not None:
            return self._recorded_sha256[:DIGEST_CHARS]
        state = sha256(b"stoker sampled file digest 1\0")
        state.update(self._file.size_bytes.to_bytes(8, "little"))
        state.update(self._file.view(0, self._file.data_start))
        for info in self._file.tensors.values():
            state.update(self._file.view(info.start, info.size_bytes)[sample_of(info.size_bytes)])
        return state.hexdigest()[:DIGEST_CHARS]

    @property
    def identity(self) -> str:
        """The SHA-256 of the whole file if it is known, else its size and when it was modified."""
        if self._recorded_sha256 is not None:
            return self._recorded_sha256
        return f"{self._file.size_bytes} {self._file.modified_ns}"

    def _stated(self, key: str) -> str | None:
        value = self._file.metadata.get(key)
        return value if isinstance(value, str) else None

    def close(self) -> None:
        """Let go of the file; tensors handed out earlier stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: Path | str) -> OpenedGguf:
    """Open a GGUF model file.

    Raises:
        UnknownModelError: There is no such file, or it may not be read.
        CorruptFileError: The file is truncated or malformed.
        UnsupportedModelError: A well-formed file that Stoker cannot run.
    """
    file = GgufFile(Path(path))
    return OpenedGguf(file, recorded_sha256(file.path, file.size_bytes, file.modified_ns))
