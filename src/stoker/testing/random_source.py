"""Random weights for any `ModelConfig`, as an engine loads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from stoker.models.config import Activation, ModelConfig, Tensor
from stoker.models.tensor_layout import Shape, expected_shapes
from stoker.testing.gguf_blocks import encode_blocks
from stoker.testing.gguf_groups import Floats

UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A `WeightSource` that no file is behind."""

    config: ModelConfig
    digest: str
    tensors: Mapping[str, Tensor]

    @property
    def identity(self) -> str:
        """The digest, which says everything here."""
        return self.digest


def random_source(config: ModelConfig, seed: int = 0, *, dtype: str = "F32") -> RandomSource:
    """Make random weights of such sizes that logits spread over several units.

    Args:
        config: The model's shape.
        seed: The same seed gives the same values to each tensor of the same name and shape, whatever else
            the model has.
        dtype: GGUF's name of the matrices' type, one of `stoker.testing.gguf_blocks.TYPE_NUMBERS`. Norms,
            biases and sinks are F32, and so are routers unless `dtype` is a type of single floats.
    """
    tensors = {
        name: _random_tensor(name, shape, seed, dtype, config.activation)
        for name, shape in expected_shapes(config).items()
    }
    digest = sha256(repr((config, seed, dtype)).encode()).hexdigest()[:32]
    return RandomSource(config, digest, tensors)


def _random_tensor(name: str, shape: Shape, seed: int, dtype: str, activation: Activation) -> Tensor:
    random = np.random.default_rng([seed, *shape, *name.encode()])
    values: Floats = random.standard_normal(shape, np.float32)
    stem, kind = name.rsplit(".", 1)
    part = stem.rsplit(".", 1)[-1]
    if kind == "bias":
        stored_as, values = "F32", values / np.float32(4)
    elif part.endswith("_norm"):
        stored_as, values = "F32", 1 + values / np.float32(4)
    elif part == "attn_sinks":
        stored_as = "F32"
    else:
        stored_as = "F32" if part == "ffn_gate_inp" and dtype not in UNQUANTIZED else dtype
        values = values * np.float32(_gain(part, activation) / shape[-1] ** 0.5)
    data = encode_blocks(values, stored_as)
    return Tensor(name, stored_as, shape, lambda: memoryview(data))


def _gain(part: str, activation: Activation) -> float:
    """Size of a matrix's outputs for inputs of size one."""
    if part in ("token_embd", "output", "attn_q", "attn_k"):
        return 2  # logits that differ, and attention that prefers some keys to others
    if activation == "clamped_swiglu" and part.removesuffix("_exps") in ("ffn_gate", "ffn_up"):
        return 4  # some values beyond the limits
    return 1
