"""What the HTTP edge knows of a model that it serves."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from stoker.core.protocols import Generator, TextCodec
from stoker.core.text import TextRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model behind the API.

    Attributes:
        name: The model id that clients send.
        generator: Answers requests for it, every policy included.
        reserve: Holds the places of all of a job's requests while its context lasts, or raises
            `QueueFullError` if there are too few; `generator` then takes them from there.
        codec: Turns text to token ids and back, as `generator` does.
        created: When the model was made or fetched, in seconds since 1970.
        fingerprint: Returns the current ``system_fingerprint``, or None while no engine is known.
        context_length: Most tokens (prompt and output) of one sequence.
    """

    name: str
    generator: Generator
    reserve: Callable[[Sequence[TextRequest]], AbstractContextManager[None]]
    codec: TextCodec
    created: int
    fingerprint: Callable[[], str | None]
    context_length: int
