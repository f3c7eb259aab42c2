"""`choices`, `early_exit` and ``/v1/classify`` over a fake engine whose tokens are bytes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import orjson
import pytest

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import CLASSIFY_FIELDS, EARLY_EXIT_FIELDS, Field, Treatment
from stoker.api.openai.wire import ClassifyBody, ExitBody, Wire
from stoker.core.early_exit import EarlyExit, ExitReason, ExitRule
from stoker.core.text import Event, Finished, Started, TextDelta, TextRequest, Usage
from stoker.core.tokens import FinishReason
from stoker.testing.asgi import post
from stoker.testing.generator import Step
from stoker.testing.scripted_api import ScriptedApi, scripted_api

CHAT: dict[str, object] = {"messages": [{"role": "user", "content": "?"}]}
TEXT: dict[str, object] = {"prompt": "?"}
TOLD = EarlyExit(ExitReason.CHOICE, 0.75, (("no", 0.25), ("yes", 0.75)))
SAID = {"reason": "choice", "confidence": 0.75, "scores": {"no": 0.25, "yes": 0.75}}
PATHS = [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]


def chosen(_: TextRequest) -> Iterable[Step]:
    events: list[Event] = [
        Started(3),
        TextDelta(0, "yes"),
        Finished(0, FinishReason.STOP, early_exit=TOLD),
        Usage(3, 1, 0),
    ]
    return events


@pytest.mark.parametrize(("path", "prompt"), PATHS)
async def test_an_answer_says_why_it_ended_and_how_sure_it_was(path: str, prompt: dict[str, object]) -> None:
    api = scripted_api(chosen)
    fields: dict[str, object] = {**prompt, "choices": ["no", "yes"], "confidence_threshold": 0.5}
    answer = await api.ask(path, **fields)
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["early_exit"]) == ("stop", SAID)
    (request,) = api.generator.requests
    assert (request.choices, request.confidence_threshold) == (("no", "yes"), 0.5)
    assert 'stoker_early_exits_total{model="tiny",reason="choice"} 1.0' in api.metrics.render().decode()


@pytest.mark.parametrize(("path", "prompt"), PATHS)
async def test_a_stream_says_it_with_the_end(path: str, prompt: dict[str, object]) -> None:
    api = scripted_api(chosen)
    body = {"model": "tiny", **prompt, "choices": ["no", "yes"], "stream": True}
    response = await post(api.app, path, body).done()
    lines = [line[6:] for line in response.body.decode().split("\n\n") if line.startswith("data: {")]
    ends = [chunk["choices"][0] for chunk in map(orjson.loads, lines)]
    assert ends[-1]["early_exit"] == SAID
    assert all("early_exit" not in each for each in ends[:-1])


async def test_the_rule_reaches_the_generator(api: ScriptedApi) -> None:
    answer = await api.ask("/v1/completions", **TEXT, early_exit={"stop_below": 0.25, "window": 4})
    await api.ask("/v1/completions", **TEXT, early_exit={"stop_below": 1})
    rules = [each.exit_rule for each in api.generator.requests]
    assert rules == [ExitRule(0.25, 4), ExitRule(1.0, 16)]
    assert "early_exit" not in answer["choices"][0], "the script says nothing of it"


async def test_a_grammar_becomes_eager(api: ScriptedApi) -> None:
    for when_complete in (True, False):
        rule = {"when_complete": when_complete, "stop_below": 0.5}
        await api.ask("/v1/completions", **TEXT, guided_regex="a+", early_exit=rule)
    grammars = [each.grammar for each in api.generator.requests]
    assert [each and each.eager for each in grammars] == [True, False]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"choices": []}, "choices"),
        ({"choices": ["a"]}, "choices"),
        ({"choices": [str(number) for number in range(10_000)]}, "choices"),
        ({"choices": ["a", ""]}, "choices.1"),
        ({"choices": ["a", "b" * 513]}, "choices.1"),
        ({"choices": ["a", 3]}, "choices.1"),
        ({"choices": ["a", "b", "a"]}, "choices.2"),
        ({"choices": "ab"}, "choices"),
        ({"choices": ["a", "b"], "n": 2}, "n"),
        ({"choices": ["a", "b"], "early_exit": {"stop_below": 0.1}}, "early_exit"),
        ({"choices": ["a", "b"], "confidence_threshold": 1.5}, "confidence_threshold"),
        ({"confidence_threshold": 0.5}, "confidence_threshold"),
        ({"early_exit": {}}, "early_exit"),
        ({"early_exit": {"window": 3}}, "early_exit"),
        ({"early_exit": {"when_complete": True}}, "early_exit.when_complete"),
        ({"early_exit": {"stop_below": 0}}, "early_exit.stop_below"),
        ({"early_exit": {"stop_below": 0.5, "window": 0}}, "early_exit.window"),
        ({"early_exit": {"stop_below": 0.5, "window": 257}}, "early_exit.window"),
        ({"early_exit": {"stop_below": 0.5, "patience": 2}}, "early_exit.patience"),
        ({"early_exit": True}, "early_exit"),
    ],
)
@pytest.mark.parametrize(("path", "prompt"), PATHS)
async def test_refused_fields(
    api: ScriptedApi, path: str, prompt: dict[str, object], fields: dict[str, object], param: str
) -> None:
    assert (await api.refusal(path, **prompt, **fields))["param"] == param
    assert not api.generator.requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "choices"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logprobs": 0}, "logprobs"),
    ],
)
async def test_choices_of_completions_stand_alone(
    api: ScriptedApi, fields: dict[str, object], param: str
) -> None:
    body = {**TEXT, "choices": ["a", "b"], **fields}
    assert (await api.refusal("/v1/completions", **body))["param"] == param


async def test_a_count_of_10_000_is_told_with_the_limit(api: ScriptedApi) -> None:
    error = await api.refusal("/v1/completions", **TEXT, choices=[str(number) for number in range(10_000)])
    assert "at most 128 texts" in error["message"]
    assert "10000" in error["message"]


async def test_how_many_choices_are_scored_is_a_setting() -> None:
    api = scripted_api(chosen, limits=ApiLimits(max_scored_choices=3))
    await api.ask("/v1/completions", **TEXT, choices=["a", "b", "c"])
    for path, body in (
        ("/v1/completions", {**TEXT, "choices": ["a", "b", "c", "d"]}),
        ("/v1/classify", {"input": "x", "labels": ["a", "b", "c", "d"]}),
    ):
        error = await api.refusal(path, **body)
        assert error["param"] in {"choices", "labels"}
        assert "at most 3 texts" in error["message"]


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
async def test_texts_are_classified(api: ScriptedApi, path: str) -> None:
    answer = await api.ask(path, input=["abc", "d"], labels=["~~", " "], prompt="{input}:")
    assert answer["id"].startswith("classify-")
    assert [(each["index"], each["label"], each["num_classes"]) for each in answer["data"]] == [
        (0, " ", 2),
        (1, " ", 2),
    ]
    assert sum(answer["data"][0]["probs"]) == pytest.approx(1)
    assert answer["data"][0]["probs"] == answer["data"][1]["probs"]
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert 'stoker_early_exits_total{model="tiny",reason="classified"} 2.0' in api.metrics.render().decode()


async def test_without_a_prompt_the_model_is_asked(api: ScriptedApi) -> None:
    answer = await api.ask("/v1/classify", input="abc", labels=["one", "two"])
    assert answer["usage"]["prompt_tokens"] > 100


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"labels": ["a", "b"]}, "input"),
        ({"input": "x"}, "labels"),
        ({"input": [], "labels": ["a", "b"]}, "input"),
        ({"input": ["x", ""], "labels": ["a", "b"]}, "input.1"),
        ({"input": ["x"] * 6, "labels": ["a", "b"]}, "input"),
        ({"input": "x", "labels": []}, "labels"),
        ({"input": "x", "labels": ["a"]}, "labels"),
        ({"input": "x", "labels": ["a", "a"]}, "labels.1"),
        ({"input": "x", "labels": ["a", ""]}, "labels.1"),
        ({"input": "x", "labels": [str(number) for number in range(10_000)]}, "labels"),
        ({"input": "x", "labels": ["a", "b"], "prompt": "no slot"}, "prompt"),
        ({"input": "x" * 600, "labels": ["a", "b"], "prompt": "{input}"}, "input"),
        ({"input": ["x", "x" * 511], "labels": ["a", "bb"], "prompt": "{input}"}, "input.1"),
        ({"input": "x", "labels": ["a", "b"], "softmax": False}, "softmax"),
    ],
)
async def test_refused_classifications(body: dict[str, object], param: str) -> None:
    api = scripted_api(limits=ApiLimits(max_inputs=5))
    assert (await api.refusal("/v1/classify", **body))["param"] == param


async def test_inputs_times_labels_are_bounded() -> None:
    api = scripted_api(limits=ApiLimits(max_inputs=2048))
    labels = [str(number) for number in range(128)]
    error = await api.refusal("/v1/classify", input=["x"] * 129, labels=labels)
    assert error["param"] == "input"
    assert "at most 128" in error["message"]


@pytest.mark.parametrize(
    ("prompt", "texts"), [("{input}" * 40_000, "x" * 1000), ("x" * 40_000 + "{input}", ["x"] * 1000)]
)
async def test_a_prompt_does_not_make_much_of_little(prompt: str, texts: object) -> None:
    api = scripted_api(limits=ApiLimits(max_inputs=2048))
    error = await api.refusal("/v1/classify", input=texts, labels=["a", "b"], prompt=prompt)
    assert error["param"] == "prompt"
    assert "at most 33,554,432" in error["message"]


@pytest.mark.parametrize(("fields", "body"), [(CLASSIFY_FIELDS, ClassifyBody), (EARLY_EXIT_FIELDS, ExitBody)])
def test_every_honoured_field_is_read(fields: tuple[Field, ...], body: type[Wire]) -> None:
    assert {field.name for field in fields if field.treatment is Treatment.HONOURED} == set(body.model_fields)


async def test_choices_hold_a_place_each() -> None:
    held: list[int] = []

    @contextmanager
    def reserve(requests: Sequence[TextRequest]) -> Iterator[None]:
        held.append(sum(request.n_sequences for request in requests))
        yield

    api = scripted_api(chosen, reserve=reserve)
    await api.ask("/v1/completions", **TEXT, choices=["a", "b", "c"])
    assert held == [3]
