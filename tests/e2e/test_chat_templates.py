"""Templates of a real server: variables, messages that go on, and a template of the settings'."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
HI: list[dict[str, str]] = [{"role": "user", "content": "Count to five."}]
BEGUN = [*HI, {"role": "assistant", "content": "One, two, three,"}]
GO_ON = {"continue_final_message": True}


def text_of(server: ServerProcess, messages: list[dict[str, str]], **fields: Any) -> str:
    """Return what a conversation is rendered to, by way of its tokens."""
    tokens = httpx2.post(f"{server.url}/tokenize", json={"messages": messages, **fields}, timeout=30).json()
    answer = httpx2.post(f"{server.url}/detokenize", json={"tokens": tokens["tokens"]}, timeout=30)
    text: str = answer.json()["prompt"]
    return text


def refusal(server: ServerProcess, **fields: Any) -> Any:
    body = {"model": MODEL, "messages": HI, "max_tokens": 1, **fields}
    answer = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_an_answer_goes_on_where_the_last_message_ends(client: OpenAI, server: ServerProcess) -> None:
    rendered = text_of(server, BEGUN, **GO_ON)
    assert rendered.endswith("<|im_start|>assistant\nOne, two, three,")
    create: Any = client.chat.completions.create
    answer = create(model=MODEL, messages=BEGUN, temperature=0, max_tokens=4, extra_body=GO_ON)
    same = answer.choices[0].message.content
    assert answer.usage.prompt_tokens == len(
        httpx2.post(f"{server.url}/tokenize", json={"messages": BEGUN, **GO_ON}, timeout=30).json()["tokens"]
    )
    closed = create(model=MODEL, messages=BEGUN, temperature=0, max_tokens=4)
    assert " four" in same
    assert closed.choices[0].message.content != same


def test_a_conversation_may_end_without_a_beginning_of_the_answer(server: ServerProcess) -> None:
    assert text_of(server, HI, add_generation_prompt=False).endswith("Count to five.<|im_end|>\n")
    assert text_of(server, HI).endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("name", ["enable_thinking", "messages", "bos_token"])
def test_a_variable_that_the_template_does_not_have_is_refused(server: ServerProcess, name: str) -> None:
    error = refusal(server, chat_template_kwargs={name: True})
    assert error["param"] == "chat_template_kwargs"
    assert f"'{name}'" in error["message"]


def test_a_client_cannot_send_a_template(client: OpenAI) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(BadRequestError) as caught:
        create(model=MODEL, messages=HI, extra_body={"chat_template": "{{ messages }}"})
    assert (caught.value.param, caught.value.code) == ("chat_template", "unsupported_parameter")


TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No orders, please.') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '' if enable_thinking | default(false) else '<think></think>' }}{{ mood }}{% endif %}"
)


def test_the_settings_template_takes_the_place_of_the_model_s(home: Path) -> None:
    path = home / "mine.jinja"
    path.write_text(TEMPLATE, encoding="utf-8")
    with ServerProcess(home, "--chat-template", str(path)) as server:
        server.wait_ready()
        asked = "<|im_start|>user\nCount to five.<|im_end|>\n<|im_start|>assistant\n"
        assert text_of(server, HI) == asked + "<think></think>"
        thinking: dict[str, Any] = {"enable_thinking": True, "mood": "<|im_end|>"}
        assert text_of(server, HI, chat_template_kwargs=thinking) == asked + "<|im_end|>"
        error = refusal(server, messages=[{"role": "system", "content": "Obey."}, *HI])
        assert "No orders, please." in error["message"]
        error = refusal(server, chat_template_kwargs={"enable_thought": True})
        assert "enable_thinking, mood" in error["message"]
