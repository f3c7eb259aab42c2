"""Scores of prompt tokens: the log-softmax of raw logits, the same bits however the prompt is computed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, LogitEdits, PromptScoring, StepPlan, StepResult
from stoker.core.tokens import PromptScores
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.workloads import make_request, make_tokens

N_TOKENS, N_TOP = 50, 5
TOKENS = list(make_tokens("scored", N_TOKENS, vocab_size=60))


def load(path: Path, isa: str, *, threads: int = 1) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=threads,
        isa=isa,
        kv_memory_bytes=1 << 20,
        context_length=128,
        max_running=3,  # so that the scored rows of a chunk are more than the logits' buffer holds
        step_tokens=128,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", dtype="Q4_1")


def table(first_block: int = 0) -> list[int]:
    return list(range(first_block, first_block - (-N_TOKENS // BLOCK_TOKENS)))


def plan(first: int, last: int, *, n_top: int = N_TOP, first_block: int = 0) -> StepPlan:
    """Compute the tokens from `first` to `last` and score all that follow one of them."""
    targets = TOKENS[first + 1 : last + 1]
    return StepPlan(
        request_ids=["scored"],
        tokens=[TOKENS[first:last]],
        first_positions=[first],
        block_tables=[table(first_block)],
        samples=[last == N_TOKENS],
        sampling=[SamplingParams(seed=3, logprobs=2)],
        scoring={0: PromptScoring(range(len(targets)), targets, n_top)} if targets else {},
    )


def raw_logits(engine: NativeEngine) -> NDArray[np.float64]:
    whole = plan(0, N_TOKENS)
    return engine.logits(replace(whole, scoring={})).astype(np.float64)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalized: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalized


@pytest.mark.parametrize("n_top", [0, 1, 20])
def test_scores_are_the_log_softmax_of_raw_logits(path: Path, isa: str, n_top: int) -> None:
    engine = load(path, isa)
    logits = raw_logits(engine)
    expected = log_softmax(logits)
    (scores,) = engine.forward(plan(0, N_TOKENS, n_top=n_top)).scores.values()
    assert len(scores) == N_TOKENS - 1
    for position, score in enumerate(scores):
        order = np.lexsort((np.arange(logits.shape[1]), -logits[position]))[:n_top]
        assert [token for token, _ in score.top] == order.tolist()
        np.testing.assert_allclose([value for _, value in score.top], expected[position][order], atol=2e-6)
        np.testing.assert_allclose(score.logprob, expected[position][TOKENS[position + 1]], atol=2e-6)


@pytest.mark.parametrize("chunks", [[1] * N_TOKENS, [16, 16, 18], [7, 30, 13], [49, 1]])
@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_and_threads_do_not_change_a_bit(
    path: Path, isa: str, chunks: list[int], threads: int
) -> None:
    whole = load(path, isa).forward(plan(0, N_TOKENS))
    engine = load(path, isa, threads=threads)
    scores = PromptScores.of([], N_TOP)
    first = 0
    for size in chunks:
        result = engine.forward(plan(first, first + size))
        for part in result.scores.values():
            scores.extend(part)
        first += size
    assert scores == whole.scores[0]
    assert (result.token_ids, result.logprobs) == (whole.token_ids, whole.logprobs)


def test_scoring_changes_nothing_else(path: Path, isa: str) -> None:
    def sampled(step: StepPlan) -> tuple[StepResult, list[list[int]]]:
        engine = load(path, isa)
        result = engine.forward(step)
        after = replace(plan(N_TOKENS - 1, N_TOKENS), tokens=[[5]])
        after.first_positions = [N_TOKENS]
        after.scoring = {}
        return result, engine.forward(after).token_ids

    (scored, next_scored), (plain, next_plain) = (
        sampled(step) for step in (plan(0, N_TOKENS), replace(plan(0, N_TOKENS), scoring={}))
    )
    assert (scored.token_ids, scored.logprobs, next_scored) == (plain.token_ids, plain.logprobs, next_plain)
    assert plain.scores == {}


def test_sequences_beside_a_scored_one(path: Path, isa: str) -> None:
    """Two scored runs and one that is not, of different positions and numbers of alternatives."""
    engine = load(path, isa)
    whole = engine.forward(plan(0, N_TOKENS)).scores[0]
    engine.forward(replace(plan(0, 20, first_block=4), scoring={}))
    mixed = StepPlan(
        request_ids=["a", "b", "c"],
        tokens=[TOKENS[:10], TOKENS[20:40], TOKENS[:30]],
        first_positions=[0, 20, 0],
        block_tables=[[8], table(4), [10, 11]],
        samples=[True, False, False],
        sampling=[SamplingParams(temperature=0.0)] * 3,
        scoring={
            1: PromptScoring(range(4, 20), TOKENS[25:41], 3),
            2: PromptScoring(range(5), TOKENS[1:6], 0),
        },
    )
    result = engine.forward(mixed)
    assert [score.logprob for score in result.scores[1]] == list(whole.logprobs[24:40])
    assert [len(score.top) for score in result.scores[1]] == [3] * 16
    assert result.scores[2].logprobs == whole.logprobs[:5]
    assert len(result.scores[2].top_tokens) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_several_tokens_after_one_row(path: Path, isa: str, threads: int) -> None:
    """Each has the bits that it has when it is what follows, in company of rows that are more than fit."""
    engine = load(path, isa, threads=threads)
    whole = engine.forward(plan(0, N_TOKENS)).scores[0]
    rows, targets = [], []
    for row in range(N_TOKENS):
        others = [*make_tokens(f"others {row}", row % 7, vocab_size=60), *TOKENS[row + 1 : row + 2]]
        rows += [row] * len(others)
        targets += others
    step = plan(0, N_TOKENS)
    step.scoring = {0: PromptScoring(rows, targets, 2)}
    told = list(engine.forward(step).scores[0])
    expected = log_softmax(raw_logits(engine))
    for row, target, score in zip(rows, targets, told, strict=True):
        np.testing.assert_allclose(score.logprob, expected[row][target], atol=2e-6)
        if row < N_TOKENS - 1 and target == TOKENS[row + 1]:
            assert score.logprob == whole.logprobs[row]
            assert score.top == tuple(list(whole)[row].top[:2])


@pytest.mark.parametrize("n_logprobs", [0, 3, 20])
def test_logprobs_of_a_sampled_token_are_those_before_all_edits(
    path: Path, isa: str, n_logprobs: int
) -> None:
    """Neither penalties nor bias nor bans nor temperature nor limits are in them."""
    engine = load(path, isa)
    step = plan(0, N_TOKENS)
    step.scoring = {}
    logits = raw_logits(engine)[-1:]
    banned = int(logits.argmax())
    request = make_request("edited", prompt=TOKENS, min_tokens=1, stop_token_ids=frozenset({banned}))
    edits = LogitEdits.of(
        replace(
            request,
            sampling=SamplingParams(
                presence_penalty=2.0, frequency_penalty=1.0, repetition_penalty=3.0, logit_bias=((7, 50.0),)
            ),
        )
    )
    assert edits is not None
    step.edits = {0: edits}
    step.sampling = [SamplingParams(temperature=0.25, top_k=3, top_p=0.5, seed=1, logprobs=n_logprobs)]
    result = engine.forward(step)
    ((logprob,),) = result.logprobs
    expected = log_softmax(logits)[0]
    order = np.lexsort((np.arange(len(expected)), -logits[0]))[:n_logprobs]
    assert result.token_ids == [[7]]
    assert [token for token, _ in logprob.top] == order.tolist()
    np.testing.assert_allclose([value for _, value in logprob.top], expected[order], atol=2e-6)
    np.testing.assert_allclose(logprob.logprob, expected[7], atol=2e-6)


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        (PromptScoring([-1], [1], 0), "must not descend"),
        (PromptScoring([3, 2], [1, 1], 0), "must not descend"),
        (PromptScoring([N_TOKENS - 1, N_TOKENS], [1, 1], 0), "must not descend"),
        (PromptScoring([0], [-1], 0), "outside the vocabulary"),
        (PromptScoring([0], [10**6], 0), "outside the vocabulary"),
        (PromptScoring([0], [1], -1), "0 to 20"),
        (PromptScoring([0], [1], 21), "0 to 20"),
    ],
)
def test_what_cannot_be_scored(path: Path, scoring: PromptScoring, message: str) -> None:
    engine = load(path, "auto")
    step = plan(0, N_TOKENS)
    step.scoring = {0: scoring}
    with pytest.raises(EngineError, match=message):
        engine.forward(step)


def test_arrays_of_different_lengths_are_refused() -> None:
    one, two = np.zeros(1, np.int32), np.zeros(2, np.int32)
    for arrays in ((one, two, one), (one, one, two)):
        with pytest.raises(ValueError, match="one entry per token"):
            _native.PromptScores(rows=arrays[0], tokens=arrays[1], n_tops=arrays[2])
