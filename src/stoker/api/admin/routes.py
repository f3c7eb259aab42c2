"""``/admin/models``: the models that the server has; load, unload, put to sleep and wake them."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from pydantic import StringConstraints
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.api.admin.control import ModelControl, ModelState
from stoker.api.limits import ApiLimits
from stoker.api.openai.validation import valid_body
from stoker.api.origin import check_origin
from stoker.api.reply import Reply
from stoker.config import ModelSettings


class LoadBody(ModelSettings):
    """The body of ``POST /admin/models``."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]


def admin_routes(*, control: ModelControl, limits: ApiLimits) -> list[Route]:
    """Return the routes under ``/admin``."""

    async def sleep(name: str) -> bytes:
        return _document(await control.sleep(name))

    async def wake(name: str) -> bytes:
        return _document(await control.wake(name))

    async def is_sleeping(name: str) -> bytes:
        return orjson.dumps({"is_sleeping": control.is_sleeping(name)})

    async def unload(name: str) -> bytes:
        return _document(control.unload(name))

    return [
        Route("/admin/models", ModelCollection(control, limits), methods=["GET", "POST"]),
        Route("/admin/models/{name:path}/sleep", ModelAction(sleep), methods=["POST"]),
        Route("/admin/models/{name:path}/wake_up", ModelAction(wake), methods=["POST"]),
        Route("/admin/models/{name:path}/is_sleeping", ModelAction(is_sleeping), methods=["GET"]),
        Route("/admin/models/{name:path}", ModelAction(unload, status=202), methods=["DELETE"]),
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
            body = await valid_body(scope, receive, LoadBody, self._limits)
            overrides = ModelSettings.model_validate({k: v for k, v in body.given().items() if k != "model"})
            state = await self._control.load(body.model, overrides)
            await Reply(202, _document(state)).send(send)
        else:
            data = [_plain(state) for state in self._control.states()]
            await Reply(200, orjson.dumps({"models": data})).send(send)


class ModelAction:
    """ASGI endpoint that does one thing with the model that its path names.

    Args:
        act: Does it, and returns the answer.
        status: Of the answer.
    """

    def __init__(self, act: Callable[[str], Awaitable[bytes]], *, status: int = 200) -> None:
        self._act = act
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As the method of `ModelControl`.
        """
        check_origin(scope)
        await Reply(self._status, await self._act(scope["path_params"]["name"])).send(send)


def _document(state: ModelState) -> bytes:
    return orjson.dumps(_plain(state))


def _plain(state: ModelState) -> dict[str, Any]:
    return {name: value for name, value in asdict(state).items() if value is not None}
