"""An answer that is one of a request's choices, without generating it."""

from stoker.core.early_exit import EarlyExit, ExitReason
from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChoiceScores, Event, Finished, Started, TextDelta, TextRequest, Usage
from stoker.core.tokens import FinishReason


def told_of(request: TextRequest, scores: ChoiceScores) -> EarlyExit:
    """Return what the answer says of the scores of its choices."""
    confidence = scores.probabilities[scores.best]
    sure = confidence >= request.confidence_threshold
    return EarlyExit(
        ExitReason.CHOICE if sure else ExitReason.UNSURE,
        confidence,
        tuple(zip(request.choices, scores.probabilities, strict=True)),
    )


def chosen(request: TextRequest, scores: ChoiceScores) -> list[Event]:
    """Return the events of an answer that is the most likely choice, or none if that is not likely enough."""
    told = told_of(request, scores)
    if told.reason is not ExitReason.CHOICE:
        return []
    return [
        Started(prompt_tokens=scores.n_tokens),
        TextDelta(0, request.choices[scores.best]),
        Finished(0, FinishReason.STOP, early_exit=told),
        Usage(
            prompt_tokens=scores.n_tokens,
            completion_tokens=scores.choice_tokens[scores.best],
            cached_tokens=scores.n_cached,
        ),
    ]


def check_room(scores: ChoiceScores, max_tokens: int) -> None:
    """Refuse a choice of more tokens than may be generated.

    Raises:
        InvalidRequestError: It names the first such choice.
    """
    for index, n_tokens in enumerate(scores.choice_tokens):
        if n_tokens > max_tokens:
            raise InvalidRequestError(
                f"'choices.{index}' has {n_tokens} tokens, and the answer may have {max_tokens}. Raise "
                "'max_tokens' or shorten the choice.",
                param=f"choices.{index}",
                code="invalid_value",
            )
