"""The official client against the real server: what changes the logits, and what ends a text."""

import re
from collections import Counter
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types import Completion

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
PROMPT = "one two one two one two one two"


def create(client: OpenAI, **fields: Any) -> Completion:
    call: Any = client.completions.create  # its overloads cannot take fields that vary
    completion: Completion = call(model=MODEL, prompt=PROMPT, **fields)
    return completion


def complete(client: OpenAI, **fields: Any) -> str:
    body = {"temperature": 0, "max_tokens": 48, "extra_body": {"ignore_eos": True}} | fields
    return create(client, **body).choices[0].text


def most_repeated(text: str) -> int:
    return Counter(re.findall(r"\w+", text)).most_common(1)[0][1]


def test_a_bias_forces_a_token_and_another_bans_it(client: OpenAI) -> None:
    def texts(**fields: Any) -> set[str]:
        answer = create(client, max_tokens=4, temperature=1.0, seed=3, n=4, logprobs=0, **fields)
        tokens = [choice.logprobs.tokens for choice in answer.choices if choice.logprobs]
        assert len(tokens) == 4
        return {token for each in tokens for token in each or []}

    (forced,) = texts(logit_bias={"500": 100})
    (other,) = texts(logit_bias={"500": -100, "501": 100})
    assert forced != other
    assert texts(logit_bias={"500": 100, "501": -100}) == {forced}


def test_logprobs_stay_those_of_the_raw_logits(client: OpenAI) -> None:
    def first(**fields: Any) -> dict[str, float]:
        answer = create(client, max_tokens=1, temperature=0, logprobs=3, **fields)
        logprobs = answer.choices[0].logprobs
        assert logprobs
        assert logprobs.top_logprobs
        return logprobs.top_logprobs[0]

    plain = first()
    forced = first(logit_bias={"500": 100}, presence_penalty=2, extra_body={"repetition_penalty": 2})
    assert plain.items() < forced.items()
    (token,) = forced.keys() - plain.keys()
    assert forced[token] < min(plain.values())


@pytest.mark.parametrize(
    "penalty",
    [
        {"presence_penalty": 2},
        {"frequency_penalty": 2},
        {"extra_body": {"repetition_penalty": 2, "ignore_eos": True}},
    ],
    ids=lambda penalty: next(iter(penalty)),
)
def test_penalties_make_a_text_repeat_less(client: OpenAI, penalty: dict[str, Any]) -> None:
    plain, penalized = complete(client), complete(client, **penalty)
    assert most_repeated(plain) >= 20
    assert most_repeated(penalized) <= most_repeated(plain) // 2
    assert complete(client, **penalty) == penalized, "the same again, now from a cached prefix"


def test_a_chat_goes_on_for_at_least_min_tokens(client: OpenAI) -> None:
    def n_tokens(**extra: Any) -> int:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Say hi."}],
            temperature=0,
            max_tokens=120,
            extra_body=extra,
        )
        assert answer.usage
        return answer.usage.completion_tokens

    short = n_tokens()
    assert short < 90
    assert n_tokens(min_tokens=short + 20) > short + 20


def test_a_text_ends_before_a_stop_token(client: OpenAI) -> None:
    def answer(**fields: Any) -> tuple[str, str]:
        (choice,) = create(client, max_tokens=6, temperature=0, logit_bias={"500": 100}, **fields).choices
        return choice.text, choice.finish_reason

    text, reason = answer()
    assert (text, reason) == (text[: len(text) // 6] * 6, "length")
    assert answer(extra_body={"stop_token_ids": [500]}) == ("", "stop")
    assert answer(extra_body={"stop_token_ids": [500], "min_tokens": 6})[1] == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"49152": 1}}, "logit_bias"),
        ({"extra_body": {"stop_token_ids": [49152]}}, "stop_token_ids"),
        ({"extra_body": {"min_tokens": 49}}, "min_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
    ],
)
def test_what_the_model_cannot_take_is_refused_by_name(
    client: OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        complete(client, **fields)
    assert refused.value.param == param
    assert param in refused.value.message
