"""Fields that let an answer end early: ``choices``, ``confidence_threshold`` and ``early_exit``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import EARLY_EXIT_FIELDS, FieldTable
from stoker.api.openai.wire import GenerationBody
from stoker.core.early_exit import EarlyExit, ExitRule
from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import Grammar
from stoker.core.text import Finished

_EARLY_EXIT = FieldTable(EARLY_EXIT_FIELDS)


def sift_early_exit(fields: dict[str, Any]) -> None:
    """Apply the table of ``early_exit``, in place.

    Raises:
        InvalidRequestError: It has a field that is in no table.
    """
    rule = fields.get("early_exit")
    if isinstance(rule, dict):
        fields["early_exit"] = _EARLY_EXIT.sift(rule, path="early_exit.")


def exit_rule(body: GenerationBody) -> ExitRule | None:
    """Return the rule that a request asks for, or None.

    Raises:
        InvalidRequestError: It is a rule for nothing.
    """
    rule = body.early_exit
    if rule is None:
        return None
    if rule.stop_below is None and not rule.when_complete:
        raise InvalidRequestError(
            "Invalid 'early_exit': it should say when: with 'stop_below' or with 'when_complete': true.",
            param="early_exit",
            code="invalid_value",
        )
    return ExitRule(rule.stop_below or 0.0, rule.window)


def eager(grammar: Grammar | None, body: GenerationBody) -> Grammar | None:
    """Return the grammar, eager if a request asks for answers that end when they are of it.

    Raises:
        InvalidRequestError: It asks for that without a grammar.
    """
    if body.early_exit is None or not body.early_exit.when_complete:
        return grammar
    if grammar is None:
        raise InvalidRequestError(
            "'early_exit.when_complete' is only allowed together with a form of the answer, such as "
            "'response_format' or 'structured_outputs'.",
            param="early_exit.when_complete",
            code="invalid_value",
        )
    return replace(grammar, eager=True)


def scored_choices(
    body: GenerationBody, *, n_prompts: int, others: Sequence[tuple[str, bool]], limits: ApiLimits
) -> tuple[str, ...]:
    """Return the choices that a request asks for, none if it asks for none.

    Args:
        body: The request.
        n_prompts: How many prompts it has.
        others: Further fields that do not go together with choices, and whether they are there.
        limits: How many choices there may be.

    Raises:
        InvalidRequestError: Two choices are equal, they are too many, or fields contradict each other.
    """
    if body.choices is None:
        if body.confidence_threshold is not None:
            raise InvalidRequestError(
                "'confidence_threshold' is only allowed together with 'choices'.",
                param="confidence_threshold",
                code="invalid_value",
            )
        return ()
    check_choices(body.choices, "choices", limits)
    if n_prompts > 1:
        raise InvalidRequestError(
            f"'choices' go together with one prompt, not {n_prompts}. Send them apart, or to /v1/classify.",
            param="choices",
            code="invalid_value",
        )
    for name, there in (("n", body.n > 1), ("early_exit", body.early_exit is not None), *others):
        if there:
            raise InvalidRequestError(
                f"'choices' and '{name}' do not go together. Leave one of them out.",
                param=name,
                code="invalid_value",
            )
    return tuple(body.choices)


def check_choices(texts: Sequence[str], field: str, limits: ApiLimits) -> None:
    """Refuse too many texts to be scored, or a text that is there twice.

    Raises:
        InvalidRequestError: It names the second one.
    """
    if len(texts) > limits.max_scored_choices:
        raise InvalidRequestError(
            f"Invalid '{field}': at most {limits.max_scored_choices} texts are scored at a time, not "
            f"{len(texts)}.",
            param=field,
            code="invalid_value",
        )
    seen: dict[str, int] = {}
    for index, text in enumerate(texts):
        first = seen.setdefault(text, index)
        if first != index:
            raise InvalidRequestError(
                f"Invalid '{field}.{index}': it is the same as '{field}.{first}'. Leave one of them out.",
                param=f"{field}.{index}",
                code="invalid_value",
            )


def closing_members(event: Finished) -> bytes:
    """Return what a stream's last chunk says of a choice behind ``"finish_reason":``."""
    told = early_exit_object(event.early_exit)
    more = b"," + orjson.dumps(told)[1:-1] if told else b""
    return orjson.dumps(event.reason) + more


def early_exit_object(told: EarlyExit | None) -> dict[str, Any]:
    """Return what a choice of an answer says of its early end: one member, or none."""
    if told is None:
        return {}
    said: dict[str, Any] = {"reason": told.reason, "confidence": told.confidence}
    if told.scores:
        said["scores"] = dict(told.scores)
    return {"early_exit": said}
