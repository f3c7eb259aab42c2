"""The official client against the real server: choices, confidence, classification."""

from concurrent.futures import ThreadPoolExecutor
from math import exp, fsum
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI

from stoker.testing.server_process import ServerProcess
from stoker.text.scorer import probabilities

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
PROMPT = "The capital of France is"
LONG = "Some cities: " + ", ".join(f"city {number}" for number in range(60)) + ". The capital of France is"
CHOICES = [" Paris", " London", " a small village", " Paris, of course"]


def choose(client: OpenAI, prompt: str = PROMPT, **fields: Any) -> Any:
    extra = {"choices": CHOICES, **fields}
    return client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=12, temperature=0, extra_body=extra
    )


def told(answer: Any) -> Any:
    return answer.choices[0].model_extra["early_exit"]


def test_the_likeliest_choice_is_the_answer(client: OpenAI) -> None:
    answer = choose(client)
    assert answer.choices[0].text == " Paris"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    said = told(answer)
    assert said["reason"] == "choice"
    assert said["confidence"] == said["scores"][" Paris"] == max(said["scores"].values())
    assert sum(said["scores"].values()) == pytest.approx(1)


@pytest.mark.parametrize("prompt", [PROMPT, LONG])
def test_scores_are_those_of_the_echoed_prompt_to_the_last_bit(client: OpenAI, prompt: str) -> None:
    """Each choice as a prompt of its own, with all its tokens scored, has the same log-probabilities."""
    choices = [" Paris", " London", " a small village", " a small town", " a big town", " the city of light"]
    n_prompt = len(scored_tokens(client, prompt))
    sums = [fsum(scored_tokens(client, prompt + choice)[n_prompt:]) for choice in choices]
    scores = told(choose(client, prompt, choices=choices))["scores"]
    expected = probabilities([[index] for index in range(len(choices))], sums)
    assert [scores[choice] for choice in choices] == list(expected)
    weights = [exp(each) for each in sums]
    assert list(expected) == pytest.approx([each / sum(weights) for each in weights])


def scored_tokens(client: OpenAI, text: str) -> list[float]:
    answer = client.completions.create(model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    return [each or 0.0 for each in logprobs.token_logprobs]


def test_company_and_cache_change_no_bit(client: OpenAI) -> None:
    alone = [told(choose(client, prompt)) for prompt in (PROMPT, LONG)]
    with ThreadPoolExecutor(6) as threads:
        chats = [
            threads.submit(client.completions.create, model=MODEL, prompt=LONG, max_tokens=24)
            for _ in range(2)
        ]
        together = list(threads.map(lambda at: told(choose(client, (PROMPT, LONG)[at % 2])), range(6)))
        assert all(chat.result().choices for chat in chats)
    assert together == alone * 3


def test_below_the_threshold_the_answer_is_generated(client: OpenAI) -> None:
    plain = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=12, temperature=0)
    unsure = choose(client, choices=[" Paris", " the"], confidence_threshold=1.0)
    assert told(unsure)["reason"] == "unsure"
    assert unsure.choices[0].text == plain.choices[0].text
    assert set(told(unsure)["scores"]) == {" Paris", " the"}


def test_a_chat_streams_its_choice(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Is the sky blue? Answer yes or no."}],
        stream=True,
        extra_body={"choices": ["Yes", "No"]},
    )
    chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks) in {"Yes", "No"}
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["early_exit"]["reason"] == "choice"


def test_an_unsure_answer_ends(client: OpenAI) -> None:
    def ask(**rule: Any) -> Any:
        return client.completions.create(
            model=MODEL, prompt=LONG, max_tokens=40, temperature=1.5, seed=3, extra_body={"early_exit": rule}
        )

    ended = ask(stop_below=0.99, window=4)
    assert told(ended)["reason"] == "confidence"
    assert told(ended)["confidence"] < 0.99
    assert ended.choices[0].finish_reason == "stop"
    whole = ask(stop_below=1e-9, window=4)
    assert told(whole)["reason"] == "none"
    assert whole.choices[0].text.startswith(ended.choices[0].text)
    assert ended.usage.completion_tokens < whole.usage.completion_tokens


def test_an_answer_ends_with_its_form(client: OpenAI) -> None:
    def ask(**rule: Any) -> Any:
        extra = {"guided_regex": " [0-9]{2,12}", "early_exit": rule}
        return client.completions.create(
            model=MODEL, prompt="One, two: 12345678", max_tokens=30, temperature=0, extra_body=extra
        )

    eager = ask(when_complete=True)
    assert told(eager)["reason"] == "format"
    assert 0 < told(eager)["confidence"] <= 1
    assert len(eager.choices[0].text) == 3
    full = ask(stop_below=1e-12)
    assert told(full)["reason"] in {"format", "none"}
    assert full.choices[0].text.startswith(eager.choices[0].text)


def test_texts_are_classified(server: ServerProcess) -> None:
    before = server.metrics().get("stoker_early_exits_total", 0)
    body = {
        "model": MODEL,
        "input": ["I loved every minute of it.", "What a waste of time, awful."],
        "labels": [" positive", " negative"],
        "prompt": "Review: {input}\nSentiment (positive or negative):",
    }
    answer = httpx2.post(f"{server.url}/v1/classify", json=body, timeout=60).json()
    assert answer["data"][0]["label"] == " positive"
    assert answer["data"][0]["probs"][0] > answer["data"][1]["probs"][0]
    assert [sum(each["probs"]) for each in answer["data"]] == pytest.approx([1, 1])
    assert server.metrics()["stoker_early_exits_total"] - before == 2


@pytest.mark.parametrize(
    ("choices", "param"),
    [([], "choices"), ([str(number) for number in range(10_000)], "choices"), (["a", "a"], "choices.1")],
)
def test_what_is_no_choice_is_refused_by_name(client: OpenAI, choices: list[str], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        choose(client, choices=choices)
    assert refused.value.param == param
