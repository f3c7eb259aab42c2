"""What both endpoints' answers share.

Chunks are joined from parts made once per request; the only per-token work is encoding the new text.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from stoker.core.early_exit import EarlyExit
from stoker.core.text import Finished, TextDelta, TextLogprob, Usage
from stoker.core.tokens import FinishReason

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What every chunk and document of one answer repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None


@dataclass(slots=True)
class GatheredChoice:
    """One choice as it comes in, for an answer that is not streamed."""

    parts: list[str] = field(default_factory=list)
    logprobs: list[TextLogprob] = field(default_factory=list)
    reason: FinishReason | None = None
    early_exit: EarlyExit | None = None


class Answer(Protocol):
    """Writes one answer in an endpoint's shape; bytes are complete server-sent events."""

    def opening(self) -> bytes:
        """Events that begin the stream; may be empty."""

    def delta(self, event: TextDelta) -> bytes:
        """New text."""

    def finish(self, event: Finished) -> bytes:
        """The end of one choice."""

    def closing(self, usage: Usage) -> bytes:
        """Everything after the last choice, up to ``[DONE]``."""

    def document(self, choices: list[GatheredChoice], usage: Usage) -> bytes:
        """The whole answer at once."""


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's ``usage``."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
