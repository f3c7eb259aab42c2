"""A model file made anew with other layers: some left out, some more that change nothing."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path

from stoker.models.gguf import TENSOR_TYPES, GgufFile, TensorInfo

ALIGNMENT = 32
_SILENCED = ("attn_output.weight", "ffn_down.weight")
_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}


def write_layers(path: Path, source: Path, layers: Sequence[int | None]) -> Path:
    """Write a model of the ``llama`` architecture, and return `path`.

    Args:
        path: The new file.
        source: The old one.
        layers: What each layer of the new model is: a layer of the old one, or None for one that takes as
            long to compute and adds nothing.
    """
    file = GgufFile(source)
    tensors = [(info.name, info, False) for info in file.tensors.values() if not _is_of_a_layer(info)]
    for index, layer in enumerate(layers):
        prefix = f"blk.{layer or 0}."
        for info in file.tensors.values():
            if info.name.startswith(prefix):
                rest = info.name.removeprefix(prefix)
                tensors.append((f"blk.{index}.{rest}", info, layer is None and rest in _SILENCED))
    head = bytearray(file.view(0, file.metadata_end))
    struct.pack_into("<Q", head, 8, len(tensors))
    key = b"llama.block_count"
    struct.pack_into("<I", head, head.index(key) + len(key) + 4, len(layers))
    start = 0
    for name, info, _ in tensors:
        head += struct.pack("<Q", len(name)) + name.encode()
        head += struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
        head += struct.pack("<IQ", _NUMBERS[info.type.name], start)
        start += info.size_bytes + -info.size_bytes % ALIGNMENT
    with path.open("wb") as out:
        out.write(bytes(head) + bytes(-len(head) % ALIGNMENT))
        for _, info, silenced in tensors:
            data = bytes(info.size_bytes) if silenced else file.view(info.start, info.size_bytes)
            out.write(data)
            out.write(bytes(-info.size_bytes % ALIGNMENT))
    file.close()
    return path


def _is_of_a_layer(info: TensorInfo) -> bool:
    return re.match(r"blk\.\d+\.", info.name) is not None
