"""The models of a server: loaded one after the other, served together, unloaded one by one."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stoker.api.admin.control import ModelState, ModelStatus
from stoker.api.served import ServedModels, Snapshot
from stoker.app.hosted import COMING, SERVED, HostedModel, ModelHost
from stoker.app.sleepers import Bed, Sleepers
from stoker.config import ModelSettings, Settings, settings_of_model
from stoker.core.errors import (
    ConflictError,
    InvalidRequestError,
    ModelNotFoundError,
    OutOfMemoryError,
    SettingsError,
    SourceError,
    StokerError,
    UnsupportedFieldError,
)
from stoker.models.library import LocatedModel, ModelLibrary
from stoker.models.sources import Progress
from stoker.observe.metrics import Metrics

DRAIN_CHECK_S = 0.05
"""How often a model that is being unloaded is looked at."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """What a fleet makes its models with.

    Attributes:
        library: Makes the library over store and catalogue.
        prepare: Settings of a model, its name and file, and the number of models that share the memory
            for KV caches, to a host that can be started. Reads the file's header; called in a thread.
    """

    library: Callable[[Settings], ModelLibrary]
    prepare: Callable[[Settings, LocatedModel, int], ModelHost]


class Fleet:
    """Owns every model of a server; a `ModelControl`. Its methods belong to the event loop.

    Models are loaded one at a time: what one takes of the memory is then known to the next.

    Args:
        settings: Returns the settings that hold now.
        makers: What models are made with.
        models: Where requests find them.
        metrics: Where their engines are reported.
    """

    def __init__(
        self, settings: Callable[[], Settings], makers: Makers, models: ServedModels, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._makers = makers
        self._models = models
        self._metrics = metrics
        self._hosted: dict[str, HostedModel] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._unloads: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        now = settings()
        self._sleepers = Sleepers(
            metrics, wake_timeout_s=now.wake_timeout_s, memory_budget_bytes=now.memory_budget
        )

    def prepare(self, names: Sequence[str], progress: Callable[[str], Progress]) -> None:
        """Find, or pull, the models that are served from the start, and read their headers.

        Blocks; called before the event loop runs. Paths are taken here.

        Args:
            names: Names or paths.
            progress: Returns what is told of a model's download.

        Raises:
            StokerError: One cannot be found or run, or two have the same name.
        """
        settings = self._settings()
        if len(names) > settings.max_models:
            raise SettingsError(
                f"{len(names)} models are to be served, but max_models is {settings.max_models}"
            )
        library = self._makers.library(settings)
        for model in names:
            located = library.ensure(model, progress(model))
            own, alias = _settings_for(settings, model, {})
            name = alias or located.model_id
            if name in self._hosted:
                raise SettingsError(
                    f"two models have the name {name}: give one of them another alias in the settings file "
                    f"([models.NAME] alias = ...)"
                )
            host = self._makers.prepare(own, LocatedModel(name, located.path), len(names))
            self._hosted[name] = HostedModel(name=name, model=model, overrides={}, expected=True, host=host)
        self._publish()

    async def start(self) -> None:
        """Start the engines of the prepared models, one after the other.

        Raises:
            StokerError: One cannot start.
        """
        for hosted in list(self._hosted.values()):
            self._loads[hosted.name] = asyncio.create_task(self._start_in_turn(hosted))
        for name, task in list(self._loads.items()):
            await asyncio.wait((task,))
            self._loads.pop(name, None)
            if not task.cancelled():  # somebody may have unloaded it meanwhile
                task.result()

    async def stop(self, *, at_once: bool = False) -> None:
        """End every engine and whatever is being loaded."""
        for hosted in self._hosted.values():
            hosted.given_up.set()
        tasks = [*self._loads.values(), *self._unloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sleepers.close()
        hosts = [hosted.host for hosted in self._hosted.values() if hosted.host is not None]
        await asyncio.gather(*(host.stop(at_once=at_once) for host in hosts))

    def readiness(self) -> Mapping[str, str | None]:
        """Return for each model that is served from the start None, or why it is not ready."""
        return {name: hosted.unreadiness() for name, hosted in self._hosted.items() if hosted.expected}

    @property
    def names(self) -> list[str]:
        """Names of all models, in the order in which they were asked for."""
        return list(self._hosted)

    def apply(self, settings: Settings) -> None:
        """Take over what of the settings can change while models are served."""
        self._sleepers.wake_timeout_s = settings.wake_timeout_s
        for hosted in self._hosted.values():
            own = _settings_for(settings, hosted.model, hosted.overrides)[0]
            hosted.apply(own)
            self._sleepers.tune(hosted.name, own.sleep_after_s)

    def states(self) -> list[ModelState]:
        """Return every model, in the order in which they were asked for."""
        return [hosted.state() for hosted in self._hosted.values()]

    async def load(self, model: str, overrides: ModelSettings) -> ModelState:
        """Begin to load a model by its name in the store or the catalogue; see `ModelControl.load`."""
        if "/" in model or model.endswith(".gguf"):
            raise InvalidRequestError(
                "Invalid 'model': it should be a name that `stoker list` shows. Only `stoker serve` takes "
                "paths.",
                param="model",
                code="invalid_value",
            )
        if overrides.chat_template is not None:
            raise UnsupportedFieldError(
                "'chat_template' is a file of the server's, which only the settings may name. Leave it out.",
                param="chat_template",
            )
        if overrides.draft_model is not None:
            raise UnsupportedFieldError(
                "'draft_model' is a second model, which only the settings may name. Leave it out.",
                param="draft_model",
            )
        settings, key = self._settings(), model.lower()
        try:
            own, alias = _settings_for(settings, key, overrides.given())
        except SettingsError as error:
            raise InvalidRequestError(f"These settings do not go together: {error}.") from error
        hosted = HostedModel(name=alias or key, model=key, overrides=overrides.given())
        self._add(hosted, settings.max_models)
        try:
            library = await asyncio.to_thread(self._library_with, key, settings)
        except BaseException:
            self._remove(hosted)
            raise
        if hosted.given_up.is_set():
            raise ConflictError(f"The model '{hosted.name}' was unloaded meanwhile.")
        self._loads[hosted.name] = asyncio.create_task(self._load(hosted, own, library))
        return hosted.state()

    def unload(self, name: str) -> ModelState:
        """Begin to unload a model, or forget one that failed; see `ModelControl.unload`."""
        hosted = self._named(name)
        if hosted.status is ModelStatus.UNLOADING:
            raise ConflictError(f"The model '{name}' is being unloaded already.")
        hosted.given_up.set()
        hosted.expected = False
        hosted.becomes(ModelStatus.UNLOADING)
        self._publish()
        self._unloads[name] = asyncio.create_task(self._unload(hosted))
        return hosted.state()

    async def sleep(self, name: str) -> ModelState:
        """Put an idle model to sleep; see `ModelControl.sleep`."""
        hosted = self._served(name)
        await self._sleepers.sleep(name)
        return hosted.state()

    async def wake(self, name: str) -> ModelState:
        """Wake a model; see `ModelControl.wake`."""
        hosted = self._served(name)
        await self._sleepers.wake(name)
        return hosted.state()

    def is_sleeping(self, name: str) -> bool:
        """Tell whether a model sleeps; see `ModelControl.is_sleeping`."""
        return self._named(name).status is ModelStatus.SLEEPING

    def _named(self, name: str) -> HostedModel:
        hosted = self._hosted.get(name)
        if hosted is None:
            known = ", ".join(f"'{other}'" for other in self._hosted) or "none"
            raise ModelNotFoundError(f"There is no model '{name[:100]}' here. Models: {known}.")
        return hosted

    def _served(self, name: str) -> HostedModel:
        hosted = self._named(name)
        if hosted.status not in SERVED:
            raise ConflictError(f"The model '{name}' is {hosted.status.value}; it must be served for this.")
        return hosted

    def _library_with(self, key: str, settings: Settings) -> ModelLibrary:
        """Return the library if the store or the catalogue has this name; reads files."""
        library = self._makers.library(settings)
        if key not in library.catalogue and library.locate(key) is None:
            raise ModelNotFoundError(f"There is no model {key!r} in the store or the catalogue.")
        return library

    def _add(self, hosted: HostedModel, max_models: int) -> None:
        other = self._hosted.get(hosted.name)
        if other is not None and other.status is not ModelStatus.FAILED:
            raise ConflictError(f"There is a model '{hosted.name}' already: it is {other.status.value}.")
        failed = [each for each in self._hosted.values() if each.status is ModelStatus.FAILED]
        if len(self._hosted) - len(failed) >= max_models:
            raise ConflictError(
                f"There are {max_models} models, which is the most (max_models). Unload one first."
            )
        for forgotten in [*failed[: max(0, len(failed) + 1 - max_models)], *filter(None, [other])]:
            self._hosted.pop(forgotten.name, None)
        self._hosted[hosted.name] = hosted
        self._publish()

    def _remove(self, hosted: HostedModel) -> None:
        if self._hosted.get(hosted.name) is hosted:
            del self._hosted[hosted.name]
            self._publish()

    def _publish(self) -> None:
        self._models.replace(
            Snapshot(
                serving={
                    hosted.name: hosted.served
                    for hosted in self._hosted.values()
                    if hosted.served is not None and hosted.status in SERVED
                },
                coming=frozenset(hosted.name for hosted in self._hosted.values() if hosted.status in COMING),
            )
        )

    async def _load(self, hosted: HostedModel, settings: Settings, library: ModelLibrary) -> None:
        try:
            async with self._turn:
                located = await self._pull(hosted, library)
                hosted.becomes(ModelStatus.LOADING)
                n_models = sum(each.status is not ModelStatus.FAILED for each in self._hosted.values())
                renamed = LocatedModel(hosted.name, located.path)
                hosted.host = await asyncio.to_thread(self._makers.prepare, settings, renamed, n_models)
                await self._start(hosted, hosted.host, settings)
        except StokerError as error:
            self._fail(hosted, str(error))
        except Exception:  # noqa: BLE001 - whatever it is, the other models are not concerned
            _log.exception("the model %s could not be loaded", hosted.name)
            self._fail(hosted, "an error of the server's own, which its log describes")
        finally:
            self._loads.pop(hosted.name, None)

    async def _pull(self, hosted: HostedModel, library: ModelLibrary) -> LocatedModel:
        """Find the model's file, or fetch it in a thread."""
        loop = asyncio.get_running_loop()

        def report(done_bytes: int, total_bytes: int | None) -> None:
            if hosted.given_up.is_set():
                raise SourceError("It is not wanted any more.")
            loop.call_soon_threadsafe(hosted.pulls, done_bytes, total_bytes)

        return await asyncio.to_thread(library.ensure, hosted.model, report)

    async def _start_in_turn(self, hosted: HostedModel) -> None:
        async with self._turn:
            if hosted.host is not None:
                hosted.becomes(ModelStatus.LOADING)
                own, _ = _settings_for(self._settings(), hosted.model, hosted.overrides)
                await self._start(hosted, hosted.host, own)

    async def _start(self, hosted: HostedModel, host: ModelHost, settings: Settings) -> None:
        """Start a model within the memory that models may have; others may have to sleep for it."""
        name, budget_bytes = hosted.name, self._settings().memory_budget
        if budget_bytes is not None and host.need_bytes > budget_bytes:
            raise OutOfMemoryError(
                f"the model {name} needs {host.need_bytes / 1e6:.0f} MB for weights, KV cache and steps, and "
                f"memory_budget is {budget_bytes / 1e6:.0f} MB; raise it, or set a smaller kv_memory, "
                "context_length, max_running or step_tokens"
            )
        self._metrics.watch_engine(name, host.report)
        bed = Bed(
            need_bytes=host.need_bytes,
            sleep_after_s=settings.sleep_after_s,
            wake=lambda: self._bring_up(hosted, host),
            sleep=host.sleep,
            changed=hosted.rests,
        )
        self._sleepers.add(name, bed)
        try:
            await self._sleepers.start(name)
        except BaseException:
            await self._sleepers.remove(name)
            raise
        self._metrics.watch_choices(name, lambda: hosted.in_flight)
        self._metrics.watch_memory(
            name, prompt_bytes=lambda: hosted.prompt_bytes, unread_tokens=lambda: host.unread
        )
        self._metrics.watch_sleep(name, lambda: hosted.status is ModelStatus.SLEEPING)
        self._publish()
        _log.info("the model %s is ready", name)

    async def _bring_up(self, hosted: HostedModel, host: ModelHost) -> None:
        """Start a model's engine, the first time with all that stays while it sleeps."""
        if hosted.served is not None:
            await host.wake()
            return
        generator = await host.start()
        hosted.open(generator, host, self._sleepers.door(hosted.name))

    def _fail(self, hosted: HostedModel, reason: str) -> None:
        if hosted.status is ModelStatus.UNLOADING:
            return
        _log.error("the model %s could not be loaded: %s", hosted.name, reason)
        hosted.host = None
        hosted.becomes(ModelStatus.FAILED, reason)
        self._metrics.forget(hosted.name)
        self._publish()

    async def _unload(self, hosted: HostedModel) -> None:
        loading = self._loads.pop(hosted.name, None)
        if loading is not None:
            loading.cancel()
            await asyncio.wait((loading,))
        now = asyncio.get_running_loop().time
        deadline_s = now() + self._settings().shutdown_timeout_s
        while hosted.in_flight and now() < deadline_s:  # noqa: ASYNC110 - once a model is often enough
            await asyncio.sleep(DRAIN_CHECK_S)
        if hosted.in_flight:
            _log.warning("the model %s is unloaded with %d choices", hosted.name, hosted.in_flight)
        await self._sleepers.remove(hosted.name)
        if hosted.host is not None:
            await hosted.host.stop()
        self._metrics.forget(hosted.name)
        self._remove(hosted)
        self._unloads.pop(hosted.name, None)
        _log.info("the model %s is unloaded", hosted.name)


def _settings_for(
    settings: Settings, model: str, overrides: Mapping[str, object]
) -> tuple[Settings, str | None]:
    """Return the settings of one model and its alias: what it was asked for with, its table, all models'.

    Raises:
        SettingsError: Together they contradict each other.
    """
    table = settings.models.get(model) or settings.models.get(model.lower())
    given = {**(table.given() if table is not None else {}), **overrides}
    alias = given.pop("alias", None)
    return settings_of_model(settings, given), None if alias is None else str(alias)
