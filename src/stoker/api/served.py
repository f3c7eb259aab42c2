"""What the HTTP edge knows of a model that it serves."""

from collections.abc import Callable
from dataclasses import dataclass

from stoker.core.protocols import Generator, TextCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model behind the API.

    Attributes:
        name: The model id that clients send.
        generator: Answers requests for it, every policy included.
        codec: Turns text to token ids and back, as `generator` does.
        check_capacity: Raises if so many choices together have no place now. A job of several
            requests asks it before the first begins.
        created: When the model was made or fetched, in seconds since 1970.
        fingerprint: Returns the current ``system_fingerprint``, or None while no engine is known.
        context_length: Most tokens (prompt and output) of one sequence.
    """

    name: str
    generator: Generator
    codec: TextCodec
    check_capacity: Callable[[int], None]
    created: int
    fingerprint: Callable[[], str | None]
    context_length: int
