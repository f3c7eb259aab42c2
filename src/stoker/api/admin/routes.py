"""``/admin/models``: the models that the server has; load, unload, put to sleep and wake them."""

from dataclasses import asdict
from typing import Annotated, Any

import orjson
from pydantic import StringConstraints
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.api.admin.control import ModelControl, ModelState
from stoker.api.body import parse_object, read_body, require_json
from stoker.api.limits import ApiLimits
from stoker.api.openai.validation import validate
from stoker.api.origin import check_origin
from stoker.api.reply import Reply
from stoker.config import ModelSettings


class LoadBody(ModelSettings):
    """The body of ``POST /admin/models``."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]


def admin_routes(*, control: ModelControl, limits: ApiLimits) -> list[Route]:
    """Return the routes under ``/admin``."""
    return [
        Route("/admin/models", ModelCollection(control, limits), methods=["GET", "POST"]),
        Route("/admin/models/{name:path}/sleep", ModelSleep(control), methods=["POST"]),
        Route("/admin/models/{name:path}/wake_up", ModelWake(control), methods=["POST"]),
        Route("/admin/models/{name:path}/is_sleeping", ModelSleeps(control), methods=["GET"]),
        Route("/admin/models/{name:path}", ModelRemoval(control), methods=["DELETE"]),
    ]


class ModelCollection:
    """ASGI endpoint that lists models and loads one.

    Args:
        control: Does it.
        limits: Bounds on a request.
    """

    def __init__(self, control: ModelControl, limits: ApiLimits) -> None:
        self._control = control
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            InvalidRequestError: The body is wrong.
            StokerError: As `ModelControl.load`.
        """
        check_origin(scope)
        if scope["method"] == "POST":
            require_json(scope)
            fields = parse_object(await read_body(receive), max_depth=self._limits.max_json_depth)
            body = validate(LoadBody, fields)
            overrides = ModelSettings.model_validate({k: v for k, v in body.given().items() if k != "model"})
            state = await self._control.load(body.model, overrides)
            await Reply(202, _document(state)).send(send)
        else:
            data = [_plain(state) for state in self._control.states()]
            await Reply(200, orjson.dumps({"models": data})).send(send)


class ModelRemoval:
    """ASGI endpoint that unloads a model.

    Args:
        control: Does it.
    """

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As `ModelControl.unload`.
        """
        check_origin(scope)
        await Reply(202, _document(self._control.unload(scope["path_params"]["name"]))).send(send)


class ModelSleep:
    """ASGI endpoint that puts a model to sleep.

    Args:
        control: Does it.
    """

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As `ModelControl.sleep`.
        """
        check_origin(scope)
        await Reply(200, _document(await self._control.sleep(scope["path_params"]["name"]))).send(send)


class ModelWake:
    """ASGI endpoint that wakes a model.

    Args:
        control: Does it.
    """

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As `ModelControl.wake`.
        """
        check_origin(scope)
        await Reply(200, _document(await self._control.wake(scope["path_params"]["name"]))).send(send)


class ModelSleeps:
    """ASGI endpoint that tells whether a model sleeps.

    Args:
        control: Knows it.
    """

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As `ModelControl.is_sleeping`.
        """
        check_origin(scope)
        sleeps = self._control.is_sleeping(scope["path_params"]["name"])
        await Reply(200, orjson.dumps({"is_sleeping": sleeps})).send(send)


def _document(state: ModelState) -> bytes:
    return orjson.dumps(_plain(state))


def _plain(state: ModelState) -> dict[str, Any]:
    return {name: value for name, value in asdict(state).items() if value is not None}
