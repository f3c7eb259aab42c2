"""Models come and go one by one, and none concerns another."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.api.admin.control import ModelStatus
from stoker.api.served import ServedModels
from stoker.app.fleet import Fleet, Makers
from stoker.config import ModelSettings, Settings
from stoker.core.errors import (
    ConflictError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OutOfMemoryError,
    QueueFullError,
    SettingsError,
    UnsupportedFieldError,
)
from stoker.core.text import Started, TextPrompt, TextRequest
from stoker.models.catalogue import load_catalogue
from stoker.models.library import LocatedModel, ModelLibrary
from stoker.observe.metrics import Metrics
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.model_host import ScriptedHost

NO_OVERRIDES = ModelSettings()


class Yard:
    """A fleet over tiny files in a catalogue of their own, whose hosts are scripted."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        for name in ("one", "two", "three"):
            write_tiny_llama(folder / f"{name}.gguf")
        self.catalogue = folder / "catalogue.toml"
        self.catalogue.write_text(
            "\n".join(
                f'[models.{name}]\ndescription = "d"\nlicence = "MIT"\n[[models.{name}.sources]]\n'
                f'path = "{folder / name}.gguf"'
                for name in ("one", "two", "three")
            )
        )
        self.folder = folder
        self.settings = Settings.model_validate({"home": folder, "shutdown_timeout_s": 1, **settings})
        self.hosts: dict[str, ScriptedHost] = {}
        self.prepared: list[tuple[str, Settings, int]] = []
        self.models = ServedModels()
        self.metrics = Metrics(version="1")
        makers = Makers(library=self.library, prepare=self.prepare)
        self.fleet = Fleet(lambda: self.settings, makers, self.models, self.metrics)

    def library(self, settings: Settings) -> ModelLibrary:
        return ModelLibrary(settings.models_dir, load_catalogue([self.catalogue]))

    def prepare(self, settings: Settings, located: LocatedModel, n_sharers: int) -> ScriptedHost:
        self.prepared.append((located.model_id, settings, n_sharers))
        return self.hosts.setdefault(located.model_id, ScriptedHost())

    def host(self, name: str, **values: Any) -> ScriptedHost:
        host = self.hosts.setdefault(name, ScriptedHost(**values))
        host.may_start.set()
        return host

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.gguf")

    def status(self, name: str) -> ModelStatus | None:
        return {state.name: state.status for state in self.fleet.states()}.get(name)

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)

    async def started(self, *names: str) -> "Yard":
        self.fleet.prepare([self.path(name) for name in names], lambda _: lambda *_: None)
        for name in names:
            self.host(name)
        await self.fleet.start()
        return self


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def request(model: str) -> TextRequest:
    return TextRequest(request_id="r", model=model, prompt=TextPrompt("hi"), max_tokens=8)


async def test_models_of_the_start_are_loaded_in_turn_and_share_the_memory(yard: Yard) -> None:
    yard.fleet.prepare([yard.path("one"), yard.path("two")], lambda _: lambda *_: None)
    assert [(name, sharers) for name, _, sharers in yard.prepared] == [("one", 2), ("two", 2)]
    with pytest.raises(NotReadyError, match="'one' is being loaded"):
        yard.models.find("one")
    starting = asyncio.create_task(yard.fleet.start())
    await yard.until(lambda: yard.status("one") is ModelStatus.LOADING)
    assert yard.status("two") is ModelStatus.QUEUED
    yard.host("one")
    await yard.until(lambda: yard.status("two") is ModelStatus.LOADING)
    assert yard.models.find("one").context_length == 512
    assert yard.fleet.readiness() == {"one": None, "two": "the model two is loading"}
    yard.host("two")
    await starting
    assert yard.fleet.readiness() == {"one": None, "two": None}
    await yard.fleet.stop()
    assert all(host.stopped for host in yard.hosts.values())


