"""What is remembered of one HTTP request until it ends."""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """Facts about one request, filled in as they become known; never the text of a prompt or an answer.

    Attributes:
        request_id: The ``x-request-id`` that the response carries.
        method: HTTP method.
        started_s: When the request's head had arrived, on `time.perf_counter`'s scale.
        route: The route's path pattern; ``unmatched`` when no route fits.
        status: HTTP status of the response; 499 when the client left first; the error's own status
            when a stream that began with 200 failed. 0 until known.
        model: Name of the served model, once it is known to exist.
        stream: Whether the answer is streamed.
        prompt_tokens: Tokens of all prompts.
        cached_tokens: Those of them that came from the prefix cache.
        completion_tokens: Tokens generated over all choices.
        wake_s: How long it waited for its model to be awake, in seconds; None if it did not wait.
        early_exits: What became of each choice that might end early: short words from a fixed set.
        first_token_s: When the first new text came, on the scale of `started_s`.
        error: Why the request failed: a short word from a fixed set, such as ``queue_full``.
        error_param: The field to blame, if one is.
    """

    request_id: str
    method: str
    started_s: float
    route: str = "unmatched"
    status: int = 0
    model: str | None = None
    stream: bool = False
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    wake_s: float | None = None
    early_exits: list[str] = field(default_factory=list)
    first_token_s: float | None = None
    error: str | None = None
    error_param: str | None = None


CURRENT_RECORD: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""The record of the HTTP request that this task, or one that it was begun by, answers."""
