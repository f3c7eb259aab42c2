"""A `ModelControl` that remembers what it was asked for, for tests of the administration routes."""

from dataclasses import dataclass, field

from stoker.api.admin.control import ModelState, ModelStatus
from stoker.config import ModelSettings
from stoker.core.errors import ConflictError, ModelNotFoundError


@dataclass(slots=True)
class FixedModels:
    """Loads and unloads in name only.

    Attributes:
        loaded: What was asked to be loaded, by the name it is served under.
    """

    loaded: dict[str, tuple[str, ModelSettings]] = field(default_factory=dict)

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
        if name not in self.loaded:
            raise ModelNotFoundError(f"There is no model '{name}' here.")
        model, _ = self.loaded.pop(name)
        return _state(name, model)


def _state(name: str, model: str) -> ModelState:
    return ModelState(name=name, model=model, status=ModelStatus.QUEUED, since=1.0)