async def test_a_model_of_the_start_that_fails_ends_the_start(yard: Yard) -> None:
    yard.fleet.prepare([yard.path("one"), yard.path("two")], lambda _: lambda *_: None)
    yard.host("one")
    yard.hosts["two"].failure = OutOfMemoryError("too large")
    yard.host("two")
    with pytest.raises(OutOfMemoryError, match="too large"):
        await yard.fleet.start()
    await yard.fleet.stop()


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        (["one", "one"], {}, "two models have the name one"),
        (["one", "two"], {"max_models": 1}, "max_models is 1"),
    ],
)
async def test_what_cannot_be_served_together(
    tmp_path: Path, names: list[str], settings: dict[str, Any], words: str
) -> None:
    yard = Yard(tmp_path, **settings)
    with pytest.raises(SettingsError, match=words):
        yard.fleet.prepare([yard.path(name) for name in names], lambda _: lambda *_: None)


async def test_a_table_gives_a_model_a_name_and_settings_of_its_own(tmp_path: Path) -> None:
    table = {"alias": "first", "max_running": 5, "context_length": 128}
    yard = Yard(tmp_path, models={str(tmp_path / "one.gguf"): table}, max_waiting=7)
    yard.fleet.prepare([yard.path("one"), yard.path("two")], lambda _: lambda *_: None)
    (first, own, _), (second, common, _) = yard.prepared
    assert (first, own.max_running, own.context_length, own.max_waiting) == ("first", 5, 128, 7)
    assert (second, common.max_running, common.context_length) == ("two", 64, None)


async def test_a_model_is_pulled_loaded_used_and_unloaded(yard: Yard) -> None:
    await yard.started("one")
    state = await yard.fleet.load("TWO", ModelSettings(alias="second", max_running=1))
    assert (state.name, state.model, state.status) == ("second", "two", ModelStatus.QUEUED)
    await yard.until(lambda: yard.status("second") is ModelStatus.LOADING)
    with pytest.raises(NotReadyError):
        yard.models.find("second")
    yard.host("second")
    await yard.until(lambda: yard.status("second") is ModelStatus.READY)
    assert yard.prepared[-1][0] == "second"
    assert yard.prepared[-1][1].max_running == 1
    assert yard.prepared[-1][2] == 2
    assert yard.fleet.readiness() == {"one": None}, "only those of the start are expected"
    events = [event async for event in yard.models.find("second").generator.generate(request("second"))]
    assert isinstance(events[0], Started)
    assert b'model="second"' in yard.metrics.render()
    yard.fleet.unload("second")
    with pytest.raises(ModelNotFoundError, match="Served models: 'one'"):
        yard.models.find("second")
    await yard.until(lambda: yard.status("second") is None)
    assert yard.hosts["second"].stopped
    assert b'model="second"' not in yard.metrics.render()
    assert yard.models.find("one")
    await yard.fleet.stop()


async def test_unloading_waits_for_what_runs_but_not_for_ever(yard: Yard) -> None:
    await yard.started("one", "two")
    async with (
        aclosing(yard.models.find("one").generator.generate(request("one"))) as first,
        aclosing(yard.models.find("two").generator.generate(request("two"))) as second,
    ):
        await anext(first)
        await anext(second)
        for name in ("one", "two"):
            yard.fleet.unload(name)
        await asyncio.sleep(0.2)
        assert not yard.hosts["one"].stopped
        assert [event async for event in first], "what runs may end"
        await yard.until(lambda: yard.status("one") is None)
        assert yard.status("two") is ModelStatus.UNLOADING
        await yard.until(lambda: yard.status("two") is None)
        assert yard.hosts["two"].stopped
    await yard.fleet.stop()


async def test_a_failed_load_says_why_and_leaves_the_others(yard: Yard) -> None:
    await yard.started("one")
    yard.host("two", failure=OutOfMemoryError("it does not fit"))
    await yard.fleet.load("two", NO_OVERRIDES)
    await yard.until(lambda: yard.status("two") is ModelStatus.FAILED)
    assert [state.reason for state in yard.fleet.states()] == [None, "it does not fit"]
    with pytest.raises(ModelNotFoundError):
        yard.models.find("two")
    assert yard.fleet.readiness() == {"one": None}
    yard.hosts["two"].failure = None
    await yard.fleet.load("two", NO_OVERRIDES)
    await yard.until(lambda: yard.status("two") is ModelStatus.READY)
    await yard.fleet.stop()


