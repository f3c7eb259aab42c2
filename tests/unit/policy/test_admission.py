"""Permits are taken before any work and given back exactly once, however a request ends."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from stoker.core.errors import EngineDiedError, InvalidRequestError, QueueFullError
from stoker.core.text import Event, Started, TextDelta, TextPrompt, TextRequest
from stoker.policy.admission import Admission, AdmissionLimits
from stoker.testing.clock import FakeClock
from stoker.testing.generator import Script, ScriptedGenerator, reply, steps

REQUEST = TextRequest(request_id="r", model="m", prompt=TextPrompt("a"), max_tokens=8)


def admission(script: Script, places: int = 2) -> tuple[Admission, ScriptedGenerator, FakeClock]:
    clock = FakeClock(1000.0)
    generator = ScriptedGenerator(script)
    return Admission(generator, AdmissionLimits(max_choices=places), clock=clock), generator, clock


async def play(admitting: Admission, request: TextRequest = REQUEST) -> list[Event]:
    return [event async for event in admitting.generate(request)]


async def test_events_pass_and_the_permits_come_back() -> None:
    admitting, generator, _ = admission(reply("a", "b"))
    assert await play(admitting) == [event async for event in generator.generate(REQUEST)]
    assert admitting.in_flight == 0


async def test_who_finds_no_permit_is_refused_before_any_work() -> None:
    admitting, generator, _ = admission(reply("a"))
    async with aclosing(admitting.generate(replace(REQUEST, n=2))) as first:
        await anext(first)
        assert admitting.in_flight == 2
        with pytest.raises(QueueFullError, match="All 2 places are taken") as refusal:
            await play(admitting)
        assert refusal.value.retry_after_s >= 1
        assert len(generator.requests) == 1
        assert admitting.in_flight == 2, "a refusal gives nothing back"
    assert admitting.in_flight == 0
    assert await play(admitting)


async def test_no_permit_is_taken_before_the_first_event_is_asked_for() -> None:
    admitting, _, _ = admission(reply("a"))
    unread = admitting.generate(REQUEST)
    assert admitting.in_flight == 0
    await unread.aclose()
    assert admitting.in_flight == 0


async def test_more_choices_than_places_can_never_be_taken() -> None:
    admitting, generator, _ = admission(reply("a"))
    with pytest.raises(InvalidRequestError, match="at most 2 choices") as refusal:
        await play(admitting, replace(REQUEST, n=3))
    assert refusal.value.param == "n"
    assert generator.requests == []


async def test_a_failure_gives_the_permits_back() -> None:
    admitting, _, _ = admission(steps(Started(1), EngineDiedError("it died")))
    with pytest.raises(EngineDiedError):
        await play(admitting)
    assert admitting.in_flight == 0


async def test_cancelling_gives_the_permits_back_and_closes_the_generator() -> None:
    admitting, generator, _ = admission(steps(Started(1), TextDelta(0, "a"), asyncio.Event()))
    reading = asyncio.create_task(play(admitting))
    await asyncio.sleep(0.01)
    assert admitting.in_flight == generator.open == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert admitting.in_flight == generator.open == 0


async def test_the_time_to_retry_follows_the_rate_of_releases_within_its_bounds() -> None:
    admitting, _, clock = admission(reply("a"), places=1)
    async with aclosing(admitting.generate(REQUEST)) as held:
        await anext(held)
        assert admitting.retry_after_s(1) == 1.0, "nothing is known yet"
        clock.advance(10.0)
        assert admitting.retry_after_s(1) == 10.0, "the first release is taken to be due"
        clock.advance(1000.0)
        assert admitting.retry_after_s(1) == 60.0
    async with aclosing(admitting.generate(REQUEST)) as held:
        await anext(held)
        clock.advance(30.0)
    async with aclosing(admitting.generate(REQUEST)) as held:
        await anext(held)
        clock.advance(4.0)
        assert admitting.retry_after_s(1) == 4.0, "busy again since 4 s, and nothing released since"


async def test_the_rate_is_that_of_the_last_minute() -> None:
    admitting, _, clock = admission(reply("a"), places=2)
    async with aclosing(admitting.generate(REQUEST)) as held:
        await anext(held)
        for _ in range(12):
            clock.advance(5.0)
            await play(admitting)
        assert admitting.retry_after_s(2) == 5.0


def test_prompts_hold_as_many_places_as_are_free_and_one_at_least() -> None:
    admission = Admission(ScriptedGenerator(reply("x")), AdmissionLimits(max_choices=5))
    prompts = [TextPrompt("a")] * 9
    with admission.hold(prompts, 3) as first:
        assert (first, admission.in_flight) == (3, 3)
        with admission.hold(prompts, 3) as second:
            assert (second, admission.in_flight) == (2, 5)
            with pytest.raises(QueueFullError), admission.hold(prompts, 3):
                pass
            assert admission.in_flight == 5
        with admission.hold(prompts[:1], 3) as third:
            assert third == 1
    assert (admission.in_flight, admission.prompt_bytes) == (0, 0)
