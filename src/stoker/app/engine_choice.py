"""Which engine computes a model, and what the gateway reads of its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stoker.core import extras
from stoker.core.errors import ModelError, SettingsError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.config import TokenizerSpec
from stoker.models.header import ModelHeader
from stoker.models.huggingface.files import Quantize
from stoker.worker.config import EngineKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What the gateway needs of a model's file.

    Attributes:
        engine: What computes it.
        context_length: Most tokens that the model was made for.
        tokenizer: Its tokenizer as the file describes it.
        width: Size of its hidden states; None if only its engine knows.
    """

    engine: EngineKind
    context_length: int
    tokenizer: TokenizerSpec
    width: int | None = None


def choose_engine(
    wanted: Literal["auto", "native", "llamacpp"], path: Path, quantize: Quantize = "none"
) -> TextFacts:
    """Decide which engine computes a model.

    Args:
        wanted: ``auto`` for the native engine if it knows the model, else llama.cpp if that is installed.
        path: The model's file or folder.
        quantize: How the native engine serves a folder's matrices of floats.

    Raises:
        ModelError: The file is missing, damaged or of a model that cannot be run.
        SettingsError: llama.cpp is wanted and not installed, or `quantize` is set and no folder is served.
    """
    if wanted == "llamacpp":
        if not extras.has_llamacpp():
            raise SettingsError(f"engine is llamacpp, which needs the package xllamacpp: {extras.LLAMACPP}")
        if quantize != "none":
            raise SettingsError(
                f"quantize is {quantize}, but engine is llamacpp, which runs GGUF files as they are"
            )
        return _of_llamacpp(path)
    try:
        return _of_native(path, quantize)
    except UnsupportedModelError as error:
        if wanted == "native" or not path.is_file():
            raise
        return _of_other(path, error)


def _of_native(path: Path, quantize: Quantize) -> TextFacts:
    with open_model(path, quantize) as opened:
        return TextFacts(
            engine="native",
            context_length=opened.config.context_length,
            tokenizer=opened.tokenizer,
            width=opened.config.width,
        )


def _of_other(path: Path, refusal: UnsupportedModelError) -> TextFacts:
    """Have llama.cpp take what the native engine has refused."""
    try:
        facts = _of_llamacpp(path)
    except ModelError as error:
        if str(error) == str(refusal):
            raise refusal from None
        raise UnsupportedModelError(f"{refusal} Nor can llama.cpp be given it: {error}") from error
    if not extras.has_llamacpp():
        raise UnsupportedModelError(f"{refusal} llama.cpp may run it: {extras.LLAMACPP}") from refusal
    return facts


def _of_llamacpp(path: Path) -> TextFacts:
    if path.is_dir():
        raise UnsupportedModelError(
            f"{path} is a folder, but engine is llamacpp, which runs GGUF files: leave engine auto, or give "
            "a GGUF file of the model."
        )
    header = ModelHeader(path)
    return TextFacts(
        engine="llamacpp",
        context_length=header.context_length,
        tokenizer=header.tokenizer,
    )
