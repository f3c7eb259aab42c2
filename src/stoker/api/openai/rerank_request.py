"""The bodies of ``POST /v1/rerank`` and ``POST /v1/score``, in vLLM's shapes.

Texts are compared by their embeddings or, with ``choices``, judged by the model.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import embedding_request, prompt_usage
from stoker.api.openai.fields import RERANK_FIELDS, SCORE_FIELDS, FieldTable
from stoker.api.openai.judgement import Judgement, ScoresAnswer, check_judged, judgement
from stoker.api.openai.validation import check_count, validate
from stoker.api.openai.wire import RerankBody, ScoreBody
from stoker.core.errors import InvalidRequestError
from stoker.core.text import Embedding, EmbeddingRequest, TextPrompt

_RERANK = FieldTable(RERANK_FIELDS)
_SCORE = FieldTable(SCORE_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingAnswer:
    """Tells the best documents, best first, equal ones in the order given.

    Attributes:
        documents: The documents' texts.
        top_n: How many of the best are told.
        told: Whether their texts are, too.
    """

    documents: tuple[str, ...]
    top_n: int
    told: bool

    def body(
        self, scores: Sequence[float], usage: Mapping[str, int], *, request_id: str, model: str
    ) -> bytes:
        """Return the answer's body."""
        ranked = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.top_n]
        results = [
            {"index": index}
            | ({"document": {"text": self.documents[index]}} if self.told else {})
            | {"relevance_score": scores[index]}
            for index in ranked
        ]
        return orjson.dumps(
            {"id": f"rerank-{request_id}", "model": model, "usage": usage, "results": results}
        )


@dataclass(frozen=True, slots=True)
class ScoreListAnswer:
    """Tells the scores in the order of the request."""

    def body(
        self, scores: Sequence[float], usage: Mapping[str, int], *, request_id: str, model: str
    ) -> bytes:
        """Return the answer's body."""
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
        return orjson.dumps(
            {
                "id": f"score-{request_id}",
                "object": "list",
                "created": int(time.time()),
                "model": model,
                "data": data,
                "usage": usage,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A job that tells how similar texts are, pair by pair.

    Attributes:
        model: Name of the model asked for.
        request: The first texts, then the second ones.
        n_first: How many first texts there are: one for all second ones, or as many as those.
        answer: Tells the scores.
    """

    model: str
    request: EmbeddingRequest
    n_first: int
    answer: ScoresAnswer

    @property
    def dimensions(self) -> int | None:
        """Nobody sees them."""
        return None

    def document(self, embeddings: Sequence[Embedding], *, model: str) -> bytes:
        """Return the answer's body: a score for each second text."""
        first, second = embeddings[: self.n_first], embeddings[self.n_first :]
        scores = [cosine(first[index % self.n_first], each) for index, each in enumerate(second)]
        usage = prompt_usage(embeddings)
        return self.answer.body(scores, usage, request_id=self.request.request_id, model=model)


def parse_rerank(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Comparison | Judgement:
    """Validate a request to rank documents.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _RERANK.sift(body)
    check_count(fields, "documents", limits)
    wire = validate(RerankBody, fields)
    check_judged(wire)
    texts = [each if isinstance(each, str) else each.text for each in wire.documents]
    paths = [f"documents.{index}" for index in range(len(texts))]
    answer = RankingAnswer(
        documents=tuple(texts),
        top_n=len(texts) if wire.top_n is None else wire.top_n,
        told=wire.return_documents,
    )
    if wire.choices is not None:
        return judgement(
            wire,
            wire.choices,
            [(wire.query, text) for text in texts],
            slots=("query", "document"),
            paths=paths,
            answer=answer,
            limits=limits,
            request_id=request_id,
        )
    inputs = [TextPrompt(text) for text in (wire.query, *texts)]
    request = embedding_request(wire, inputs, ["query", *paths], limits, request_id)
    return Comparison(model=wire.model, request=request, n_first=1, answer=answer)


def parse_score(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Comparison | Judgement:
    """Validate a request to score pairs of texts.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _SCORE.sift(body)
    for name in ("text_1", "text_2"):
        check_count(fields, name, limits)
    wire = validate(ScoreBody, fields)
    check_judged(wire)
    n_first, n_second = len(wire.text_1), len(wire.text_2)
    if n_first not in {1, n_second}:
        raise InvalidRequestError(
            f"Invalid 'text_1': it has {n_first} texts and 'text_2' has {n_second}; "
            "it should have one, or as many.",
            param="text_1",
            code="invalid_value",
        )
    firsts = [f"text_1.{index}" for index in range(n_first)]
    paths = [f"text_2.{index}" for index in range(n_second)]
    answer = ScoreListAnswer()
    if wire.choices is not None:
        return judgement(
            wire,
            wire.choices,
            [(wire.text_1[index % n_first], text) for index, text in enumerate(wire.text_2)],
            slots=("text_1", "text_2"),
            paths=paths,
            answer=answer,
            limits=limits,
            request_id=request_id,
        )
    inputs = [TextPrompt(text) for text in (*wire.text_1, *wire.text_2)]
    request = embedding_request(wire, inputs, [*firsts, *paths], limits, request_id)
    return Comparison(model=wire.model, request=request, n_first=n_first, answer=answer)


def cosine(first: Embedding, second: Embedding) -> float:
    """Return the cosine of the angle between two embeddings, from -1 to 1."""
    total = sum(one * other for one, other in zip(first.values, second.values, strict=True))
    return max(-1.0, min(1.0, total))
