"""The body of ``POST /v1/completions`` to a `Job`."""

from typing import Any

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import COMPLETION_FIELDS, FieldTable
from stoker.api.openai.job import Job, make_job, sift_objects
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import CompletionBody
from stoker.core.errors import ContextLengthError, InvalidRequestError
from stoker.core.text import Prompt, TextPrompt, TokensPrompt

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
        _parse_prompts(prompt, limits),
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


def _parse_prompts(prompt: object, limits: ApiLimits) -> list[Prompt]:
    if prompt is None:
        raise InvalidRequestError("'prompt' is required.", param="prompt", code="missing_required_parameter")
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if not isinstance(prompt, list):
        raise _wrong("prompt")
    if not prompt:
        raise InvalidRequestError(
            "Invalid 'prompt': an array must not be empty.", param="prompt", code="invalid_value"
        )
    if type(prompt[0]) is int:
        return [_tokens(prompt, "prompt", limits)]
    if len(prompt) > limits.max_prompts:
        raise InvalidRequestError(
            f"Invalid 'prompt': at most {limits.max_prompts} prompts are taken at a time, not {len(prompt)}.",
            param="prompt",
            code="invalid_value",
        )
    if isinstance(prompt[0], str):
        if not all(isinstance(item, str) for item in prompt):
            raise _wrong("prompt")
        return [TextPrompt(text) for text in prompt]
    return [_tokens(item, f"prompt.{index}", limits) for index, item in enumerate(prompt)]


def _tokens(value: object, path: str, limits: ApiLimits) -> TokensPrompt:
    if isinstance(value, list) and len(value) > limits.max_prompt_tokens:
        raise ContextLengthError(
            f"'{path}' has {len(value)} tokens, and a context holds at most {limits.max_prompt_tokens}: "
            f"shorten it by at least {len(value) - limits.max_prompt_tokens} tokens.",
            param=path,
        )
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise _wrong(path)
    if not value or min(value) < 0:
        raise InvalidRequestError(
            f"Invalid '{path}': token ids must be 0 or above, and there must be at least one.",
            param=path,
            code="invalid_value",
        )
    return TokensPrompt(tuple(value))


def _wrong(path: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid '{path}': it should be a string, an array of strings, an array of token ids, "
        "or an array of arrays of token ids.",
        param=path,
        code="invalid_type",
    )
