"""Where a GGUF file keeps the tensors that the forward pass needs, under whatever names and cuts."""

from collections.abc import Mapping
from math import prod

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.architectures.families import FAMILIES
from stoker.models.config import ModelConfig
from stoker.models.gguf import TensorInfo
from stoker.models.tensor_layout import Shape, expected_shapes

_FLOATS = ("F32", "F16", "BF16")


def locate_tensors(
    label: str, config: ModelConfig, tensors: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Find every tensor of `expected_shapes`, by its name there.

    A tensor that the file keeps as rows of a larger one is those rows: they are whole blocks of any type,
    since blocks lie within rows.

    Args:
        label: The file's name, for messages.
        config: The model's shape.
        tensors: The file's tensors by name.

    Raises:
        CorruptFileError: A tensor is missing or has another shape.
        UnsupportedModelError: The file has a tensor that would not be used, or a vector that is quantized.
    """
    shapes = expected_shapes(config)
    stored = _stored_as(config, shapes)
    unused = tensors.keys() - stored.keys() - FAMILIES[config.architecture].rope_tensors
    if unused:
        first = next(name for name in tensors if name in unused)
        raise UnsupportedModelError(
            f"{label} has the tensor {first[:80]!r}, which the {config.architecture} forward pass does "
            "not use; computing without it would give other answers than the model's."
        )
    found: dict[str, TensorInfo] = {}
    for name, parts in stored.items():
        if name not in tensors:
            continue
        info = tensors[name]
        expected = _joined([shapes[part] for part in parts])
        if info.shape != expected:
            raise CorruptFileError(f"{label}: {name} has the shape {info.shape}, expected {expected}.")
        if info.type.name not in _FLOATS and _is_vector(name):
            raise UnsupportedModelError(
                f"{label}: {name} is stored as {info.type.name}; Stoker reads norms, biases and sinks as "
                f"{', '.join(_FLOATS)}."
            )
        found |= _cut(info, {part: shapes[part] for part in parts})
    missing = [name for name in shapes if name not in found]
    if missing:
        raise CorruptFileError(
            f"{label} lacks {len(missing)} of its {len(shapes)} tensors, the first of them {missing[0]}."
        )
    return found


def _stored_as(config: ModelConfig, shapes: Mapping[str, Shape]) -> dict[str, tuple[str, ...]]:
    """Map the names that the file should have to the expected tensors that each holds."""
    family = FAMILIES[config.architecture]
    renamed = {ours: theirs for theirs, ours in family.renamed.items()}
    fused = {part: whole for whole, parts in family.fused.items() for part in parts}
    stored: dict[str, tuple[str, ...]] = {}
    for name in shapes:
        place, layer_name = _split(name)
        theirs = place + fused.get(layer_name, renamed.get(layer_name, layer_name))
        stored[theirs] = (*stored.get(theirs, ()), name)
    # The order of a whole's parts is the table's, not that of the layout.
    for name, parts in stored.items():
        if len(parts) > 1:
            place, whole = _split(name)
            stored[name] = tuple(place + part for part in family.fused[whole])
    return stored


def _split(name: str) -> tuple[str, str]:
    """Split ``blk.3.attn_q.weight`` into ``blk.3.`` and ``attn_q.weight``."""
    if not name.startswith("blk."):
        return "", name
    block, index, rest = name.split(".", 2)
    return f"{block}.{index}.", rest


def _joined(shapes: list[Shape]) -> Shape:
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _is_vector(name: str) -> bool:
    return name.endswith(("_norm.weight", ".bias", "attn_sinks.weight"))


def _cut(whole: TensorInfo, parts: Mapping[str, Shape]) -> dict[str, TensorInfo]:
    cut: dict[str, TensorInfo] = {}
    start = whole.start
    for name, shape in parts.items():
        size_bytes = prod(shape) // whole.type.block_elements * whole.type.block_bytes
        cut[name] = TensorInfo(name, whole.type, shape, start, size_bytes)
        start += size_bytes
    return cut
