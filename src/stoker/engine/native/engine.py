"""`NativeEngine`: turns a step plan into flat arrays, calls the C++ forward, and reads the samples back."""

from array import array
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import EngineError
from stoker.core.sampling import MAX_TOP_K
from stoker.core.step import LogitEdits, PromptScoring, StepPlan, StepResult
from stoker.core.tokens import PromptScores, TokenLogprob


def _starts(runs: Iterable[Sized]) -> NDArray[np.int32]:
    return np.fromiter(accumulate(map(len, runs), initial=0), np.int32)


def _flat(runs: Iterable[list[int]]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(runs), np.int32)


def _native_edits(edits: Mapping[int, LogitEdits]) -> _native.LogitEdits | None:
    if not edits:
        return None
    each = list(edits.values())
    histories = [one.history for one in each]
    biases = [one.bias for one in each]
    banned = [one.banned for one in each]
    # The copies leave the sequences' own arrays free to grow.
    return _native.LogitEdits(
        rows=np.array(list(edits), np.int32),
        presence=np.array([one.presence_penalty for one in each], np.float32),
        frequency=np.array([one.frequency_penalty for one in each], np.float32),
        repetition=np.array([one.repetition_penalty for one in each], np.float32),
        n_prompt=np.array([one.n_prompt for one in each], np.int32),
        history=np.concatenate(histories, dtype=np.int32),
        history_starts=_starts(histories),
        bias_tokens=np.concatenate([one.bias_tokens for one in each], dtype=np.int32),
        bias=np.concatenate(biases, dtype=np.float32),
        bias_starts=_starts(biases),
        banned=np.concatenate(banned, dtype=np.int32),
        banned_starts=_starts(banned),
    )


def _native_scores(
    scoring: Mapping[int, PromptScoring], run_starts: NDArray[np.int32]
) -> _native.PromptScores | None:
    if not scoring:
        return None
    each = list(scoring.items())
    firsts = [int(run_starts[row]) + one.first for row, one in each]
    counts = [len(one.targets) for _, one in each]
    return _native.PromptScores(
        rows=_flat([list(range(first, first + n)) for first, n in zip(firsts, counts, strict=True)]),
        tokens=_flat([one.targets for _, one in each]),
        n_tops=np.repeat(np.array([one.n_top for _, one in each], np.int32), counts),
    )


def _transfer(
    blocks: Sequence[int], slots: Sequence[int], memory: memoryview
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    return np.array(blocks, np.int32), np.array(slots, np.int32), np.frombuffer(memory, np.uint8)


def _prompt_scores(
    scoring: Mapping[int, PromptScoring],
    logprobs: NDArray[np.float32],
    top_tokens: NDArray[np.int32],
    top_logprobs: NDArray[np.float32],
) -> dict[int, PromptScores]:
    scores = {}
    start = 0
    for row, one in scoring.items():
        end = start + len(one.targets)
        scores[row] = PromptScores(
            one.n_top,
            array("f", logprobs[start:end].tobytes()),
            array("i", top_tokens[start:end, : one.n_top].tobytes()),
            array("f", top_logprobs[start:end, : one.n_top].tobytes()),
        )
        start = end
    return scores


class NativeEngine:
    """A loaded model that computes steps on the processor; a `StepEngine`.

    Args:
        model: The native model, finished.
        fingerprint: Names weights, KV type and instruction-set path.
        kv_root: Names all that the bytes of a KV block depend on, beside its tokens.

    Attributes:
        kv_root: As given.
        kv_block_bytes: Memory of a KV block.
    """

    def __init__(self, model: _native.Model, fingerprint: str, *, kv_root: str) -> None:
        self._model: _native.Model | None = model
        self._kv_blocks = model.kv_blocks
        self._fingerprint = fingerprint
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
    def progress(self) -> int:
        """Grows while a step is computed; any thread may read it."""
        model = self._model
        return 0 if model is None else model.progress

    def forward(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens into the KV cache and sample where the plan says so.

        Raises:
            EngineError: The plan breaks the engine's rules, or the engine is closed.
        """
        sampling = plan.sampling
        logprobs = [-1 if s.logprobs is None else s.logprobs for s in sampling]
        run_starts = _starts(plan.tokens)
        try:
            result = self._open_model().forward(
                _flat(plan.tokens),
                run_starts,
                np.array(plan.first_positions, np.int32),
                _flat(plan.block_tables),
                _starts(plan.block_tables),
                np.array(plan.samples, np.uint8),
                np.array([s.temperature for s in sampling], np.float32),
                np.array([min(s.top_k, MAX_TOP_K) for s in sampling], np.int32),
                np.array([s.top_p for s in sampling], np.float32),
                np.array([s.min_p for s in sampling], np.float32),
                np.array([s.seed for s in sampling], np.uint64),
                np.array([s.choice for s in sampling], np.uint32),
                np.array(logprobs, np.int32),
                _native_edits(plan.edits),
                _native_scores(plan.scoring, run_starts),
            )
        except ValueError as error:
            raise EngineError(f"the engine refused a step: {error}") from error
        tokens, token_logprobs, top_tokens, top_logprobs = result[:4]
        return StepResult(
            token_ids=tokens.tolist(),
            logprobs=[
                TokenLogprob(
                    float(token_logprobs[i]),
                    tuple(zip(top_tokens[i, :n].tolist(), top_logprobs[i, :n].tolist(), strict=True)),
                )
                if n >= 0 and sampled
                else None
                for i, (n, sampled) in enumerate(zip(logprobs, plan.samples, strict=True))
            ],
            scores=_prompt_scores(plan.scoring, *result[5:]),
        )

    def logits(self, plan: StepPlan) -> NDArray[np.float32]:
        """Compute the plan's tokens and return every token's raw logits, ``[n_tokens, vocab_size]``.

        Raises:
            EngineError: As `forward`.
        """
        try:
            return self._open_model().logits(
                _flat(plan.tokens),
                _starts(plan.tokens),
                np.array(plan.first_positions, np.int32),
                _flat(plan.block_tables),
                _starts(plan.block_tables),
            )
        except ValueError as error:
            raise EngineError(f"the engine refused a step: {error}") from error

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

    def save_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks to the slots of `kv_block_bytes` each in `memory`.

        Raises:
            EngineError: There is no such block or slot, or the engine is closed.
        """
        try:
            self._open_model().save_blocks(*_transfer(blocks, slots, memory))
        except ValueError as error:
            raise EngineError(f"the engine refused to copy KV blocks: {error}") from error

    def load_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks back from the slots where they are; raises as `save_blocks`."""
        try:
            self._open_model().load_blocks(*_transfer(blocks, slots, memory))
        except ValueError as error:
            raise EngineError(f"the engine refused to copy KV blocks: {error}") from error

    def close(self) -> None:
        """Free threads and memory."""
        self._model = None

    def _open_model(self) -> _native.Model:
        if self._model is None:
            raise EngineError("the engine is closed")
        return self._model
