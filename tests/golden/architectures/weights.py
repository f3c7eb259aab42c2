"""Random weights that every format of the folder holds exactly.

Matrices are multiples of a power of two for each 32 values along their inner dimension, small enough a
multiple that Q8_0 or Q4_0 holds it; all these are bfloat16 and float16 numbers too.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

LARGEST_CODE = {"Q8_0": 127, "Q4_0": 7}
BLOCK = 32
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The values of MXFP4's codes."""


def random_tensor(
    name: str, shape: tuple[int, ...], config: dict[str, Any], grid: str, random: np.random.Generator
) -> Floats:
    """Make one tensor by its name in ``model.safetensors``."""
    values = random.standard_normal(shape, np.float32)
    if name.endswith("norm.weight"):
        # Gemma's files hold what is added to 1.
        centre = 0 if config["model_type"].startswith("gemma") else 1
        return rounded(centre + values / np.float32(4))
    if name.endswith(("bias", "sinks")):
        return rounded(values / np.float32(2))
    return on_grid(values * gain(name, config) / np.float32(math.sqrt(shape[-1])), grid)


def gain(name: str, config: dict[str, Any]) -> float:
    """Size of a matrix's outputs for inputs of size one."""
    if "lm_head" in name or ("embed_tokens" in name and config.get("tie_word_embeddings", True)):
        return 3  # logits that differ
    if "embed_tokens" in name:
        return 0.6 * math.sqrt(config["hidden_size"])
    if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight", "gate.weight", "router.weight")):
        return 1.8  # attention and routers that prefer some to others
    if "experts.gate_up_proj" in name:
        return 4  # gates beyond gpt-oss's limit
    return 1.2


def rounded(values: Floats) -> Floats:
    """Round to numbers that both bfloat16 and float16 hold."""
    bits = values.view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    result = bits.view(np.float32)
    return np.where(np.abs(result) < 2**-16, np.float32(0), result)


def scales(blocks: Floats, grid: str) -> Floats:
    """The power of two for each of ``blocks [n, BLOCK]``, ``[n, 1]``."""
    peak = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), np.float32(2**-10))
    powers: Floats = np.exp2(np.ceil(np.log2(peak / LARGEST_CODE[grid]))).astype(np.float32)
    return powers


def on_grid(values: Floats, grid: str) -> Floats:
    """Round ``[..., columns]`` to what the type `grid` holds."""
    blocks = values.reshape(-1, BLOCK)
    scale = scales(blocks, grid)
    snapped: Floats = np.rint(blocks / scale) * scale
    return snapped.reshape(values.shape)


def to_mxfp4(values: Floats) -> tuple[Bytes, Bytes]:
    """Encode ``[..., columns]`` as codes ``[..., columns]`` and exponents ``[..., columns / 32]``.

    The exponent is that of the scale, plus 127.
    """
    blocks = values.reshape(*values.shape[:-1], -1, BLOCK)
    peak = np.abs(blocks).max(axis=-1)
    exponent = np.floor(np.log2(peak)) - 2
    scaled = blocks / np.exp2(exponent)[..., None]
    codes = np.abs(scaled[..., None] - FP4).argmin(axis=-1)
    return codes.reshape(values.shape).astype(np.uint8), (exponent + 127).astype(np.uint8)
