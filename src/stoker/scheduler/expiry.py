"""Sequences whose time is up, and what is said of them."""

from dataclasses import dataclass

from stoker.core.errors import DeadlineError, QueueTimeoutError


@dataclass(frozen=True, slots=True)
class Expiry:
    """A sequence that was given up because a time limit of its own was over.

    Attributes:
        request_id: The sequence; it is in flight no more.
        error: Which limit it was.
    """

    request_id: str
    error: QueueTimeoutError | DeadlineError

    @classmethod
    def unfinished(cls, request_id: str) -> "Expiry":
        """Return that of a sequence which did not end in its time."""
        return cls(
            request_id,
            DeadlineError(
                "the request was not finished within its time limit: ask for less at a time, or "
                "raise the limit ('timeout', at most the server's request_timeout_s)"
            ),
        )

    @classmethod
    def unbegun(cls, request_id: str, retry_after_s: float) -> "Expiry":
        """Return that of a sequence which did not begin in its time."""
        return cls(
            request_id,
            QueueTimeoutError(
                "the request's turn did not come within its queue time limit; "
                f"try again in about {retry_after_s:.0f} s",
                retry_after_s=retry_after_s,
            ),
        )
