"""Endpoints that measure texts and generate nothing: parse, embed or score, answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from stoker.api.body import parsed_body
from stoker.api.disconnect import until_disconnect
from stoker.api.edge import record_of
from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import EmbeddingJob
from stoker.api.openai.entry import body_parser
from stoker.api.openai.scoring_request import ScoringJob
from stoker.api.reply import Reply
from stoker.api.served import ServedModel, ServedModels
from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChoiceScores, Embedding
from stoker.observe.metrics import Metrics
from stoker.observe.record import RequestRecord

ParseTextJob = Callable[[dict[str, Any], ApiLimits, str], EmbeddingJob | ScoringJob]
"""Body, limits and a unique request id to a job; raises `InvalidRequestError`."""

_INLINE_TEXTS = 4
"""Answers on so many texts are written on the event loop."""


class TextJobs:
    """ASGI endpoint of one such route.

    Args:
        parse: Body to job.
        models: Served models.
        limits: Bounds on a request.
        metrics: Where embeddings are counted.
        parser: Where large bodies are parsed and large answers written.
    """

    def __init__(
        self,
        parse: ParseTextJob,
        *,
        models: ServedModels,
        limits: ApiLimits,
        metrics: Metrics,
        parser: Executor,
    ) -> None:
        self._parse_job = parse
        self._models = models
        self._limits = limits
        self._metrics = metrics
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            StokerError: The request was refused or failed.
        """
        record = record_of(scope)
        parse = body_parser(self._parse_job, self._limits, record.request_id)
        job = await parsed_body(scope, receive, parse, self._parser)
        model = self._models.find(job.model)
        record.model = model.base_name
        if not isinstance(job, ScoringJob):
            _check_dimensions(job.dimensions, model)
        await until_disconnect(receive, self._respond(job, model, record, send))

    async def _respond(
        self, job: EmbeddingJob | ScoringJob, model: ServedModel, record: RequestRecord, send: Send
    ) -> None:
        measured: list[Embedding] | list[ChoiceScores]
        if isinstance(job, ScoringJob):
            measured = scores = await self._score(job, model)
            write = partial(job.document, scores, model=model.name)
            record.early_exits += [job.reason] * len(scores)
        else:
            measured = embeddings = await self._embed(job, model)
            write = partial(job.document, embeddings, model=model.name)
        record.prompt_tokens = sum(each.n_tokens for each in measured)
        record.cached_tokens = sum(each.n_cached for each in measured)
        if not isinstance(job, ScoringJob):
            self._metrics.embedded(model.base_name, n_inputs=len(measured), n_tokens=record.prompt_tokens)
        if len(measured) <= _INLINE_TEXTS:
            body = write()
        else:
            body = await asyncio.get_running_loop().run_in_executor(self._parser, write)
        await Reply(200, body).send(send)

    async def _embed(self, job: EmbeddingJob, model: ServedModel) -> list[Embedding]:
        with model.hold(job.request.inputs, self._limits.embedding_places) as places:
            return await model.embedder.embed(replace(job.request, adapter=model.adapter), places=places)

    async def _score(self, job: ScoringJob, model: ServedModel) -> list[ChoiceScores]:
        prompts = job.request.prompts
        # A prompt alone may be as many sequences as there are choices after it.
        sequences = prompts if len(prompts) > 1 else prompts * len(job.request.choices)
        with model.hold(sequences, self._limits.embedding_places) as places:
            return await model.scorer.score(replace(job.request, adapter=model.adapter), places=places)


def _check_dimensions(asked: int | None, model: ServedModel) -> None:
    width = model.embedder.width
    if asked is None or asked == width:
        return
    raise InvalidRequestError(
        f"Invalid 'dimensions': the embeddings of '{model.name}' have {width or 'as many as its states'} "
        f"elements, and a part of one means nothing, since the model was not trained for that: leave it out, "
        f"instead of {asked}.",
        param="dimensions",
        code="invalid_value",
    )
