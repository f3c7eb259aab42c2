"""Answers of the real model are of their form, drawn at random, streamed or not, and whatever else runs."""

import asyncio
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me about a person, as JSON."}],
    "max_tokens": 160,
}

SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "born": {"type": "string", "format": "date"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "tags": {"type": "array", "items": {"enum": ["red", "green", 3]}, "maxItems": 3},
        },
        "required": ["name", "born", "score"],
        "additionalProperties": False,
    },
    {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "multipleOf": 5, "minimum": -50, "maximum": 50},
                    "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                },
                "required": ["value", "left"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,5}$"}, "minItems": 2, "maxItems": 4},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2},
    {"enum": ["a", {"b": [1.5, None]}, "\u00fcber \u65e5\u672c"]},
    {"type": "string", "format": "email", "maxLength": 30},
    {"oneOf": [{"type": "string", "maxLength": 10}, {"type": "integer", "minimum": 0, "maximum": 999}]},
]


def schema_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def text_of(answer: ChatCompletion, choice: int = 0) -> str:
    return answer.choices[choice].message.content or ""


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_what_ends_by_itself_is_accepted_by_its_schema(client: OpenAI, schema: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    answer = client.chat.completions.create(
        **ASK, response_format=schema_format(schema), n=8, temperature=1.5, seed=5
    )
    whole = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert len(whole) >= 2
    for choice in whole:
        validator.validate(json.loads(choice.message.content or ""))


def test_any_object_is_one(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a person named Anna, who is 31, as JSON."}],
        max_tokens=400,
        response_format={"type": "json_object"},
        temperature=0,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(text_of(answer)), dict)


def test_a_stream_has_the_text_of_the_answer(client: OpenAI) -> None:
    wanted: Any = {"response_format": schema_format(SCHEMAS[0]), "seed": 3}
    whole = client.chat.completions.create(**ASK, **wanted)
    chunks = list(client.chat.completions.create(**ASK, **wanted, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text_of(whole)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("field", "value", "pattern"),
    [
        ("guided_regex", "[0-9]{3}-[a-c]{2}", "[0-9]{3}-[a-c]{2}"),
        ("guided_choice", ["yes", "no", "perhaps"], "yes|no|perhaps"),
        ("guided_grammar", 'start: "x" y "."\ny: "a" | y "b"', "xab*\\."),
        ("guided_grammar", 'root ::= "x" [ab] [ab]? "."', "x[ab]{1,2}\\."),
        ("guided_json", {"enum": ["left", "right"]}, '"(left|right)"'),
        ("guided_json", '{"type": "integer", "minimum": 10, "maximum": 99}', "[1-9][0-9]"),
        ("structured_outputs", {"json": {"const": [1, None]}}, "\\[\\s*1\\s*,\\s*null\\s*\\]"),
        ("structured_outputs", {"grammar": 'start: ("la " | "lu "){2} "."'}, "(l[au] ){2}\\."),
        ("structured_outputs", {"grammar": 'root ::= ("a" | "b") "c"'}, "[ab]c"),
        ("structured_outputs", {"regex": "(ja|nein)!"}, "(ja|nein)!"),
        ("structured_outputs", {"choice": ["<|im_end|>", "</s>"]}, "<\\|im_end\\|>|</s>"),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_vllms_fields_are_held_to(
    client: OpenAI, endpoint: str, field: str, value: Any, pattern: str
) -> None:
    extra = {field: value}
    for seed in range(4):
        if endpoint == "chat":
            answer = client.chat.completions.create(**ASK, extra_body=extra, temperature=1.5, seed=seed)
            text, reason = text_of(answer), answer.choices[0].finish_reason
        else:
            given = client.completions.create(
                model=MODEL, prompt="Well: ", max_tokens=60, extra_body=extra, temperature=1.5, seed=seed
            )
            text, reason = given.choices[0].text, given.choices[0].finish_reason
        assert reason == "stop"
        assert re.fullmatch(pattern, text)


LETTER = r"Dear (Anna|Bob|Carol),\n\nThank you very much for your letter of (May|June) [0-9]{1,2}th\."


def test_what_has_to_follow_is_taken_at_once(client: OpenAI, server: ServerProcess) -> None:
    extra = {"structured_outputs": {"regex": LETTER, "fast_forward": True}}

    def ask(seed: int) -> tuple[str, int]:
        answer = client.chat.completions.create(**ASK, extra_body=extra, temperature=1.5, seed=seed)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        return text_of(answer), answer.usage.completion_tokens

    before = metrics(server)
    alone = [ask(seed) for seed in range(6)]
    told = {name: value - before[name] for name, value in metrics(server).items()}
    for text, _ in alone:
        assert re.fullmatch(LETTER, text)
    n_tokens = sum(n for _, n in alone)
    assert told["stoker_engine_generated_tokens_total"] == n_tokens
    assert n_tokens / 3 < told["stoker_forced_tokens_total"] < n_tokens
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone
    streamed = client.chat.completions.create(**ASK, extra_body=extra, temperature=1.5, seed=3, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == alone[3][0]


def metrics(server: ServerProcess) -> dict[str, float]:
    page = httpx2.get(f"{server.url}/metrics").text
    found = re.findall(
        r"^(stoker_forced_tokens_total|stoker_engine_generated_tokens_total){.*} (\S+)$", page, re.MULTILINE
    )
    return {name: float(value) for name, value in found}


def test_a_cut_answer_says_so(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        **ASK | {"max_tokens": 5}, response_format=schema_format(SCHEMAS[0])
    )
    assert answer.choices[0].finish_reason == "length"


def test_the_tokens_are_the_same_alone_and_beside_others(client: OpenAI) -> None:
    requests: list[Any] = [
        {"response_format": schema_format(schema), "seed": seed, "logprobs": True}
        for seed in range(3)
        for schema in SCHEMAS[:3]
    ]
    free: list[Any] = [{"seed": seed, "logprobs": True} for seed in range(3)]

    def ask(more: Any) -> list[tuple[str, float]]:
        answer = client.chat.completions.create(**ASK, **more)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        return [(each.token, each.logprob) for each in logprobs.content or ()]

    alone = [ask(request) for request in [*requests, *free]]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, [*requests, *free]))
    assert together == alone


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        (
            {"response_format": schema_format({"properties": {"a": {"items": {"contains": {}}}}})},
            "response_format.json_schema.schema.properties.a.items.contains",
            "invalid_schema",
        ),
        (
            {"guided_json": {"items": {"oneOf": [{"type": "string"}, {"minLength": 1}]}}},
            "guided_json.items.oneOf",
            "invalid_schema",
        ),
        ({"guided_json": {"$ref": "#"}}, "guided_json", "invalid_schema"),
        ({"guided_regex": "(("}, "guided_regex", "invalid_grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "invalid_value"),
        ({"guided_grammar": "start: <|im_end|>"}, "guided_grammar", "invalid_grammar"),
        ({"guided_grammar": "start: " + "x" * 70_000}, "guided_grammar", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"guided_choice": ["x"] * 10_000}, "guided_choice", "invalid_value"),
        ({"guided_choice": ["a", ""]}, "guided_choice.1", "invalid_value"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            "unsupported_parameter",
        ),
    ],
    ids=str,
)
def test_what_could_not_be_held_to_is_refused(client: OpenAI, fields: Any, param: str, code: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**ASK, extra_body=fields)
    assert (refused.value.param, refused.value.code) == (param, code)


REPORT = r"(Item [0-9]{1,9}: nothing to report about [a-z]{4,12} today, as always\.\n){9}"
LONG: list[dict[str, Any]] = [
    {"response_format": schema_format({"type": "array", "items": {"type": "integer"}, "minItems": 60})},
    {"extra_body": {"structured_outputs": {"regex": REPORT, "fast_forward": True}}},
]


@pytest.mark.parametrize("form", LONG, ids=["plain", "fast-forwarded"])
def test_an_answer_goes_on_in_the_next_engine(
    client: OpenAI, server: ServerProcess, form: dict[str, Any]
) -> None:
    ask: dict[str, Any] = {**ASK, **form, "max_tokens": 150, "seed": 1}
    undisturbed = text_of(client.chat.completions.create(**ask))
    pieces = []
    for chunk in client.chat.completions.create(**ask, stream=True, timeout=100):
        pieces.append(chunk.choices[0].delta.content or "")
        if len(pieces) == 20:
            (engine,) = server.children()
            os.kill(engine, signal.SIGKILL)
    assert "".join(pieces) == undisturbed


EXPLODING: list[dict[str, Any]] = [
    {"guided_regex": "((.{0,50}[ab]){1,50}x?){30}"},
    {"guided_regex": "|".join(f"(.{{0,{i}}}[ab]){{9}}" for i in range(1, 80))},
    {"guided_grammar": "start: " + " | ".join(f"/(.{{0,{i}}}[ab]){{9}}{i}/" for i in range(1, 800))},
]


def test_a_stream_goes_on_while_exploding_grammars_are_refused(client: OpenAI) -> None:
    plain: Any = {**ASK, "max_tokens": 120, "seed": 4, "extra_body": {"ignore_eos": True}}
    expected = text_of(client.chat.completions.create(**plain))
    chunks = client.chat.completions.create(**plain, stream=True)
    pieces = [next(chunks).choices[0].delta.content or "" for _ in range(3)]
    for exploding in EXPLODING:
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(**ASK, extra_body=exploding)
        assert refused.value.code == "grammar_too_complex"
        assert "max_grammar_" in refused.value.message
        pieces.append(next(chunks).choices[0].delta.content or "")
    pieces += [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == expected


async def test_endless_and_wrong_grammars_leave_others_alone(client: OpenAI) -> None:
    plain: Any = {**ASK, "max_tokens": 40, "seed": 2}
    expected = text_of(client.chat.completions.create(**plain))
    nasty = [
        {"guided_regex": "(a?){300}(.{0,300}x){50}"},
        {"guided_json": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
        {"guided_grammar": 'start: a\na: a a | "x" | "xx" | "xxx"'},
        {"guided_json": {"type": "string", "pattern": "((a|b)*c){0,1000}$"}},
    ]

    def ask(extra: Any) -> str | None:
        try:
            return text_of(client.chat.completions.create(**plain, extra_body=extra))
        except BadRequestError as error:
            return error.code

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(10) as pool:
        answers = await asyncio.gather(
            *(loop.run_in_executor(pool, ask, extra) for extra in [*nasty, {}, *nasty, {}])
        )
    assert answers[4] == answers[9] == expected
    assert all(answers)
