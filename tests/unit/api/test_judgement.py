"""``/v1/score`` and ``/v1/rerank`` with `choices`: the model judges texts, over a fake engine of bytes."""

from math import exp

import pytest

from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import EmbeddingJob
from stoker.api.openai.judgement import DEFAULT_INSTRUCTION, Judgement
from stoker.api.openai.rerank_request import parse_rerank, parse_score
from stoker.core.text import ChatPrompt, ScoringRequest, TextPrompt
from stoker.testing.scripted_api import ScriptedApi, scripted_api

LIMITS = ApiLimits(max_inputs=5)
YES_NO = ["y", "n"]
PROBABILITY = exp(-ord("y") / 64) / (exp(-ord("y") / 64) + exp(-ord("n") / 64))
SCORE: dict[str, object] = {"text_1": "a", "text_2": "b"}
RANK: dict[str, object] = {"query": "a", "documents": ["b"]}
PATHS = [("/v1/score", SCORE), ("/v1/rerank", RANK)]


def counted(api: ScriptedApi, n: int) -> bool:
    line = f'stoker_early_exits_total{{model="tiny",reason="judged"}} {n:.1f}'
    return line in api.metrics.render().decode()


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_the_score_is_the_first_choices_probability(api: ScriptedApi, path: str) -> None:
    fields: dict[str, object] = {"text_1": "a", "text_2": ["b", "cc"], "prompt": "{text_1}:{text_2}?"}
    answer = await api.ask(path, **fields, choices=YES_NO)
    assert [each["score"] for each in answer["data"]] == pytest.approx([PROBABILITY] * 2)
    assert [(each["index"], each["object"]) for each in answer["data"]] == [(0, "score"), (1, "score")]
    assert answer["usage"] == {"prompt_tokens": 4 + 5, "total_tokens": 4 + 5}
    assert answer["id"].startswith("score-")
    assert counted(api, 2)
    turned = await api.ask(path, **fields, choices=YES_NO[::-1])
    assert [each["score"] for each in turned["data"]] == pytest.approx([1 - PROBABILITY] * 2)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_documents_are_ranked_by_it(api: ScriptedApi, path: str) -> None:
    documents = ["b", {"text": "cc"}, "d"]
    prompt = "{query}|{document}"
    answer = await api.ask(path, query="a", documents=documents, choices=YES_NO, prompt=prompt, top_n=2)
    assert [result["index"] for result in answer["results"]] == [0, 1], "equal ones in the order given"
    assert [result["document"]["text"] for result in answer["results"]] == ["b", "cc"]
    assert answer["results"][0]["relevance_score"] == pytest.approx(PROBABILITY)
    assert answer["id"].startswith("rerank-")
    assert counted(api, 3)


async def test_texts_are_bounded_before_they_are_made() -> None:
    api = scripted_api(limits=ApiLimits(max_inputs=2048))
    many = {"documents": ["x"] * 2000, "choices": YES_NO}
    for fields, param in (
        ({"query": "x" * 20_000}, "query"),
        ({"query": "x", "prompt": "{query}{document}" + "x" * 20_000}, "prompt"),
        ({"query": "x" * 1000, "prompt": "{query}{document}" + "{query}" * 20}, "prompt"),
    ):
        error = await api.refusal("/v1/rerank", **many, **fields)
        assert error["param"] == param
        assert "at most 33,554,432" in error["message"]


def asked(job: EmbeddingJob | Judgement) -> ScoringRequest:
    assert isinstance(job, Judgement)
    return job.request


def test_pairs_become_prompts_once() -> None:
    fields = {"model": "m", "text_1": ["{text_2}", "b"], "text_2": ["x", "{text_1}"], "choices": YES_NO}
    job = parse_score({**fields, "prompt": "{text_1} {other} {text_2} {text_1}"}, LIMITS, "r")
    assert asked(job).prompts == (
        TextPrompt("{text_2} {other} x {text_2}"),
        TextPrompt("b {other} {text_1} b"),
    )
    assert asked(job).paths == ("text_2.0", "text_2.1")


def test_without_a_prompt_the_question_is_that_of_rerankers() -> None:
    rank = {"model": "m", "query": "Q", "documents": ["D"]}
    questions = []
    for fields in (
        {**rank, "choices": ["yes", "no"]},
        {**rank, "choices": ["good", "fair", "bad"], "instruction": "I"},
    ):
        (prompt,) = asked(parse_rerank(fields, LIMITS, "r")).prompts
        assert isinstance(prompt, ChatPrompt)
        assert prompt.without_thinking
        assert [message.role for message in prompt.messages] == ["system", "user"]
        questions.append([message.content for message in prompt.messages])
    assert questions[0][0].endswith('the answer can only be "yes" or "no".')
    assert questions[0][1] == f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: Q\n<Document>: D"
    assert questions[1][0].endswith('the answer can only be "good", "fair" or "bad".')
    assert questions[1][1].startswith("<Instruct>: I\n")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "{text_1}{text_2}{query}{document}"}, "prompt"),
        ({"instruction": "Find it"}, "instruction"),
        (
            {"choices": YES_NO, "prompt": "{text_1}{text_2}{query}{document}", "instruction": "I"},
            "instruction",
        ),
        ({"choices": YES_NO, "prompt": "{text_1}{query}"}, "prompt"),
        ({"choices": YES_NO, "prompt": "{text_2}{document}"}, "prompt"),
        ({"choices": YES_NO, "prompt": ""}, "prompt"),
        ({"choices": YES_NO, "instruction": 3}, "instruction"),
        ({"choices": []}, "choices"),
        ({"choices": ["a"]}, "choices"),
        ({"choices": ["a", "a"]}, "choices.1"),
        ({"choices": ["a", ""]}, "choices.1"),
        ({"choices": [str(number) for number in range(10_000)]}, "choices"),
        ({"choices": YES_NO, "confidence_threshold": 0.5}, "confidence_threshold"),
        ({"labels": YES_NO}, "labels"),
    ],
)
@pytest.mark.parametrize(("path", "texts"), PATHS)
async def test_refused_fields(
    path: str, texts: dict[str, object], fields: dict[str, object], param: str
) -> None:
    api = scripted_api(limits=LIMITS)
    assert (await api.refusal(path, **texts, **fields))["param"] == param


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": ["c"] * 6}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": ["c", "d" * 600]}, "text_2.1"),
        ("/v1/rerank", {"query": "a", "documents": ["c"] * 6}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["c", "d" * 600]}, "documents.1"),
    ],
)
async def test_refused_texts(path: str, fields: dict[str, object], param: str) -> None:
    api = scripted_api(limits=LIMITS)
    prompt = "{text_1}{text_2}{query}{document}"
    assert (await api.refusal(path, **fields, choices=YES_NO, prompt=prompt))["param"] == param


async def test_texts_times_choices_are_bounded(api: ScriptedApi) -> None:
    choices = [str(number) for number in range(128)]
    error = await api.refusal("/v1/rerank", query="a", documents=["b"] * 129, choices=choices)
    assert error["param"] == "documents"
    assert "at most 128" in error["message"]


async def test_without_choices_embeddings_are_compared(api: ScriptedApi) -> None:
    answer = await api.ask("/v1/score", text_1="a", text_2="a")
    assert answer["data"][0]["score"] == pytest.approx(1.0)
    assert 'reason="judged"' not in api.metrics.render().decode()
