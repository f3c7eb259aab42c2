"""Embeddings, rankings and scores over a fake engine: a text's direction is that of its first byte."""

from array import array
from base64 import b64decode
from math import cos, pi, sin

import pytest

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import EMBEDDING_FIELDS, RERANK_FIELDS, SCORE_FIELDS, Field, Treatment
from stoker.api.openai.wire import EmbeddingBody, RerankBody, ScoreBody, Wire
from stoker.testing.scripted_api import ScriptedApi, scripted_api


def vector(byte: int) -> list[float]:
    return list(array("f", [cos(byte / 256 * pi), sin(byte / 256 * pi), 0, 0]))


@pytest.mark.parametrize(
    ("given", "expected", "n_tokens"),
    [
        ("abc", [vector(97)], 3),
        (["abc", "b"], [vector(97), vector(98)], 4),
        ([5, 6], [vector(5)], 2),
        ([[5, 6], [7]], [vector(5), vector(7)], 3),
        (["x"] * 40, [vector(120)] * 40, 40),
    ],
)
async def test_inputs_of_every_kind(
    api: ScriptedApi, given: object, expected: list[list[float]], n_tokens: int
) -> None:
    assert await api.ask("/v1/embeddings", input=given) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(expected)
        ],
        "model": "tiny",
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


async def test_base64_has_the_same_floats(api: ScriptedApi) -> None:
    answer = await api.ask("/v1/embeddings", input="abc", encoding_format="base64")
    assert array("f", b64decode(answer["data"][0]["embedding"])).tolist() == vector(97)


async def test_embeddings_are_counted(api: ScriptedApi) -> None:
    await api.ask("/v1/embeddings", input=["abc", "b"])
    text = api.metrics.render().decode()
    assert 'stoker_embeddings_total{model="tiny"} 2.0' in text
    assert 'stoker_embedded_tokens_total{model="tiny"} 4.0' in text
    api.metrics.forget("tiny")
    assert 'stoker_embeddings_total{model="tiny"}' not in api.metrics.render().decode()


async def test_dimensions_are_the_width_or_nothing(api: ScriptedApi) -> None:
    assert len((await api.ask("/v1/embeddings", input="a", dimensions=4))["data"][0]["embedding"]) == 4
    error = await api.refusal("/v1/embeddings", input="a", dimensions=2)
    assert error["param"] == "dimensions"
    assert "have 4 elements" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", 3]}, "input"),
        ({"input": [[1], []]}, "input.1"),
        ({"input": [[1], [70_000]]}, "input.1"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 6}, "input"),
        ({"input": "a" * 512}, "input"),
        ({"input": ["a", [1] * 512]}, "input"),
        ({"input": [[1], [1] * 512]}, "input.1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": "a", "normalize": False}, "normalize"),
    ],
)
async def test_refused_inputs(body: dict[str, object], param: str) -> None:
    api = scripted_api(limits=ApiLimits(max_inputs=5))
    assert (await api.refusal("/v1/embeddings", **body))["param"] == param


async def test_an_input_of_the_whole_context_says_by_how_much_it_is_too_long(api: ScriptedApi) -> None:
    error = await api.refusal("/v1/embeddings", input=[[1] * 513])
    assert error["code"] == "context_length_exceeded"
    assert "shorten it by 2 tokens" in error["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_documents_are_ranked_by_the_query(api: ScriptedApi, path: str) -> None:
    documents = ["z far", {"text": "b near"}, "a same", "b equal"]
    answer = await api.ask(path, query="a", documents=documents)
    assert [result["index"] for result in answer["results"]] == [2, 1, 3, 0]
    assert [result["document"]["text"] for result in answer["results"]][:2] == ["a same", "b near"]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] == pytest.approx(cos(pi / 256))
    assert answer["usage"] == {"prompt_tokens": 25, "total_tokens": 25}
    assert answer["id"].startswith("rerank-")


async def test_the_best_alone_without_their_texts(api: ScriptedApi) -> None:
    answer = await api.ask(
        "/v1/rerank", query="a", documents=["z", "a", "b"], top_n=2, return_documents=False
    )
    assert [sorted(result) for result in answer["results"]] == [["index", "relevance_score"]] * 2
    assert [result["index"] for result in answer["results"]] == [1, 2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "a", "documents": ["a", ""]}, "documents.1"),
        ({"query": "a", "documents": ["a", 5]}, "documents.1"),
        ({"query": "a", "documents": [{"text": 5}]}, "documents.0.text"),
        ({"query": "a", "documents": [{}]}, "documents.0.text"),
        ({"query": "a", "documents": [{"text": "a", "title": "b"}]}, "documents.0.title"),
        ({"query": "a", "documents": ["a"] * 6}, "documents"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "rank_fields": ["x"]}, "rank_fields"),
    ],
)
async def test_refused_rankings(body: dict[str, object], param: str) -> None:
    api = scripted_api(limits=ApiLimits(max_inputs=5))
    assert (await api.refusal("/v1/rerank", **body))["param"] == param


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_scores_of_one_with_many_and_of_pairs(api: ScriptedApi, path: str) -> None:
    one = await api.ask(path, text_1="a", text_2=["a", "b"])
    assert [each["score"] for each in one["data"]] == pytest.approx([1.0, cos(pi / 256)])
    pairs = await api.ask(path, text_1=["a", "c"], text_2=["b", "c"])
    assert [each["score"] for each in pairs["data"]] == pytest.approx([cos(pi / 256), 1.0])
    assert [each["index"] for each in pairs["data"]] == [0, 1]
    assert pairs["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


async def test_texts_that_are_no_pairs_are_refused(api: ScriptedApi) -> None:
    assert (await api.refusal("/v1/score", text_1=["a", "b"], text_2=["a", "b", "c"]))["param"] == "text_1"


@pytest.mark.parametrize(
    ("fields", "body", "apart"),
    [
        (EMBEDDING_FIELDS, EmbeddingBody, {"input"}),
        (RERANK_FIELDS, RerankBody, set()),
        (SCORE_FIELDS, ScoreBody, set()),
    ],
)
def test_every_honoured_field_is_read(fields: tuple[Field, ...], body: type[Wire], apart: set[str]) -> None:
    honoured = {field.name for field in fields if field.treatment is Treatment.HONOURED}
    assert honoured - apart == set(body.model_fields)
