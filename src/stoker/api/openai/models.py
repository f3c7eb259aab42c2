"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from stoker.api.body import shown
from stoker.api.reply import Reply
from stoker.api.served import ServedModel
from stoker.core.errors import ModelNotFoundError


def find_model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """Return the served model of this name.

    Raises:
        ModelNotFoundError: There is none; the message names those there are.
    """
    model = models.get(name)
    if model is None:
        served = ", ".join(f"'{known}'" for known in models) or "none"
        raise ModelNotFoundError(f"The model '{shown(name)}' is not served here. Served models: {served}.")
    return model


class ModelList:
    """ASGI endpoint that lists the served models.

    Args:
        models: Served models by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        data = [_model_object(model) for model in self._models.values()]
        await Reply(200, orjson.dumps({"object": "list", "data": data})).send(send)


class ModelDetail:
    """ASGI endpoint that shows one served model.

    Args:
        models: Served models by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ModelNotFoundError: No such model is served.
        """
        model = find_model(self._models, scope["path_params"]["model"])
        await Reply(200, orjson.dumps(_model_object(model))).send(send)


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "stoker",
        "context_length": model.context_length,
    }
