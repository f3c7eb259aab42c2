"""Hands a model file's tensors to the native library."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import CorruptFileError
from stoker.models.config import Tensor, WeightSource
from stoker.models.tensor_layout import expected_shapes

_MATRICES = {
    "token_embd.weight": "embedding",
    "output.weight": "output",
    "attn_q.weight": "q",
    "attn_k.weight": "k",
    "attn_v.weight": "v",
    "attn_output.weight": "o",
    "ffn_gate_inp.weight": "router",
    "ffn_gate.weight": "gate",
    "ffn_gate_exps.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_up_exps.weight": "up",
    "ffn_down.weight": "down",
    "ffn_down_exps.weight": "down",
}
"""Native names of matrices, by the file's without the layer."""

_VECTORS = {
    "output_norm.weight": "output_norm",
    "attn_norm.weight": "attn_norm",
    "ffn_norm.weight": "ffn_norm",
    "post_attention_norm.weight": "post_attn_norm",
    "post_ffw_norm.weight": "post_ffn_norm",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    "attn_q.bias": "q_bias",
    "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias",
    "attn_output.bias": "o_bias",
    "attn_sinks.weight": "sinks",
    "ffn_gate_inp.bias": "router_bias",
    "ffn_gate_exps.bias": "gate_bias",
    "ffn_up_exps.bias": "up_bias",
    "ffn_down_exps.bias": "down_bias",
}
"""Native names of norms, biases and the like, likewise."""


VECTOR = "vector"
"""In place of the type of a packed matrix: fp32 as they come."""


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    match tensor.dtype:
        case "F32":
            return np.frombuffer(tensor.data, np.float32)
        case "F16":
            return np.frombuffer(tensor.data, np.float16).astype(np.float32)
        case "BF16":
            return (np.frombuffer(tensor.data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        case _:
            raise CorruptFileError(
                f"tensor {tensor.name} is stored as {tensor.dtype}; a norm or bias must be F32, F16 or BF16"
            )


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor, and where it goes in a native model.

    Attributes:
        name: Its name, one of `expected_shapes`.
        tensor: As the model file has it.
        place: The native library's name of a matrix or vector.
        layer: Its layer; 0 for what is in none.
        is_matrix: Whether it is packed.
    """

    name: str
    tensor: Tensor
    place: str
    layer: int
    is_matrix: bool


def list_weights(source: WeightSource) -> Iterator[Weight]:
    """Yield every weight that a model of the source's shape has, in an order that is always the same."""
    for name in expected_shapes(source.config):
        layer, within = 0, name
        if name.startswith("blk."):
            _, number, within = name.split(".", 2)
            layer = int(number)
        is_matrix = within in _MATRICES
        place = _MATRICES[within] if is_matrix else _VECTORS[within]
        yield Weight(name, source.tensors[name], place, layer, is_matrix)


def set_weight(model: _native.Model, weight: Weight, *, adjacent_pairs: bool) -> tuple[str, memoryview]:
    """Pack a matrix into the model, or take a vector over.

    Returns:
        The type of the packed matrix or `VECTOR`, and the bytes that `map_weight` takes for the same. Those
        of a matrix are a view that ends when it is set anew.

    Raises:
        CorruptFileError: The tensor's contents cannot be used.
    """
    try:
        if not weight.is_matrix:
            vector = _floats(weight.tensor)
            model.set_vector(weight.place, weight.layer, vector, adjacent_pairs)
            return VECTOR, vector.data.cast("B")
        data = np.frombuffer(weight.tensor.data, np.uint8)
        model.set_matrix(weight.place, weight.layer, weight.tensor.dtype, data, adjacent_pairs)
    except ValueError as error:
        raise CorruptFileError(f"tensor {weight.name}: {error}") from error
    kind, packed = model.packed_matrix(weight.place, weight.layer)
    return kind, packed.data


def map_weight(
    model: _native.Model, weight: Weight, kind: str, data: memoryview, *, adjacent_pairs: bool
) -> None:
    """Do as `set_weight`, out of what that has returned; a matrix is not copied.

    Raises:
        ValueError: It is not of this weight.
    """
    if weight.is_matrix:
        model.map_matrix(weight.place, weight.layer, kind, np.frombuffer(data, np.uint8))
    else:
        model.set_vector(weight.place, weight.layer, np.frombuffer(data, np.float32), adjacent_pairs)
