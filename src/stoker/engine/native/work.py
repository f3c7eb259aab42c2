"""Operations and bytes of a model: where the prediction of a step's time begins."""

from collections.abc import Iterable
from math import prod

from stoker.core.step import BLOCK_TOKENS
from stoker.core.work import ModelWork
from stoker.engine.native.sizing import kv_block_bytes, packed_bytes
from stoker.models.config import ModelConfig, Tensor

EMBEDDINGS = "token_embd.weight"
OUTPUT = "output.weight"
EXPERTS = "_exps.weight"
"""How the name of a matrix of all experts ends."""


def model_work(config: ModelConfig, tensors: Iterable[Tensor], kv_type: str) -> ModelWork:
    """Return what a model makes of the counts of a step.

    Windows of attention are taken for whole contexts, and a step for one that uses every expert: what is
    measured corrects both.

    Args:
        config: The model's shape.
        tensors: Its tensors as stored.
        kv_type: How keys and values are held: ``f32``, ``f16``, ``bf16`` or ``q8``.
    """
    stored = list(tensors)
    used = 1.0 if config.experts is None else config.experts.n_used / config.experts.n_experts
    layers = [
        tensor for tensor in stored if len(tensor.shape) > 1 and tensor.name not in {EMBEDDINGS, OUTPUT}
    ]
    n_weights = sum(
        prod(tensor.shape) * (used if tensor.name.endswith(EXPERTS) else 1.0) for tensor in layers
    )
    return ModelWork(
        weight_bytes=packed_bytes(layers, float_path=False),
        row_ops=2.0 * n_weights,
        pair_ops=4.0 * config.n_layers * config.n_heads * config.head_size,
        kv_bytes=kv_block_bytes(config, kv_type) / BLOCK_TOKENS,
        output_ops=2.0 * config.width * config.vocab_size,
    )
