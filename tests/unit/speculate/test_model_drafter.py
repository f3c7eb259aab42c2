"""A model that guesses: what it is asked, when, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from stoker.core.drafting import DraftCosts, DraftSeat
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan, StepResult
from stoker.speculate.first_of import FirstOf
from stoker.speculate.guesser import Guesser
from stoker.speculate.held_blocks import Chain, HeldBlocks
from stoker.speculate.lookup import PromptLookup
from stoker.speculate.model import LEAST_TO_COME, MOST_CAUGHT_UP, ModelDrafter
from stoker.speculate.tries import FIRST_TRY
from stoker.testing.clock import FakeClock

CHEAP = DraftCosts(n_streams=1, plain_s=1.0, base_s=1.0, token_s=0.02)
STEP = 0.1
"""What a step of the model takes."""


@dataclass
class Sequence:
    """A running sequence, as far as a drafter sees it."""

    tokens: list[int] = field(default_factory=list)
    draft_states: dict[type, object] = field(default_factory=dict)


class CountingModel:
    """Guesses that the number after each token follows it, and keeps the plans that it was given."""

    def __init__(self, clock: FakeClock, step_s: float = STEP) -> None:
        self.clock = clock
        self.step_s = step_s
        self.plans: list[StepPlan] = []

    def forward(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        self.clock.advance(self.step_s * plan.n_steps)
        guesses = [[run[-1] + n for n in range(1, plan.n_steps + 1)] for run in plan.tokens]
        sampled = [own if samples else [] for own, samples in zip(guesses, plan.samples, strict=True)]
        return StepResult(sampled, [[] for _ in sampled])


class Setting:
    """A drafter over a `CountingModel`, and the sequences of a plan."""

    def __init__(
        self,
        *,
        most: int = 15,
        skipped: tuple[int, ...] = (),
        step_s: float = STEP,
        limits: dict[str, int] | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.model = CountingModel(self.clock, step_s)
        given = {"longest": 4096, "max_step_tokens": 512, "vocab_size": 100_000} | (limits or {})
        guesser = Guesser(
            self.model,
            longest=given["longest"],
            max_step_tokens=given["max_step_tokens"],
            vocab_size=given["vocab_size"],
            served_vocab_size=given.get("served_vocab_size"),
            skipped=skipped,
        )
        self.drafter = ModelDrafter(guesser, most, cost=0.1, clock=self.clock)

    def plan(self, *sequences: Sequence) -> StepPlan:
        tables = [[100 * row + i for i in range(64)] for row in range(len(sequences))]
        return StepPlan(
            request_ids=[f"r{row}" for row in range(len(sequences))],
            tokens=[each.tokens[-1:] for each in sequences],
            first_positions=[len(each.tokens) - 1 for each in sequences],
            block_tables=tables,
            samples=[True] * len(sequences),
            sampling=[SamplingParams(seed=row, logprobs=1) for row in range(len(sequences))],
        )

    def draft(self, *sequences: Sequence, costs: DraftCosts = CHEAP, most: int = 15) -> dict[int, list[int]]:
        seats = [DraftSeat(row, each, most) for row, each in enumerate(sequences)]
        return dict(self.drafter.draft(self.plan(*sequences), seats, costs).tokens)


def go_on(sequence: Sequence, n: int) -> None:
    """Let it say what the model guesses."""
    sequence.tokens += [sequence.tokens[-1] + i for i in range(1, n + 1)]


def test_guesses_are_the_models_with_the_sequences_sampling() -> None:
    setting = Setting()
    sequence = Sequence(list(range(10)))
    found = setting.draft(sequence)[0]
    assert found == list(range(10, 10 + len(found)))
    (plan,) = setting.model.plans
    assert plan.tokens == [list(range(10))], "what the model has not computed yet goes with the first guess"
    assert plan.sampling == [SamplingParams(seed=0)], "nobody wants a guess's log-probabilities"
    assert plan.n_steps >= len(found)


def test_a_draft_ends_before_a_token_that_the_served_model_has_not() -> None:
    """It would refuse the step; a draft model's vocabulary may be padded further than its own."""
    setting = Setting(limits={"served_vocab_size": 12})
    assert setting.draft(Sequence(list(range(10)))) == {0: [10, 11]}
    assert setting.draft(Sequence(list(range(12)))) == {0: []}


