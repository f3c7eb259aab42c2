"""What requests share whose texts are scored by how likely some choices are after them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from stoker.api.limits import ApiLimits
from stoker.api.openai.early_exit import check_choices
from stoker.api.openai.job import shorter
from stoker.api.openai.wire import EmbeddedBody
from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChoiceScores, Prompt, ScoringRequest

MAX_PAIRS = 16_384
"""Most prompts times choices in one request."""

MAX_CHARS = 2**25
"""Most characters of all prompts of one request."""


@runtime_checkable
class ScoringJob(Protocol):
    """What an endpoint has to do: score choices after prompts and write an answer of that."""

    @property
    def model(self) -> str:
        """Name of the model asked for."""

    @property
    def request(self) -> ScoringRequest:
        """What is to be scored."""

    @property
    def reason(self) -> str:
        """What each prompt counts as among the answers that might end early."""

    def document(self, scores: Sequence[ChoiceScores], *, model: str) -> bytes:
        """Return the answer's body."""


def scoring_request(
    wire: EmbeddedBody,
    prompts: Sequence[Prompt],
    paths: Sequence[str],
    choices: Sequence[str],
    *,
    field: str,
    limits: ApiLimits,
    request_id: str,
) -> ScoringRequest:
    """Return the request for these prompts, with the time limits of the client and of the server.

    Args:
        wire: The request's body.
        prompts: The prompts.
        paths: Where each of them stands in the body.
        choices: The choices.
        field: Where they stand.
        limits: How many of each there may be.
        request_id: Unique.

    Raises:
        InvalidRequestError: The choices cannot be taken, or make too many pairs with the prompts.
    """
    check_choices(choices, field, limits)
    if len(prompts) * len(choices) > MAX_PAIRS:
        first = paths[0].partition(".")[0]
        raise InvalidRequestError(
            f"Invalid '{first}': with as many '{field}' at most {MAX_PAIRS // len(choices):,} are taken at a "
            f"time, not {len(prompts):,}.",
            param=first,
            code="invalid_value",
        )
    return ScoringRequest(
        request_id=request_id,
        prompts=tuple(prompts),
        paths=tuple(paths),
        choices=tuple(choices),
        choices_path=field,
        priority=-wire.priority,  # on the wire lower is earlier, as in vLLM
        queue_timeout_s=shorter(wire.queue_timeout, limits.queue_timeout_s),
        timeout_s=shorter(wire.timeout, limits.request_timeout_s),
    )


def check_slots(prompt: str, slots: Sequence[str]) -> None:
    """Refuse a ``prompt`` that does not say where each of the slots comes.

    Raises:
        InvalidRequestError: It names the first one that is missing.
    """
    for slot in slots:
        if f"{{{slot}}}" not in prompt:
            raise InvalidRequestError(
                f"Invalid 'prompt': it should say with '{{{slot}}}' where {_SLOTS[slot]} comes.",
                param="prompt",
                code="invalid_value",
            )


def check_size(sizes: Iterable[int], field: str) -> None:
    """Refuse texts that are too much together: a part of the request may be in each of them.

    Args:
        sizes: Characters of each text, before any of them is made.
        field: What is the most likely cause.

    Raises:
        InvalidRequestError: They have more than `MAX_CHARS`.
    """
    n_chars = sum(sizes)
    if n_chars > MAX_CHARS:
        raise InvalidRequestError(
            f"Invalid '{field}': the texts to be scored have {n_chars:,} characters together; at most "
            f"{MAX_CHARS:,} are taken at a time.",
            param=field,
            code="invalid_value",
        )


def filled_size(prompt: str, texts: Mapping[str, str]) -> int:
    """Return the length of what `filled` would return."""
    return len(prompt) + sum(
        prompt.count(f"{{{slot}}}") * (len(text) - len(slot) - 2) for slot, text in texts.items()
    )


def filled(prompt: str, texts: Mapping[str, str]) -> str:
    """Return a prompt with texts in its slots; what looks like a slot in one of those stays as it is."""
    slots = "|".join(map(re.escape, texts))
    return re.sub(f"{{({slots})}}", lambda found: texts[found[1]], prompt)


_SLOTS = {
    "input": "an input",
    "query": "the query",
    "document": "a document",
    "text_1": "the first text",
    "text_2": "the second text",
}
