"""``POST /tokenize`` and ``POST /detokenize``."""

from collections.abc import Mapping
from concurrent.futures import Executor

import orjson
from starlette.types import Receive, Scope, Send

from stoker.api.body import parse_object, parsed_body
from stoker.api.edge import record_of
from stoker.api.limits import ApiLimits
from stoker.api.openai.models import find_model
from stoker.api.openai.tokenize_request import (
    DetokenizeJob,
    TokenizeJob,
    parse_detokenize,
    parse_tokenize,
)
from stoker.api.reply import Reply
from stoker.api.served import ServedModel
from stoker.core.errors import InvalidRequestError


class Tokenize:
    """ASGI endpoint that turns text or a conversation to token ids.

    Args:
        models: Served models by name.
        limits: Bounds on a request.
        parser: Where large bodies are parsed.
    """

    def __init__(self, models: Mapping[str, ServedModel], limits: ApiLimits, parser: Executor) -> None:
        self._models = models
        self._limits = limits
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            StokerError: The request was refused.
        """
        job = await parsed_body(scope, receive, self._parse, self._parser)
        model = _served(self._models, job.model)
        record_of(scope).model = model.name
        token_ids = await model.codec.tokenize(job.prompt)
        answer = {
            "count": len(token_ids),
            "max_model_len": model.context_length,
            "tokens": token_ids,
            "token_strs": model.codec.spellings(token_ids) if job.spelt else None,
        }
        await Reply(200, orjson.dumps(answer)).send(send)

    def _parse(self, body: bytes) -> TokenizeJob:
        return parse_tokenize(parse_object(body, max_depth=self._limits.max_json_depth), self._limits)


class Detokenize:
    """ASGI endpoint that turns token ids to text.

    Args:
        models: Served models by name.
        limits: Bounds on a request.
        parser: Where large bodies are parsed.
    """

    def __init__(self, models: Mapping[str, ServedModel], limits: ApiLimits, parser: Executor) -> None:
        self._models = models
        self._limits = limits
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            StokerError: The request was refused.
        """
        job = await parsed_body(scope, receive, self._parse, self._parser)
        model = _served(self._models, job.model)
        record_of(scope).model = model.name
        text = await model.codec.detokenize(job.token_ids)
        await Reply(200, orjson.dumps({"prompt": text})).send(send)

    def _parse(self, body: bytes) -> DetokenizeJob:
        return parse_detokenize(parse_object(body, max_depth=self._limits.max_json_depth), self._limits)


def _served(models: Mapping[str, ServedModel], name: str | None) -> ServedModel:
    if name is not None:
        return find_model(models, name)
    if len(models) != 1:
        raise InvalidRequestError(
            "'model' is required, since several are served.", param="model", code="missing_required_parameter"
        )
    (model,) = models.values()
    return model
