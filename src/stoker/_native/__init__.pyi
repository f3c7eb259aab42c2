"""The C++ compute library: weights, KV cache, forward pass and sampling. See ``native/``."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stoker._native import kernels as kernels

MAX_LOGPROBS: int
PACK_LAYOUT: int
"""Number of the packed layout: `packed_matrix` of one number means nothing to `map_matrix` of another."""

def available_isas() -> list[str]:
    """Instruction-set paths that this processor can run, fastest first."""

class LogitEdits:
    """What is done to the logits of some rows before a token is chosen.

    Every array has one entry per edited row; `history`, `bias_tokens` with `bias`, and `banned` are
    those of all rows one after the other, cut by ascending starts that are one longer. Raises
    ValueError for lengths that do not fit each other. See ``native/src/logit_edits.h``.
    """

    def __init__(
        self,
        *,
        rows: NDArray[np.int32],
        presence: NDArray[np.float32],
        frequency: NDArray[np.float32],
        repetition: NDArray[np.float32],
        n_prompt: NDArray[np.int32],
        history: NDArray[np.int32],
        history_starts: NDArray[np.int32],
        bias_tokens: NDArray[np.int32],
        bias: NDArray[np.float32],
        bias_starts: NDArray[np.int32],
        banned: NDArray[np.int32],
        banned_starts: NDArray[np.int32],
    ) -> None: ...

class PromptScores:
    """Tokens that a step scores: each `tokens` entry as what follows the step's token at `rows`, ascending.

    `n_tops` says how many of the most likely tokens to report beside it. Raises ValueError for arrays
    of different lengths.
    """

    def __init__(
        self, *, rows: NDArray[np.int32], tokens: NDArray[np.int32], n_tops: NDArray[np.int32]
    ) -> None: ...

class Model:
    """A decoder-only transformer with its packed weights, paged KV cache and threads.

    Methods raise ValueError for arguments that break the rules and MemoryError when memory cannot
    be reserved. `forward` and `logits` release the interpreter lock.
    """

    def __init__(
        self,
        *,
        n_layers: int,
        width: int,
        n_heads: int,
        n_kv_heads: int,
        head_size: int,
        ffn_width: int,
        vocab_size: int,
        context_length: int,
        frequencies: Sequence[float],
        norm_epsilon: float,
        isa: str,
        n_threads: int,
        kv_blocks: int,
        max_step_tokens: int,
        max_step_seqs: int,
        float_path: bool,
    ) -> None: ...
    def set_matrix(
        self, name: str, layer: int, dtype: str, data: NDArray[np.uint8], adjacent_pairs: bool
    ) -> None:
        """Pack a matrix: embedding, output, q, k, v, o, gate, up or down, stored as GGUF's `dtype`."""

    def map_matrix(self, name: str, layer: int, weight_type: str, packed: NDArray[np.uint8]) -> None:
        """Hold a matrix in bytes that `packed_matrix` has shown, without a copy; they are kept alive.

        They must not change while the model lives.
        """

    def packed_matrix(self, name: str, layer: int) -> tuple[str, NDArray[np.uint8]]:
        """Return a matrix as it is held: type and bytes, a view that ends when it is set anew."""

    def set_norm(self, name: str, layer: int, data: NDArray[np.float32]) -> None:
        """Set attn_norm, ffn_norm or output_norm."""

    def finish(self) -> None:
        """Check that the model is whole."""

    def forward(
        self,
        tokens: NDArray[np.int32],
        run_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        table_starts: NDArray[np.int32],
        samples: NDArray[np.uint8],
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int32],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        seed: NDArray[np.uint64],
        choice: NDArray[np.uint32],
        n_logprobs: NDArray[np.int32],
        edits: LogitEdits | None = None,
        scores: PromptScores | None = None,
    ) -> tuple[
        NDArray[np.int32],
        NDArray[np.float32],
        NDArray[np.int32],
        NDArray[np.float32],
        NDArray[np.int32],
        NDArray[np.float32],
        NDArray[np.int32],
        NDArray[np.float32],
    ]:
        """Compute one step of ``n`` sequences.

        Returns the sampled tokens ``[n]`` (-1 where none was asked for), their log-probabilities
        ``[n]``, and the most likely tokens and their log-probabilities ``[n, MAX_LOGPROBS]``; then the
        same four of the tokens in `scores`.
        """

    def logits(
        self,
        tokens: NDArray[np.int32],
        run_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        table_starts: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """Compute one step and return the raw logits of every token, ``[n_tokens, vocab_size]``."""

    @property
    def isa(self) -> str: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def progress(self) -> int:
        """Grows while a step is computed; any thread may read it."""

    @property
    def kv_blocks(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...
