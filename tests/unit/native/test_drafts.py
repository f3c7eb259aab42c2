"""Runs that end with drafts: the bits of single steps, whatever was guessed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import LogitEdits, StepPlan
from stoker.core.tokens import TokenLogprob
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.workloads import make_request, make_tokens

N_PROMPT = 14  # so that a first draft begins another block
N_TOKENS = 24
VOCAB_SIZE = 64
MAX_RUNNING = 3
SAMPLINGS = (
    SamplingParams(temperature=0.0),
    SamplingParams(seed=4, top_p=0.9, logprobs=3),
    SamplingParams(
        seed=9,
        presence_penalty=0.3,
        repetition_penalty=1.4,
        frequency_penalty=0.6,
        logit_bias=((2, 5.0),),
        logprobs=0,
    ),
)
PROMPTS = [list(make_tokens(f"drafts {row}", N_PROMPT, vocab_size=60)) for row in range(len(SAMPLINGS))]

Guess = Callable[[int, int], list[int]]
"""Gives a draft for a row that has so many tokens."""


@dataclass
class Output:
    """What was sampled, and in how many calls."""

    tokens: list[list[int]] = field(default_factory=lambda: [[] for _ in PROMPTS])
    logprobs: list[list[TokenLogprob]] = field(default_factory=lambda: [[] for _ in PROMPTS])
    n_calls: int = field(default=0, compare=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", dtype="Q4_1")


def load(path: Path, isa: str = "auto") -> NativeEngine:
    settings = NativeEngineSettings(
        threads=2,
        isa=isa,
        kv_memory_bytes=1 << 20,
        context_length=40,
        max_running=MAX_RUNNING,
        step_tokens=64,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def plan_of(rows: list[int], tokens: list[list[int]], drafts: dict[int, list[int]]) -> StepPlan:
    """Plan what follows the latest of each row's tokens, or its prompt if it has none."""
    plan = StepPlan()
    for at, row in enumerate(rows):
        history = PROMPTS[row] + tokens[row]
        first = len(history) - 1 if tokens[row] else 0
        draft = drafts.get(row, [])
        plan.request_ids.append(str(row))
        plan.tokens.append(history[first:] + draft)
        plan.first_positions.append(first)
        plan.block_tables.append([3 * row, 3 * row + 1, 3 * row + 2])
        plan.samples.append(True)
        plan.sampling.append(SAMPLINGS[row])
        if draft:
            plan.drafts[at] = len(draft)
        edits = LogitEdits.of(make_request("a", prompt=PROMPTS[row], sampling=SAMPLINGS[row]))
        if edits is not None:
            edits.history.extend(tokens[row])
            plan.edits[at] = edits
    return plan


def generate(engine: NativeEngine, guess: Guess) -> Output:
    """Compute the prompts, then decode with drafts until every row has `N_TOKENS`."""
    output = Output()
    while rows := [row for row, tokens in enumerate(output.tokens) if len(tokens) < N_TOKENS]:
        drafts = {}
        for row in rows:
            n_known = len(output.tokens[row])
            if n_known and (draft := guess(row, n_known)[: N_TOKENS - n_known - 1]):
                drafts[row] = draft
        result = engine.forward(plan_of(rows, output.tokens, drafts))
        output.n_calls += 1
        for row, tokens, logprobs in zip(rows, result.token_ids, result.logprobs, strict=True):
            draft = [*drafts.get(row, []), -1]
            assert tokens[:-1] == draft[: len(tokens) - 1]
            assert tokens[-1] != draft[len(tokens) - 1]
            output.tokens[row] += tokens
            output.logprobs[row] += logprobs
    return output


def no_guess(_row: int, _n_known: int) -> list[int]:
    return []


def wrong_at(expected: Output, n_draft: int, place: int | None) -> Guess:
    """Guess right but for one place of every draft."""

    def guess(row: int, n_known: int) -> list[int]:
        draft = expected.tokens[row][n_known : n_known + n_draft]
        if place is not None and place < len(draft):
            draft[place] = (draft[place] + 1) % VOCAB_SIZE
        return draft

    return guess


