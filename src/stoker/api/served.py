"""What the HTTP edge knows of the models that it serves."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from stoker.api.body import shown
from stoker.core.errors import ModelNotFoundError, NotReadyError
from stoker.core.protocols import Embedder, Generator, Pins, TextCodec
from stoker.core.text import Prompt, TextRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model behind the API.

    Attributes:
        name: The model id that clients send.
        generator: Answers requests for it, every policy included.
        reserve: Holds the places of all of a job's requests while its context lasts, or raises
            `QueueFullError` if there are too few; `generator` then takes them from there.
        embedder: Makes embeddings.
        hold: Holds up to so many places for prompts to embed while its context lasts, and says how many; or
            raises `QueueFullError` if there are none.
        codec: Turns text to token ids and back, as `generator` does.
        pins: Its pinned prefixes.
        created: When the model was made or fetched, in seconds since 1970.
        fingerprint: Returns the current ``system_fingerprint``, or None while no engine is known.
        context_length: Most tokens (prompt and output) of one sequence.
    """

    name: str
    generator: Generator
    reserve: Callable[[Sequence[TextRequest]], AbstractContextManager[None]]
    embedder: Embedder
    hold: Callable[[Sequence[Prompt], int], AbstractContextManager[int]]
    codec: TextCodec
    pins: Pins
    created: int
    fingerprint: Callable[[], str | None]
    context_length: int


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

    @property
    def now(self) -> Snapshot:
        """What is served now."""
        return self._now

    def replace(self, snapshot: Snapshot) -> None:
        """Serve this from now on; requests that have found their model keep it."""
        self._now = snapshot

    def find(self, name: str) -> ServedModel:
        """Return the served model of this name.

        Raises:
            ModelNotFoundError: There is none; the message names those there are.
            NotReadyError: It is being loaded.
        """
        now = self._now
        model = now.serving.get(name)
        if model is not None:
            return model
        if name in now.coming:
            raise NotReadyError(f"The model '{shown(name)}' is being loaded. Try again later.")
        served = ", ".join(f"'{known}'" for known in now.serving) or "none"
        raise ModelNotFoundError(f"The model '{shown(name)}' is not served here. Served models: {served}.")
