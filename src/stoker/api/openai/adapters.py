"""``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM has them."""

import asyncio
import time
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.api.limits import ApiLimits
from stoker.api.openai.models import model_object
from stoker.api.openai.validation import valid_body
from stoker.api.origin import check_origin
from stoker.api.reply import Reply
from stoker.api.served import ServedAdapter, ServedModel, ServedModels
from stoker.core.errors import InvalidRequestError

MAX_NAME_CHARS = 128
MAX_PATH_CHARS = 1024

AdapterName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_CHARS)
]


class LoadAdapterBody(BaseModel):
    """The body of ``POST /v1/load_lora_adapter``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: AdapterName
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH_CHARS)]
    base_model_name: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class UnloadAdapterBody(BaseModel):
    """The body of ``POST /v1/unload_lora_adapter``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: AdapterName


def adapter_routes(*, models: ServedModels, limits: ApiLimits) -> list[Route]:
    """Return the routes that load and unload adapters."""
    return [
        Route("/v1/load_lora_adapter", LoadAdapter(models, limits), methods=["POST"]),
        Route("/v1/unload_lora_adapter", UnloadAdapter(models, limits), methods=["POST"]),
    ]


class LoadAdapter:
    """ASGI endpoint that makes an adapter known under a name, once it has been read and checked.

    One is read at a time: its file may be large.

    Args:
        models: Served models.
        limits: Bounds on a request.
    """

    def __init__(self, models: ServedModels, limits: ApiLimits) -> None:
        self._models = models
        self._limits = limits
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            InvalidRequestError: The body is wrong, or the adapter does not fit the model.
            ModelNotFoundError: There is no such base.
            ConflictError: The name is taken, or there are as many adapters as there may be.
        """
        check_origin(scope)
        body = await valid_body(scope, receive, LoadAdapterBody, self._limits)
        base = self._base(body.base_model_name)
        self._models.check_adapter_name(body.lora_name)
        if base.read_adapter is None:
            raise InvalidRequestError(f"The model '{base.name}' takes no adapters.", param="base_model_name")
        async with self._turn:
            ref = await run_in_threadpool(base.read_adapter, body.lora_path)
        adapter = ServedAdapter(name=body.lora_name, base=base.name, ref=ref, created=int(time.time()))
        self._models.add_adapter(adapter)
        await Reply(200, orjson.dumps(model_object(self._models.find(adapter.name)))).send(send)

    def _base(self, name: str | None) -> ServedModel:
        serving = self._models.now.serving
        if name is None and len(serving) != 1:
            raise InvalidRequestError(
                f"'base_model_name' is required, since {len(serving)} models are served.",
                param="base_model_name",
                code="missing_required_parameter",
            )
        base = self._models.find(next(iter(serving)) if name is None else name, param="base_model_name")
        if base.adapter is not None:
            raise InvalidRequestError(
                f"'base_model_name' is the adapter '{base.name}'; expected a model.", param="base_model_name"
            )
        return base


class UnloadAdapter:
    """ASGI endpoint that forgets an adapter; requests that have begun with it go on.

    Args:
        models: Served models.
        limits: Bounds on a request.
    """

    def __init__(self, models: ServedModels, limits: ApiLimits) -> None:
        self._models = models
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            InvalidRequestError: The body is wrong.
            ModelNotFoundError: There is no such adapter.
        """
        check_origin(scope)
        body = await valid_body(scope, receive, UnloadAdapterBody, self._limits)
        adapter = self._models.remove_adapter(body.lora_name)
        await Reply(200, orjson.dumps({"id": adapter.name, "object": "model", "deleted": True})).send(send)
