"""A model's weights into the native library: out of its pack, else repacked out of its file."""

import logging
from contextlib import ExitStack
from hashlib import sha256

from stoker import _native
from stoker.engine.native.weights import list_weights, map_weight, set_weight
from stoker.models.config import WeightSource
from stoker.models.packs import NewPart, PackFolder, PackKey

_log = logging.getLogger(__name__)


def load_weights(model: _native.Model, source: WeightSource, pack: "ModelPack | None") -> None:
    """Map the model's weights, writing their pack first if there is none that can be used.

    Without a pack, or if it cannot be written, they are in this process's own memory.

    Raises:
        CorruptFileError: A tensor's contents cannot be used.
        MemoryError: There is not enough for them.
    """
    if pack is None:
        _set_weights(model, source)
    elif not pack.map_into(model):
        with ExitStack() as locked:
            writable = pack.lock(locked)
            # Another engine may have written it while this one waited.
            if not (writable and pack.map_into(model)):
                parts = _set_weights(model, source)
                if writable and pack.write(parts):
                    pack.map_into(model)
    model.finish()


class ModelPack:
    """The pack that one model has, or shall have. What goes wrong with it is logged and no more.

    Args:
        folder: Where it is kept.
        source: The model.
        float_path: The weights are held as fp32.
        n_threads: Threads that compute checksums.
    """

    def __init__(self, folder: PackFolder, source: WeightSource, *, float_path: bool, n_threads: int) -> None:
        self._folder = folder
        self._source = source
        self._key = pack_key(source, float_path=float_path)
        self._n_threads = n_threads

    def others_bytes(self) -> int:
        """Memory that packs of other models take: page cache, and so called available, but in use."""
        return self._folder.in_use_bytes(beside=self._key)

    def map_into(self, model: _native.Model) -> bool:
        """Take all weights from the pack, without a copy; tell whether there is one that can be used."""
        pack = self._folder.open(self._key, layout=_native.PACK_LAYOUT, n_threads=self._n_threads)
        if pack is None:
            return False
        adjacent_pairs = _adjacent_pairs(self._source)
        try:
            for weight in list_weights(self._source):
                part = pack.parts[weight.name]
                map_weight(model, weight, part.kind, pack.data(part), adjacent_pairs=adjacent_pairs)
        except (KeyError, ValueError) as error:
            _log.warning("the pack %s is not used: it does not hold this model: %s", pack.path, str(error))
            return False
        return True

    def lock(self, stack: ExitStack) -> bool:
        """Become the one who writes packs, until the stack ends; tell whether packs can be written."""
        try:
            stack.enter_context(self._folder.writing())
        except OSError as error:
            self._warn(error)
            return False
        return True

    def write(self, parts: list[NewPart]) -> bool:
        """Write the pack; tell whether it is there now. The lock must be held."""
        try:
            self._folder.write(self._key, parts, layout=_native.PACK_LAYOUT)
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: OSError) -> None:
        _log.warning(
            "the repacked weights cannot be kept in %s, so every start repacks them: %s",
            self._folder.folder,
            error.strerror or error,
        )


def pack_key(source: WeightSource, *, float_path: bool) -> PackKey:
    """Return what a pack of this model must be of: all that its bytes depend on, but Stoker itself."""
    recipe = sha256(f"{source.identity}\n{source.config}\n{float_path}\n".encode())
    for weight in list_weights(source):
        recipe.update(f"{weight.name} {weight.tensor.dtype} {weight.tensor.shape}\n".encode())
    return PackKey(source.digest, recipe.hexdigest())


def _set_weights(model: _native.Model, source: WeightSource) -> list[NewPart]:
    """Repack every tensor; return views of the result, which end when a weight is set anew."""
    adjacent_pairs = _adjacent_pairs(source)
    return [
        NewPart(weight.name, *set_weight(model, weight, adjacent_pairs=adjacent_pairs))
        for weight in list_weights(source)
    ]


def _adjacent_pairs(source: WeightSource) -> bool:
    return source.config.rope_pairs == "adjacent"
