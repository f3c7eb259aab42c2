"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from stoker.api.reply import Reply
from stoker.api.served import ServedModel, ServedModels


class ModelList:
    """ASGI endpoint that lists the served models and their adapters, but none that is being loaded.

    Args:
        models: Served models.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        models = [*self._models.now.serving.values(), *self._models.adapted()]
        data = [model_object(model) for model in models]
        await Reply(200, orjson.dumps({"object": "list", "data": data})).send(send)


class ModelDetail:
    """ASGI endpoint that shows one served model.

    Args:
        models: Served models.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ModelNotFoundError: No such model is served.
            NotReadyError: It is being loaded.
        """
        model = self._models.find(scope["path_params"]["model"])
        await Reply(200, orjson.dumps(model_object(model))).send(send)


def model_object(model: ServedModel) -> dict[str, Any]:
    """Return what the dialect shows of a model; adapters have their base as ``parent``."""
    shown = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "stoker",
        "context_length": model.context_length,
    }
    return shown if model.parent is None else shown | {"parent": model.parent}
