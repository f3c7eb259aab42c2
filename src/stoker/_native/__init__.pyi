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

def measure_limits(
    isa: str, *, n_threads: int, memory_bytes: int, cache_bytes: int, seconds: float
) -> dict[str, float]:
    """Measure what the processor allows, all threads together, each limit for `seconds`.

    Returns operations a second (a multiplication and an addition are two) and bytes read a second:
    ``dot_ops`` (integer products of this instruction-set path), ``fma_ops`` (fp32), ``bf16_ops``
    (bfloat16 products of that path; 0 where it has none), ``memory_bytes`` (of an array of that size) and
    ``cache_bytes`` (read again and again). Releases the interpreter lock.

    Raises:
        ValueError: An argument is out of range, or `isa` cannot run here.
        MemoryError: There is no room for the arrays.
    """

def fastest_kv_type(isa: str) -> str:
    """KV type that an instruction-set path is fastest with: what ``auto`` stands for.

    Raises:
        ValueError: This processor has no such path.
    """

def kv_part_bytes(kv_type: str, head_size: int) -> int:
    """Bytes of the keys, or of the values, of one KV head of one block of 16 tokens.

    Raises:
        ValueError: There is no such type.
    """

class LogitEdits:
    """What is done to the logits of some rows before a token is chosen.

    Every array has one entry per edited row; `history`, `bias_tokens` with `bias`, `banned` and `allowed`
    are those of all rows one after the other, cut by ascending starts that are one longer; a row without
    words of `allowed` has no mask. Raises ValueError for lengths that do not fit each other. See
    ``native/src/logit_edits.h``.
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
        allowed: NDArray[np.uint32],
        allowed_starts: NDArray[np.int32],
    ) -> None: ...

class PromptScores:
    """Tokens that a step scores: each `tokens` entry as what follows the step's token at `rows`.

    `rows` do not descend; of several tokens after one row the logits are computed once.

    `n_tops` says how many of the most likely tokens to report beside it. Raises ValueError for arrays
    of different lengths.
    """

    def __init__(
        self, *, rows: NDArray[np.int32], tokens: NDArray[np.int32], n_tops: NDArray[np.int32]
    ) -> None: ...

class Pools:
    """Rows that a step adds to sums: for each `begins` and `ends` a row of `sums`, in place.

    Raises ValueError for arrays of different lengths.
    """

    def __init__(
        self, *, begins: NDArray[np.int32], ends: NDArray[np.int32], sums: NDArray[np.float64]
    ) -> None: ...

class Rotary:
    """Radians a position of each pair of a head's elements that turn, and a factor of cosine and sine."""

    def __init__(self, frequencies: Sequence[float], magnitude: float) -> None: ...

class Experts:
    """See `stoker.models.config.Experts`."""

    def __init__(self, *, n_experts: int, n_used: int, normalized: bool, biases: bool) -> None: ...

class Steps:
    """How many steps a `Model.forward` takes at most, if all its sequences decode.

    It ends after the first step in which a sequence ended.

    Args:
        n_steps: Most steps.
        stop_tokens: Tokens that end each sequence, those of all sequences one after the other.
        stop_starts: Where each sequence's begin, ``[n + 1]``.
    """

    def __init__(
        self, *, n_steps: int, stop_tokens: NDArray[np.int32], stop_starts: NDArray[np.int32]
    ) -> None: ...

class ModelShape:
    """See `stoker.models.config.ModelConfig`, whose names these are; what differs is said here.

    Args:
        layers: Each layer's window, 0 for none, and index into `rotaries`, -1 for none.
        context_length: Most positions that are served.
        rotaries: With the frequencies for that context.
        score_scale: Always a number.
        score_softcap: 0 for none.
        logit_softcap: 0 for none.

    Raises:
        ValueError: An activation or kind of norm is unknown. What the sizes may be, `Model` checks.
    """

    def __init__(
        self,
        *,
        layers: Sequence[tuple[int, int]],
        width: int,
        n_heads: int,
        n_kv_heads: int,
        head_size: int,
        ffn_width: int,
        vocab_size: int,
        context_length: int,
        rotaries: Sequence[Rotary],
        norm_epsilon: float,
        tied_embeddings: bool,
        activation: str,
        pre_norms: bool,
        post_norms: bool,
        qk_norm: str,
        qkv_bias: bool,
        attention_output_bias: bool,
        sinks: bool,
        score_scale: float,
        score_softcap: float,
        logit_softcap: float,
        embedding_scale: float,
        residual_scale: float,
        logit_scale: float,
        experts: Experts | None,
    ) -> None: ...

