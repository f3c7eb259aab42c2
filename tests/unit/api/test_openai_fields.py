import json
from typing import Any, get_args

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from stoker.api.openai.fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    JSON_SCHEMA_FIELDS,
    MESSAGE_FIELDS,
    RESPONSE_FORMAT_FIELDS,
    STREAM_OPTIONS_FIELDS,
    STRUCTURED_OUTPUTS_FIELDS,
    Field,
    Treatment,
)
from stoker.api.openai.wire import (
    ChatBody,
    CompletionBody,
    JsonSchemaFormat,
    MessageBody,
    ResponseFormat,
    StreamOptions,
    StructuredOutputs,
)
from stoker.testing.asgi import post
from stoker.testing.scripted_api import ScriptedApi

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
GO: dict[str, Any] = {"model": "tiny", "prompt": "go"}

# A value of each refused field that asks for something.
ASKING: dict[str, Any] = {
    "audio": {"voice": "x", "format": "wav"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prompt_logprobs": 1,
    "reasoning_effort": "low",
    "service_tier": "flex",
    "suffix": "x",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "add_special_tokens": True,
    "chat_template": "{{ messages }}",
    "documents": [{"text": "x"}],
    "echo": True,
    "mm_processor_kwargs": {"x": 1},
    "verbosity": "low",
    "web_search_options": {},
}
NEUTRAL: list[tuple[str, str, Any]] = [
    (CHAT, "tools", []),
    (CHAT, "tool_choice", "auto"),
    (CHAT, "tool_choice", "none"),
    (CHAT, "functions", []),
    (CHAT, "function_call", "none"),
    (CHAT, "function_call", "auto"),
    (CHAT, "modalities", ["text"]),
    (CHAT, "reasoning_effort", "none"),
    (CHAT, "verbosity", "medium"),
    (CHAT, "service_tier", "auto"),
    (CHAT, "service_tier", "default"),
    (CHAT, "documents", []),
    (CHAT, "echo", False),
    (CHAT, "add_special_tokens", False),
    (CHAT, "mm_processor_kwargs", {}),
    (TEXT, "suffix", ""),
]
ROUTES = [(CHAT, HI, CHAT_FIELDS), (TEXT, GO, COMPLETION_FIELDS)]


def of(treatment: Treatment) -> list[tuple[str, dict[str, Any], str]]:
    return [
        (url, body, field.name)
        for url, body, fields in ROUTES
        for field in fields
        if field.treatment == treatment
    ]


def test_the_tables_name_every_field_of_the_openai_client() -> None:
    def names(*types: Any) -> set[str]:
        return {name for kind in types for name in kind.__annotations__}

    chat = names(
        chat_create_params.CompletionCreateParamsBase,
        *get_args(chat_create_params.CompletionCreateParams),
    )
    text = names(
        completion_create_params.CompletionCreateParamsBase,
        *get_args(completion_create_params.CompletionCreateParams),
    )
    assert len(chat) > 30
    assert len(text) > 15
    assert chat - {field.name for field in CHAT_FIELDS} == set()
    assert text - {field.name for field in COMPLETION_FIELDS} == set()
    extensions = {
        "top_k",
        "min_p",
        "repetition_penalty",
        "stop_token_ids",
        "min_tokens",
        "ignore_eos",
        "priority",
        "queue_timeout",
        "timeout",
        "prompt_logprobs",
        "structured_outputs",
        "guided_decoding_backend",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "choices",
        "confidence_threshold",
        "early_exit",
    }
    of_templates = {
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
        "chat_template",
        "documents",
        "mm_processor_kwargs",
        "add_special_tokens",
        "echo",
    }
    assert {field.name for field in CHAT_FIELDS} - chat == extensions | of_templates
    assert {field.name for field in COMPLETION_FIELDS} - text == extensions | {"response_format"}


def test_honoured_fields_are_exactly_the_wire_types_fields() -> None:
    def honoured(fields: tuple[Field, ...]) -> set[str]:
        return {field.name for field in fields if field.treatment is Treatment.HONOURED}

    assert honoured(CHAT_FIELDS) == {*ChatBody.model_fields, "messages"}
    assert honoured(COMPLETION_FIELDS) == {*CompletionBody.model_fields, "prompt"}
    assert honoured(MESSAGE_FIELDS) == set(MessageBody.model_fields)
    assert honoured(STREAM_OPTIONS_FIELDS) == set(StreamOptions.model_fields)
    for table, wire in (
        (RESPONSE_FORMAT_FIELDS, ResponseFormat),
        (JSON_SCHEMA_FIELDS, JsonSchemaFormat),
        (STRUCTURED_OUTPUTS_FIELDS, StructuredOutputs),
    ):
        names = {field.alias or name for name, field in wire.model_fields.items()}
        assert honoured(table) == names


@pytest.mark.parametrize(("url", "body", "name"), of(Treatment.REFUSED))
async def test_a_refused_field_is_refused_by_name(
    api: ScriptedApi, url: str, body: dict[str, Any], name: str
) -> None:
    response = await post(api.app, url, body | {name: ASKING[name]}).done()
    assert response.status == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        name,
        "unsupported_parameter",
    )
    assert f"'{name}'" in error["message"]
    assert api.generator.requests == []


