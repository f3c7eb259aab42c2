"""What a model's file or folder says of itself, for people."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from stoker.core.errors import ModelError, UnsupportedModelError
from stoker.models.config import ModelConfig
from stoker.models.header import ModelHeader
from stoker.models.opening import open_model


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDetails:
    """What a model's file says.

    Attributes:
        path: The file.
        size_bytes: Its size.
        digest: Names the weights.
        architecture: GGUF's name of its architecture.
        vocab_size: Tokens of its vocabulary.
        context_length: Most tokens that it was made for.
        title: The model's name in the file, or None.
        licence: The licence in the file, or None.
        refusal: Why the native engine does not run it, or None. What follows is known only if it does.
        config: Shape of the model.
        tensor_types: How many tensors are stored in each type, most frequent first.
        quantized: How a folder's matrices are quantized and how well that is held, or None.
        n_parameters: Elements of all tensors.
    """

    path: Path
    size_bytes: int
    digest: str
    architecture: str
    vocab_size: int
    context_length: int
    title: str | None
    licence: str | None
    refusal: str | None = None
    config: ModelConfig | None = None
    tensor_types: Mapping[str, int] = field(default_factory=dict)
    quantized: str | None = None
    n_parameters: int = 0


def read_details(path: Path) -> FileDetails:
    """Read what a model's file says, tensors unread.

    Raises:
        UnknownModelError: There is no such file, or it may not be read.
        CorruptFileError: It is malformed.
        UnsupportedModelError: A folder that Stoker cannot run, or a file that no engine can be given.
    """
    try:
        opened = open_model(path)
    except UnsupportedModelError as error:
        if path.is_dir():
            raise
        return _header_details(path, error)
    with opened as model:
        types = Counter(tensor.dtype for tensor in model.tensors.values())
        return FileDetails(
            path=path,
            size_bytes=model.size_bytes,
            digest=model.digest,
            architecture=model.config.architecture,
            vocab_size=model.config.vocab_size,
            context_length=model.config.context_length,
            title=model.title,
            licence=model.licence,
            config=model.config,
            tensor_types=dict(types.most_common()),
            quantized=model.quantized,
            n_parameters=sum(prod(tensor.shape) for tensor in model.tensors.values()),
        )


def _header_details(path: Path, refusal: UnsupportedModelError) -> FileDetails:
    """Return what is known of a file that the native engine does not run."""
    try:
        header = ModelHeader(path)
        vocab_size = len(header.tokenizer.tokens)
    except ModelError:  # another engine cannot be given it either
        raise refusal from None
    return FileDetails(
        path=path,
        size_bytes=header.size_bytes,
        digest=header.digest,
        architecture=header.architecture,
        vocab_size=vocab_size,
        context_length=header.context_length,
        title=header.title,
        licence=header.licence,
        refusal=str(refusal),
    )
