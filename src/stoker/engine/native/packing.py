"""A model's weights into the native library: out of its pack, else repacked out of its file."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import CorruptFileError
from stoker.models.config import Tensor, WeightSource
from stoker.models.packs import NewPart, PackFolder, PackKey

VECTOR = "vector"
"""Kind of a pack's part that is an array of fp32; of any other it is the type of a packed matrix."""

_MATRICES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""Native name of each layer's matrices, and the file's."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A tensor, and what the native library calls it."""

    name: str
    layer: int
    tensor: Tensor

    @property
    def is_vector(self) -> bool:
        return len(self.tensor.shape) == 1


def weights_key(source: WeightSource, *, float_path: bool) -> PackKey:
    """Return what a pack of this model must be of: all that its packed bytes depend on, but Stoker itself."""
    recipe = sha256(f"{source.identity}\n{source.config.rope_pairs}\n{float_path}\n".encode())
    for weight in _weights(source):
        tensor = weight.tensor
        recipe.update(f"{weight.name} {weight.layer} {tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
    return PackKey(source.digest, recipe.hexdigest())


def load_weights(
    model: _native.Model, source: WeightSource, key: PackKey, packs: PackFolder | None, *, n_threads: int
) -> None:
    """Map the model's weights, writing their pack first if there is none that can be used.

    Without a folder for packs, or if that cannot be written to, they are in this process's own memory.

    Raises:
        CorruptFileError: A tensor's contents cannot be used.
        MemoryError: There is not enough for them.
    """
    if packs is None:
        _set_weights(model, source)
    elif not _map_pack(model, source, key, packs, n_threads):
        with ExitStack() as locked:
            writable = _lock(packs, locked)
            # Another engine may have written it while this one waited.
            if not (writable and _map_pack(model, source, key, packs, n_threads)):
                parts = _set_weights(model, source)
                if writable and _write(packs, key, parts):
                    _map_pack(model, source, key, packs, n_threads)
    model.finish()


def _map_pack(
    model: _native.Model, source: WeightSource, key: PackKey, packs: PackFolder, n_threads: int
) -> bool:
    """Take all weights from the model's pack; tell whether there is one that can be used."""
    pack = packs.open(key, layout=_native.PACK_LAYOUT, n_threads=n_threads)
    if pack is None:
        return False
    try:
        for weight in _weights(source):
            part = pack.parts[weight.tensor.name]
            if part.kind == VECTOR:
                model.set_norm(weight.name, weight.layer, np.frombuffer(pack.data(part), np.float32))
            else:
                packed = np.frombuffer(pack.data(part), np.uint8)
                model.map_matrix(weight.name, weight.layer, part.kind, packed)
    except (KeyError, ValueError) as error:
        _log.warning("the pack %s is not used: it does not hold this model: %s", pack.path, str(error))
        return False
    return True


def _lock(packs: PackFolder, stack: ExitStack) -> bool:
    try:
        stack.enter_context(packs.writing())
    except OSError as error:
        _warn_of(packs, error)
        return False
    return True


def _write(packs: PackFolder, key: PackKey, parts: list[NewPart]) -> bool:
    try:
        packs.write(key, parts, layout=_native.PACK_LAYOUT)
    except OSError as error:
        _warn_of(packs, error)
        return False
    return True


def _warn_of(packs: PackFolder, error: OSError) -> None:
    _log.warning(
        "the repacked weights cannot be kept in %s, so every start repacks them: %s",
        packs.folder,
        error.strerror or error,
    )


def _weights(source: WeightSource) -> Iterator[_Weight]:
    """Yield what the native model is made of."""
    tensors = source.tensors
    yield _Weight("embedding", 0, tensors["token_embd.weight"])
    if not source.config.tied_embeddings:
        yield _Weight("output", 0, tensors["output.weight"])
    yield _Weight("output_norm", 0, tensors["output_norm.weight"])
    for layer in range(source.config.n_layers):
        for name, file_name in _MATRICES.items():
            yield _Weight(name, layer, tensors[f"blk.{layer}.{file_name}.weight"])
        for name in ("attn_norm", "ffn_norm"):
            yield _Weight(name, layer, tensors[f"blk.{layer}.{name}.weight"])


def _set_weights(model: _native.Model, source: WeightSource) -> list[NewPart]:
    """Repack every tensor; return views of the result, which end when a weight is set anew."""
    adjacent = source.config.rope_pairs == "adjacent"
    parts = []
    for weight in _weights(source):
        name, layer, tensor = weight.name, weight.layer, weight.tensor
        if weight.is_vector:
            kind, vector = VECTOR, _read_vector(tensor)
            model.set_norm(name, layer, vector)
            data = vector.data.cast("B")
        else:
            try:
                model.set_matrix(name, layer, tensor.dtype, np.frombuffer(tensor.data, np.uint8), adjacent)
            except ValueError as error:
                raise CorruptFileError(f"tensor {tensor.name}: {error}") from error
            kind, packed = model.packed_matrix(name, layer)
            data = packed.data
        parts.append(NewPart(tensor.name, kind, data))
    return parts


def _read_vector(tensor: Tensor) -> NDArray[np.float32]:
    match tensor.dtype:
        case "F32":
            return np.frombuffer(tensor.data, np.float32)
        case "F16":
            return np.frombuffer(tensor.data, np.float16).astype(np.float32)
        case "BF16":
            return (np.frombuffer(tensor.data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        case _:
            raise CorruptFileError(
                f"tensor {tensor.name} is stored as {tensor.dtype}; a norm must be F32, F16 or BF16"
            )
