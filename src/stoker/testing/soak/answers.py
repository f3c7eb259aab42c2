"""Answers taken apart, so that a streamed and a whole one, or a disturbed and a quiet one, compare."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(slots=True)
class ChoiceTold:
    """What an answer says of one choice.

    Attributes:
        text: All of its text.
        logprobs: An entry for each token, in the shape of its endpoint; numbers as they were printed.
        finish_reasons: Those that were said; of a whole choice exactly one.
    """

    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Told:
    """What an answer says, however it was cut into chunks.

    Attributes:
        choices: By index.
        usage: Tokens of prompt, of completion and of both; None until it was said. How much was cached
            depends on what was asked before, and is left out.
        fingerprints: Every `system_fingerprint` that was said.
        error: The error event that ended it.
        done: Whether it was said to be at its end.
    """

    choices: dict[int, ChoiceTold] = field(default_factory=dict)
    usage: tuple[str, str, str] | None = None
    fingerprints: set[str | None] = field(default_factory=set)
    error: Json | None = None
    done: bool = False

    def add(self, said: Json) -> None:
        """Take in a chunk, or a whole answer."""
        if "error" in said:
            self.error = said["error"]
            return
        self.fingerprints.add(said["system_fingerprint"])
        usage = said.get("usage")
        if usage is not None:
            self.usage = (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
        for choice in said["choices"]:
            told = self.choices.setdefault(int(choice["index"]), ChoiceTold())
            told.text += _text(choice)
            if choice["logprobs"] is not None:
                told.logprobs += _entries(choice["logprobs"])
            if choice["finish_reason"] is not None:
                told.finish_reasons.append(choice["finish_reason"])


def parse(line: str) -> Json:
    """Read a JSON object and keep its numbers as they are printed."""
    read: Json = json.loads(line, parse_float=str, parse_int=str)
    return read


def difference(told: Told, reference: Told) -> str | None:
    """Return how an answer that is at its end differs from the reference, or None."""
    if told.error is not None:
        return f"an error: {told.error}"
    if not told.done:
        return "it ended before it was done"
    for what, mine, wanted in (
        ("usage", told.usage, reference.usage),
        ("fingerprints", told.fingerprints, reference.fingerprints),
        ("choices", told.choices.keys(), reference.choices.keys()),
    ):
        if mine != wanted:
            return f"{what} {mine} instead of {wanted}"
    differing = (
        f"choice {index}: {wrong}"
        for index, choice in sorted(told.choices.items())
        if (wrong := _difference_of_choice(choice, reference.choices[index])) is not None
    )
    return next(differing, None)


def difference_of_beginning(told: Told, reference: Told) -> str | None:
    """Return how what was read of an answer contradicts the reference, or None."""
    if told.error is not None:
        return f"an error: {told.error}"
    for index, choice in told.choices.items():
        whole = reference.choices.get(index, ChoiceTold())
        if not whole.text.startswith(choice.text):
            return f"choice {index}: text {choice.text!r} does not begin {whole.text!r}"
        if whole.logprobs[: len(choice.logprobs)] != choice.logprobs:
            return f"choice {index}: its logprobs do not begin those of the reference"
    return None


def _difference_of_choice(choice: ChoiceTold, wanted: ChoiceTold) -> str | None:
    if choice.finish_reasons != wanted.finish_reasons:
        return f"ended with {choice.finish_reasons} instead of {wanted.finish_reasons}"
    pairs: tuple[tuple[str, Sequence[Any], Sequence[Any]], ...] = (
        ("text", choice.text, wanted.text),
        ("logprobs", choice.logprobs, wanted.logprobs),
    )
    for what, mine, other in pairs:
        if mine != other:
            at = _first_difference(mine, other)
            shown, expected = (str(each[at : at + 40])[:200] for each in (mine, other))
            return f"{what} from {at} on is {shown!r} instead of {expected!r}"
    return None


def _text(choice: Json) -> str:
    if "text" in choice:
        text: str | None = choice["text"]
    else:
        text = (choice.get("delta") or choice.get("message") or {}).get("content")
    return text or ""


def _entries(logprobs: Json) -> list[Any]:
    if "content" in logprobs:
        return list(logprobs["content"])
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return list(zip(*(logprobs[name] for name in names), strict=True))


def _first_difference(mine: Sequence[Any], wanted: Sequence[Any]) -> int:
    for at, (one, other) in enumerate(zip(mine, wanted, strict=False)):
        if one != other:
            return at
    return min(len(mine), len(wanted))
