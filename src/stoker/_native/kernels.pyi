"""Single kernels over NumPy arrays, so that tests can hold each against a plain reference.

Every function raises ValueError for shapes that do not fit each other and for an instruction-set path
that this processor cannot run. ``dtype`` is the name of a GGUF tensor type that Stoker reads.
"""

import numpy as np
from numpy.typing import NDArray

from stoker._native import LogitEdits

def matmul(
    isa: str, dtype: str, data: NDArray[np.uint8], n: int, k: int, x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Multiply rows ``x [m, k]`` by the matrix of `n` rows of `k` values in `data`: ``[m, n]``."""

def unpack(
    dtype: str, data: NDArray[np.uint8], n: int, k: int, dequantize: bool = False
) -> NDArray[np.float32]:
    """Pack a matrix, as floats for `dequantize`, and read every row of it back: ``[n, k]``."""

def quantize(
    isa: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Quantize rows ``x [m, k]`` per group of 32 values, ``x = scale * code + offset``.

    Returns:
        Codes ``[m, k]``, and scales, offsets and each group's sum of represented values
        ``[m, k / 32]``.
    """

def quantize_twice(
    isa: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Quantize ``x [k]`` at 16 bits per value.

    Returns:
        Two rows as from `quantize`, coarse and fine; x is their sum.
    """

def rms_norm(
    isa: str, x: NDArray[np.float32], weight: NDArray[np.float32], epsilon: float
) -> NDArray[np.float32]:
    """Normalize ``x [n]``, n a multiple of 16, by its root mean square."""

def activate(
    isa: str, activation: str, gate: NDArray[np.float32], up: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute an activation of `stoker.models.config.ModelConfig`, ``[n]``, n a multiple of 16."""

def softcap(isa: str, x: NDArray[np.float32], cap: float) -> NDArray[np.float32]:
    """Compute ``cap * tanh(x / cap)``, ``[n]``, n a multiple of 16."""

def rotate(
    isa: str, x: NDArray[np.float32], cosine: NDArray[np.float32], sine: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Rotate the pairs ``(x[i], x[i + n])`` of ``x [2 n]`` by n angles, then scale."""

def exp_terms(isa: str, x: NDArray[np.float32], maximum: float, factor: float) -> NDArray[np.float32]:
    """Compute ``exp((x - maximum) * factor)``, ``[n]``; 0 where the exponent is below -87."""

def attend(
    isa: str,
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    first_position: int,
    block_table: NDArray[np.int32],
    kv_type: str,
    window: int = 0,
    softcap: float = 0.0,
) -> NDArray[np.float32]:
    """Attend with scaled ``queries [rows, heads, head_size]`` of consecutive positions to one KV head.

    Args:
        isa: Instruction-set path.
        queries: Rows at positions `first_position`, `first_position` + 1, and so on.
        keys: ``[n_keys, head_size]``, n_keys = `first_position` + rows.
        values: Like `keys`.
        first_position: Position of the first row.
        block_table: Blocks of 16 tokens that keys and values are stored to; unused memory holds NaN.
        kv_type: How keys and values are stored: ``f32``, ``f16``, ``bf16`` or ``q8``.
        window: Keys that a row sees, up to its own; 0 for all.
        softcap: Scores become ``softcap * tanh(score / softcap)``; 0 for not.
    """

def stored_kv(
    isa: str, kv_type: str, keys: NDArray[np.float32], values: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Store keys and values, each ``[n, head_size]``, in a KV block and read them back."""

def sample(
    isa: str,
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    choice: int,
    position: int,
    n_logprobs: int,
    edits: LogitEdits | None = None,
) -> tuple[int, float, list[tuple[int, float]]]:
    """Choose a token from ``logits [vocab]``, after the edits of row 0.

    Returns:
        The token, its log-probability, and the `n_logprobs` most likely tokens with theirs; without
        log-probabilities when `n_logprobs` is -1.
    """
