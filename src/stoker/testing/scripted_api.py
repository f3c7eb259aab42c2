"""The HTTP API over a generator that plays a script, for tests of what clients send and get."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from stoker.api.limits import ApiLimits
from stoker.api.served import ServedModel
from stoker.api.server import build_api
from stoker.core.text import TextRequest
from stoker.observe.metrics import Metrics
from stoker.testing.generator import Script, ScriptedGenerator, reply
from stoker.testing.local_generator import generator as generator_over_bytes
from stoker.testing.token_engine import FakeTokenEngine


@dataclass(slots=True)
class ScriptedApi:
    """An API that serves one model, ``tiny``.

    Attributes:
        app: The application.
        generator: Plays the script.
        metrics: What `app` counts.
        not_ready: While it holds a reason, the API is not ready.
    """

    app: ASGIApp
    generator: ScriptedGenerator
    metrics: Metrics
    not_ready: list[str] = field(default_factory=list)


def scripted_api(
    script: Script | None = None,
    *,
    limits: ApiLimits | None = None,
    api_key: str | None = None,
    reserve: Callable[[Sequence[TextRequest]], AbstractContextManager[None]] | None = None,
) -> ScriptedApi:
    """Return an API whose every answer plays `script`; without one it says ``Hello world``.

    Its tokens are bytes.
    """
    generator = ScriptedGenerator(script or reply("Hello", " world"))
    metrics = Metrics(version="1.2.3")
    not_ready: list[str] = []
    model = ServedModel(
        name="tiny",
        generator=generator,
        reserve=reserve or (lambda _: nullcontext()),
        codec=generator_over_bytes(FakeTokenEngine(), context=512).codec,
        created=1_700_000_000,
        fingerprint=lambda: "fp_1",
        context_length=512,
    )
    app = build_api(
        models={"tiny": model},
        readiness=lambda: not_ready[0] if not_ready else None,
        metrics=metrics,
        limits=limits or ApiLimits(),
        api_key=api_key,
    )
    return ScriptedApi(app, generator, metrics, not_ready)
