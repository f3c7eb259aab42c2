"""The bodies of ``POST /tokenize`` and ``POST /detokenize``, in vLLM's shapes."""

from dataclasses import dataclass
from typing import Any

from stoker.api.limits import ApiLimits
from stoker.api.openai.chat_request import chat_prompt
from stoker.api.openai.fields import DETOKENIZE_FIELDS, TOKENIZE_FIELDS, FieldTable
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import DetokenizeBody, TemplateFields, TokenizeBody
from stoker.core.errors import ContextLengthError, InvalidRequestError, UnsupportedFieldError
from stoker.core.text import ChatPrompt, Prompt, TextPrompt

_TOKENIZE = FieldTable(TOKENIZE_FIELDS)
_DETOKENIZE = FieldTable(DETOKENIZE_FIELDS)


@dataclass(frozen=True, slots=True)
class TokenizeJob:
    """What is to be tokenized.

    Attributes:
        model: Name of the model, or None for the only one.
        prompt: The text or conversation.
        spelt: Whether the tokens' spellings are wanted too.
    """

    model: str | None
    prompt: Prompt
    spelt: bool


@dataclass(frozen=True, slots=True)
class DetokenizeJob:
    """Which tokens are to become text; `model` is None for the only one."""

    model: str | None
    token_ids: list[int]


def parse_tokenize(body: dict[str, Any], limits: ApiLimits) -> TokenizeJob:
    """Validate a request to tokenize.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _TOKENIZE.sift(body)
    messages = fields.pop("messages", None)
    wire = validate(TokenizeBody, fields)
    if (wire.prompt is None) == (messages is None):
        raise InvalidRequestError(
            "Either 'prompt' or 'messages' is required, and not both.",
            param="prompt",
            code="missing_required_parameter" if messages is None else "invalid_value",
        )
    prompt = _text(wire) if wire.prompt is not None else _chat(wire, messages, limits)
    return TokenizeJob(wire.model, prompt, wire.return_token_strs)


def _text(wire: TokenizeBody) -> TextPrompt:
    for name, field in TemplateFields.model_fields.items():
        if getattr(wire, name) != field.default:
            raise InvalidRequestError(
                f"'{name}' is only allowed together with 'messages'.", param=name, code="invalid_value"
            )
    return TextPrompt(wire.prompt or "", add_special_tokens=wire.add_special_tokens is not False)


def _chat(wire: TokenizeBody, messages: object, limits: ApiLimits) -> ChatPrompt:
    if wire.add_special_tokens:
        raise UnsupportedFieldError(
            "'add_special_tokens': true is not supported together with 'messages': the chat template says "
            "what a conversation begins with. Leave it out.",
            param="add_special_tokens",
        )
    return chat_prompt(wire, messages, limits)


def parse_detokenize(body: dict[str, Any], limits: ApiLimits) -> DetokenizeJob:
    """Validate a request to detokenize.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
        ContextLengthError: More tokens than a context holds.
    """
    fields = _DETOKENIZE.sift(body)
    tokens = fields.get("tokens")
    if isinstance(tokens, list) and len(tokens) > limits.max_prompt_tokens:
        raise ContextLengthError(
            f"'tokens' has {len(tokens)} tokens, and a context holds at most {limits.max_prompt_tokens}: "
            "send them in several requests.",
            param="tokens",
        )
    wire = validate(DetokenizeBody, fields)
    return DetokenizeJob(wire.model, wire.tokens)
