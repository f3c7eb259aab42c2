"""`open_model`: a model on disk, ready to be loaded by an engine or read by the text side."""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from stoker.core.errors import SettingsError, UnknownModelError
from stoker.models.config import TokenizerSpec, WeightSource
from stoker.models.huggingface.files import CONFIG_NAME, Quantize, is_model_folder
from stoker.models.opened import open_gguf


class OpenedModel(WeightSource, Protocol):
    """A model whose header and tensor table have been checked; also a context manager that closes it.

    Nothing is decoded before it is asked for: the engine process never touches the vocabulary, the
    gateway never touches a tensor.
    """

    @property
    def path(self) -> Path:
        """The file, or the folder."""

    @property
    def size_bytes(self) -> int:
        """Size of the files with weights."""

    @property
    def title(self) -> str | None:
        """The model's name as it states it itself, or None."""

    @property
    def licence(self) -> str | None:
        """The weights' licence likewise, or None."""

    @property
    def quantized(self) -> str | None:
        """How a folder's matrices are quantized and how well that is held, or None; types tell a file's."""

    @property
    def tokenizer(self) -> TokenizerSpec:
        """The tokenizer.

        Raises:
            CorruptFileError: Parts are missing or contradict each other.
            UnsupportedModelError: A tokenizer that Stoker does not run.
        """

    def close(self) -> None:
        """Let go of the files; tensors handed out earlier stay valid."""

    def __enter__(self) -> Self:
        """Return this."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


def open_model(path: Path | str, quantize: Quantize = "none") -> OpenedModel:
    """Open a GGUF file, or a folder of safetensors in Hugging Face's layout.

    Args:
        path: The file, or the folder.
        quantize: How matrices of floats are served; a GGUF file is served as it is.

    Raises:
        UnknownModelError: There is neither, or it may not be read.
        CorruptFileError: It is truncated or malformed.
        UnsupportedModelError: A well-formed model that Stoker cannot run.
        SettingsError: `quantize` is set for a GGUF file.
    """
    path = Path(path)
    if is_model_folder(path):
        # It takes NumPy, 70 ms to import, which a server of GGUF files need not pay.
        from stoker.models.huggingface.folder import OpenedFolder  # noqa: PLC0415

        return OpenedFolder(path, quantize)
    if path.is_dir():
        raise UnknownModelError(f"{path} is a folder without a {CONFIG_NAME}, so it holds no model.")
    if quantize != "none":
        raise SettingsError(
            f"quantize is {quantize!r}, but {path} is a GGUF file, which is served in the types it has; "
            "quantize works on folders of safetensors"
        )
    return open_gguf(path)
