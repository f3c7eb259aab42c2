"""`NativeEngine`: turns a step plan into flat arrays, calls the C++ forward, and reads the samples back."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.errors import EngineError
from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import AdapterRef
from stoker.engine.native.adapters import AdapterSlots
from stoker.engine.native.arrays import (
    EditArrays,
    SamplingArrays,
    flatten,
    layer_mask,
    n_samples,
    native_pools,
    native_scores,
    native_steps,
    native_transfer,
    prompt_scores,
    run_starts_of,
    sample_logprobs,
    sample_places,
)
from stoker.engine.native.precision import Choice, apply_precise
from stoker.models.config import ModelConfig


class NativeEngine:
    """A loaded model that computes steps on the processor; a `StepEngine`.

    Args:
        model: The native model, finished.
        fingerprint: Names weights, KV type and instruction-set path.
        kv_root: Names all that the bytes of a KV block depend on, beside its tokens.
        adapters: Places for adapters; None for an engine without them.

    Attributes:
        kv_root: As given.
        kv_block_bytes: Memory of a KV block.
    """

    def __init__(
        self,
        model: _native.Model,
        fingerprint: str,
        *,
        kv_root: str,
        adapters: AdapterSlots | None = None,
    ) -> None:
        self._model: _native.Model | None = model
        self._adapters = adapters
        self._kv_blocks = model.kv_blocks
        self._fingerprint = fingerprint
        self._sampling = SamplingArrays([])
        self._edits = EditArrays({})
        self.kv_root = kv_root
        self.kv_block_bytes = model.kv_block_bytes

    @property
    def kv_blocks(self) -> int:
        """KV blocks in all."""
        return self._kv_blocks

    @property
    def fingerprint(self) -> str:
        """Names weights, KV type and instruction-set path."""
        return self._fingerprint

    @property
    def max_draft_tokens(self) -> int:
        """Most tokens of a draft behind a run."""
        return MAX_DRAFT_TOKENS

    @property
    def progress(self) -> int:
        """Grows while a step is computed; any thread may read it."""
        model = self._model
        return 0 if model is None else model.progress

    def forward(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens into the KV cache and sample where the plan says so.

        Raises:
            EngineError: The plan breaks the engine's rules, or the engine is closed.
        """
        if plan.sampling != self._sampling.rows:  # compares identities first, and mostly nothing else
            self._sampling = SamplingArrays(plan.sampling)
        if plan.edits != self._edits.edits:  # likewise
            self._edits = EditArrays(plan.edits)
        run_starts = run_starts_of(plan.tokens)
        model = self._open_model()
        counts = n_samples(plan)
        pools, sums = native_pools(plan.pooling, run_starts, model.width)
        try:
            result = model.forward(
                flatten(plan.tokens),
                run_starts,
                np.array(plan.first_positions, np.int32),
                flatten(plan.block_tables),
                run_starts_of(plan.block_tables),
                counts,
                *self._sampling.arrays,
                self._edits.native(plan.edits),
                native_scores(plan.scoring, run_starts),
                native_steps(plan),
                pools,
                self._slots(plan),
                layer_mask(plan.skipped_layers, model.n_layers),
            )
        except (ValueError, IndexError) as error:
            raise EngineError(f"the engine refused a step: {error}") from error
        tokens: list[int] = result[0].tolist()
        places = sample_places(plan, counts, tokens)
        return StepResult(
            token_ids=[tokens[place.start : place.stop : place.step] for place in places],
            logprobs=sample_logprobs(places, self._sampling.n_logprobs, *result[1:4])
            if self._sampling.logprobs_wanted
            else [[] for _ in places],
            scores=prompt_scores(plan.scoring, *result[5:]) if plan.scoring else {},
            sums={row: array("d", own.tobytes()) for row, own in zip(plan.pooling, sums, strict=True)},
        )

    def heed(self, flag: bytearray) -> None:
        """End every call of several steps after the step during which ``flag[0]`` is not 0."""
        self._open_model().heed(np.frombuffer(flag, np.uint8))

    def logits(self, plan: StepPlan) -> NDArray[np.float32]:
        """Compute the plan's tokens and return every token's raw logits, ``[n_tokens, vocab_size]``.

        Raises:
            EngineError: As `forward`.
        """
        try:
            return self._open_model().logits(
                flatten(plan.tokens),
                run_starts_of(plan.tokens),
                np.array(plan.first_positions, np.int32),
                flatten(plan.block_tables),
                run_starts_of(plan.block_tables),
                self._slots(plan),
            )
        except ValueError as error:
            raise EngineError(f"the engine refused a step: {error}") from error

    def read_adapter(self, adapter: AdapterRef) -> _native.Adapter:
        """Read an adapter and pack it for this model; for any thread.

        Raises:
            ModelError: It is missing, damaged, has changed, or does not fit this model.
        """
        return self._open_adapters().read(adapter)

    def place_adapter(self, digest: str, ready: object) -> None:
        """Take an adapter that `read_adapter` has returned, between steps.

        Raises:
            EngineError: There is no room for one more.
        """
        self._open_adapters().place(self._open_model(), digest, ready)

    def drop_adapter(self, digest: str) -> None:
        """Let go of an adapter, between steps."""
        self._open_adapters().drop(self._open_model(), digest)

    def set_precise(self, config: ModelConfig, choice: Choice) -> None:
        """Multiply these matrices, and no others, with activations of 16 bits from the next step on.

        For measuring what it is worth: the fingerprint stays, and so do keys and values.

        Raises:
            EngineError: The engine is closed.
        """
        apply_precise(self._open_model(), config, choice)

    def time_phases(self) -> None:
        """Begin to measure where the time of `forward` goes; costs a few per cent of short steps."""
        self._open_model().time_phases(on=True)

    def phase_times(self) -> dict[str, tuple[float, float]]:
        """Return by phase the seconds since `time_phases`, and those that all threads together were idle."""
        return self._open_model().phase_times

    def matrix(self, name: str, layer: int) -> tuple[str, int]:
        """Return how a matrix is held, and in how many bytes; names are those of `_native.Model.set_matrix`.

        Raises:
            EngineError: The model has no such matrix.
        """
        try:
            weight_type, packed = self._open_model().packed_matrix(name, layer)
        except ValueError as error:
            raise EngineError(f"the model has no matrix {name}: {error}") from error
        return weight_type, packed.nbytes

    @property
    def n_threads(self) -> int:
        """Compute threads."""
        return self._open_model().n_threads

    @property
    def isa(self) -> str:
        """The instruction-set path."""
        return self._open_model().isa

    @property
    def bf16_attention(self) -> bool:
        """Whether attention multiplies keys and values in bf16, as they are stored."""
        model = self._open_model()
        return model.kv_type == "bf16" and _native.fastest_kv_type(model.isa) == "bf16"

    def save_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks to the slots of `kv_block_bytes` each in `memory`.

        Raises:
            EngineError: There is no such block or slot, or the engine is closed.
        """
        try:
            self._open_model().save_blocks(*native_transfer(blocks, slots, memory))
        except ValueError as error:
            raise EngineError(f"the engine refused to copy KV blocks: {error}") from error

    def load_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks back from the slots where they are; raises as `save_blocks`."""
        try:
            self._open_model().load_blocks(*native_transfer(blocks, slots, memory))
        except ValueError as error:
            raise EngineError(f"the engine refused to copy KV blocks: {error}") from error

    def _open_adapters(self) -> AdapterSlots:
        if self._adapters is None:
            raise EngineError("the engine was loaded without places for adapters")
        return self._adapters

    def _slots(self, plan: StepPlan) -> NDArray[np.int32] | None:
        return self._open_adapters().of_plan(plan) if plan.adapters else None

    def close(self) -> None:
        """Free threads and memory."""
        self._model = None

    def _open_model(self) -> _native.Model:
        if self._model is None:
            raise EngineError("the engine is closed")
        return self._model
