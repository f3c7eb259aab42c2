"""A field that holds a prompt or several: a string, token ids, or a list of either."""

from stoker.api.limits import ApiLimits
from stoker.core.errors import ContextLengthError, InvalidRequestError
from stoker.core.text import Prompt, TextPrompt, TokensPrompt


def parse_prompts(value: object, field: str, *, most: int, limits: ApiLimits) -> list[Prompt]:
    """Return the prompts of a field: a text, token ids, or several of either.

    Args:
        value: As parsed.
        field: Its name.
        most: Most prompts.
        limits: Bounds on a request.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the path.
        ContextLengthError: A prompt has more tokens than any context.
    """
    if value is None:
        raise InvalidRequestError(f"'{field}' is required.", param=field, code="missing_required_parameter")
    if isinstance(value, str):
        return [TextPrompt(value)]
    if not isinstance(value, list):
        raise _wrong(field)
    if not value:
        raise InvalidRequestError(
            f"Invalid '{field}': an array must not be empty.", param=field, code="invalid_value"
        )
    if type(value[0]) is int:
        return [_tokens(value, field, limits)]
    if len(value) > most:
        raise InvalidRequestError(
            f"Invalid '{field}': at most {most:,} {field}s are taken at a time, not {len(value)}.",
            param=field,
            code="invalid_value",
        )
    if isinstance(value[0], str):
        if not all(isinstance(item, str) for item in value):
            raise _wrong(field)
        return [TextPrompt(text) for text in value]
    return [_tokens(item, f"{field}.{index}", limits) for index, item in enumerate(value)]


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
