"""What is kept of one request; pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request and what came of it. Times are in seconds of one clock that does not jump.

    Attributes:
        index: Number of the planned request.
        sent_s: When it was sent, from the trial's start.
        late_s: By how much later than planned; None if it was not planned for a time.
        ttft_s: From sending to the first text; None if none came.
        duration_s: From sending to the end of the answer, or to the failure.
        gaps_s: Times between arrivals of text. Several tokens that arrive together are one arrival.
        n_events: Events of the stream that carried text.
        prompt_tokens: By the server's count, else by the plan.
        known_tokens: Prompt tokens that an earlier request of the trial had brought already, by the plan.
        cached_tokens: Prompt tokens that the server says it had cached; None if it says nothing.
        output_tokens: By the server's count, else the number of events.
        wanted_tokens: Output tokens that were asked for.
        counted_by: ``usage`` or ``events``: who counted the output tokens.
        error: What went wrong, in a word (`stoker.measure.answer.Fault`), or None.
        detail: More of it for a person to read; empty without an error.
        retry_after_s: When the server said that a refused request may come again; None if it did not.
    """

    index: int
    sent_s: float
    late_s: float | None
    ttft_s: float | None
    duration_s: float
    gaps_s: tuple[float, ...]
    n_events: int
    prompt_tokens: int
    known_tokens: int
    cached_tokens: int | None
    output_tokens: int
    wanted_tokens: int
    counted_by: str
    error: str | None = None
    detail: str = ""
    retry_after_s: float | None = None
