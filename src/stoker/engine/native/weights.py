"""Hands a model file's tensors to the native library."""

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


def set_weights(model: _native.Model, source: WeightSource) -> None:
    """Pack every tensor of the source into a model of its shape, and finish the model.

    Raises:
        CorruptFileError: A tensor's contents cannot be used.
    """
    adjacent = source.config.rope_pairs == "adjacent"
    for name in expected_shapes(source.config):
        tensor = source.tensors[name]
        layer, within = 0, name
        if name.startswith("blk."):
            _, number, within = name.split(".", 2)
            layer = int(number)
        try:
            if within in _MATRICES:
                data = np.frombuffer(tensor.data, np.uint8)
                model.set_matrix(_MATRICES[within], layer, tensor.dtype, data, adjacent)
            else:
                model.set_vector(_VECTORS[within], layer, _floats(tensor), adjacent)
        except ValueError as error:
            raise CorruptFileError(f"tensor {name}: {error}") from error
    model.finish()