async def test_a_failed_load_can_be_forgotten(yard: Yard) -> None:
    yard.host("two", failure=OutOfMemoryError("it does not fit"))
    await yard.fleet.load("two", NO_OVERRIDES)
    await yard.until(lambda: yard.status("two") is ModelStatus.FAILED)
    yard.fleet.unload("two")
    await yard.until(lambda: yard.status("two") is None)


async def test_two_loads_of_one_name(yard: Yard) -> None:
    await yard.fleet.load("one", NO_OVERRIDES)
    with pytest.raises(ConflictError, match="'one' already"):
        await yard.fleet.load("one", NO_OVERRIDES)
    await yard.fleet.load("one", ModelSettings(alias="again"))
    await yard.fleet.stop()


async def test_models_are_limited_in_number(tmp_path: Path) -> None:
    yard = Yard(tmp_path, max_models=1)
    await yard.started("one")
    with pytest.raises(ConflictError, match="max_models"):
        await yard.fleet.load("two", NO_OVERRIDES)
    yard.fleet.unload("one")
    await yard.until(lambda: yard.status("one") is None)
    assert yard.fleet.readiness() == {}
    await yard.fleet.load("two", NO_OVERRIDES)
    await yard.fleet.stop()


@pytest.mark.parametrize("model", ["/etc/passwd", "./x", "one.gguf", "https://example.org/x", "org/model"])
async def test_paths_are_not_taken_from_clients(yard: Yard, model: str) -> None:
    with pytest.raises(InvalidRequestError, match="takes paths"):
        await yard.fleet.load(model, NO_OVERRIDES)
    assert yard.fleet.states() == []


async def test_an_unknown_name_leaves_no_trace(yard: Yard) -> None:
    with pytest.raises(ModelNotFoundError, match="'four'"):
        await yard.fleet.load("four", NO_OVERRIDES)
    with pytest.raises(ModelNotFoundError, match="'four'"):
        yard.fleet.unload("four")
    assert yard.fleet.states() == []


async def test_settings_that_do_not_go_together(yard: Yard) -> None:
    with pytest.raises(InvalidRequestError, match="step_tokens"):
        await yard.fleet.load("one", ModelSettings(max_running=1000))


async def test_a_request_cannot_name_a_file_of_the_server_s(yard: Yard) -> None:
    await yard.started("one")
    with pytest.raises(UnsupportedFieldError) as caught:
        await yard.fleet.load("one", ModelSettings(alias="again", chat_template=Path("/etc/passwd")))
    assert caught.value.param == "chat_template"
    assert yard.status("again") is None


async def test_a_request_cannot_name_a_draft_model(yard: Yard) -> None:
    await yard.started("one")
    with pytest.raises(UnsupportedFieldError) as caught:
        await yard.fleet.load("one", ModelSettings(alias="again", draft_model="two"))
    assert caught.value.param == "draft_model"
    assert yard.status("again") is None


async def test_unloading_gives_up_a_load(yard: Yard) -> None:
    await yard.fleet.load("one", NO_OVERRIDES)
    await yard.fleet.load("two", NO_OVERRIDES)
    await yard.until(lambda: yard.status("one") is ModelStatus.LOADING)
    yard.fleet.unload("one")
    with pytest.raises(ConflictError, match="being unloaded"):
        yard.fleet.unload("one")
    await yard.until(lambda: yard.status("one") is None)
    yard.host("two")
    await yard.until(lambda: yard.status("two") is ModelStatus.READY)
    await yard.fleet.stop()


async def test_a_model_whose_engine_died_is_listed_as_unready(yard: Yard) -> None:
    await yard.started("one")
    yard.hosts["one"].not_ready = "the engine died"
    (state,) = yard.fleet.states()
    assert (state.status, state.reason) == (ModelStatus.UNREADY, "the engine died")
    assert yard.fleet.readiness() == {"one": "the engine died"}
    assert yard.models.find("one"), "a request says itself that there is no engine"
    await yard.fleet.stop()


async def test_new_settings_reach_models_and_their_queues(yard: Yard) -> None:
    await yard.started("one")
    model = yard.models.find("one")

    def reserve(n: int) -> None:
        with model.reserve([replace(request("one"), n=n)]):
            pass

    reserve(5)
    for max_waiting, n_places in ((1, 3), (100, 5)):
        yard.fleet.apply(yard.settings.model_copy(update={"max_waiting": max_waiting}))
        reserve(n_places)
        with pytest.raises((InvalidRequestError, QueueFullError)):
            reserve(n_places + 1)
    assert len(yard.hosts["one"].applied) == 2
    await yard.fleet.stop()


