"""`LocalGenerator` over the fake engine: one answer from its request to its usage."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from stoker.core.errors import (
    EngineError,
    InvalidRequestError,
)
from stoker.core.text import (
    Finished,
    Started,
    TextDelta,
    Usage,
)
from stoker.core.tokens import FinishReason, TokenEvent, TokenRequest, TokensEvent
from stoker.testing.local_generator import CONTEXT, END, REQUEST, play, saying, text_of
from stoker.testing.token_engine import FakeTokenEngine, fake_logprob


async def test_a_request_from_start_to_usage() -> None:
    engine = FakeTokenEngine(saying("Hel", "lo", END, "never"), cached_tokens=2)
    assert await play(engine) == [
        Started(prompt_tokens=3),
        TextDelta(0, "Hel"),
        TextDelta(0, "lo"),
        Finished(0, FinishReason.STOP),
        Usage(prompt_tokens=3, completion_tokens=6, cached_tokens=2),
    ]
    assert engine.aborted == []
    assert engine.running == set()


async def test_what_the_engine_is_asked() -> None:
    engine = FakeTokenEngine(saying("x"))
    request = replace(
        REQUEST,
        n=2,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        seed=7,
        logprobs=1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias=((5, -2.0),),
        stop_token_ids=frozenset({97}),
        min_tokens=3,
        cache_salt="s",
        priority=2,
    )
    await play(engine, request)
    first, second = engine.requests
    assert first.prompt == tuple(b"abc")
    assert (first.max_tokens, first.cache_salt, first.priority) == (8, "s", 2)
    assert first.stop_token_ids == {END, 97}
    assert first.min_tokens == 3
    sampling = first.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 3, 0.9, 0.1)
    assert (sampling.seed, sampling.choice, sampling.logprobs) == (7, 0, 1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.5, ((5, -2.0),))
    assert second == replace(second, prompt=first.prompt, sampling=replace(sampling, choice=1))


async def test_seeds_are_drawn_when_none_is_given() -> None:
    engine = FakeTokenEngine(saying("x"))
    await play(engine, replace(REQUEST, n=2))
    await play(engine)
    seeds = [each.sampling.seed for each in engine.requests]
    assert seeds[0] == seeds[1] != seeds[2]


async def test_the_same_request_id_twice_at_once() -> None:
    engine = FakeTokenEngine()
    await asyncio.gather(play(engine, replace(REQUEST, n=3)), play(engine, replace(REQUEST, n=3)))
    ids = [each.request_id for each in engine.requests]
    assert len(set(ids)) == 6
    assert all(each.startswith("r.") for each in ids)


async def test_ignore_eos() -> None:
    engine = FakeTokenEngine(saying("a", END, "b"))
    events = await play(engine, replace(REQUEST, ignore_eos=True))
    assert engine.requests[0].stop_token_ids == frozenset()
    assert text_of(events) == "ab"
    assert events[-1] == Usage(3, 3, 0)


@pytest.mark.parametrize("logprobs", [None, 0])
@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_a_text_ends_before_a_stop_token(logprobs: int | None, *, ignore_eos: bool) -> None:
    engine = FakeTokenEngine(saying("on", [ord("e"), ord("!")], "never"))
    stops = frozenset({ord("!")})
    request = replace(REQUEST, stop_token_ids=stops, ignore_eos=ignore_eos, logprobs=logprobs)
    events = await play(engine, request)
    assert text_of(events) == "one"
    assert events[-2:] == [Finished(0, FinishReason.STOP), Usage(3, 4, 0)]
    entries = [entry.text for event in events if isinstance(event, TextDelta) for entry in event.logprobs]
    assert entries == ([] if logprobs is None else ["o", "n", "e"])


@pytest.mark.parametrize(("max_tokens", "most"), [(5, 5), (None, CONTEXT - 3)])
async def test_a_minimum_above_the_maximum_is_refused(max_tokens: int | None, most: int) -> None:
    engine = FakeTokenEngine()
    await play(engine, replace(REQUEST, max_tokens=max_tokens, min_tokens=most))
    with pytest.raises(InvalidRequestError, match=f"at most {most} tokens") as refused:
        await play(engine, replace(REQUEST, max_tokens=max_tokens, min_tokens=most + 1))
    assert refused.value.param == "min_tokens"


async def test_max_tokens_ends_by_length() -> None:
    events = await play(FakeTokenEngine(), replace(REQUEST, max_tokens=4))
    assert text_of(events) == "abca"
    assert events[-2:] == [Finished(0, FinishReason.LENGTH), Usage(3, 4, 0)]


async def test_no_max_tokens_is_the_rest_of_the_context() -> None:
    engine = FakeTokenEngine(saying("x"))
    await play(engine, replace(REQUEST, max_tokens=None))
    assert engine.requests[0].max_tokens == CONTEXT - 3


async def test_a_stop_string_ends_the_choice_and_aborts_it() -> None:
    engine = FakeTokenEngine(saying("one S", "TO", "Px", "yz"))
    events = await play(engine, replace(REQUEST, max_tokens=50, stop=("never", "STOP")))
    assert text_of(events) == "one "
    assert events[-2:] == [Finished(0, FinishReason.STOP, "STOP"), Usage(3, 8, 0)]
    assert engine.aborted == [engine.requests[0].request_id]
    assert engine.running == set()


async def test_a_stop_string_in_the_last_event_needs_no_abort() -> None:
    engine = FakeTokenEngine(saying("oneSTOPtwo"))
    events = await play(engine, replace(REQUEST, max_tokens=50, stop=("STOP",)))
    assert events[-2:] == [Finished(0, FinishReason.STOP, "STOP"), Usage(3, 7, 0)]
    assert engine.aborted == []


async def test_logprobs_in_coalesced_events() -> None:
    engine = FakeTokenEngine(saying("ab", "c", END))
    events = await play(engine, replace(REQUEST, logprobs=2))
    deltas = [each for each in events if isinstance(each, TextDelta)]
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [(delta.text, len(delta.logprobs)) for delta in deltas] == [("ab", 2), ("c", 1)]
    expected = fake_logprob(engine.requests[0], 98)
    assert (entries[1].text, entries[1].raw, entries[1].logprob) == ("b", b"b", expected.logprob)
    assert [(top.text, top.logprob) for top in entries[1].top] == [("b", -0.98), ("c", -0.99)]


class _Silent(FakeTokenEngine):
    """Sends events that break the engine's contract."""

    def __init__(self, *, admits: bool) -> None:
        super().__init__()
        self._admits = admits

    async def stream(self, request: TokenRequest) -> AsyncIterator[TokenEvent]:  # type: ignore[override] # a generator
        if self._admits:
            async for event in super().stream(request):
                yield event
                return
        yield TokensEvent(request.request_id, (97,))


@pytest.mark.parametrize(
    ("admits", "message"), [("one", "without saying why"), ("none", "without admitting")]
)
async def test_an_engine_that_breaks_its_contract_is_named(admits: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        await play(_Silent(admits=admits == "one"))
