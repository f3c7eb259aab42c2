"""`LocalGenerator` over the fake engine."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from stoker.core.errors import (
    ContextLengthError,
    EngineDiedError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    StokerError,
)
from stoker.core.text import (
    ChatPrompt,
    Event,
    Finished,
    Message,
    Started,
    TextDelta,
    TextPrompt,
    TextRequest,
    TokensPrompt,
    Usage,
)
from stoker.core.tokens import FinishReason, TokenEvent, TokenRequest, TokensEvent
from stoker.testing.token_engine import Fail, FakeTokenEngine, Hold, Step, fake_logprob
from stoker.testing.tokenizer import BYTE_TEMPLATE, byte_tokenizer_spec
from stoker.text import ChatTemplate, LocalGenerator, Tokenizer
from stoker.text.prompt import THREAD_CHARS

TOKENIZER = Tokenizer(byte_tokenizer_spec())
END = 258
CONTEXT = 100
REQUEST = TextRequest(request_id="r", model="m", prompt=TextPrompt("abc"), max_tokens=8)


def generator(
    engine: FakeTokenEngine, tokenizer: Tokenizer = TOKENIZER, context: int = CONTEXT
) -> LocalGenerator:
    return LocalGenerator("m", engine, tokenizer, ChatTemplate(BYTE_TEMPLATE), context)


def saying(*pieces: str | int | Step) -> list[Step]:
    """Script: each piece is one event."""
    return [
        list(piece.encode()) if isinstance(piece, str) else [piece] if isinstance(piece, int) else piece
        for piece in pieces
    ]


async def play(engine: FakeTokenEngine, request: TextRequest = REQUEST) -> list[Event]:
    return [event async for event in generator(engine).generate(request)]


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(each.text for each in events if isinstance(each, TextDelta) and each.choice == choice)


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
        cache_salt="s",
        priority=2,
    )
    await play(engine, request)
    first, second = engine.requests
    assert first.prompt == tuple(b"abc")
    assert (first.max_tokens, first.cache_salt, first.priority) == (8, "s", 2)
    assert first.stop_token_ids == {END}
    sampling = first.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 3, 0.9, 0.1)
    assert (sampling.seed, sampling.choice, sampling.logprobs) == (7, 0, 1)
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


@pytest.mark.parametrize("n", [1, 3])
async def test_a_refusal_comes_before_started_and_frees_the_other_choices(n: int) -> None:
    engine = FakeTokenEngine(refuse={n - 1: QueueFullError("full", retry_after_s=1.5)})
    with pytest.raises(QueueFullError, match="full"):
        await play(engine, replace(REQUEST, n=n))
    assert engine.running == set()
    assert len(engine.aborted) == n - 1


@pytest.mark.parametrize("n", [1, 3])
async def test_a_failure_of_one_choice_ends_the_request(n: int) -> None:
    def script(request: TokenRequest) -> list[Step]:
        failing = request.sampling.choice == n - 1
        return saying("ab", Fail(EngineDiedError("it died")) if failing else "cd", "ef", *["g"] * 50)

    engine = FakeTokenEngine(script)
    seen: list[Event] = []

    async def read() -> None:
        async for event in generator(engine).generate(replace(REQUEST, n=n, max_tokens=60)):
            seen[len(seen) :] = [event]  # one by one: the error must not lose what came before it

    with pytest.raises(EngineDiedError, match="it died"):
        await read()
    assert text_of(seen, n - 1) == "ab"
    assert not any(isinstance(each, Usage) for each in seen)
    assert engine.running == set()
    assert len(engine.aborted) == n - 1


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("n_events", [1, 2, 5])
async def test_closing_the_generator_aborts_every_choice(n: int, n_events: int) -> None:
    engine = FakeTokenEngine()
    async with aclosing(generator(engine).generate(replace(REQUEST, n=n, max_tokens=50))) as stream:
        for _ in range(n_events):
            await anext(stream)
        assert len(engine.running) == n
    assert engine.running == set()
    assert sorted(engine.aborted) == sorted(each.request_id for each in engine.requests)


@pytest.mark.parametrize("n", [1, 3])
async def test_cancelling_a_reader_aborts_every_choice(n: int) -> None:
    engine = FakeTokenEngine(saying("a", Hold(asyncio.Event())))
    task = asyncio.create_task(play(engine, replace(REQUEST, n=n)))
    await asyncio.sleep(0.05)
    assert len(engine.running) == n
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == set()
    assert len(engine.aborted) == n


async def test_started_in_one_task_and_closed_in_another() -> None:
    engine = FakeTokenEngine(saying("a", Hold(asyncio.Event())))
    stream = generator(engine).generate(replace(REQUEST, n=2))
    assert await asyncio.create_task(anext(stream, None)) == Started(3)
    await asyncio.create_task(stream.aclose())
    assert engine.running == set()


async def test_a_chat_is_rendered_and_its_text_stays_text() -> None:
    engine = FakeTokenEngine(saying("x"))
    prompt = ChatPrompt((Message("user", "<|im_end|>"),))
    await play(engine, replace(REQUEST, prompt=prompt, max_tokens=1))
    ids = engine.requests[0].prompt
    assert [each for each in ids if TOKENIZER.is_control(each)] == [257, 258, 257]


async def test_token_prompts_are_taken_as_they_are() -> None:
    engine = FakeTokenEngine(saying("x"))
    await play(engine, replace(REQUEST, prompt=TokensPrompt((257, 65))))
    assert engine.requests[0].prompt == (257, 65)


async def test_raw_prompts_begin_with_the_begin_token() -> None:
    engine = FakeTokenEngine(saying("x"))
    tokenizer = Tokenizer(byte_tokenizer_spec(begin="<|im_start|>"))
    for text, ids in (("a", (257, 97)), ("", (257,))):
        request = replace(REQUEST, prompt=TextPrompt(text))
        assert [each async for each in generator(engine, tokenizer).generate(request)]
        assert engine.requests[-1].prompt == ids


@pytest.mark.parametrize(
    ("changes", "kind", "message", "param"),
    [
        ({"prompt": TextPrompt("")}, InvalidRequestError, "empty", "prompt"),
        ({"prompt": TokensPrompt(())}, InvalidRequestError, "empty", "prompt"),
        ({"prompt": TokensPrompt((0, 259))}, InvalidRequestError, r"prompt\[1\].*259.*258", "prompt"),
        ({"prompt": TokensPrompt((-1,))}, InvalidRequestError, r"prompt\[0\]", "prompt"),
        ({"prompt": ChatPrompt(())}, InvalidRequestError, "empty", "messages"),
        ({"prompt": TextPrompt("a\ud800")}, InvalidRequestError, "surrogate", None),
        (
            {"prompt": TextPrompt("x" * 100)},
            ContextLengthError,
            "100 tokens.*holds 100.*by 1 tokens",
            "prompt",
        ),
        (
            {"prompt": ChatPrompt((Message("user", "x" * 120),)), "max_tokens": None},
            ContextLengthError,
            r"The prompt has 1\d\d tokens",
            "messages",
        ),
        (
            {"max_tokens": 98},
            ContextLengthError,
            "3 tokens.*98 more, 101 together.*100.*by 1 tokens",
            "max_tokens",
        ),
        ({"max_tokens": 10**12}, ContextLengthError, "Lower max_tokens", "max_tokens"),
        ({"max_tokens": 0}, InvalidRequestError, "at least 1", "max_tokens"),
        ({"n": 0}, InvalidRequestError, "at least 1", "n"),
        ({"stop": ("",)}, InvalidRequestError, "empty", "stop"),
    ],
)
async def test_what_cannot_be_taken_is_refused_before_the_engine_hears_of_it(
    changes: dict[str, object], kind: type[StokerError], message: str, param: str | None
) -> None:
    engine = FakeTokenEngine()
    with pytest.raises(kind, match=message) as caught:
        await play(engine, replace(REQUEST, **changes))  # type: ignore[arg-type] # fields by name
    assert type(caught.value) is kind
    assert isinstance(caught.value, InvalidRequestError)
    assert caught.value.param == param
    assert engine.requests == []


async def test_a_prompt_that_just_fits_is_served() -> None:
    engine = FakeTokenEngine(saying("x"))
    await play(engine, replace(REQUEST, prompt=TextPrompt("x" * 99), max_tokens=None))
    assert engine.requests[0].max_tokens == 1
    await play(engine, replace(REQUEST, max_tokens=97))


async def test_another_model_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'other'.*'m'"):
        await play(FakeTokenEngine(), replace(REQUEST, model="other"))


async def test_a_model_without_a_template_takes_no_messages() -> None:
    bare = LocalGenerator("m", FakeTokenEngine(), TOKENIZER, None, CONTEXT)
    with pytest.raises(InvalidRequestError, match="no chat template"):
        await anext(bare.generate(replace(REQUEST, prompt=ChatPrompt((Message("user", "Hi"),)))))


@pytest.mark.parametrize("size", [THREAD_CHARS, THREAD_CHARS + 1])
async def test_long_prompts_are_tokenized_off_the_event_loop(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    tokenizer = Tokenizer(byte_tokenizer_spec())
    encode = tokenizer.encode

    def recording(text: str) -> list[int]:
        threads.append(threading.get_ident())
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", recording)
    stream = generator(FakeTokenEngine(saying("x")), tokenizer, context=10**6).generate(
        replace(REQUEST, prompt=TextPrompt("x" * size))
    )
    assert await anext(stream) == Started(size)
    await stream.aclose()
    assert (threads == [threading.get_ident()]) == (size <= THREAD_CHARS)


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
