"""A step plan as flat arrays for the C++ forward, and what comes back of it as lists."""

from array import array
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.pooling import PoolRun
from stoker.core.sampling import MAX_TOP_K, SamplingParams
from stoker.core.step import LogitEdits, PromptScoring, StepPlan
from stoker.core.tokens import PromptScores, TokenLogprob


def run_starts_of(runs: Iterable[Sized]) -> NDArray[np.int32]:
    """Return where each run begins when they are put one after the other, and where the last ends."""
    return np.fromiter(accumulate(map(len, runs), initial=0), np.int32)


def flatten(runs: Iterable[Iterable[int]]) -> NDArray[np.int32]:
    """Put runs one after the other."""
    return np.fromiter(chain.from_iterable(runs), np.int32)


class EditArrays:
    """The logit edits of a step's rows as arrays: most steps have those of the one before, but for masks.

    Attributes:
        edits: Whose arrays these are.
    """

    __slots__ = ("_arrays", "_still", "edits")

    def __init__(self, edits: Mapping[int, LogitEdits]) -> None:
        self.edits = edits
        # Histories matter to penalties alone, and bans end.
        self._still = not any(one.penalizes or one.n_banned_steps for one in edits.values())
        self._arrays = self._make() if self._still else {}

    def native(self, edits: Mapping[int, LogitEdits]) -> _native.LogitEdits | None:
        """Return edits that equal `self.edits` as they are now; None for none."""
        if not edits:
            return None
        allowed = [one.allowed for one in edits.values()]
        return _native.LogitEdits(
            **(self._arrays if self._still else self._make()),
            allowed=np.frombuffer(b"".join(allowed), np.uint32),
            allowed_starts=run_starts_of(allowed),
        )

    def _make(self) -> dict[str, Any]:
        each = list(self.edits.values())
        histories = [one.history if one.penalizes else _NO_TOKENS for one in each]
        biases = [one.bias for one in each]
        banned = [one.banned for one in each]
        # The copies leave the sequences' own arrays free to grow.
        return {
            "rows": np.array(list(self.edits), np.int32),
            "presence": np.array([one.presence_penalty for one in each], np.float32),
            "frequency": np.array([one.frequency_penalty for one in each], np.float32),
            "repetition": np.array([one.repetition_penalty for one in each], np.float32),
            "n_prompt": np.array([one.n_prompt if one.penalizes else 0 for one in each], np.int32),
            "history": np.frombuffer(b"".join(histories), np.int32),
            "history_starts": run_starts_of(histories),
            "bias_tokens": np.frombuffer(b"".join([one.bias_tokens for one in each]), np.int32),
            "bias": np.frombuffer(b"".join(biases), np.float32),
            "bias_starts": run_starts_of(biases),
            "banned": np.frombuffer(b"".join(banned), np.int32),
            "banned_starts": run_starts_of(banned),
        }


_NO_TOKENS = array("i")


def layer_mask(layers: Sequence[int], n_layers: int) -> NDArray[np.uint8] | None:
    """Return 1 for each of these layers and 0 for the others, ``[n_layers]``; None for none.

    Raises:
        IndexError: There is no such layer.
    """
    if not layers:
        return None
    mask = np.zeros(n_layers, np.uint8)
    mask[list(layers)] = 1
    return mask


def native_scores(
    scoring: Mapping[int, PromptScoring], run_starts: NDArray[np.int32]
) -> _native.PromptScores | None:
    """Return which tokens of a plan are scored; None for none."""
    if not scoring:
        return None
    each = scoring.values()
    counts = [len(one.targets) for one in each]
    starts = run_starts[list(scoring)]
    return _native.PromptScores(
        rows=flatten([one.rows for one in each]) + np.repeat(starts, counts),
        tokens=flatten([one.targets for one in each]),
        n_tops=np.repeat(np.array([one.n_top for one in each], np.int32), counts),
    )


def native_pools(
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


def native_transfer(
    blocks: Sequence[int], slots: Sequence[int], memory: memoryview
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """Return what a copy of KV blocks takes."""
    return np.array(blocks, np.int32), np.array(slots, np.int32), np.frombuffer(memory, np.uint8)


def prompt_scores(
    scoring: Mapping[int, PromptScoring],
    logprobs: NDArray[np.float32],
    top_tokens: NDArray[np.int32],
    top_logprobs: NDArray[np.float32],
) -> dict[int, PromptScores]:
    """Return the scores by row, from arrays that have those of all rows."""
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


def n_samples(plan: StepPlan) -> NDArray[np.int32]:
    """Return how many tokens are sampled for each row, in a step."""
    counts = np.array(plan.samples, np.int32)
    for row, n_draft in plan.drafts.items():
        counts[row] += n_draft
    return counts


def sample_places(plan: StepPlan, counts: NDArray[np.int32], tokens: list[int]) -> list[range]:
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


def sample_logprobs(
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


def native_steps(plan: StepPlan) -> _native.Steps | None:
    """Return how many steps a plan takes and where it ends; None for a single one."""
    if plan.n_steps == 1:
        return None
    stops = [sorted(tokens) for tokens in plan.stop_token_ids]
    return _native.Steps(n_steps=plan.n_steps, stop_tokens=flatten(stops), stop_starts=run_starts_of(stops))


class SamplingArrays:
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
