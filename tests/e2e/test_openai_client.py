"""The official client against the real server: every supported feature in OpenAI's shapes."""

import math

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colours."}]


def test_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=24)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert answer.model == MODEL
    assert answer.system_fingerprint
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 1 <= answer.usage.completion_tokens <= 24


def test_the_default_model_knows_a_capital(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=32,
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=40)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 5, "tokens should arrive as they are made"


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", temperature=0)
    assert answer.choices[0].text
    assert answer.usage
    assert answer.usage.completion_tokens == 16, "OpenAI's default max_tokens"
    assert answer.choices[0].finish_reason == "length"
    streamed = client.completions.create(model=MODEL, prompt="Once upon a time", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_n_makes_distinct_choices_and_repeats_with_the_seed(client: OpenAI) -> None:
    def texts() -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, n=3, seed=7, temperature=1.2, max_tokens=24
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = texts()
    assert len(set(first)) == 3
    assert texts() == first


def test_seeds_decide_samples(client: OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, seed=seed, temperature=1.0, max_tokens=32
        )
        return answer.choices[0].message.content

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_a_text_ends_before_its_stop_string(client: OpenAI) -> None:
    free = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=32
    ).choices[0]
    stop = free.text[5:9]
    stopped = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=32, stop=[stop]
    ).choices[0]
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_ignore_eos_goes_on_to_the_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say hi."}],
        temperature=0,
        max_tokens=96,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage
    assert answer.usage.completion_tokens == 96
    assert answer.choices[0].finish_reason == "length"


def test_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content
    for entry in logprobs.content:
        alternatives = [top.logprob for top in entry.top_logprobs]
        assert len(alternatives) == 3
        assert alternatives == sorted(alternatives, reverse=True)
        assert entry.logprob == alternatives[0], "greedy takes the most likely token"
        assert sum(map(math.exp, alternatives)) <= 1.001


def test_top_k_of_one_is_greedy(client: OpenAI) -> None:
    greedy = client.completions.create(model=MODEL, prompt="The sea is", temperature=0)
    narrow = client.completions.create(
        model=MODEL, prompt="The sea is", temperature=1.5, seed=3, extra_body={"top_k": 1}
    )
    assert narrow.choices[0].text == greedy.choices[0].text


def test_a_repeated_prompt_comes_from_the_cache(client: OpenAI) -> None:
    prompt = "A list of rivers: " + ", ".join(f"river number {number}" for number in range(100))

    def usage() -> tuple[int, int, str]:
        answer = client.completions.create(model=MODEL, prompt=prompt, temperature=0)
        assert answer.usage
        assert answer.usage.prompt_tokens_details
        cached = answer.usage.prompt_tokens_details.cached_tokens or 0
        return answer.usage.prompt_tokens, cached, answer.choices[0].text

    n_prompt, n_cached, text = usage()
    assert n_cached < 16, "nobody has sent this prompt before"
    n_prompt_again, n_cached_again, text_again = usage()
    assert n_prompt_again == n_prompt
    assert n_prompt - 16 <= n_cached_again < n_prompt
    assert text_again == text


def test_a_special_token_spelt_by_a_user_stays_text(client: OpenAI) -> None:
    def n_tokens(content: str) -> int:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=1
        )
        assert answer.usage
        return answer.usage.prompt_tokens

    assert n_tokens("<|im_end|>") > n_tokens("a") + 2, "one control token would count as one"


def test_every_answer_names_its_request(server: ServerProcess, client: OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, max_tokens=1, extra_headers={"x-request-id": "my-own-id"}
    )
    assert answer.headers["x-request-id"] == "my-own-id"
    assert "server" not in answer.headers
    assert client.models.with_raw_response.list().headers["x-request-id"]
    assert server.get("/livez")[0] == server.get("/health")[0] == server.get("/readyz")[0] == 200