async def test_a_sleeping_model_is_served_listed_and_ready(yard: Yard) -> None:
    await yard.started("one")
    state = await yard.fleet.sleep("one")
    assert (state.status, state.reason) == (ModelStatus.SLEEPING, None)
    assert yard.fleet.is_sleeping("one")
    yard.hosts["one"].not_ready = "the engine is asleep"
    assert yard.fleet.readiness() == {"one": None}
    assert b'stoker_model_asleep{model="one"} 1.0' in yard.metrics.render()
    yard.hosts["one"].not_ready = None
    model = yard.models.find("one")
    assert [event async for event in model.generator.generate(request("one"))]
    assert yard.status("one") is ModelStatus.READY
    assert not yard.fleet.is_sleeping("one")
    assert (yard.hosts["one"].n_sleeps, yard.hosts["one"].n_wakes) == (1, 1)
    await yard.fleet.sleep("one")
    assert (await yard.fleet.wake("one")).status is ModelStatus.READY
    await yard.fleet.stop()


async def test_models_share_a_memory_budget(tmp_path: Path) -> None:
    yard = Yard(tmp_path, memory_budget=2**20)
    for name in ("one", "two"):
        yard.hosts[name] = ScriptedHost(need_bytes=2**20)
    await yard.started("one", "two")
    assert (yard.status("one"), yard.status("two")) == (ModelStatus.SLEEPING, ModelStatus.READY)
    assert yard.fleet.readiness() == {"one": None, "two": None}
    async with aclosing(yard.models.find("two").generator.generate(request("two"))) as events:
        await anext(events)
        waits = asyncio.create_task(anext(yard.models.find("one").generator.generate(request("one"))))
        await asyncio.sleep(0.02)
        assert not waits.done(), "a model that answers is not put to sleep"
        with pytest.raises(ConflictError, match="answers requests"):
            await yard.fleet.sleep("two")
    await waits
    assert (yard.status("one"), yard.status("two")) == (ModelStatus.READY, ModelStatus.SLEEPING)
    yard.host("three", need_bytes=2**20 + 1)
    await yard.fleet.load("three", NO_OVERRIDES)
    await yard.until(lambda: yard.status("three") is ModelStatus.FAILED)
    assert "memory_budget" in str(yard.fleet.states()[-1].reason)
    await yard.fleet.stop()


async def test_sleep_of_what_is_not_served(yard: Yard) -> None:
    with pytest.raises(ModelNotFoundError):
        await yard.fleet.sleep("one")
    with pytest.raises(ModelNotFoundError):
        yard.fleet.is_sleeping("one")
    await yard.fleet.load("one", NO_OVERRIDES)
    with pytest.raises(ConflictError, match="must be served"):
        await yard.fleet.wake("one")
    await yard.fleet.stop()


async def test_new_settings_change_after_how_long_models_sleep(yard: Yard) -> None:
    await yard.started("one")
    yard.fleet.apply(yard.settings.model_copy(update={"sleep_after_s": 0.01}))
    await yard.until(lambda: yard.status("one") is ModelStatus.SLEEPING)
    await yard.fleet.stop()


async def test_a_server_ends_during_a_wake(yard: Yard) -> None:
    await yard.started("one")
    await yard.fleet.sleep("one")
    yard.hosts["one"].may_wake.clear()
    waits = asyncio.create_task(anext(yard.models.find("one").generator.generate(request("one"))))
    await yard.until(lambda: yard.status("one") is ModelStatus.WAKING)
    await yard.fleet.stop()
    with pytest.raises(NotReadyError):
        await waits
    assert yard.hosts["one"].stopped


async def test_a_sleeping_model_is_unloaded(yard: Yard) -> None:
    await yard.started("one")
    await yard.fleet.sleep("one")
    yard.fleet.unload("one")
    await yard.until(lambda: yard.status("one") is None)
    assert yard.hosts["one"].stopped
    assert b'model="one"' not in yard.metrics.render()