def test_accepted_guesses_are_not_computed_again() -> None:
    setting = Setting()
    sequence = Sequence(list(range(10)))
    n = len(setting.draft(sequence)[0])
    go_on(sequence, n + 1)
    assert setting.draft(sequence)
    assert setting.model.plans[-1].tokens == [sequence.tokens[-2:]], "the last guess, and what came after it"
    sequence.tokens += [5000]
    setting.draft(sequence)
    assert setting.model.plans[-1].tokens == [[5000]]


def test_drafts_grow_with_right_guesses_and_end_with_wrong_ones() -> None:
    setting = Setting()
    sequence = Sequence(list(range(10)))
    first = len(setting.draft(sequence)[0])
    for _ in range(30):
        go_on(sequence, 16)
        longest = len(setting.draft(sequence).get(0, []))
    assert longest > first
    for novel in range(5000, 5400, 7):
        sequence.tokens.append(novel)
        found = setting.draft(sequence)
    assert found == {}


def test_a_model_that_takes_long_is_asked_less() -> None:
    quick, slow = Setting(step_s=0.05), Setting(step_s=0.8)
    lengths = []
    for setting in (quick, slow):
        sequence = Sequence(list(range(10)))
        for _ in range(40):
            found = setting.draft(sequence).get(0, [])
            go_on(sequence, len(found) + 1)
        lengths.append(len(found))
    assert lengths[0] > lengths[1]


def test_after_a_while_it_is_tried_again() -> None:
    setting = Setting()
    sequence = Sequence(list(range(10)))
    for novel in range(5000, 9000, 7):
        if not setting.draft(sequence):
            break
        sequence.tokens.append(novel)
    lengths = []
    for _ in range(10 * FIRST_TRY):
        go_on(sequence, 1)
        lengths.append(len(setting.draft(sequence).get(0, [])))
    tries = [index for index, length in enumerate(lengths) if length]
    assert tries[0] >= FIRST_TRY - 2
    assert lengths[tries[0]] == 1
    assert max(lengths) > 1, "right guesses have brought drafts back"


def test_the_longer_it_was_no_use_the_rarer_are_tries() -> None:
    setting = Setting()
    sequence = Sequence(list(range(10)))
    tries = []
    for index, novel in enumerate(range(5000, 5000 + 7 * 1500, 7)):
        sequence.tokens.append(novel)
        if setting.draft(sequence):
            tries.append(index)
    late = [index for index in tries if index > FIRST_TRY]
    assert 2 <= len(late) <= 5
    gaps = [b - a for a, b in pairwise(late)]
    assert gaps == sorted(gaps)


def test_a_long_prompt_is_caught_up_with_in_parts_if_enough_is_to_come() -> None:
    setting = Setting()
    n_prompt = MOST_CAUGHT_UP + 100
    sequence = Sequence(list(range(n_prompt)))
    assert setting.draft(sequence) == {}
    assert setting.draft(sequence) == {}
    assert [plan.n_tokens for plan in setting.model.plans] == [MOST_CAUGHT_UP, 99]
    assert not any(any(plan.samples) for plan in setting.model.plans)
    assert setting.draft(sequence)
    assert setting.model.plans[-1].tokens == [[n_prompt - 1]]


def test_streams_that_lack_nothing_have_drafts_while_another_is_caught_up_with() -> None:
    setting = Setting()
    ready = Sequence(list(range(10)))
    setting.draft(ready)
    late = Sequence(list(range(1000, 1900)))
    costs = replace(CHEAP, n_streams=2)
    rows = [set(setting.draft(late, ready, costs=costs)) for _ in range(8)]
    assert rows == [set(), {1}, set(), {1}, set(), {1}, set(), {0, 1}]


