"""Endpoints that embed texts: parse, embed, answer."""

import asyncio
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

from starlette.types import Receive, Scope, Send

from stoker.api.body import parsed_body
from stoker.api.disconnect import until_disconnect
from stoker.api.edge import record_of
from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import EmbeddingJob, ParseEmbeddingJob
from stoker.api.openai.entry import body_parser
from stoker.api.reply import Reply
from stoker.api.served import ServedModel, ServedModels
from stoker.core.errors import InvalidRequestError
from stoker.observe.metrics import Metrics
from stoker.observe.record import RequestRecord

_INLINE_INPUTS = 4
"""Answers of so many embeddings are written on the event loop."""


class Embed:
    """ASGI endpoint of one embedding route.

    Args:
        parse: Body to job.
        models: Served models.
        limits: Bounds on a request.
        metrics: Where embeddings are counted.
        parser: Where large bodies are parsed and large answers written.
    """

    def __init__(
        self,
        parse: ParseEmbeddingJob,
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
        _check_dimensions(job.dimensions, model)
        await until_disconnect(receive, self._respond(job, model, record, send))

    async def _respond(
        self, job: EmbeddingJob, model: ServedModel, record: RequestRecord, send: Send
    ) -> None:
        with model.hold(job.request.inputs, self._limits.embedding_places) as places:
            request = replace(job.request, adapter=model.adapter)
            embeddings = await model.embedder.embed(request, places=places)
        record.prompt_tokens = sum(each.n_tokens for each in embeddings)
        record.cached_tokens = sum(each.n_cached for each in embeddings)
        self._metrics.embedded(model.base_name, n_inputs=len(embeddings), n_tokens=record.prompt_tokens)
        write = partial(job.document, embeddings, model=model.name)
        if len(embeddings) <= _INLINE_INPUTS:
            body = write()
        else:
            body = await asyncio.get_running_loop().run_in_executor(self._parser, write)
        await Reply(200, body).send(send)


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
