"""A conversation to token ids, where nothing that a user writes becomes a control token.

The template's output is one string in which a ``<|im_end|>`` of the template and one out of a message
look alike. So before rendering, the messages' characters that can begin or end a control token are
swapped for private code points that nothing else uses, one for one, and swapped back in the runs of
text between the control tokens that are found afterwards.

Some templates look into the messages (``'</think>' in message.content``) and would see the swap.
If the swap changed anything but the characters themselves, only whole spellings of control tokens
are swapped instead, and that is trusted only if the same control tokens come out: a template that
cuts pieces out of a message can join the rest into a spelling that was not there.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from stoker.core.errors import InvalidRequestError
from stoker.core.text import Message
from stoker.text.template import ChatTemplate
from stoker.text.tokenizer import Tokenizer

_PRIVATE = range(0xF0000, 0xFFFFE)
"""Supplementary Private Use Area A: not letters, not space, without case, in no template."""


class ChatEncoder:
    """Renders conversations with a template and encodes them; thread-safe.

    The ids are those that `transformers` gives for the rendered text, except where a message spells
    a control token: there it is plain text.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._edges = "".join(sorted({text[end] for text in tokenizer.control_texts for end in (0, -1)}))

    def encode(
        self,
        messages: Sequence[Message],
        check: Callable[[str], None] = lambda _: None,
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Return the token ids of a conversation, ready for the assistant's answer.

        Args:
            messages: The conversation.
            check: Given the rendered text before any other work on it; raises if that is too long.
            add_generation_prompt: Whether the beginning of the assistant's answer follows.

        Raises:
            InvalidRequestError: The template or the vocabulary cannot take the messages.
        """
        render = partial(self._template.render, add_generation_prompt=add_generation_prompt)
        rendered, restore = self._render(messages, render, check)
        return self._tokenizer.encode_split(rendered, restore)

    def _render(
        self,
        messages: Sequence[Message],
        render: Callable[[Sequence[Message]], str],
        check: Callable[[str], None],
    ) -> tuple[str, Callable[[str], str]]:
        """Render with the control tokens in messages disguised, and say how to undo it."""
        pattern = self._tokenizer.control_pattern
        for index, message in enumerate(messages):
            if pattern.search(message.role):
                raise InvalidRequestError(
                    "A role must not spell a control token; expected system, user or assistant.",
                    param=f"messages.{index}.role",
                )
        plain = render(messages)
        check(plain)
        edges = [char for char in self._edges if any(char in message.content for message in messages)]
        if not edges:
            return plain, lambda run: run
        disguise = dict(zip(edges, self._unused(messages, plain, len(edges)), strict=True))
        hide = str.maketrans(disguise)
        show = str.maketrans({private: char for char, private in disguise.items()})

        def restore(run: str) -> str:
            return run.translate(show)

        hidden = render([_map(message, lambda text: text.translate(hide)) for message in messages])
        if restore(hidden) == plain:
            return hidden, restore
        spelt = render(
            [
                _map(message, lambda text: pattern.sub(lambda found: found[0].translate(hide), text))
                for message in messages
            ]
        )
        same = pattern.findall(spelt) == pattern.findall(hidden)
        return (spelt if same else hidden), restore

    def _unused(self, messages: Sequence[Message], rendered: str, count: int) -> list[str]:
        """Return private code points that occur nowhere."""
        used = set(rendered).union(self._template.source, *(message.content for message in messages))
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        return list(islice(free, count))


def _map(message: Message, change: Callable[[str], str]) -> Message:
    return replace(message, content=change(message.content))
