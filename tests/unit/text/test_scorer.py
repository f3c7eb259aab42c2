"""`LocalScorer`, and answers that are one of a request's choices."""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from math import exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.abilities import Ability
from stoker.core.early_exit import ExitReason
from stoker.core.errors import (
    ContextLengthError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
    UnsupportedFieldError,
)
from stoker.core.text import (
    SCORING_PLACES,
    ChatPrompt,
    Finished,
    Message,
    Prompt,
    ScoringRequest,
    Started,
    TextDelta,
    TextPrompt,
    Usage,
)
from stoker.core.tokens import (
    MAX_CANDIDATES,
    Admitted,
    FinishReason,
    PromptScores,
    TokenEvent,
    TokenLogprob,
    TokenRequest,
    TokensEvent,
)
from stoker.testing.local_generator import CONTEXT, REQUEST, generator, play, saying, text_of
from stoker.testing.token_engine import AbsentEngine, FakeTokenEngine, lacking
from stoker.testing.waiting import until
from stoker.text.scorer import probabilities


class TableEngine(FakeTokenEngine):
    """Gives each first token of a choice the log-probability that a table has for it, and the others 0."""

    def __init__(self, table: Mapping[str, float]) -> None:
        super().__init__(saying("free text"))
        self._table = table
        self.most = 0

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        if request.max_tokens:
            async with aclosing(super().stream(request)) as events:
                async for event in events:
                    yield event
            return
        self.requests.append(request)
        self.running.add(request.request_id)
        self.most = max(self.most, len(self.running))
        try:
            yield Admitted(request.request_id)
            await asyncio.sleep(0)
            flat = [token for tokens in request.candidates for token in tokens]
            scores = [TokenLogprob(self._table.get(chr(token), 0.0)) for token in flat]
            yield TokensEvent(
                request.request_id,
                (),
                cached_tokens=2,
                finish_reason=FinishReason.LENGTH,
                prompt_scores=PromptScores.of(scores, 0),
            )
        finally:
            self.running.remove(request.request_id)


def request_for(*prompts: Prompt, choices: tuple[str, ...] = ("x", "yy")) -> ScoringRequest:
    paths = tuple(f"input.{index}" for index in range(len(prompts)))
    return ScoringRequest(
        request_id="r", prompts=prompts, paths=paths, choices=choices, choices_path="labels", priority=3
    )


@pytest.mark.parametrize("places", [1, 3, 50])
async def test_probabilities_are_those_of_the_choices_among_themselves(places: int) -> None:
    engine = TableEngine({"x": log(0.3), "y": log(0.1)})
    prompts = [TextPrompt(text) for text in ("abc", "de", "f")]
    request = request_for(*prompts, choices=("x", "yz"))
    scores = await generator(engine).scorer.score(request, places=places)
    assert [each.probabilities for each in scores] == [pytest.approx((0.75, 0.25))] * 3
    assert [each.n_tokens for each in scores] == [3, 2, 1]
    assert [each.n_cached for each in scores] == [2, 2, 1]
    assert scores[0].choice_tokens == (1, 2)
    assert scores[0].best == 0
    assert engine.most == min(places, 3)
    assert all(
        (each.max_tokens, each.prompt_logprobs, each.priority) == (0, 0, 3) for each in engine.requests
    )
    assert [bytes(each.prompt) for each in engine.requests] == [b"abcy", b"dey", b"fy"]
    assert {each.candidates for each in engine.requests} == {((ord("x"), ord("y")), (ord("z"),))}
    assert len({each.request_id for each in engine.requests}) == 3


async def test_choices_of_one_token_need_one_sequence() -> None:
    engine = FakeTokenEngine()
    choices = tuple(map(chr, range(32, 127)))
    (scores,) = await generator(engine).scorer.score(
        request_for(TextPrompt("abc"), choices=choices), places=16
    )
    (request,) = engine.requests
    assert bytes(request.prompt) == b"abc"
    assert request.candidates == (tuple(range(32, 127)),)
    weights = [exp(-token / 64) for token in range(32, 127)]
    assert scores.probabilities == pytest.approx([weight / sum(weights) for weight in weights])


def test_a_choice_that_begins_others_has_what_they_leave() -> None:
    told = probabilities([[1], [1, 2], [1, 2, 3], [4]], [log(0.6), log(0.3), log(0.1), log(0.2)])
    assert told == pytest.approx([0.3 / 0.8, 0.2 / 0.8, 0.1 / 0.8, 0.2 / 0.8])
    assert probabilities([[1], [1, 2], [3]], [log(0.5), log(0.5), log(0.5)])[0] == 0
    assert probabilities([[1], [2]], [-inf, -inf]) == (0.5, 0.5)


@given(st.lists(st.floats(-5000, 0), min_size=1, max_size=20))
def test_probabilities_add_up_to_one(logprobs: list[float]) -> None:
    told = probabilities([[index] for index in range(len(logprobs))], logprobs)
    assert sum(told) == pytest.approx(1)
    assert told[logprobs.index(max(logprobs))] == max(told)


async def test_nothing_is_computed_if_a_prompt_does_not_fit() -> None:
    engine = FakeTokenEngine()
    with pytest.raises(ContextLengthError, match=r"'input\.1' has 99 tokens and 'labels\.1' has 2") as long:
        await generator(engine).scorer.score(
            request_for(TextPrompt("a"), TextPrompt("a" * (CONTEXT - 1))), places=2
        )
    assert long.value.param == "input.1"
    with pytest.raises(InvalidRequestError) as empty:
        await generator(engine).scorer.score(request_for(TextPrompt("")), places=2)
    assert empty.value.param == "input.0"
    assert not engine.requests


