"""An API over a scripted generator."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from starlette.types import ASGIApp

from stoker.api.limits import ApiLimits
from stoker.api.server import build_api
from stoker.api.served import ServedModel
from stoker.observe.metrics import Metrics
from stoker.testing.generator import Script, ScriptedGenerator, reply


@dataclass
class Api:
    app: ASGIApp
    generator: ScriptedGenerator
    metrics: Metrics
    not_ready: list[str] = field(default_factory=list)


MakeApi = Callable[..., Api]


def make(script: Script | None = None, *, limits: ApiLimits | None = None, api_key: str | None = None) -> Api:
    generator = ScriptedGenerator(script or reply("Hello", " world"))
    metrics = Metrics(version="1.2.3")
    not_ready: list[str] = []
    model = ServedModel(
        name="tiny",
        generator=generator,
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
    return Api(app, generator, metrics, not_ready)


@pytest.fixture
def make_api() -> MakeApi:
    return make


@pytest.fixture
def api() -> Api:
    return make()
