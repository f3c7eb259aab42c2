"""A `ModelControl` that remembers what it was asked for, for tests of the administration routes."""

from dataclasses import dataclass, field, replace

from stoker.api.admin.control import ModelState, ModelStatus
from stoker.config import ModelSettings
from stoker.core.errors import ConflictError, ModelNotFoundError


@dataclass(slots=True)
class FixedModels:
    """Loads and unloads in name only.

    Attributes:
        loaded: What was asked to be loaded, by the name it is served under.
        asleep: Names of those that sleep.
    """

    loaded: dict[str, tuple[str, ModelSettings]] = field(default_factory=dict)
    asleep: set[str] = field(default_factory=set)

    def states(self) -> list[ModelState]:
        """Return every model."""
        return [_state(name, model) for name, (model, _) in self.loaded.items()]

    async def load(self, model: str, overrides: ModelSettings) -> ModelState:
        """Remember a model."""
        name = overrides.alias or model
        if name in self.loaded:
            raise ConflictError(f"There is a model '{name}' already.")
        self.loaded[name] = (model, overrides)
        return _state(name, model)

    def unload(self, name: str) -> ModelState:
        """Forget a model."""
        self._find(name)
        model, _ = self.loaded.pop(name)
        return _state(name, model)

    async def sleep(self, name: str) -> ModelState:
        """Note that a model sleeps."""
        state = self._find(name)
        self.asleep.add(name)
        return replace(state, status=ModelStatus.SLEEPING)

    async def wake(self, name: str) -> ModelState:
        """Note that a model is awake."""
        state = self._find(name)
        self.asleep.discard(name)
        return replace(state, status=ModelStatus.READY)

    def is_sleeping(self, name: str) -> bool:
        """Tell whether a model sleeps."""
        self._find(name)
        return name in self.asleep

    def _find(self, name: str) -> ModelState:
        if name not in self.loaded:
            raise ModelNotFoundError(f"There is no model '{name}' here.")
        return _state(name, self.loaded[name][0])


def _state(name: str, model: str) -> ModelState:
    return ModelState(name=name, model=model, status=ModelStatus.QUEUED, since=1.0)