async def test_giving_up_aborts_what_runs() -> None:
    engine = FakeTokenEngine(admit_when=asyncio.Event())
    scoring = asyncio.create_task(
        generator(engine).scorer.score(request_for(*[TextPrompt("a")] * 9), places=3)
    )
    await until(lambda: len(engine.running) == 3)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert len(engine.aborted) == 3
    assert not engine.running


async def test_a_failure_ends_the_others() -> None:
    engine = FakeTokenEngine(refuse={None: QueueFullError("full", retry_after_s=1.0)})
    with pytest.raises(QueueFullError):
        await generator(engine).scorer.score(request_for(*[TextPrompt("a")] * 9), places=3)
    assert not engine.running


async def test_between_two_engines_a_request_that_has_begun_waits_for_the_next() -> None:
    engine = AbsentEngine(2, 3, 5)
    prompts = [TextPrompt(text) for text in "abcde"]
    request = request_for(*prompts, choices=("x", "y"))
    scores = await generator(engine, patience_s=30.0).scorer.score(request, places=1)
    assert [bytes(each.prompt) for each in engine.requests] == [
        b"a",
        b"b",
        b"c",
        b"c",
        b"c",
        b"d",
        b"d",
        b"e",
    ]
    assert len({each.probabilities for each in scores}) == 1
    with pytest.raises(NotReadyError):
        await generator(AbsentEngine(0), patience_s=30.0).scorer.score(request, places=1)


async def test_an_engine_without_scores_is_named() -> None:
    engine = FakeTokenEngine(info=lacking(Ability.PROMPT_SCORES))
    for prompt in ("abc", "a"):
        with pytest.raises(UnsupportedFieldError, match=r"llama\.cpp") as refused:
            await generator(engine).scorer.score(request_for(TextPrompt(prompt)), places=1)
        assert refused.value.param == "labels"
    assert not engine.requests


async def test_choices_that_make_too_long_a_tree_are_refused() -> None:
    engine = FakeTokenEngine()
    scorer = generator(engine, context=10 * MAX_CANDIDATES).scorer
    request = request_for(TextPrompt("a"), choices=("b" * (MAX_CANDIDATES + 1), "c"))
    with pytest.raises(InvalidRequestError, match="can be scored together") as refused:
        await scorer.score(request, places=1)
    assert refused.value.param == "labels"
    assert not engine.requests


CHOOSING = replace(REQUEST, choices=("no", "yes"))


async def test_the_likeliest_choice_is_the_answer() -> None:
    engine = TableEngine({"n": log(0.1), "y": log(0.3)})
    events = await play(engine, CHOOSING)
    assert events[:2] == [Started(3), TextDelta(0, "yes")]
    assert events[3:] == [Usage(3, 3, 2)]
    ended = events[2]
    assert isinstance(ended, Finished)
    assert (ended.choice, ended.reason) == (0, FinishReason.STOP)
    assert ended.early_exit is not None
    assert ended.early_exit.reason is ExitReason.CHOICE
    assert ended.early_exit.confidence == pytest.approx(0.75)
    assert dict(ended.early_exit.scores) == pytest.approx({"no": 0.25, "yes": 0.75})
    assert len(engine.requests) == 2, "one for each beginning: n, ye"


async def test_below_the_threshold_the_answer_is_generated() -> None:
    engine = TableEngine({"n": log(0.1), "y": log(0.3)})
    events = await play(engine, replace(CHOOSING, confidence_threshold=0.8, timeout_s=50.0))
    assert text_of(events) == "free tex"  # 8 tokens
    (ended,) = [each for each in events if isinstance(each, Finished)]
    assert ended.early_exit is not None
    assert ended.early_exit.reason is ExitReason.UNSURE
    assert ended.early_exit.confidence == pytest.approx(0.75)
    assert 49 < (engine.requests[-1].timeout_s or 0) <= 50
    assert sum(isinstance(each, Started) for each in events) == 1


async def test_a_chats_choices_begin_an_answer() -> None:
    engine = TableEngine({"n": log(0.5), "y": log(0.3)})
    events = await play(engine, replace(CHOOSING, prompt=ChatPrompt((Message("user", "?"),))))
    assert text_of(events) == "no"


@pytest.mark.parametrize("threshold", [0.0, 1.0])
async def test_a_choice_longer_than_the_answer_may_be_is_refused(threshold: float) -> None:
    engine = TableEngine({"n": log(0.1), "y": log(0.3)})
    with pytest.raises(InvalidRequestError) as refused:
        await play(engine, replace(CHOOSING, max_tokens=2, confidence_threshold=threshold))
    assert refused.value.param == "choices.1"


def test_choices_take_as_many_places_as_are_scored_at_a_time() -> None:
    assert CHOOSING.n_sequences == 2
    assert CHOOSING.n_generated == 1
    assert replace(CHOOSING, choices=tuple(map(str, range(99)))).n_sequences == SCORING_PLACES
    assert REQUEST.n_sequences == 1


async def test_scores_of_the_fake_engine_start_where_they_should() -> None:
    scores = await generator(FakeTokenEngine()).scorer.score(request_for(TextPrompt("a")), places=1)
    expected = array("d", [exp(-ord("x") / 64), exp(-2 * ord("y") / 64)])
    assert scores[0].probabilities == pytest.approx([each / sum(expected) for each in expected])
