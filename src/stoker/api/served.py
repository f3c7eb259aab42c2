"""What the HTTP edge knows of the models that it serves."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from stoker.api.body import shown
from stoker.core.errors import ConflictError, ModelNotFoundError, NotReadyError
from stoker.core.protocols import Embedder, Generator, Pins, Scorer, TextCodec
from stoker.core.text import Prompt, TextRequest
from stoker.core.tokens import AdapterRef

MAX_ADAPTERS = 10_000
"""Most adapters that are loaded by name, of all models together."""

_MAX_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model behind the API.

    Attributes:
        name: The model id that clients send.
        generator: Answers requests for it, every policy included.
        reserve: Holds the places of all of a job's requests while its context lasts, or raises
            `QueueFullError` if there are too few; `generator` then takes them from there.
        embedder: Makes embeddings.
        scorer: Tells how likely choices are after prompts.
        hold: Holds up to so many places for prompts to embed or score while its context lasts, and
            says how many; or raises `QueueFullError` if there are none.
        codec: Turns text to token ids and back, as `generator` does.
        pins: Its pinned prefixes.
        created: When the model was made or fetched, in seconds since 1970.
        fingerprint: Returns the current ``system_fingerprint``, or None while no engine is known.
        context_length: Most tokens (prompt and output) of one sequence.
        read_adapter: Reads and checks an adapter by its path, and returns it as engines find it; blocks.
            None if the model takes none.
        parent: The base's name, if this is an adapter.
        adapter: The adapter that requests for it are computed with, or None.
    """

    name: str
    generator: Generator
    reserve: Callable[[Sequence[TextRequest]], AbstractContextManager[None]]
    embedder: Embedder
    scorer: Scorer
    hold: Callable[[Sequence[Prompt], int], AbstractContextManager[int]]
    codec: TextCodec
    pins: Pins
    created: int
    fingerprint: Callable[[], str | None]
    context_length: int
    read_adapter: Callable[[str], AdapterRef] | None = None
    parent: str | None = None
    adapter: AdapterRef | None = None

    @property
    def base_name(self) -> str:
        """Name of the model that computes its answers, under which they are counted."""
        return self.parent or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAdapter:
    """An adapter that clients may ask for.

    Attributes:
        name: Its name: a model id of its own, also behind its base's and a colon.
        base: The base's name.
        ref: Where engines find it.
        created: When it was loaded, in seconds since 1970.
    """

    name: str
    base: str
    ref: AdapterRef
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Which models there are at one moment; never changes.

    Attributes:
        serving: Models that take requests, by name.
        coming: Names of those that are being loaded.
    """

    serving: Mapping[str, ServedModel] = field(default_factory=dict)
    coming: frozenset[str] = frozenset()


class ServedModels:
    """The models that are served now: requests read, and one owner replaces, a whole snapshot.

    Args:
        models: Models that are served from the beginning.
    """

    def __init__(self, *models: ServedModel) -> None:
        self._now = Snapshot(serving={model.name: model for model in models})
        self._adapters: dict[str, ServedAdapter] = {}

    @property
    def now(self) -> Snapshot:
        """What is served now."""
        return self._now

    def replace(self, snapshot: Snapshot) -> None:
        """Serve this from now on; requests that have found their model keep it.

        Adapters go with their base: what is loaded later under its name may be another model.
        """
        self._now = snapshot
        there = {*snapshot.serving, *snapshot.coming}
        self._adapters = {name: each for name, each in self._adapters.items() if each.base in there}

    def find(self, name: str, *, param: str = "model") -> ServedModel:
        """Return the served model of this name, or the adapter of it, as ``adapter`` or ``base:adapter``.

        Args:
            name: The name.
            param: The request's field that has it.

        Raises:
            ModelNotFoundError: There is none; the message names those there are.
            NotReadyError: It is being loaded.
        """
        now = self._now
        model = now.serving.get(name)
        if model is not None:
            return model
        adapted = self._find_adapted(name)
        if adapted is not None:
            return adapted
        if name in now.coming:
            raise NotReadyError(f"The model '{shown(name)}' is being loaded. Try again later.")
        names = [*now.serving, *self._adapters]
        served = ", ".join(f"'{known}'" for known in names[:_MAX_SHOWN]) or "none"
        if len(names) > _MAX_SHOWN:
            served += f" and {len(names) - _MAX_SHOWN} more"
        raise ModelNotFoundError(
            f"The model '{shown(name)}' is not served here. Served models: {served}.", param=param
        )

    def adapted(self) -> list[ServedModel]:
        """Return every adapter whose base is served, as a model."""
        return [model for name in self._adapters if (model := self._find_adapted(name)) is not None]

    def check_adapter_name(self, name: str) -> None:
        """Refuse a name that is taken, or one adapter too many.

        Raises:
            ConflictError: So it is.
        """
        now = self._now
        if name in self._adapters or name in now.serving or name in now.coming:
            raise ConflictError(
                f"There is a model or adapter '{name}' already. Unload it, or take another name."
            )
        if len(self._adapters) >= MAX_ADAPTERS:
            raise ConflictError(f"There are {MAX_ADAPTERS} adapters, which is the most. Unload one first.")

    def add_adapter(self, adapter: ServedAdapter) -> None:
        """Let clients ask for an adapter.

        Raises:
            ConflictError: As `check_adapter_name`.
            ModelNotFoundError: Its base is served no more.
        """
        self.find(adapter.base, param="base_model_name")
        self.check_adapter_name(adapter.name)
        self._adapters[adapter.name] = adapter

    def remove_adapter(self, name: str) -> ServedAdapter:
        """Forget an adapter; requests that have found it keep it.

        Raises:
            ModelNotFoundError: There is none of this name.
        """
        adapter = self._adapters.pop(name, None)
        if adapter is None:
            raise ModelNotFoundError(f"There is no adapter '{shown(name)}' here.", param="lora_name")
        return adapter

    def _find_adapted(self, name: str) -> ServedModel | None:
        base_name, colon, own_name = name.rpartition(":")
        adapter = self._adapters.get(own_name)
        if adapter is None or (colon and adapter.base != base_name):
            return None
        base = self._now.serving.get(adapter.base)
        if base is None:
            return None
        return replace(
            base, name=adapter.name, created=adapter.created, parent=base.name, adapter=adapter.ref
        )
