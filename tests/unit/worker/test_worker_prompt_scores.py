"""Scores of prompts on their way: over the socket, to slow readers, and from one engine to the next."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.errors import EngineDiedError, InvalidRequestError, RequestQuarantinedError
from stoker.core.sampling import MAX_LOGPROBS
from stoker.core.stats import EngineStats
from stoker.core.tokens import (
    MAX_CANDIDATES,
    Admitted,
    FinishReason,
    PromptScores,
    TokenLogprob,
    TokenRequest,
    TokensEvent,
)
from stoker.testing.engine_thread import EngineThread
from stoker.testing.mortal_engine import MortalEngine
from stoker.testing.step_engine import FakeStepEngine, reference_scores, reference_tokens
from stoker.testing.token_streams import collect
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request, make_tokens
from stoker.worker import conversion, frames
from stoker.worker.checks import check_request
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.quarantine import digest
from stoker.worker.resume import ResumingEngine

MAX_STEP_TOKENS = 16384
"""The largest setting of `step_tokens`."""

MOST_RUNNING = 1024
"""The largest setting of `max_running`."""


def scores_in(events: list[TokensEvent]) -> list[TokenLogprob]:
    return [score for event in events for score in event.prompt_scores or ()]


def tokens_in(events: list[TokensEvent]) -> tuple[int, ...]:
    return tuple(token for event in events for token in event.token_ids)


@pytest.mark.parametrize("max_tokens", [0, 3])
async def test_scores_arrive_step_by_step(socket_path: Path, max_tokens: int) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=4, step_tokens=32)
    request = make_request("mine", n_prompt=200, max_tokens=max_tokens, prompt_logprobs=3)
    with EngineThread(socket_path, FakeStepEngine(), config=config):
        engine = await EngineClient.connect(socket_path)
        events = await collect(engine.stream(request))
        assert scores_in(events) == reference_scores(request)
        assert tokens_in(events) == reference_tokens(request)
        assert events[-1].finish_reason is FinishReason.LENGTH
        n_tokens = [len(event.token_ids) for event in events]
        assert n_tokens == sorted(n_tokens), "scores come before tokens"
        await until(lambda: engine.stats.kv_blocks_used == 0)
        await engine.close()


NO_STATS = conversion.stats_frame(EngineStats())


async def test_a_reader_that_falls_behind_gets_all_scores_at_once(socket_path: Path) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=4, step_tokens=16)
    request = make_request("slow", n_prompt=100, max_tokens=5, prompt_logprobs=2)
    with EngineThread(socket_path, FakeStepEngine(), config=config):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(request)
        assert isinstance(await anext(stream), Admitted)
        await until(lambda: engine.stats.generated_tokens_total == 5)
        (event,) = [event async for event in stream if isinstance(event, TokensEvent)]
        assert scores_in([event]) == reference_scores(request)
        assert event.token_ids == reference_tokens(request)
        await engine.close()


@pytest.mark.parametrize("n_scores", [1, 3, 4, 11, 19])
@pytest.mark.parametrize("max_tokens", [0, 5])
async def test_a_next_engine_neither_loses_nor_doubles_scores(n_scores: int, max_tokens: int) -> None:
    mortal = MortalEngine()
    request = make_request("a", n_prompt=20, max_tokens=max_tokens, prompt_logprobs=2)
    events = await read(mortal, request, when=lambda events: len(scores_in(events)) >= n_scores)
    assert scores_in(events) == reference_scores(request)
    assert tokens_in(events) == reference_tokens(request)
    assert len(mortal.deaths) == 1


async def test_a_prompt_is_not_scored_again_after_its_first_token() -> None:
    mortal = MortalEngine()
    request = make_request("a", n_prompt=20, max_tokens=5, prompt_logprobs=2)
    events = await read(mortal, request, when=lambda events: len(tokens_in(events)) == 2)
    assert scores_in(events) == reference_scores(request)
    assert tokens_in(events) == reference_tokens(request)


async def test_scores_of_another_engine_do_not_go_on() -> None:
    mortal = MortalEngine(revive_s=None)
    request = make_request("a", n_prompt=20, max_tokens=0, prompt_logprobs=0)

    def other_engine() -> None:
        mortal.die()
        mortal.fingerprint = "other"
        mortal.revive()

    with pytest.raises(EngineDiedError, match="it is other, not fake"):
        await read(mortal, request, when=lambda events: bool(scores_in(events)), act=other_engine)


async def test_a_killer_is_found_although_it_is_scored_up_to_there() -> None:
    mortal = MortalEngine(poison=13)
    prompt = (*range(20, 40), 13, *range(40, 50))
    engine = ResumingEngine(mortal, timeout_s=5.0)
    events: list[TokensEvent] = []

    async def read() -> None:
        async for event in engine.stream(make_request("a", prompt=prompt, max_tokens=0, prompt_logprobs=0)):
            events.extend([event] if isinstance(event, TokensEvent) else [])

    with pytest.raises(RequestQuarantinedError):
        await read()
    assert len(mortal.deaths) == 2, "scores that were known before are no progress"
    assert len(scores_in(events)) < len(prompt)


async def read(
    mortal: MortalEngine,
    request: TokenRequest,
    *,
    when: Callable[[list[TokensEvent]], bool],
    act: Callable[[], None] | None = None,
) -> list[TokensEvent]:
    """Read a stream, and act (let the engine die) as soon as enough has come."""
    events: list[TokensEvent] = []
    acted = False
    async for event in ResumingEngine(mortal, timeout_s=5.0).stream(request):
        events += [event] if isinstance(event, TokensEvent) else []
        if not acted and when(events):
            acted = True
            (act or mortal.die)()
    assert acted
    return events


def test_scores_are_the_same_on_both_sides() -> None:
    scores = PromptScores.of([TokenLogprob(-0.1, ((5, -1e-9), (2**31 - 1, float("-inf"))))] * 3, 2)
    event = TokensEvent("ours", (), prompt_scores=scores)
    data = frames.encode(
        frames.Step(
            7,
            (),
            (),
            (conversion.tokens_frame(event, sequence=1),),
            NO_STATS,
        )
    )
    reader = frames.gateway_reader()
    reader.feed(data)
    (step,) = reader.frames()
    assert isinstance(step, frames.Step)
    (arrived,) = step.tokens
    assert arrived.prompt_scores is not None
    assert conversion.prompt_scores(arrived.prompt_scores) == scores


def test_the_largest_step_s_scores_fit_a_frame() -> None:
    one = TokenLogprob(-1.0, tuple((2**31 - 1, -1.0) for _ in range(MAX_LOGPROBS)))
    event = TokensEvent("ours", (), prompt_scores=PromptScores.of([one] * MAX_STEP_TOKENS, MAX_LOGPROBS))
    data = frames.encode(
        frames.Step(
            7,
            (),
            (),
            (conversion.tokens_frame(event, sequence=1),),
            NO_STATS,
        )
    )
    assert len(data) < frames.MAX_FRAME_BYTES // 2


@pytest.mark.parametrize("n_top", [-1, MAX_LOGPROBS + 1])
def test_more_alternatives_than_an_engine_reports_are_refused(n_top: int) -> None:
    request = make_request("a", prompt_logprobs=n_top)
    with pytest.raises(InvalidRequestError) as refused:
        check_request(request, vocab_size=256)
    assert refused.value.param == "prompt_logprobs"
    check_request(make_request("a", prompt_logprobs=MAX_LOGPROBS), vocab_size=256)


def test_a_scored_request_is_another_one() -> None:
    requests = [
        make_request("a"),
        make_request("a", prompt_logprobs=0),
        make_request("a", prompt_logprobs=0, candidates=[[1]]),
        make_request("a", prompt_logprobs=0, candidates=[[2]]),
    ]
    assert len({digest(request) for request in requests}) == 4


CANDIDATES = [make_tokens(f"after {at}", 1 + at % 3) for at in range(20)]


async def test_scores_of_candidates_arrive(socket_path: Path) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=4, step_tokens=32)
    request = make_request("mine", n_prompt=100, max_tokens=0, prompt_logprobs=0, candidates=CANDIDATES)
    with EngineThread(socket_path, FakeStepEngine(), config=config):
        engine = await EngineClient.connect(socket_path)
        events = await collect(engine.stream(request))
        assert scores_in(events) == reference_scores(request)
        assert events[-1].finish_reason is FinishReason.LENGTH
        await engine.close()


@pytest.mark.parametrize("n_scores", [1, 3, 30])
async def test_a_next_engine_neither_loses_nor_doubles_scores_of_candidates(n_scores: int) -> None:
    mortal = MortalEngine()
    request = make_request("a", n_prompt=20, max_tokens=0, prompt_logprobs=0, candidates=CANDIDATES)
    events = await read(mortal, request, when=lambda events: len(scores_in(events)) >= n_scores)
    assert scores_in(events) == reference_scores(request)
    assert len(mortal.deaths) == 1


@pytest.mark.parametrize("candidates", [[[256]], [[0, -1]], [[1]] * MAX_CANDIDATES + [[1]]])
def test_candidates_that_would_harm_an_engine_are_refused(candidates: list[list[int]]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_request(make_request("a", candidates=candidates), vocab_size=256)
    assert refused.value.param == "candidates"
    check_request(make_request("a", candidates=[[255] * MAX_CANDIDATES]), vocab_size=256)


def test_the_candidates_of_all_sequences_of_a_step_fit_a_frame() -> None:
    scores = PromptScores.of([TokenLogprob(-1.0)] * MAX_CANDIDATES, 0)
    tokens = conversion.tokens_frame(TokensEvent("ours", (), prompt_scores=scores), sequence=1)
    assert (
        len(frames.encode(frames.Step(7, (), (), (tokens,) * MOST_RUNNING, NO_STATS)))
        < frames.MAX_FRAME_BYTES
    )
