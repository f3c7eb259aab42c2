"""The HTTP API over a generator that plays a script, for tests of what clients send and get."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

from stoker.api.limits import ApiLimits
from stoker.api.served import ServedModel, ServedModels
from stoker.api.server import build_api
from stoker.core.text import TextRequest
from stoker.observe.metrics import Metrics
from stoker.testing.asgi import post
from stoker.testing.fixed_models import FixedModels
from stoker.testing.fixed_pins import FixedPins
from stoker.testing.generator import Script, ScriptedGenerator, reply


@dataclass(slots=True)
class ScriptedApi:
    """An API that serves one model, ``tiny``.

    Attributes:
        app: The application.
        generator: Plays the script.
        metrics: What `app` counts.
        models: The models that it serves; can be replaced.
        control: What is behind ``/admin``.
        pins: Its pinned prefixes.
        not_ready: While it holds a reason, the API is not ready.
        draining: While it holds anything, the API takes no requests.
    """

    app: ASGIApp
    generator: ScriptedGenerator
    metrics: Metrics
    models: ServedModels
    control: FixedModels
    pins: FixedPins
    not_ready: list[str] = field(default_factory=list)
    draining: list[str] = field(default_factory=list)

    async def ask(self, path: str, **body: object) -> Any:
        """Post a request for the model and return the answer, which must be one."""
        return await self._post(path, 200, body)

    async def refusal(self, path: str, **body: object) -> Any:
        """Post a request for the model and return the error that refuses it."""
        return (await self._post(path, 400, body))["error"]

    async def _post(self, path: str, status: int, body: dict[str, object]) -> Any:
        response = await post(self.app, path, {"model": "tiny", **body}).done()
        if response.status != status:
            raise AssertionError(f"{path} answered {response.status}, not {status}: {response.body!r}")
        return response.json()


def scripted_api(
    script: Script | None = None,
    *,
    limits: ApiLimits | None = None,
    api_key: str | None = None,
    reserve: Callable[[Sequence[TextRequest]], AbstractContextManager[None]] | None = None,
    allowed_hosts: Collection[str] = (),
) -> ScriptedApi:
    """Return an API whose every answer plays `script`; without one it says ``Hello world``.

    Its tokens are bytes.
    """
    generator = ScriptedGenerator(script or reply("Hello", " world"))
    metrics = Metrics(version="1.2.3")
    not_ready: list[str] = []
    draining: list[str] = []
    control = FixedModels()
    pins = FixedPins()
    model = ServedModel(
        name="tiny",
        generator=generator,
        reserve=reserve or (lambda _: nullcontext()),
        embedder=generator.embedder,
        scorer=generator.scorer,
        hold=lambda prompts, most: nullcontext(min(len(prompts), most)),
        codec=generator.codec,
        pins=pins,
        created=1_700_000_000,
        fingerprint=lambda: "fp_1",
        context_length=512,
    )
    models = ServedModels(model)
    app = build_api(
        models=models,
        control=control,
        readiness=lambda: {"tiny": not_ready[0] if not_ready else None},
        draining=lambda: bool(draining),
        metrics=metrics,
        limits=limits or ApiLimits(),
        api_key=api_key,
        allowed_hosts=allowed_hosts,
    )
    return ScriptedApi(app, generator, metrics, models, control, pins, not_ready, draining)
