"""`NativeEngine`: turns a step plan into flat arrays, calls the C++ forward, and reads the samples back."""

from array import array
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.errors import EngineError
from stoker.core.pooling import PoolRun
from stoker.core.sampling import MAX_TOP_K, SamplingParams
from stoker.core.step import LogitEdits, PromptScoring, StepPlan, StepResult
from stoker.core.tokens import AdapterRef, PromptScores, TokenLogprob
from stoker.engine.native.adapters import AdapterSlots
from stoker.engine.native.precision import Choice, apply_precise
from stoker.models.config import ModelConfig


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
    allowed = [np.asarray(one.allowed, np.uint32) for one in each]
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
        allowed=np.concatenate(allowed),
        allowed_starts=_starts(allowed),
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


def _pools(
    pooling: Mapping[int, PoolRun], run_starts: NDArray[np.int32], width: int
) -> tuple[_native.Pools | None, NDArray[np.float64]]:
    """Return which rows to pool and the sums, ``[len(pooling), width]``, that they are added to."""
    sums = np.zeros((len(pooling), width))
    if not pooling:
        return None, sums
    for own, run in zip(sums, pooling.values(), strict=True):
        if run.sums:
            own[:] = run.sums
    begins = [int(run_starts[row]) + run.first for row, run in pooling.items()]
    ends = [int(run_starts[row + 1]) for row in pooling]
    return _native.Pools(begins=np.array(begins, np.int32), ends=np.array(ends, np.int32), sums=sums), sums


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


def _n_samples(plan: StepPlan) -> NDArray[np.int32]:
    """Return how many tokens are sampled for each row, in a step."""
    counts = np.array(plan.samples, np.int32)
    for row, n_draft in plan.drafts.items():
        counts[row] += n_draft
    return counts


def _places(plan: StepPlan, counts: NDArray[np.int32], tokens: list[int]) -> list[range]:
    """Return where each row's samples are in arrays that have those of all rows, step after step."""
    n_rows = len(plan.samples)
    if not plan.drafts and all(plan.samples):
        return [range(row, len(tokens), n_rows) for row in range(n_rows)]
    places = []
    begin = 0
    for n in counts.tolist():
        kept = n
        while kept > 1 and tokens[begin + kept - 1] < 0:  # behind a wrong guess
            kept -= 1
        places.append(range(begin, begin + kept))
        begin += n
    return places


def _logprobs(
    places: list[range],
    n_logprobs: list[int],
    logprobs: NDArray[np.float32],
    top_tokens: NDArray[np.int32],
    top_logprobs: NDArray[np.float32],
) -> list[list[TokenLogprob]]:
    """Return those of each row's samples."""
    return [
        [
            TokenLogprob(
                float(logprobs[i]),
                tuple(zip(top_tokens[i, :n].tolist(), top_logprobs[i, :n].tolist(), strict=True)),
            )
            for i in place
        ]
        if n >= 0
        else []
        for n, place in zip(n_logprobs, places, strict=True)
    ]


def _native_steps(plan: StepPlan) -> _native.Steps | None:
    if plan.n_steps == 1:
        return None
    stops = [sorted(tokens) for tokens in plan.stop_token_ids]
    return _native.Steps(n_steps=plan.n_steps, stop_tokens=_flat(stops), stop_starts=_starts(stops))


class _Sampling:
    """The sampling parameters of a step's rows as arrays: most steps have the rows of the one before.

    Attributes:
        rows: Whose arrays these are.
        arrays: Temperature, top-k, top-p, min-p, seed, choice and number of log-probabilities, ``[n]`` each.
        n_logprobs: The last of them; -1 where none are asked for.
        logprobs_wanted: Whether any row asks for some.
    """

    __slots__ = ("arrays", "logprobs_wanted", "n_logprobs", "rows")

    def __init__(self, rows: list[SamplingParams]) -> None:
        self.rows = rows
        self.n_logprobs = [-1 if row.logprobs is None else row.logprobs for row in rows]
        self.logprobs_wanted = max(self.n_logprobs, default=-1) >= 0
        self.arrays = (
            np.array([row.temperature for row in rows], np.float32),
            np.array([min(row.top_k, MAX_TOP_K) for row in rows], np.int32),
            np.array([row.top_p for row in rows], np.float32),
            np.array([row.min_p for row in rows], np.float32),
            np.array([row.seed for row in rows], np.uint64),
            np.array([row.choice for row in rows], np.uint32),
            np.array(self.n_logprobs, np.int32),
        )


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
        self._sampling = _Sampling([])
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
            self._sampling = _Sampling(plan.sampling)
        run_starts = _starts(plan.tokens)
        model = self._open_model()
        counts = _n_samples(plan)
        pools, sums = _pools(plan.pooling, run_starts, model.width)
        try:
            result = model.forward(
                _flat(plan.tokens),
                run_starts,
                np.array(plan.first_positions, np.int32),
                _flat(plan.block_tables),
                _starts(plan.block_tables),
                counts,
                *self._sampling.arrays,
                _native_edits(plan.edits),
                _native_scores(plan.scoring, run_starts),
                _native_steps(plan),
                pools,
                self._slots(plan),
            )
        except ValueError as error:
            raise EngineError(f"the engine refused a step: {error}") from error
        tokens: list[int] = result[0].tolist()
        places = _places(plan, counts, tokens)
        return StepResult(
            token_ids=[tokens[place.start : place.stop : place.step] for place in places],
            logprobs=_logprobs(places, self._sampling.n_logprobs, *result[1:4])
            if self._sampling.logprobs_wanted
            else [[] for _ in places],
            scores=_prompt_scores(plan.scoring, *result[5:]) if plan.scoring else {},
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
                _flat(plan.tokens),
                _starts(plan.tokens),
                np.array(plan.first_positions, np.int32),
                _flat(plan.block_tables),
                _starts(plan.block_tables),
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
            self._open_model().save_blocks(*_transfer(blocks, slots, memory))
        except ValueError as error:
            raise EngineError(f"the engine refused to copy KV blocks: {error}") from error

    def load_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks back from the slots where they are; raises as `save_blocks`."""
        try:
            self._open_model().load_blocks(*_transfer(blocks, slots, memory))
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
