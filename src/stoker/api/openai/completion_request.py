"""The body of ``POST /v1/completions`` to a `Job`."""

from typing import Any

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import COMPLETION_FIELDS, FieldTable
from stoker.api.openai.job import Job, make_job, sift_objects
from stoker.api.openai.prompts import parse_prompts
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import CompletionBody
from stoker.core.errors import InvalidRequestError

_COMPLETION = FieldTable(COMPLETION_FIELDS)


def parse_completion(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Job:
    """Validate a completion request.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _COMPLETION.sift(body)
    sift_objects(fields)
    prompt = fields.pop("prompt", None)
    completion = validate(CompletionBody, fields)
    _check_best_of(completion)
    if completion.max_tokens == 0 and not completion.echo:
        raise InvalidRequestError(
            "Invalid 'max_tokens': it should be at least 1, or 0 together with 'echo': true.",
            param="max_tokens",
            code="invalid_value",
        )
    return make_job(
        completion,
        parse_prompts(prompt, "prompt", most=limits.max_prompts, limits=limits),
        max_tokens=completion.max_tokens,
        logprobs=completion.logprobs,
        limits=limits,
        request_id=request_id,
        # As many as are returned are the best of themselves, in the order in which they were drawn.
        best_of=None if completion.best_of == completion.n else completion.best_of,
        echo=completion.echo,
    )


def _check_best_of(completion: CompletionBody) -> None:
    best_of = completion.best_of
    if best_of is None or best_of == completion.n:
        return
    if best_of < completion.n:
        raise InvalidRequestError(
            f"Invalid 'best_of': it should be at least 'n' ({completion.n}), not {best_of}.",
            param="best_of",
            code="integer_below_min_value",
        )
    if completion.stream:
        raise InvalidRequestError(
            "'best_of' above 'n' cannot be streamed: the best are known only when all have ended.",
            param="best_of",
            code="invalid_value",
        )