@pytest.mark.parametrize(("url", "body"), [(CHAT, HI), (TEXT, GO)])
async def test_who_asks_for_prompt_logprobs_is_told_what_scores_a_prompt(
    api: ScriptedApi, url: str, body: dict[str, Any]
) -> None:
    message = (await post(api.app, url, body | {"prompt_logprobs": 1}).done()).json()["error"]["message"]
    assert "`echo` with `logprobs` on `/v1/completions`" in message


@pytest.mark.parametrize(("url", "name", "value"), NEUTRAL)
async def test_a_refused_field_is_accepted_when_it_asks_for_nothing(
    api: ScriptedApi, url: str, name: str, value: object
) -> None:
    body = HI if url == CHAT else GO
    assert (await post(api.app, url, body | {name: value}).done()).status == 200


@pytest.mark.parametrize("value", [0, False, []])
async def test_neutral_values_are_compared_with_their_type(api: ScriptedApi, value: object) -> None:
    assert (await post(api.app, TEXT, GO | {"suffix": value}).done()).status == 400


@pytest.mark.parametrize(("url", "body", "name"), of(Treatment.NO_OP))
@pytest.mark.parametrize("value", ["x", 5, {"a": [1]}])
async def test_a_no_op_field_changes_nothing(
    api: ScriptedApi, url: str, body: dict[str, Any], name: str, value: object
) -> None:
    assert (await post(api.app, url, body).done()).status == 200
    assert (await post(api.app, url, body | {name: value}).done()).status == 200
    plain, with_field = api.generator.requests
    assert plain.prompt == with_field.prompt
    assert plain.max_tokens == with_field.max_tokens


@pytest.mark.parametrize("treatment", [Treatment.NO_OP, Treatment.REFUSED])
async def test_null_is_the_same_as_leaving_out(api: ScriptedApi, treatment: Treatment) -> None:
    for url, body, name in of(treatment):
        assert (await post(api.app, url, body | {name: None}).done()).status == 200


@pytest.mark.parametrize(("url", "body"), [(CHAT, HI), (TEXT, GO)])
async def test_an_unknown_field_is_refused_by_name(api: ScriptedApi, url: str, body: dict[str, Any]) -> None:
    response = await post(api.app, url, body | {"top_a": 1.1}).done()
    assert response.status == 400
    assert response.json()["error"] == {
        "message": "Unrecognized request argument supplied: 'top_a'.",
        "type": "invalid_request_error",
        "param": "top_a",
        "code": "unknown_parameter",
    }


LONG_STOP = "x" * 513
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 2**31}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": -2.1}, "presence_penalty"),
    ({"presence_penalty": False}, "presence_penalty"),
    ({"frequency_penalty": 2.01}, "frequency_penalty"),
    ({"frequency_penalty": "0"}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": 100.5}, "repetition_penalty"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": [[1, 2]]}, "logit_bias"),
    ({"logit_bias": {"5": 100.5}}, "logit_bias"),
    ({"logit_bias": {"5": -101}}, "logit_bias"),
    ({"logit_bias": {"5": "1"}}, "logit_bias"),
    ({"logit_bias": {"5": True}}, "logit_bias"),
    ({"logit_bias": {"5": None}}, "logit_bias"),
    ({"logit_bias": {"05": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {" 1": 1}}, "logit_bias"),
    ({"logit_bias": {"\u0661": 1}}, "logit_bias"),
    ({"logit_bias": {"1" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
    ({"stop_token_ids": 5}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
    ({"stop_token_ids": [1, True]}, "stop_token_ids.1"),
    ({"stop_token_ids": [2**31]}, "stop_token_ids.0"),
    ({"stop_token_ids": [1] * 257}, "stop_token_ids"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 1.0}, "min_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"stop": ""}, "stop.0"),
    ({"stop": ["a", ""]}, "stop.1"),
    ({"stop": ["a", 1]}, "stop.1"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": LONG_STOP}, "stop.0"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": "2"}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"ignore_eos": 0}, "ignore_eos"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
]
WRONG_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": False, "top_logprobs": 0}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"add_generation_prompt": 1}, "add_generation_prompt"),
    ({"continue_final_message": "yes"}, "continue_final_message"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x": []}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x": {"y": 1}}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x": 2**63}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x": "a" * 4097}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"_x": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x y": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x" * 65: 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {f"x{index}": 1 for index in range(17)}}, "chat_template_kwargs"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": HI["messages"] * 4097}, "messages"),
    ({"messages": ["hi"]}, "messages.0"),
    ({"messages": [{}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": [], "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role"),
    ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages.0.role"),
    ({"messages": [*HI["messages"], {"role": "user", "content": "x", "name": "bob"}]}, "messages.1.name"),
    ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages.0.foo"),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content.0.text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]},
        "messages.0.content.0.y",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content.0.type",
    ),
]
WRONG_TEXT: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"max_completion_tokens": 5}, "max_completion_tokens"),
]


@pytest.mark.parametrize(
    ("url", "change", "param"),
    [
        *((CHAT, *case) for case in WRONG + WRONG_CHAT),
        *((TEXT, *case) for case in WRONG + WRONG_TEXT),
    ],
)
async def test_a_wrong_value_is_refused_with_its_path(
    api: ScriptedApi, url: str, change: dict[str, Any], param: str
) -> None:
    body = (HI if url == CHAT else GO) | change
    # The standard library's JSON also writes integers of more than 64 bits.
    response = await post(api.app, url, json.dumps(body).encode()).done()
    assert response.status == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert isinstance(error["code"], str)
    assert f"'{param}" in error["message"]
    assert len(error["message"]) < 300
    assert api.generator.requests == []
