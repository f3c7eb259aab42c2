"""The bodies of ``POST /v1/rerank`` and ``POST /v1/score``, in vLLM's shapes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import embedding_request, prompt_usage
from stoker.api.openai.fields import RERANK_FIELDS, SCORE_FIELDS, FieldTable
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import RerankBody, ScoreBody
from stoker.core.errors import InvalidRequestError
from stoker.core.text import Embedding, EmbeddingRequest, TextPrompt

_RERANK = FieldTable(RERANK_FIELDS)
_SCORE = FieldTable(SCORE_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A job that ranks documents by how similar they are to a query, which is its first input.

    Attributes:
        model: Name of the model asked for.
        request: The query, then the documents.
        documents: The documents' texts.
        top_n: How many of the best are told.
        told: Whether their texts are, too.
    """

    model: str
    request: EmbeddingRequest
    documents: tuple[str, ...]
    top_n: int
    told: bool

    @property
    def dimensions(self) -> int | None:
        """Nobody sees them."""
        return None

    def document(self, embeddings: Sequence[Embedding], *, model: str) -> bytes:
        """Return the answer's body: the best documents, best first, equal ones in the order given."""
        query, *others = embeddings
        scores = [cosine(query, other) for other in others]
        ranked = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.top_n]
        results = [
            {"index": index}
            | ({"document": {"text": self.documents[index]}} if self.told else {})
            | {"relevance_score": scores[index]}
            for index in ranked
        ]
        return orjson.dumps(
            {
                "id": f"rerank-{self.request.request_id}",
                "model": model,
                "usage": prompt_usage(embeddings),
                "results": results,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A job that tells how similar texts are, pair by pair.

    Attributes:
        model: Name of the model asked for.
        request: The first texts, then the second ones.
        n_first: How many first texts there are: one for all second ones, or as many as those.
    """

    model: str
    request: EmbeddingRequest
    n_first: int

    @property
    def dimensions(self) -> int | None:
        """Nobody sees them."""
        return None

    def document(self, embeddings: Sequence[Embedding], *, model: str) -> bytes:
        """Return the answer's body: a score for each second text."""
        first, second = embeddings[: self.n_first], embeddings[self.n_first :]
        scores = [cosine(first[index % self.n_first], each) for index, each in enumerate(second)]
        return orjson.dumps(
            {
                "id": f"score-{self.request.request_id}",
                "object": "list",
                "created": int(time.time()),
                "model": model,
                "data": [
                    {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
                ],
                "usage": prompt_usage(embeddings),
            }
        )


def parse_rerank(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Ranking:
    """Validate a request to rank documents.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _RERANK.sift(body)
    _check_count(fields, "documents", limits)
    wire = validate(RerankBody, fields)
    texts = [each if isinstance(each, str) else each.text for each in wire.documents]
    paths = ["query", *(f"documents.{index}" for index in range(len(texts)))]
    inputs = [TextPrompt(text) for text in (wire.query, *texts)]
    return Ranking(
        model=wire.model,
        request=embedding_request(wire, inputs, paths, limits, request_id),
        documents=tuple(texts),
        top_n=len(texts) if wire.top_n is None else wire.top_n,
        told=wire.return_documents,
    )


def parse_score(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Scoring:
    """Validate a request to score pairs of texts.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _SCORE.sift(body)
    for name in ("text_1", "text_2"):
        _check_count(fields, name, limits)
    wire = validate(ScoreBody, fields)
    n_first, n_second = len(wire.text_1), len(wire.text_2)
    if n_first not in {1, n_second}:
        raise InvalidRequestError(
            f"Invalid 'text_1': it has {n_first} texts and 'text_2' has {n_second}; "
            "it should have one, or as many.",
            param="text_1",
            code="invalid_value",
        )
    paths = [f"{name}.{index}" for name in ("text_1", "text_2") for index in range(len(getattr(wire, name)))]
    inputs = [TextPrompt(text) for text in (*wire.text_1, *wire.text_2)]
    return Scoring(
        model=wire.model,
        request=embedding_request(wire, inputs, paths, limits, request_id),
        n_first=n_first,
    )


def cosine(first: Embedding, second: Embedding) -> float:
    """Return the cosine of the angle between two embeddings, from -1 to 1."""
    total = sum(one * other for one, other in zip(first.values, second.values, strict=True))
    return max(-1.0, min(1.0, total))


def _check_count(fields: dict[str, Any], name: str, limits: ApiLimits) -> None:
    value = fields.get(name)
    if isinstance(value, list) and len(value) > limits.max_inputs:
        raise InvalidRequestError(
            f"Invalid '{name}': at most {limits.max_inputs:,} are taken at a time, not {len(value)}.",
            param=name,
            code="invalid_value",
        )
