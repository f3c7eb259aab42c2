"""`LocalGenerator` says prompts again, scores them and returns the best of several texts."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import ContextLengthError, EngineError, InvalidRequestError
from stoker.core.text import Event, Finished, Started, TextDelta, TextPrompt, TextRequest, TokensPrompt, Usage
from stoker.core.tokens import FinishReason, PromptScores, TokenEvent, TokenLogprob, TokenRequest, TokensEvent
from stoker.testing.local_generator import CONTEXT, END, REQUEST, generator, play, saying, text_of
from stoker.testing.token_engine import FakeTokenEngine, Step, fake_scores
from stoker.testing.tokenizer import byte_tokenizer_spec
from stoker.text import Tokenizer
from stoker.text.best import best_of
from stoker.text.echo import STEP_TOKENS, PromptEcho

ECHO = replace(REQUEST, echo=True)


def reported(events: list[Event], choice: int = 0) -> list[tuple[bytes, float | None]]:
    return [
        (entry.raw, entry.logprob)
        for each in events
        if isinstance(each, TextDelta) and each.choice == choice
        for entry in each.logprobs
    ]


async def test_the_prompt_comes_first() -> None:
    events = await play(FakeTokenEngine(saying("xy", END)), ECHO)
    assert events[:2] == [Started(3), TextDelta(0, "abc", of_prompt=True)]
    assert text_of(events) == "abcxy"
    assert events[-1] == Usage(3, 3, 0)


async def test_every_choice_says_it() -> None:
    events = await play(FakeTokenEngine(saying("x", END)), replace(ECHO, n=2))
    assert [text_of(events, choice) for choice in range(2)] == ["abcx", "abcx"]


@pytest.mark.parametrize("scores_per_event", [1, 2, 100])
async def test_its_logprobs_come_with_it(scores_per_event: int) -> None:
    engine = FakeTokenEngine(saying("x", END), scores_per_event=scores_per_event)
    events = await play(engine, replace(ECHO, logprobs=2, n=2))
    for choice in range(2):
        assert text_of(events, choice) == "abcx"
        assert reported(events, choice)[:3] == [(b"a", None), (b"b", -98 / 64), (b"c", -99 / 64)]
    # The first token has none, and the token that ends a text is reported too: none is missing.
    assert [raw for raw, _ in reported(events)] == [b"a", b"b", b"c", b"x", b"<|im_end|>"]
    first, second = engine.requests
    assert (first.prompt_logprobs, second.prompt_logprobs) == (2, None)


async def test_nothing_is_scored_unless_asked_for() -> None:
    engine = FakeTokenEngine(saying("x", END))
    await play(engine, ECHO)
    await play(engine, replace(REQUEST, logprobs=3))
    assert [each.prompt_logprobs for each in engine.requests] == [None, None]


async def test_what_other_choices_say_waits_for_the_prompt() -> None:
    gate = asyncio.Event()

    def script(request: TokenRequest) -> list[Step]:
        return saying("x", END) if request.sampling.choice else saying("y", END)

    engine = FakeTokenEngine(script, scores_per_event=1, scores_when=gate)
    stream = generator(engine).generate(replace(ECHO, logprobs=0, n=2))
    events = [await anext(stream) for _ in range(5)]
    assert [isinstance(each, TextDelta) and each.of_prompt for each in events] == [False] + 4 * [True]
    later = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0.01)
    assert not later.done()
    gate.set()
    first = await later
    assert first is not None
    events += [first, *[each async for each in stream]]
    for choice, text in enumerate(("abcy", "abcx")):
        assert text_of(events, choice) == text
        assert [raw for raw, _ in reported(events, choice)][:3] == [b"a", b"b", b"c"]
    assert events[-1] == Usage(3, 4, 0)


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_prompt_alone(logprobs: int | None, n: int) -> None:
    engine = FakeTokenEngine(saying("never"), cached_tokens=2)
    events = await play(engine, replace(ECHO, max_tokens=0, logprobs=logprobs, n=n))
    assert events[0] == Started(3)
    assert [text_of(events, choice) for choice in range(n)] == ["abc"] * n
    assert events[-n - 1 : -1] == [Finished(choice, FinishReason.LENGTH) for choice in range(n)]
    assert len(engine.requests) == (logprobs is not None)
    assert events[-1] == Usage(3, 0, 0 if logprobs is None else 2)
    assert len(reported(events)) == (0 if logprobs is None else 3)


async def test_a_prompt_alone_may_fill_the_context() -> None:
    request = replace(ECHO, max_tokens=0, logprobs=0, prompt=TokensPrompt((97,) * CONTEXT))
    events = await play(FakeTokenEngine(), request)
    assert text_of(events) == "a" * CONTEXT
    with pytest.raises(ContextLengthError):
        await play(FakeTokenEngine(), replace(request, prompt=TokensPrompt((97,) * (CONTEXT + 1))))


async def test_nothing_is_generated_only_with_echo() -> None:
    with pytest.raises(InvalidRequestError, match="at least 1"):
        await play(FakeTokenEngine(), replace(REQUEST, max_tokens=0))


async def test_a_token_before_the_prompt_has_its_place_and_no_text() -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec(begin="<|endoftext|>"))
    engine = FakeTokenEngine(saying("x", END))
    request = replace(ECHO, logprobs=0)
    events = [event async for event in generator(engine, tokenizer).generate(request)]
    assert text_of(events) == "abcx"
    assert reported(events)[:2] == [(b"<|endoftext|>", None), (b"a", -97 / 64)]
    (first,) = next(e for e in events if isinstance(e, TextDelta)).logprobs
    assert first.added == b""


async def test_control_tokens_of_a_prompt_of_tokens_are_spelt() -> None:
    request = replace(ECHO, prompt=TokensPrompt((257, 97, 258)), max_tokens=1)
    assert text_of(await play(FakeTokenEngine(saying("x")), request)) == "<|im_start|>a<|im_end|>x"


@pytest.mark.parametrize("logprobs", [None, 0])
async def test_a_character_that_the_prompt_begins_is_joined(logprobs: int | None) -> None:
    euro = "\u20ac".encode()
    request = replace(ECHO, prompt=TokensPrompt((97, *euro[:2])), logprobs=logprobs, n=2)
    events = await play(FakeTokenEngine([[euro[2]], [98], [END]]), request)
    assert [text_of(events, choice) for choice in range(2)] == ["a\u20acb"] * 2
    alone = await play(FakeTokenEngine(), replace(request, max_tokens=0))
    assert [text_of(alone, choice) for choice in range(2)] == ["a\ufffd"] * 2


async def test_stop_strings_do_not_look_into_the_prompt() -> None:
    events = await play(FakeTokenEngine(saying("xcbz")), replace(ECHO, stop=("bc", "cb")))
    assert text_of(events) == "abcx"


async def test_more_scores_than_a_prompt_may_have_are_refused() -> None:
    engine = FakeTokenEngine(saying("x"))
    await play(engine, replace(ECHO, logprobs=1, max_prompt_scores=6))
    with pytest.raises(InvalidRequestError, match="6 log-probabilities; at most 5") as refused:
        await play(engine, replace(ECHO, logprobs=1, max_prompt_scores=5))
    assert refused.value.param == "logprobs"
    assert len(engine.requests) == 1


class _Hasty(FakeTokenEngine):
    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        async for event in super().stream(request):
            yield replace(event, prompt_scores=None) if isinstance(event, TokensEvent) else event


async def test_an_engine_that_leaves_scores_out_is_found_out() -> None:
    with pytest.raises(EngineError, match="before it had scored"):
        await play(_Hasty(saying("x", END)), replace(ECHO, logprobs=0))


@given(st.text(max_size=40), st.integers(1, 5))
def test_parts_of_a_prompt_make_the_prompt(text: str, size: int) -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec())
    ids = tokenizer.encode(text)
    if not ids:
        return
    echo = PromptEcho(TextPrompt(text), ids, 0, tokenizer, n_choices=1, scored=True)
    said = "".join(delta.text for delta in echo.opening())
    scores = [TokenLogprob(-1.0)] * (len(ids) - 1)
    for start in range(0, len(scores), size):
        for deltas in echo.score(scores[start : start + size]):
            said += "".join(delta.text for delta in deltas)
    assert echo.is_complete()
    assert said == text
    assert echo.held == b""


def test_long_prompts_are_told_in_parts() -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec())
    echo = PromptEcho(TextPrompt("a" * 300), [97] * 300, 0, tokenizer, n_choices=1, scored=True)
    echo.opening()
    parts = [len(deltas[0].logprobs) for deltas in echo.score([TokenLogprob(-1.0)] * 299)]
    assert parts == [STEP_TOKENS, STEP_TOKENS, 299 - 2 * STEP_TOKENS]


def saying_by_choice(*texts: str) -> FakeTokenEngine:
    return FakeTokenEngine(lambda request: saying(texts[request.sampling.choice], END))


def best(n: int, best_of: int, **fields: object) -> TextRequest:
    return replace(REQUEST, n=n, best_of=best_of, **fields)  # type: ignore[arg-type] # fields of a request


async def test_the_likeliest_per_token_are_returned_best_first() -> None:
    # A token's log-probability is minus a hundredth of its id; END counts as one.
    engine = saying_by_choice("zzzz", "a", "aaaaaaa", "m")
    events = await play(engine, best(2, 4))
    assert [text_of(events, choice) for choice in range(3)] == ["aaaaaaa", "zzzz", ""]
    assert [each.choice for each in events if isinstance(each, Finished)] == [1, 0]
    assert events[-1] == Usage(3, 5 + 2 + 8 + 2, 0)
    assert {each.sampling.logprobs for each in engine.requests} == {0}
    assert reported(events) == []


async def test_of_equal_candidates_the_first_wins() -> None:
    events = await play(saying_by_choice("ab", "ba", "ab"), best(2, 3))
    assert [text_of(events, choice) for choice in range(2)] == ["ab", "ba"]


async def test_logprobs_of_the_best_are_reported_if_asked_for() -> None:
    events = await play(saying_by_choice("z", "a"), best(1, 2, logprobs=1))
    assert reported(events) == [(b"a", -0.97)]


async def test_what_a_stop_string_cut_off_weighs_nothing() -> None:
    # Without the cut the second would be the lighter one.
    engine = FakeTokenEngine(
        lambda request: [[*b"aaS", *[250] * 4]] if request.sampling.choice else [[*b"nnnnnnn"]]
    )
    events = await play(engine, best(1, 2, stop=("S",)))
    assert text_of(events) == "aa"


async def test_the_best_are_echoed_too() -> None:
    events = await play(saying_by_choice("z", "a", "b"), best(2, 3, echo=True, logprobs=0))
    assert [text_of(events, choice) for choice in range(2)] == ["abca", "abcb"]


async def test_best_of_below_n_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at least n"):
        await play(FakeTokenEngine(), best(3, 2))


def test_candidates_are_ranked_by_weight() -> None:
    events = [TextDelta(choice, str(choice)) for choice in (2, 0, 1, 2)]
    assert list(best_of(events, [-1.0, -3.0, -2.0], 2)) == [
        TextDelta(1, "2"),
        TextDelta(0, "0"),
        TextDelta(1, "2"),
    ]


def test_packed_scores_are_those_that_were_packed() -> None:
    scores = fake_scores(TokenRequest(request_id="r", prompt=(1, 2, 3, 4), max_tokens=1, prompt_logprobs=2))
    packed = PromptScores.of(scores, 2)
    assert (list(packed), len(packed)) == (scores, 3)
    assert list(packed.without_first(2)) == scores[2:]
    head = PromptScores.of(scores[:1], 2)
    head.extend(packed.without_first(1))
    assert head == packed
