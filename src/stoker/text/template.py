"""A model's chat template: messages to the text that the model was trained on."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.meta import TrackingCodeGenerator
from jinja2.nodes import Template

from stoker.core.errors import InvalidRequestError, UnsupportedModelError
from stoker.core.text import ChatPrompt
from stoker.text.sandbox import ChatEnvironment, count_operations
from stoker.text.template_budget import Budget, TemplateBoundError, spending

_BASE_STEPS = 500_000
_STEPS_PER_MESSAGE = 256
_BASE_CHARS = 2**16
_CHARS_PER_MESSAGE = 1024
_CHARS_PER_CHAR = 4
_BASE_MADE = 2**25
_MADE_PER_CHAR = 64

_MAX_NAMES_CHARS = 1000
"""What an error lists of a template's variables."""

_INPUTS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "unk_token"}
    | {"sep_token", "pad_token", "cls_token", "mask_token"}
)
"""Variables of templates that are not the request's to set."""

_MARKS = range(0x100000, 0x10FFFE)
"""Supplementary Private Use Area B, of which one marks the end of a message that is to be continued."""

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

    Attributes:
        source: As above.
        variables: Names that the template reads and that a request may set (``enable_thinking``).

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
            self.variables = _undeclared(environment, parsed) - _INPUTS
            count_operations(parsed)
            self._template = environment.from_string(parsed)
        except (TemplateSyntaxError, SyntaxError, RecursionError, MemoryError, ValueError) as error:
            where = f" in line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise UnsupportedModelError(
                f"The model's chat template is not valid Jinja2{where}: {error}"
            ) from error

    def render(self, prompt: ChatPrompt) -> str:
        """Render a conversation.

        Raises:
            InvalidRequestError: The template refuses the messages, in its own words, cannot render
                them within its bounds, does not read a variable that the prompt sets, or leaves out
                the message that is to be continued.
        """
        messages = [{"role": each.role, "content": each.content} for each in prompt.messages]
        if not messages:
            raise InvalidRequestError(
                "messages is empty, expected at least one. Send a message.", param="messages"
            )
        self._check_variables(name for name, _ in prompt.variables)
        mark = ""
        if prompt.continue_final_message:
            mark = _unused_mark(prompt)
            # The space tells whether the template keeps white space at a message's end.
            messages[-1]["content"] += mark + " "
        n_chars = sum(map(len, prompt.texts)) + sum(len(each.role) for each in prompt.messages)
        budget = Budget(
            steps=_BASE_STEPS + _STEPS_PER_MESSAGE * len(messages),
            chars=_BASE_CHARS + _CHARS_PER_MESSAGE * len(messages) + _CHARS_PER_CHAR * n_chars,
            made=_BASE_MADE + _MADE_PER_CHAR * n_chars,
        )
        thinking = {"enable_thinking": False} if prompt.without_thinking else {}
        context = {
            **self._special_tokens,
            **thinking,
            **dict(prompt.variables),
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": prompt.add_generation_prompt,
        }
        rendered = self._generate(context, budget)
        return _up_to(mark, rendered, prompt.messages[-1].content) if mark else rendered

    def _check_variables(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise InvalidRequestError(
                    f"The model's chat template has no variable {name!r} that a request may set. "
                    f"Its variables: {known[:_MAX_NAMES_CHARS]}.",
                    param="chat_template_kwargs",
                )

    def _generate(self, context: dict[str, Any], budget: Budget) -> str:
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


def _undeclared(environment: ChatEnvironment, template: Template) -> frozenset[str]:
    """Return the names that a template reads and does not always set, as `jinja2.meta` finds them."""
    tracking = TrackingCodeGenerator(environment)
    tracking.optimizer = None  # nothing is computed, uncounted, when a template is compiled
    tracking.visit(template)
    return frozenset(tracking.undeclared_identifiers)


def _unused_mark(prompt: ChatPrompt) -> str:
    used = set().union(*prompt.texts)
    mark = next((chr(code) for code in _MARKS if chr(code) not in used), None)
    if mark is None:
        raise InvalidRequestError(
            "The messages hold every private code point from U+100000 on: remove them.", param="messages"
        )
    return mark


def _up_to(mark: str, rendered: str, final: str) -> str:
    """Return what is before the mark, and the mark's message is not followed by.

    A template that strips messages has left the space behind the mark out. Then white space before it
    goes too, as it would at a message's end.
    """
    end = rendered.rfind(mark)
    if end < 0 or final.strip() not in rendered:
        raise InvalidRequestError(
            "The last message cannot be continued: the model's chat template leaves it out or changes it.",
            param="continue_final_message",
        )
    kept = rendered[:end]
    return kept if rendered.startswith(" ", end + len(mark)) else kept.rstrip()