class Adapter:
    """What is added to a model's matrices for the sequences that ask for it.

    Made in any thread. Numbers are held in bf16, or as they are for a model on the float path.
    """

    def __init__(self, *, n_layers: int, float_path: bool) -> None: ...
    def set(
        self, name: str, layer: int, down: NDArray[np.float32], up: NDArray[np.float32], scale: float
    ) -> None:
        """Add ``scale * up @ down`` to a matrix: q, k, v, o, gate, up or down.

        `down` is ``[rank, inputs]``, `up` is ``[outputs, rank]``; heads of q and k have rotary pairs as
        halves. Raises ValueError for sizes that cannot be, or numbers that are not finite.
        """

    def set_bottleneck(
        self,
        half: str,
        layer: int,
        down: NDArray[np.float32],
        bias: NDArray[np.float32],
        up: NDArray[np.float32],
        up_bias: NDArray[np.float32],
        *,
        scale: float,
        bend: str,
        of_stream: bool,
    ) -> None:
        """Add ``scale * (up @ bend(down @ x + bias) + up_bias)`` behind a half: attention or feed_forward.

        ``x`` is what the half has added to the residual stream, or with `of_stream` the stream with it.
        `bend` is relu, silu or gelu_tanh. Raises as `set` does.
        """

    @property
    def max_rank(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Model:
    """A decoder-only transformer with its packed weights, paged KV cache and threads.

    Methods raise ValueError for arguments that break the rules and MemoryError when memory cannot
    be reserved. `forward` and `logits` release the interpreter lock.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        isa: str,
        n_threads: int,
        kv_blocks: int,
        max_step_tokens: int,
        max_step_seqs: int,
        float_path: bool,
        kv_type: str = "auto",
    ) -> None: ...
    def set_matrix(
        self, name: str, layer: int, dtype: str, data: NDArray[np.uint8], adjacent_pairs: bool
    ) -> None:
        """Pack a matrix that the shape has, stored as GGUF's `dtype`.

        Args:
            name: embedding, output, q, k, v, o, router, gate, up or down. The last three hold those of
                all experts one after the other.
            layer: Ignored for embedding and output.
            dtype: Name of the type.
            data: The rows, one after the other.
            adjacent_pairs: Rotary pairs are neighbours in the rows of q and k.
        """

    def map_matrix(self, name: str, layer: int, weight_type: str, packed: NDArray[np.uint8]) -> None:
        """Hold a matrix in bytes that `packed_matrix` has shown, without a copy; they are kept alive.

        They must not change while the model lives.
        """

    def set_activation_bits(self, name: str, layer: int, bits: int) -> None:
        """Multiply a matrix with activations of 8 or 16 bits, if its weights are u4 or u8.

        16 bits cost twice the integer products. At first they are for v and for what gives the logits.
        """

    def activation_bits(self, name: str, layer: int) -> int: ...
    def packed_matrix(self, name: str, layer: int) -> tuple[str, NDArray[np.uint8]]:
        """Return a matrix as it is held: type and bytes, a view that ends when it is set anew."""

    def set_vector(self, name: str, layer: int, data: NDArray[np.float32], adjacent_pairs: bool) -> None:
        """Set a norm, bias or the like that the shape has; arguments as for `set_matrix`.

        Args:
            name: output_norm, attn_norm, ffn_norm, post_attn_norm, post_ffn_norm, q_norm, k_norm,
                q_bias, k_bias, v_bias, o_bias, sinks, router_bias, gate_bias, up_bias or down_bias.
            layer: Ignored for output_norm.
            data: The values, of all experts one after the other.
            adjacent_pairs: Rotary pairs are neighbours in what belongs to q and k.
        """

    def finish(self) -> None:
        """Check that everything that the shape has is set."""

    def heed(self, flag: NDArray[np.uint8]) -> None:
        """End every forward of several steps after the step during which `flag`, one byte, is not 0."""

    def forward(
        self,
        tokens: NDArray[np.int32],
        run_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        table_starts: NDArray[np.int32],
        samples: NDArray[np.int32],
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int32],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        seed: NDArray[np.uint64],
        choice: NDArray[np.uint32],
        n_logprobs: NDArray[np.int32],
        edits: LogitEdits | None = None,
        scores: PromptScores | None = None,
        steps: Steps | None = None,
        pools: Pools | None = None,
        adapters: NDArray[np.int32] | None = None,
        skipped: NDArray[np.uint8] | None = None,
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
        """Compute one step of ``n`` sequences, or at most so many as `steps` says.

        Returns the sampled tokens, of each sequence as many as `samples` says (-1 behind the first that is
        another than the draft in its place), their log-probabilities, and the most likely tokens and their
        log-probabilities ``[..., MAX_LOGPROBS]``, the samples of further steps behind those of the first;
        then the same four of the tokens in `scores`. `adapters` has the slot of each sequence's adapter, -1
        for none. Layers for which `skipped` is not 0 are left out.
        """

    def logits(
        self,
        tokens: NDArray[np.int32],
        run_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        table_starts: NDArray[np.int32],
        adapters: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """Compute one step and return the raw logits of every token, ``[n_tokens, vocab_size]``."""

    def set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        """Put an adapter into a slot, or empty it, between two steps.

        Raises ValueError if it does not fit this model's shape.
        """

    def save_blocks(
        self, blocks: NDArray[np.int32], slots: NDArray[np.int32], memory: NDArray[np.uint8]
    ) -> None: ...
    def load_blocks(
        self, blocks: NDArray[np.int32], slots: NDArray[np.int32], memory: NDArray[np.uint8]
    ) -> None: ...
    @property
    def kv_block_bytes(self) -> int: ...
    @property
    def width(self) -> int:
        """Size of the residual stream."""

    @property
    def n_layers(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def kv_type(self) -> str:
        """Of ``f16``, ``bf16``, ``q8`` and ``f32``."""

    @property
    def n_threads(self) -> int: ...
    def time_phases(self, on: bool) -> None:
        """Begin anew to measure where the time of `forward` goes, or stop it."""

    @property
    def phase_times(self) -> dict[str, tuple[float, float]]:
        """Seconds since then by phase: of the calling thread, and those of all threads that were idle in it.

        Phases are other, normalize, qkv, attention, output, feed_forward, logits and sampling, those of
        ``native/src/phases.h``.
        """

    @property
    def progress(self) -> int:
        """Grows while a step is computed; any thread may read it."""

    @property
    def kv_blocks(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...
    @property
    def step_bytes(self) -> int:
        """Memory of the buffers that grow with a step's largest number of tokens and sequences."""
