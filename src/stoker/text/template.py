"""A model's chat template: messages to the text that the model was trained on."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from jinja2 import TemplateError, TemplateSyntaxError

from stoker.core.errors import InvalidRequestError, UnsupportedModelError
from stoker.core.text import Message
from stoker.text.sandbox import ChatEnvironment, count_operations
from stoker.text.template_budget import Budget, TemplateBoundError, spending

_BASE_STEPS = 500_000
_STEPS_PER_MESSAGE = 256
_BASE_CHARS = 2**16
_CHARS_PER_MESSAGE = 1024
_CHARS_PER_CHAR = 4
_BASE_MADE = 2**25
_MADE_PER_CHAR = 64

_FAULTS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""What an expression of a template can raise on messages that it was not written for."""


def _local_time() -> datetime:
    return datetime.now().astimezone()


class ChatTemplate:
    """Renders conversations byte for byte as `transformers`' `apply_chat_template` does.

    Thread-safe. A rendering is bounded: its loop iterations and calls, and in proportion to the
    messages its output and the memory of the values that it makes.

    Args:
        source: Jinja2 source, from the model file.
        special_tokens: Names that the template may use for them (``bos_token``) and their spelling.
        now: Local time, for templates that tell the date.

    Raises:
        UnsupportedModelError: The source is not a valid template.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = _local_time,
    ) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        environment = ChatEnvironment(now)
        try:
            parsed = environment.parse(source)
            count_operations(parsed)
            self._template = environment.from_string(parsed)
        except (TemplateSyntaxError, SyntaxError, RecursionError, MemoryError, ValueError) as error:
            where = f" in line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise UnsupportedModelError(
                f"The model's chat template is not valid Jinja2{where}: {error}"
            ) from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation, ready for the assistant's answer unless told otherwise.

        Raises:
            InvalidRequestError: The template refuses the messages, in its own words, or cannot
                render them within its bounds.
        """
        if not messages:
            raise InvalidRequestError(
                "messages is empty, expected at least one. Send a message.", param="messages"
            )
        n_chars = sum(len(message.role) + len(message.content) for message in messages)
        budget = Budget(
            steps=_BASE_STEPS + _STEPS_PER_MESSAGE * len(messages),
            chars=_BASE_CHARS + _CHARS_PER_MESSAGE * len(messages) + _CHARS_PER_CHAR * n_chars,
            made=_BASE_MADE + _MADE_PER_CHAR * n_chars,
        )
        context = {
            **self._special_tokens,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        pieces: list[str] = []
        try:
            with spending(budget):
                for piece in self._template.generate(context):
                    budget.take_output(piece)
                    pieces.append(piece)
        except TemplateBoundError as error:
            raise InvalidRequestError(
                f"The messages cannot be rendered: {error}. Send fewer or shorter messages.",
                param="messages",
            ) from error
        except TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error
        except _FAULTS as error:
            raise InvalidRequestError(
                f"The model's chat template cannot render these messages ({type(error).__name__}: {error}). "
                "Check their order and roles.",
                param="messages",
            ) from error
        return "".join(pieces)