def test_a_long_prompt_is_not_caught_up_with_for_a_few_tokens() -> None:
    setting = Setting()
    sequence = Sequence(list(range(1000)))
    dear = replace(CHEAP, token_s=0.9 * CHEAP.base_s)
    worthless = replace(CHEAP, plain_s=0.4, margin=0.1)
    for costs in (dear, worthless):
        for _ in range(5):
            assert setting.draft(sequence, costs=costs) == {}
    assert setting.model.plans == []
    assert LEAST_TO_COME < 1000


def test_a_step_that_may_not_take_long_catches_up_with_less() -> None:
    setting = Setting()
    sequence = Sequence(list(range(1000)))
    assert setting.draft(sequence, costs=replace(CHEAP, most_s=1.13)) == {}
    (plan,) = setting.model.plans
    assert 64 <= plan.n_tokens <= 65, "what is left of the time, at a tenth of what a token of a draft takes"


def test_a_try_catches_up_with_no_more_than_the_step_has_time_for() -> None:
    costs = replace(CHEAP, token_s=0.9, most_s=2.0)  # nothing is expected to pay
    setting = Setting()
    for sequence, asked in ((Sequence(list(range(150))), False), (Sequence(list(range(10))), True)):
        for _ in range(FIRST_TRY):
            setting.draft(sequence, costs=costs)
        assert bool(setting.model.plans) == asked


