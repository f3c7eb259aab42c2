"""A model with an adapter merged into it, as a model of its own in the store."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stoker.core.errors import SettingsError, UnsupportedModelError
from stoker.engine.native.merging import TENSOR_NAMES, MergedType, merged_matrix
from stoker.models import OpenedModel, open_model
from stoker.models.adapters import AdapterLimits, AdapterPart, CheckedAdapter
from stoker.models.adapters.checked import ATTENTION, TARGETS
from stoker.models.adapters.reading import read_adapter
from stoker.models.catalogue import NAME_PATTERN
from stoker.models.gguf import GgufFile
from stoker.models.header import check_model
from stoker.models.huggingface.inventory import Inventory
from stoker.models.huggingface.matrices import FLOAT_BYTES, Matrix
from stoker.models.huggingface.shards import Shards
from stoker.models.library import UNSTATED_LICENCE, LocatedModel, ModelLibrary
from stoker.models.rewriting import grown_bytes, rewritten_gguf, rewritten_safetensors, write_chunks
from stoker.models.sources import Fetched
from stoker.models.sources.base import FetchedFile
from stoker.models.sources.copying import copy_and_hash
from stoker.models.sources.selection import FOLDER_FILES, MAX_TEXT_BYTES
from stoker.models.sources.space import require_space
from stoker.models.store import StoredModel

_MODULES = {
    target: f"{'self_attn' if target in ATTENTION else 'mlp'}.{module}" for module, target in TARGETS.items()
}
"""Names of modules in folders, by the engine's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What is to be merged.

    Attributes:
        base: The model.
        adapter: The adapter's folder or file.
        name: What the result is called.
        dtype: What quantized matrices that the adapter changes become.
        limits: What the adapter may have.
    """

    base: LocatedModel
    adapter: Path
    name: str
    dtype: MergedType
    limits: AdapterLimits


def check_name(library: ModelLibrary, name: str) -> None:
    """Refuse a name that a merged model cannot have.

    Raises:
        SettingsError: It is malformed, or a model has it.
    """
    if re.match(NAME_PATTERN, name) is None:
        raise SettingsError(
            f"the name {name[:100]!r} cannot be a model's: expected at most 100 of a-z, 0-9, '.', '_' and '-'"
        )
    if name in library.catalogue or library.store.find(name) is not None:
        raise SettingsError(f"there is a model {name} already; choose another name")


def merge_adapter(library: ModelLibrary, merge: Merge) -> StoredModel:
    """Write a model with an adapter's additions in its matrices into the store.

    A GGUF file becomes a GGUF file, a folder a folder. What the adapter does not change stays as it is,
    to the byte.

    Raises:
        SettingsError: The name cannot be had.
        ModelError: The adapter does not fit, a matrix cannot be changed, or the store cannot be written.
    """
    check_name(library, merge.name)
    with open_model(merge.base.path) as model:
        adapter = read_adapter(merge.adapter, model.config, merge.limits)
        if adapter.bottlenecks:
            raise UnsupportedModelError(
                f"{merge.adapter} has bottleneck modules, which are networks of their own: they cannot be "
                "merged into matrices. Serve model and adapter apart."
            )
        with library.store.lock(merge.name):
            check_name(library, merge.name)  # another process may have been faster
            writing = _folder if merge.base.path.is_dir() else _file
            return writing(library, merge, model, adapter)


def _file(library: ModelLibrary, merge: Merge, model: OpenedModel, adapter: CheckedAdapter) -> StoredModel:
    file = GgufFile(merge.base.path)
    try:
        replaced: dict[str, Matrix] = {}
        for part in adapter.parts:
            name = f"blk.{part.layer}.{TENSOR_NAMES[part.target]}.weight"
            tensor = model.tensors[name]
            if name not in file.tensors or file.tensors[name].shape != tensor.shape:
                raise UnsupportedModelError(
                    f"{merge.base.path} keeps {name} and others as one matrix, so nothing can be merged "
                    "into it. Serve model and adapter apart."
                )
            replaced[name] = merged_matrix(tensor, part, model.config, merge.dtype)
        needed_bytes = file.size_bytes + max(0, grown_bytes(file, replaced))
        with _workspace(library, merge.name, needed_bytes) as workspace:
            path = workspace / f"{merge.name}.gguf"
            written = FetchedFile(path, write_chunks(path, rewritten_gguf(file, replaced)))
            return _publish(library, merge, model, adapter, (written,))
    finally:
        file.close()


def _folder(library: ModelLibrary, merge: Merge, model: OpenedModel, adapter: CheckedAdapter) -> StoredModel:
    folder = merge.base.path
    shards = Shards(folder)
    try:
        prefix = Inventory(str(folder), shards.tensors, None).prefix
        replaced = {
            f"{prefix}layers.{part.layer}.{_MODULES[part.target]}.weight": _of_floats(model, part, folder)
            for part in adapter.parts
        }
        missing = replaced.keys() - shards.tensors.keys()
        if missing:
            raise UnsupportedModelError(
                f"{folder} has no matrix {min(missing)} of its own, so nothing can be merged into it."
            )
        texts = [folder / name for name in sorted(FOLDER_FILES) if (folder / name).is_file()]
        needed_bytes = shards.size_bytes + sum(path.stat().st_size for path in texts)
        with _workspace(library, merge.name, needed_bytes) as workspace:
            files = [_copied(path, workspace / path.name) for path in texts]
            for shard in shards.files:
                path = workspace / shard.path.name
                digest = write_chunks(path, rewritten_safetensors(shard.tensors, replaced))
                files.append(FetchedFile(path, digest))
            return _publish(library, merge, model, adapter, tuple(files))
    finally:
        shards.close()


def _of_floats(model: OpenedModel, part: AdapterPart, folder: Path) -> Matrix:
    tensor = model.tensors[f"blk.{part.layer}.{TENSOR_NAMES[part.target]}.weight"]
    if tensor.dtype not in FLOAT_BYTES:
        raise UnsupportedModelError(
            f"{folder} is quantized, so nothing can be merged into it. Merge into the folder that it was "
            "quantized from, and serve that with `quantize`."
        )
    return merged_matrix(tensor, part, model.config, "bf16")


def _copied(source: Path, target: Path) -> FetchedFile:
    with source.open("rb") as file, target.open("xb") as copy:
        _, digest = copy_and_hash(file, copy, MAX_TEXT_BYTES, lambda _: None)
    return FetchedFile(target, digest)


@contextmanager
def _workspace(library: ModelLibrary, name: str, needed_bytes: int) -> Iterator[Path]:
    with library.store.workspace(name, needed_bytes) as workspace:
        require_space(workspace, needed_bytes)
        yield workspace


def _publish(
    library: ModelLibrary,
    merge: Merge,
    model: OpenedModel,
    adapter: CheckedAdapter,
    files: tuple[FetchedFile, ...],
) -> StoredModel:
    stored = library.store.find(merge.base.model_id)
    known = stored.licence if stored is not None and stored.path == merge.base.path else None
    source = (
        f"{merge.base.model_id} ({model.digest}) with the adapter {merge.adapter.name} ({adapter.digest}) "
        "merged into it"
    )
    fetched = Fetched(files=files, is_folder=merge.base.path.is_dir(), source=source)
    check_model(fetched.path)
    licence = known or model.licence or UNSTATED_LICENCE
    return library.store.publish(merge.name, fetched, source=source, licence=licence)
