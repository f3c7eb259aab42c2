"""The body of ``POST /v1/chat/completions`` to a `Job`."""

from typing import Any

from stoker.api.body import shown
from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import CHAT_FIELDS, MESSAGE_FIELDS, PART_FIELDS, FieldTable
from stoker.api.openai.job import Job, make_job, sift_objects
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import ChatBody, MessageBody, TemplateFields
from stoker.core.errors import InvalidRequestError, UnsupportedFieldError
from stoker.core.text import ChatPrompt, Message

_CHAT = FieldTable(CHAT_FIELDS)
_MESSAGE = FieldTable(MESSAGE_FIELDS)
_PART = FieldTable(PART_FIELDS)
_TOOL_ROLES = ("tool", "function")


def parse_chat(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Job:
    """Validate a chat request.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _CHAT.sift(body)
    sift_objects(fields)
    messages = fields.pop("messages", None)
    chat = validate(ChatBody, fields)
    prompt = chat_prompt(chat, messages, limits)
    if chat.top_logprobs is not None and not chat.logprobs:
        raise InvalidRequestError(
            "'top_logprobs' is only allowed together with 'logprobs': true.",
            param="top_logprobs",
            code="invalid_value",
        )
    return make_job(
        chat,
        [prompt],
        max_tokens=_max_tokens(chat),
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        limits=limits,
        request_id=request_id,
    )


def chat_prompt(wire: TemplateFields, messages: object, limits: ApiLimits) -> ChatPrompt:
    """Build the prompt of a request that has ``messages``.

    Raises:
        InvalidRequestError: Whatever is wrong with them, or fields that contradict each other.
    """
    if wire.continue_final_message and wire.add_generation_prompt:
        raise InvalidRequestError(
            "'add_generation_prompt': true begins another message, so it cannot go together with "
            "'continue_final_message': true. Leave one of them out.",
            param="add_generation_prompt",
            code="invalid_value",
        )
    return ChatPrompt(
        parse_messages(messages, limits),
        add_generation_prompt=wire.add_generation_prompt is not False and not wire.continue_final_message,
        continue_final_message=wire.continue_final_message,
        variables=wire.chat_template_kwargs,
    )


def _max_tokens(chat: ChatBody) -> int | None:
    old, new = chat.max_tokens, chat.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            f"'max_tokens' ({old}) and 'max_completion_tokens' ({new}) mean the same and differ. "
            "Send one of them.",
            param="max_tokens",
            code="invalid_value",
        )
    return old if new is None else new


def parse_messages(messages: object, limits: ApiLimits) -> tuple[Message, ...]:
    """Validate a conversation.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the path.
    """
    if messages is None:
        raise InvalidRequestError(
            "'messages' is required.", param="messages", code="missing_required_parameter"
        )
    if not isinstance(messages, list):
        raise InvalidRequestError(
            "Invalid 'messages': it should be an array of messages.", param="messages", code="invalid_type"
        )
    if not 1 <= len(messages) <= limits.max_messages:
        raise InvalidRequestError(
            f"Invalid 'messages': 1 to {limits.max_messages} messages are expected, not {len(messages)}.",
            param="messages",
            code="invalid_value",
        )
    return tuple(_parse_message(message, f"messages.{index}") for index, message in enumerate(messages))


def _parse_message(message: object, path: str) -> Message:
    if not isinstance(message, dict):
        raise InvalidRequestError(
            f"Invalid '{path}': it should be an object with 'role' and 'content'.",
            param=path,
            code="invalid_type",
        )
    if message.get("role") in _TOOL_ROLES:
        raise UnsupportedFieldError(
            f"'{path}.role': messages of the role '{message['role']}' are not supported.",
            param=f"{path}.role",
        )
    fields = _MESSAGE.sift(message, path=f"{path}.")
    if isinstance(fields.get("content"), list):
        fields["content"] = _join_parts(fields["content"], f"{path}.content")
    wire = validate(MessageBody, fields, path=f"{path}.")
    return Message("system" if wire.role == "developer" else wire.role, wire.content)


def _join_parts(parts: list[Any], path: str) -> str:
    if not parts:
        raise InvalidRequestError(
            f"Invalid '{path}': an array of parts must not be empty.", param=path, code="invalid_value"
        )
    texts = []
    for index, part in enumerate(parts):
        where = f"{path}.{index}"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise InvalidRequestError(
                f'Invalid \'{where}\': it should be an object like {{"type": "text", "text": "..."}}.',
                param=where,
                code="invalid_type",
            )
        if kind != "text":
            raise UnsupportedFieldError(
                f"'{where}.type': content parts of the type '{shown(kind)}' are not supported, only 'text'.",
                param=f"{where}.type",
            )
        text = _PART.sift(part, path=f"{where}.").get("text")
        if not isinstance(text, str):
            raise InvalidRequestError(
                f"Invalid '{where}.text': it should be a string.", param=f"{where}.text", code="invalid_type"
            )
        texts.append(text)
    return "\n".join(texts)