def test_right_drafts_are_taken_whole(path: Path, isa: str) -> None:
    engine = load(path, isa)
    expected = generate(engine, no_guess)
    assert expected.n_calls == N_TOKENS
    assert all(len(set(tokens)) > 1 for tokens in expected.tokens)
    assert [len(entries) for entries in expected.logprobs] == [0, N_TOKENS, N_TOKENS]
    for n_draft in (1, 2, 4, 7, MAX_DRAFT_TOKENS):  # more rows of logits than the engine keeps at a time
        output = generate(engine, wrong_at(expected, n_draft, None))
        assert output == expected
        assert output.n_calls == 1 + -(-(N_TOKENS - 1) // (n_draft + 1))


@pytest.mark.parametrize("place", range(5))
def test_a_wrong_guess_ends_a_draft_and_leaves_nothing_behind(path: Path, isa: str, place: int) -> None:
    engine = load(path, isa)
    expected = generate(engine, no_guess)
    output = generate(engine, wrong_at(expected, 5, place))
    assert output == expected
    assert output.n_calls > -(-(N_TOKENS - 1) // (place + 1))


def test_rows_with_and_without_drafts_in_one_call(path: Path, isa: str) -> None:
    engine = load(path, isa)
    expected = generate(engine, no_guess)
    right = wrong_at(expected, 4, None)

    def of_rows(rows: set[int]) -> Guess:
        return lambda row, n_known: right(row, n_known) if row in rows else []

    for rows in ({0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}):
        assert generate(engine, of_rows(rows)) == expected

    def various(row: int, n_known: int) -> list[int]:
        n_draft = (3 * row + n_known) % 6
        return wrong_at(expected, n_draft, (row + n_known) % 4)(row, n_known)

    assert generate(engine, various) == expected


def test_drafts_of_nonsense(path: Path, isa: str) -> None:
    engine = load(path, isa)
    expected = generate(engine, no_guess)
    assert generate(engine, lambda row, n: list(make_tokens(f"{row} {n}", 9, VOCAB_SIZE))) == expected


def test_a_draft_behind_a_prompt(path: Path) -> None:
    engine = load(path)
    expected = generate(engine, no_guess)
    plan = plan_of([0, 1, 2], [[], [], []], {row: tokens[:6] for row, tokens in enumerate(expected.tokens)})
    result = engine.forward(plan)
    assert result.token_ids == [tokens[:7] for tokens in expected.tokens]
    assert result.logprobs == [entries[:7] for entries in expected.logprobs]


def test_histories_are_not_touched(path: Path) -> None:
    engine = load(path)
    expected = generate(engine, no_guess)
    plan = plan_of(
        [0, 1, 2], [tokens[:2] for tokens in expected.tokens], {2: expected.tokens[2][2:6], 1: [1, 2]}
    )
    before = [edits.history.tolist() for edits in plan.edits.values()]
    engine.forward(plan)
    assert [edits.history.tolist() for edits in plan.edits.values()] == before


def test_plans_that_break_the_rules(path: Path) -> None:
    engine = load(path)
    expected = generate(engine, no_guess)
    known = [tokens[:2] for tokens in expected.tokens]

    def right() -> StepPlan:
        return plan_of([0, 1, 2], known, {1: expected.tokens[1][2:5]})

    assert engine.forward(right()).token_ids[1] == expected.tokens[1][2:6]
    too_many = right()
    too_many.drafts[1] = 4
    with pytest.raises(EngineError, match="at most as many tokens as its run has"):
        engine.forward(too_many)
    several_steps = right()
    several_steps.n_steps, several_steps.stop_token_ids = 2, [frozenset()] * 3
    with pytest.raises(EngineError, match="has one token sampled"):
        engine.forward(several_steps)
    no_room = right()
    no_room.block_tables[1] = no_room.block_tables[1][:1]
    with pytest.raises(EngineError, match="block table is too short"):
        engine.forward(no_room)
    assert engine.forward(right()).token_ids[1] == expected.tokens[1][2:6]
