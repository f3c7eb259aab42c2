"""Bodies of requests whose texts are embedded, to jobs that write their answers."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from sys import byteorder
from typing import Any, Protocol

import orjson

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import EMBEDDING_FIELDS, FieldTable
from stoker.api.openai.job import shorter
from stoker.api.openai.prompts import parse_prompts
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import EmbeddedBody, EmbeddingBody
from stoker.core.text import ChoiceScores, Embedding, EmbeddingRequest, Prompt

_EMBEDDING = FieldTable(EMBEDDING_FIELDS)


class EmbeddingJob(Protocol):
    """What an endpoint has to do: embed inputs and write an answer of them."""

    @property
    def model(self) -> str:
        """Name of the model asked for."""

    @property
    def request(self) -> EmbeddingRequest:
        """What is to be embedded."""

    @property
    def dimensions(self) -> int | None:
        """How many elements the client expects; None for as many as there are."""

    def document(self, embeddings: Sequence[Embedding], *, model: str) -> bytes:
        """Return the answer's body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainEmbeddings:
    """A job whose answer is the embeddings themselves; `base64` says in which form."""

    model: str
    request: EmbeddingRequest
    dimensions: int | None
    base64: bool

    def document(self, embeddings: Sequence[Embedding], *, model: str) -> bytes:
        """Return the answer's body: floats as JSON or, in base64, as little-endian 32-bit floats."""
        write = _base64 if self.base64 else _floats
        data = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, write(embedding))
            for index, embedding in enumerate(embeddings)
        )
        usage = orjson.dumps(prompt_usage(embeddings))
        return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, orjson.dumps(model), usage)


def parse_embedding(body: dict[str, Any], limits: ApiLimits, request_id: str) -> PlainEmbeddings:
    """Validate a request for embeddings.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _EMBEDDING.sift(body)
    value = fields.pop("input", None)
    wire = validate(EmbeddingBody, fields)
    inputs = parse_prompts(value, "input", most=limits.max_inputs, limits=limits)
    several = isinstance(value, list) and type(value[0]) is not int
    paths = [f"input.{index}" if several else "input" for index in range(len(inputs))]
    return PlainEmbeddings(
        model=wire.model,
        request=embedding_request(wire, inputs, paths, limits, request_id),
        dimensions=wire.dimensions,
        base64=wire.encoding_format == "base64",
    )


def embedding_request(
    wire: EmbeddedBody, inputs: Sequence[Prompt], paths: Sequence[str], limits: ApiLimits, request_id: str
) -> EmbeddingRequest:
    """Return the request for these inputs, with the time limits of the client and of the server."""
    return EmbeddingRequest(
        request_id=request_id,
        inputs=tuple(inputs),
        paths=tuple(paths),
        priority=-wire.priority,  # on the wire lower is earlier, as in vLLM
        queue_timeout_s=shorter(wire.queue_timeout, limits.queue_timeout_s),
        timeout_s=shorter(wire.timeout, limits.request_timeout_s),
    )


def prompt_usage(measured: Sequence[Embedding] | Sequence[ChoiceScores]) -> dict[str, int]:
    """Return what an answer says of tokens."""
    n_tokens = sum(each.n_tokens for each in measured)
    return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def _floats(embedding: Embedding) -> bytes:
    return orjson.dumps(embedding.values.tolist())


def _base64(embedding: Embedding) -> bytes:
    values = embedding.values
    if byteorder == "big":
        values = values[:]
        values.byteswap()
    return b'"%b"' % b64encode(values.tobytes())