def test_blocks_are_looked_through_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes time for each of them, and a long conversation has thousands."""
    looks = []
    look = HeldBlocks.n_held

    def counted(held: HeldBlocks, tokens: list[int], table: list[int], chain: Chain) -> int:
        looks.append(table)
        return look(held, tokens, table, chain)

    monkeypatch.setattr(HeldBlocks, "n_held", counted)
    setting = Setting()
    sequence = Sequence(list(range(200)))
    for n_steps in range(1, 10):
        setting.draft(sequence)
        go_on(sequence, 3)
        assert len(looks) == n_steps
    assert len(setting.model.plans) == n_steps


def test_a_prefix_that_sequences_share_is_computed_once() -> None:
    setting = Setting()
    first = Sequence(list(range(48)))
    setting.draft(first)
    setting.draft(first)
    second = Sequence([*range(48), 900, 901])
    setting.draft(second)
    assert setting.model.plans[-1].first_positions == [48]


def test_what_sequences_share_is_written_by_one_of_them_at_a_time() -> None:
    setting = Setting()
    prompt = list(range(40))
    first, second = Sequence([*prompt, 1]), Sequence([*prompt, 2])
    costs = replace(CHEAP, n_streams=2)
    plan = setting.plan(first, second)
    plan.block_tables[1][:2] = plan.block_tables[0][:2]
    seats = [DraftSeat(0, first, 15), DraftSeat(1, second, 15)]
    assert not setting.drafter.draft(plan, seats, costs).tokens
    for each in setting.model.plans:
        written = [
            block
            for run, begin, table in zip(each.tokens, each.first_positions, each.block_tables, strict=True)
            for block in table[begin // 16 : (begin + len(run) - 1) // 16 + 1]
        ]
        assert len(set(written)) == len(written)
    for _ in range(3):
        found = setting.drafter.draft(plan, seats, costs).tokens
    assert set(found) == {0, 1}
    assert sum(plan.n_tokens for plan in setting.model.plans[:-1]) < 60, "32 tokens are computed for both"


@pytest.mark.parametrize("step_tokens", [1, 8, 20])
def test_steps_of_the_model_have_no_more_tokens_than_it_can_compute(step_tokens: int) -> None:
    setting = Setting(limits={"max_step_tokens": step_tokens})
    sequences = [Sequence([*range(1000 * i, 1000 * i + 90)]) for i in range(3)]
    for _ in range(3 * FIRST_TRY):
        setting.draft(*sequences, costs=replace(CHEAP, n_streams=3))
        for each in sequences:
            go_on(each, 1)
    assert setting.model.plans
    assert max(plan.n_tokens for plan in setting.model.plans) <= step_tokens


def test_nobody_is_asked_where_nothing_can_pay() -> None:
    setting = Setting()
    many = replace(CHEAP, n_streams=8, token_s=0.2)
    assert not setting.drafter.needs_blocks(many)
    assert setting.drafter.needs_blocks(CHEAP)
    assert setting.draft(Sequence(list(range(10))), costs=many) == {}
    assert setting.model.plans == []


@pytest.mark.parametrize(
    "limits", [{"longest": 10}, {"vocab_size": 9}], ids=["no more context", "a token that it has not"]
)
def test_what_the_model_cannot_compute_is_not_asked(limits: dict[str, int]) -> None:
    setting = Setting(limits=limits)
    assert setting.draft(Sequence(list(range(10)))) == {}
    assert setting.model.plans == []


def test_streams_share_the_rounds() -> None:
    setting = Setting()
    sequences = [Sequence(list(range(10 * i, 10 * i + 12))) for i in range(1, 4)]
    costs = replace(CHEAP, n_streams=3)
    found = setting.draft(*sequences, costs=costs)
    assert set(found) == {0, 1, 2}
    assert len(setting.model.plans) == 1
    for row, each in enumerate(sequences):
        assert found[row] == [each.tokens[-1] + n for n in range(1, len(found[row]) + 1)]


def test_who_is_about_to_end_does_not_end_the_drafts_of_others() -> None:
    setting = Setting()
    first, last = Sequence(list(range(10))), Sequence(list(range(100, 110)))
    costs = replace(CHEAP, n_streams=2)
    plan = setting.plan(first, last)
    found = setting.drafter.draft(plan, [DraftSeat(0, first, 15), DraftSeat(1, last, 1)], costs).tokens
    assert set(found) == {0}
    assert len(found[0]) > 1


def test_without_layers_nothing_is_caught_up_with_and_adapters_are_there() -> None:
    setting = Setting(skipped=(2, 3))
    sequence, other = Sequence(list(range(500))), Sequence(list(range(7)))
    plan = setting.plan(other, sequence)
    plan.adapters = {1: "digest"}
    assert setting.drafter.draft(plan, [DraftSeat(1, sequence, 15)], replace(CHEAP, n_streams=2)).tokens
    (asked,) = setting.model.plans
    assert asked.skipped_layers == (2, 3)
    assert asked.tokens == [[499]]
    assert asked.adapters == {0: "digest"}
    assert asked.block_tables == [plan.block_tables[1]]


def test_what_the_conversation_says_goes_before_what_the_model_guesses() -> None:
    setting = Setting()
    both = FirstOf(PromptLookup(15), setting.drafter)
    assert both.needs_blocks(CHEAP)
    repeating = Sequence([*range(40, 80), 7, *range(40, 50)])
    plan = setting.plan(repeating)
    drafts = both.draft(plan, [DraftSeat(0, repeating, 15)], CHEAP).tokens
    assert drafts[0][:3] == [50, 51, 52]
    assert setting.model.plans == []
    new = Sequence(list(range(10)))
    assert both.draft(setting.plan(new), [DraftSeat(0, new, 15)], CHEAP).tokens
    assert len(setting.model.plans) == 1


def test_fewer_guesses_than_asked_for_are_taken() -> None:
    setting = Setting()
    forward: Callable[[StepPlan], StepResult] = setting.model.forward

    def interrupted(plan: StepPlan) -> StepResult:
        result = forward(plan)
        return StepResult([own[:1] for own in result.token_ids], result.logprobs)

    setting.model.forward = interrupted  # type: ignore[method-assign]
    assert setting.draft(Sequence(list(range(10)))) == {0: [10]}
