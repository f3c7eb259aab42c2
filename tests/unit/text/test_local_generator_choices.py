"""`LocalGenerator` merges the choices of a request."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from stoker.core.text import (
    Finished,
    Started,
    TextDelta,
    Usage,
)
from stoker.core.tokens import TokenEvent, TokenRequest
from stoker.testing.local_generator import END, REQUEST, generator, play, saying, text_of
from stoker.testing.token_engine import FakeTokenEngine, Step


async def test_choices_are_merged_and_each_ends_once() -> None:
    def script(request: TokenRequest) -> list[Step]:
        return saying(*("abcdef"[request.sampling.choice] * (request.sampling.choice + 1)), END)

    engine = FakeTokenEngine(script)
    events = await play(engine, replace(REQUEST, n=4))
    assert events[0] == Started(3)
    assert [text_of(events, choice) for choice in range(4)] == ["a", "bb", "ccc", "dddd"]
    finished = [each for each in events if isinstance(each, Finished)]
    assert sorted(each.choice for each in finished) == [0, 1, 2, 3]
    assert events[-1] == Usage(prompt_tokens=3, completion_tokens=2 + 3 + 4 + 5, cached_tokens=0)
    for choice in range(4):
        own = [each for each in events if isinstance(each, TextDelta | Finished) and each.choice == choice]
        assert isinstance(own[-1], Finished)


async def test_one_choice_s_stop_string_leaves_the_others_alone() -> None:
    def script(request: TokenRequest) -> list[Step]:
        return saying("x", "S" if request.sampling.choice == 1 else "y", "z", END)

    engine = FakeTokenEngine(script)
    events = await play(engine, replace(REQUEST, n=3, stop=("S",)))
    assert [text_of(events, choice) for choice in range(3)] == ["xyz", "x", "xyz"]
    assert engine.aborted == [engine.requests[1].request_id]
    assert events[-1] == Usage(3, 4 + 2 + 4, 0)


async def test_a_choice_that_is_always_ready_does_not_starve_another() -> None:
    events = await play(FakeTokenEngine(), replace(REQUEST, n=3, max_tokens=20))
    order = [each.choice for each in events if isinstance(each, TextDelta)]
    assert all(sorted(order[at : at + 3]) == [0, 1, 2] for at in range(0, 60, 3))


async def test_started_waits_for_every_admission() -> None:
    gate = asyncio.Event()
    engine = FakeTokenEngine(saying("x"), admit_when=gate)
    stream = generator(engine).generate(replace(REQUEST, n=3))
    first = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0.01)
    assert not first.done()
    assert len(engine.requests) == 3
    gate.set()
    assert await first == Started(3)
    assert [event async for event in stream][-1] == Usage(3, 3, 0)


class _LateAdmission(FakeTokenEngine):
    """Admits choice 1 only after choice 0 has ended."""

    def __init__(self, script: list[Step]) -> None:
        super().__init__(script)
        self._first_ended = asyncio.Event()

    async def stream(self, request: TokenRequest) -> AsyncIterator[TokenEvent]:  # type: ignore[override] # a generator
        if request.sampling.choice == 1:
            await self._first_ended.wait()
        async for event in super().stream(request):
            yield event
        self._first_ended.set()


async def test_what_comes_before_the_last_admission_is_kept() -> None:
    engine = _LateAdmission(saying("ab", "S", "c"))
    events = await play(engine, replace(REQUEST, n=2, stop=("S",)))
    assert events[0] == Started(3)
    assert [text_of(events, choice) for choice in range(2)] == ["ab", "ab"]
    assert events[-1] == Usage(3, 6, 0)
