"""Which prompts `LocalGenerator` takes, and how it refuses the others."""

import asyncio
import threading
from dataclasses import replace

import pytest

from stoker.core.errors import (
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    StokerError,
)
from stoker.core.text import (
    ChatPrompt,
    Message,
    Prompt,
    Started,
    TextPrompt,
    TokensPrompt,
)
from stoker.testing.local_generator import CONTEXT, REQUEST, TOKENIZER, generator, play, saying
from stoker.testing.token_engine import FakeTokenEngine
from stoker.testing.tokenizer import byte_tokenizer_spec
from stoker.text import LocalGenerator, Tokenizer
from stoker.text.prompt import ENCODING_THREADS, THREAD_CHARS


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
    with pytest.raises(kind, match=message):
        await generator(engine).check(replace(REQUEST, **changes))  # type: ignore[arg-type] # as above
    assert engine.requests == []


async def test_what_can_be_taken_is_checked_without_the_engine() -> None:
    engine = FakeTokenEngine()
    await generator(engine).check(REQUEST)
    assert engine.requests == []


@pytest.mark.parametrize(
    "prompt", [TextPrompt("x" * 10_000), ChatPrompt((Message("user", "x" * 10_000),))], ids=["text", "chat"]
)
async def test_a_text_that_is_certain_to_be_too_long_is_not_tokenized(
    prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec())
    monkeypatch.setattr(tokenizer, "encode_run", None)
    with pytest.raises(
        ContextLengthError, match=r"has 77\d tokens or more.*by at least 67\d tokens"
    ) as caught:
        await anext(generator(FakeTokenEngine(), tokenizer).generate(replace(REQUEST, prompt=prompt)))
    assert caught.value.param == ("prompt" if isinstance(prompt, TextPrompt) else "messages")


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


async def test_few_long_prompts_are_tokenized_at_a_time_even_when_their_clients_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec())
    running = threading.Semaphore(ENCODING_THREADS)
    started = threading.Semaphore(0)
    go_on = threading.Event()

    def waiting(_: str) -> list[int]:
        assert running.acquire(blocking=False), "too many at a time"
        started.release()
        go_on.wait(20)
        running.release()
        return [97]

    monkeypatch.setattr(tokenizer, "encode", waiting)
    made = generator(FakeTokenEngine(saying("x")), tokenizer, context=10**6)
    request = replace(REQUEST, prompt=TextPrompt("x" * (THREAD_CHARS + 1)))
    begun = [asyncio.ensure_future(anext(made.generate(request))) for _ in range(ENCODING_THREADS + 3)]
    for _ in range(ENCODING_THREADS):
        assert await asyncio.to_thread(started.acquire, timeout=20)
    for each in begun[:-1]:
        each.cancel()
    await asyncio.sleep(0.05)
    assert not started.acquire(blocking=False)
    go_on.set()
    assert await begun[-1] == Started(1)
