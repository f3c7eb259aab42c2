"""Which files of a repository make a model: one GGUF file, else a folder of safetensors.

Only the files named here are ever fetched: no code and no pickles.
"""

import re
from collections.abc import Iterable, Sequence

from stoker.core.errors import SourceError
from stoker.models.huggingface.files import CONFIG_NAME
from stoker.models.sources.hub_listing import RepoFile

FOLDER_FILES = frozenset(
    {
        CONFIG_NAME,
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
)
"""The files of a safetensors model beside its weights."""

MAX_TEXT_BYTES = 2**27
"""Largest of `FOLDER_FILES`: 128 MiB, four times the largest tokenizer known."""

MAX_WEIGHT_FILES = 1000

FOLDER_PART = "safetensors"
"""What stands in a quantization's place for the folder of a repository that has GGUF files too."""

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SHOWN = 40


def select_file(label: str, files: Iterable[RepoFile], file: str) -> RepoFile:
    """The file of this path.

    Raises:
        SourceError: There is none, or it is one part of a split file.
    """
    ggufs = _ggufs(files)
    if _SPLIT.search(file):
        raise _split_error(label, file)
    found = [each for each in ggufs if each.name == file]
    if not found:
        raise SourceError(f"The {label} has no file {file}. {_listed(ggufs)}")
    return found[0]


def select_quantization(label: str, files: Iterable[RepoFile], quantization: str) -> RepoFile:
    """The one GGUF file whose name ends in this quantization, whatever its letter case.

    Raises:
        SourceError: None does, or several do, or it is split into parts.
    """
    ggufs = _models(files)
    ending = re.compile(rf"(^|[-._/]){re.escape(quantization)}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
    found = [each for each in ggufs if ending.search(each.name)]
    if not found:
        raise SourceError(
            f"The {label} has no GGUF file of the quantization {quantization}. {_listed(ggufs)}"
        )
    whole = [each for each in found if not _SPLIT.search(each.name)]
    if not whole:
        raise _split_error(label, found[0].name)
    if len(whole) > 1:
        raise SourceError(
            f"The {label} has several files of the quantization {quantization}. {_listed(whole)}"
        )
    return whole[0]


def select_model(label: str, files: Sequence[RepoFile]) -> tuple[RepoFile, ...]:
    """The files of a repository's one model: its only GGUF file, else its safetensors folder.

    Raises:
        SourceError: It holds no model that Stoker reads, or several.
    """
    folder = _folder(label, files)
    ggufs = _models(files)
    if len(ggufs) == 1:
        if _SPLIT.search(ggufs[0].name):
            raise _split_error(label, ggufs[0].name)
        return (ggufs[0],)
    if ggufs:
        other = f", or {FOLDER_PART} for the folder of safetensors" if folder else ""
        raise SourceError(
            f"The {label} has several GGUF files: add `:` and one of them, or its quantization{other}. "
            f"{_listed(ggufs)}"
        )
    if folder:
        return folder
    if any(each.name.endswith((".bin", ".pt", ".pth")) for each in files):
        raise SourceError(
            f"The {label} holds pickled weights only, which can run code when they are opened: Stoker reads "
            "GGUF and safetensors. Look for a converted repository."
        )
    raise SourceError(f"The {label} holds no model: neither a GGUF file nor config.json with safetensors.")


def select_folder(label: str, files: Sequence[RepoFile]) -> tuple[RepoFile, ...]:
    """The files of a repository's safetensors folder, those that are not weights first.

    Raises:
        SourceError: It has none.
    """
    folder = _folder(label, files)
    if not folder:
        raise SourceError(
            f"The {label} holds no folder of safetensors: {CONFIG_NAME} is missing, or files that are called "
            f"like weights. {_listed(_ggufs(files))}"
        )
    return folder


def is_weights(name: str) -> bool:
    """Tell whether a file of a safetensors folder holds weights."""
    return _WEIGHTS.fullmatch(name) is not None


def _folder(label: str, files: Sequence[RepoFile]) -> tuple[RepoFile, ...]:
    texts = [each for each in files if each.name in FOLDER_FILES]
    tensors = [each for each in files if is_weights(each.name)]
    if not tensors or all(each.name != CONFIG_NAME for each in texts):
        return ()
    return (*_checked(label, texts, tensors), *tensors)


def _checked(label: str, texts: list[RepoFile], tensors: list[RepoFile]) -> list[RepoFile]:
    for text in texts:
        if (text.size or 0) > MAX_TEXT_BYTES:
            raise SourceError(f"The {label}'s {text.name} has {text.size} bytes, more than {MAX_TEXT_BYTES}.")
    if len(tensors) > MAX_WEIGHT_FILES:
        raise SourceError(f"The {label} has {len(tensors)} files of weights, more than {MAX_WEIGHT_FILES}.")
    return texts


def _ggufs(files: Iterable[RepoFile]) -> list[RepoFile]:
    return [each for each in files if each.name.endswith(".gguf")]


def _models(files: Iterable[RepoFile]) -> list[RepoFile]:
    """All but the projectors of models that see."""
    return [each for each in _ggufs(files) if not each.name.rpartition("/")[2].startswith("mmproj")]


def _listed(files: Sequence[RepoFile]) -> str:
    if not files:
        return "It has no GGUF file."
    names = [each.name for each in files[:_SHOWN]]
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f"It has: {', '.join(names)}{more}."


def _split_error(label: str, name: str) -> SourceError:
    return SourceError(
        f"The {label}'s {name} is one part of a model that is split over several files, which Stoker does "
        "not read: choose another quantization, or merge the parts and give the path of the result."
    )
