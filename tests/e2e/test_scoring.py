"""The official client against the real server: `echo`, `best_of`, `n`, tokens of texts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI
from openai.types import Completion
from openai.types.completion_choice import Logprobs

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
TEXT = "The capital of France is Paris. The capital of Spain is Madrid \U0001f1ea\U0001f1f8 (caf\u00e9)."


def create(client: OpenAI, prompt: object, **fields: Any) -> Completion:
    call: Any = client.completions.create  # its overloads cannot take fields that vary
    completion: Completion = call(model=MODEL, prompt=prompt, **{"temperature": 0, "max_tokens": 0} | fields)
    return completion


def logprobs_of(completion: Completion, choice: int = 0) -> Logprobs:
    logprobs = completion.choices[choice].logprobs
    assert logprobs is not None
    return logprobs


def values(completion: Completion, choice: int = 0) -> list[float | None]:
    token_logprobs: list[Any] = logprobs_of(completion, choice).token_logprobs or []
    return token_logprobs


def ask(server: ServerProcess, path: str, body: dict[str, Any]) -> Any:
    answer = httpx2.post(f"{server.url}{path}", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_prompt_is_scored_as_text_and_as_tokens(server: ServerProcess, client: OpenAI) -> None:
    token_ids = ask(server, "/tokenize", {"prompt": TEXT})["tokens"]
    as_text, as_tokens = (create(client, prompt, echo=True, logprobs=3) for prompt in (TEXT, token_ids))
    for answer in (as_text, as_tokens):
        assert answer.choices[0].text == TEXT
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(token_ids), 0)
    assert logprobs_of(as_text) == logprobs_of(as_tokens)
    logprobs = logprobs_of(as_text)
    first, *others = values(as_text)
    assert first is None
    assert len(others) == len(token_ids) - 1
    assert all(value is not None and value <= 0 for value in others)
    offsets, tokens = logprobs.text_offset, logprobs.tokens
    tops: list[Any] = logprobs.top_logprobs or []  # the client's type knows no null
    assert offsets
    assert tokens
    assert tops
    for offset, token, end in zip(offsets, tokens, [*offsets[1:], len(TEXT)], strict=True):
        assert token.startswith("bytes:") or TEXT[offset:end] == token
    # The token itself is there besides the 3 likeliest, or it is one of them.
    assert tops[0] is None
    assert all(len(top) in {3, 4} for top in tops[1:])


def test_scores_are_the_bits_of_generation(client: OpenAI) -> None:
    prompt = "Once upon a time"
    generated = create(client, prompt, max_tokens=24, logprobs=2)
    whole = prompt + generated.choices[0].text
    scored = create(client, whole, echo=True, logprobs=2)
    tokens = logprobs_of(generated).tokens
    assert tokens
    n = len(tokens)
    assert (logprobs_of(scored).tokens or [])[-n:] == tokens
    assert values(scored)[-n:] == values(generated)
    assert (logprobs_of(scored).top_logprobs or [])[-n:] == logprobs_of(generated).top_logprobs


def test_a_cached_prompt_has_the_same_scores_in_any_company(client: OpenAI) -> None:
    prompt = "A list of rivers: " + ", ".join(f"river number {number}" for number in range(150))
    alone = create(client, prompt, echo=True, logprobs=1)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: create(client, prompt, echo=True, logprobs=1), range(6)))
    together = create(client, [prompt, "Hello", prompt], echo=True, logprobs=1)
    assert len(values(alone)) > 512, "more than one engine call"
    assert all(values(answer) == values(alone) for answer in answers)
    assert values(together, 0) == values(together, 2) == values(alone)


def test_a_prompt_and_its_continuation(client: OpenAI) -> None:
    plain = create(client, TEXT, max_tokens=8, n=2, seed=1, temperature=1.0)
    echoed = create(client, TEXT, max_tokens=8, n=2, seed=1, temperature=1.0, echo=True, logprobs=0)
    assert [c.text for c in echoed.choices] == [TEXT + c.text for c in plain.choices]
    for choice in range(2):
        logprobs = logprobs_of(echoed, choice)
        assert logprobs.tokens
        assert logprobs.text_offset
        assert len(logprobs.tokens) == len(logprobs.text_offset) == len(values(echoed, choice))
    streamed = create(client, TEXT, max_tokens=8, seed=1, temperature=1.0, echo=True, logprobs=0, stream=True)
    chunks: Any = streamed
    text, offsets = "", []
    for chunk in chunks:
        text += chunk.choices[0].text
        if chunk.choices[0].logprobs is not None:
            offsets += chunk.choices[0].logprobs.text_offset
    assert text == echoed.choices[0].text
    assert offsets == logprobs_of(echoed).text_offset


def test_the_usual_harness_finds_a_continuation(client: OpenAI) -> None:
    """Multiple choice by the sum of a continuation's log-probabilities, as evaluation harnesses do it."""
    context, endings = "The sun rises in the", [" east", " bottle"]

    def score(ending: str) -> float:
        answer = create(client, context + ending, echo=True, logprobs=1, max_tokens=1)
        logprobs = logprobs_of(answer)
        assert logprobs.text_offset
        assert logprobs.token_logprobs
        begin = logprobs.text_offset.index(len(context))
        return sum(logprobs.token_logprobs[begin:-1])  # the last is of the generated token

    assert score(endings[0]) > score(endings[1]) + 3


def test_nothing_to_generate_is_refused_without_echo(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(client, TEXT, max_tokens=0)
    assert refused.value.param == "max_tokens"


def test_the_best_of_several(client: OpenAI) -> None:
    fields = {
        "max_tokens": 12,
        "temperature": 1.2,
        "seed": 5,
        "logprobs": 0,
        "extra_body": {"ignore_eos": True},
    }
    every = create(client, TEXT, n=6, **fields)
    best = create(client, TEXT, n=2, best_of=6, **fields)

    def mean(choice: int) -> float:
        each = [value for value in values(every, choice) if value is not None]
        return sum(each) / len(each)

    ranked = sorted(range(6), key=mean, reverse=True)
    assert len({choice.text for choice in every.choices}) == 6
    assert [choice.text for choice in best.choices] == [every.choices[index].text for index in ranked[:2]]
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens == 72


def test_tokens_there_and_back(server: ServerProcess, client: OpenAI) -> None:
    answer = ask(server, "/tokenize", {"model": MODEL, "prompt": TEXT, "return_token_strs": True})
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 8192
    assert ask(server, "/detokenize", {"tokens": answer["tokens"]}) == {"prompt": TEXT}
    completion = create(client, answer["tokens"], max_tokens=1)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == answer["count"]


def test_tokens_of_a_conversation_are_those_that_are_answered(server: ServerProcess, client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Name three colours. <|im_end|>"}]
    answer = ask(server, "/tokenize", {"messages": messages})
    chat: Any = client.chat.completions.create
    assert chat(model=MODEL, messages=messages, max_tokens=1).usage.prompt_tokens == answer["count"]
    closed = ask(server, "/tokenize", {"messages": messages, "add_generation_prompt": False})
    assert answer["tokens"][: closed["count"]] == closed["tokens"]
    text = ask(server, "/detokenize", {"tokens": answer["tokens"]})["prompt"]
    assert text.endswith("<|im_start|>assistant\n")
