"""The weights of a folder: one safetensors file, or several that an index names."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.huggingface.files import read_json, read_optional
from stoker.models.huggingface.safetensors import SafetensorsFile, StoredTensor, shown

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 2**25
MAX_SHARDS = 1000

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors\Z")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class Shards:
    """Every tensor of a folder by name.

    Args:
        folder: The folder.

    Raises:
        CorruptFileError: A file is missing, truncated or malformed, or the index and the files disagree.
        UnknownModelError: A file may not be read.
        UnsupportedModelError: The weights are not in safetensors.
    """

    def __init__(self, folder: Path) -> None:
        index = read_optional(folder / INDEX_NAME, MAX_INDEX_BYTES)
        if index is None:
            self.files: tuple[SafetensorsFile, ...] = (_single(folder),)
            self.tensors: Mapping[str, StoredTensor] = self.files[0].tensors
            return
        weight_map = read_json(folder / INDEX_NAME, _Index, MAX_INDEX_BYTES).weight_map
        names = _shard_names(folder / INDEX_NAME, weight_map)
        opened: dict[str, SafetensorsFile] = {}
        try:
            for name in names:
                opened[name] = _open(folder / name)
            self.tensors = _joined(folder / INDEX_NAME, weight_map, opened)
        except BaseException:
            for file in opened.values():
                file.close()
            raise
        self.files = tuple(opened.values())

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def close(self) -> None:
        """Let go of the files; tensors handed out earlier stay valid."""
        self.tensors = {}
        for file in self.files:
            file.close()


def _single(folder: Path) -> SafetensorsFile:
    path = folder / SINGLE_NAME
    if path.is_file():
        return SafetensorsFile(path)
    pickles = [name for name in _PICKLES if (folder / name).is_file()]
    if pickles:
        raise UnsupportedModelError(
            f"{folder} holds {pickles[0]}, whose format can run code when it is opened; Stoker reads "
            f"{SINGLE_NAME}. Convert the weights to safetensors."
        )
    raise CorruptFileError(f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}, so it holds no weights.")


def _shard_names(path: Path, weight_map: Mapping[str, str]) -> list[str]:
    names = sorted(set(weight_map.values()))
    if not names or len(names) > MAX_SHARDS:
        raise CorruptFileError(f"{path} names {len(names)} files, expected 1 to {MAX_SHARDS}.")
    for name in names:
        if _SHARD.match(name) is None:
            raise CorruptFileError(
                f"{path} names the file {shown(name)}, expected the plain name of a safetensors file beside "
                "it."
            )
    return names


def _open(path: Path) -> SafetensorsFile:
    if not path.is_file():
        raise CorruptFileError(f"{path} is missing: {INDEX_NAME} names it. Fetch the model again.")
    return SafetensorsFile(path)


def _joined(
    path: Path, weight_map: Mapping[str, str], files: Mapping[str, SafetensorsFile]
) -> Mapping[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, file in files.items():
        for tensor in file.tensors.values():
            if weight_map.get(tensor.name) != name:
                raise CorruptFileError(
                    f"{path} does not say that the tensor {shown(tensor.name)} is in {name}, where it is."
                )
            tensors[tensor.name] = tensor
    missing = weight_map.keys() - tensors.keys()
    if missing:
        name = min(missing)
        raise CorruptFileError(
            f"{path} places the tensor {shown(name)} in {weight_map[name]}, which lacks it."
        )
    return tensors
