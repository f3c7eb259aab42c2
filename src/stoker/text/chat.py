"""A conversation to token ids, where nothing that a user writes becomes a control token.

The template's output is one string in which a ``<|im_end|>`` of the template and one out of a message
look alike. So before rendering, the request's characters that can begin or end a control token, in
messages and in the template's variables, are swapped for private code points that nothing else uses,
one for one, and swapped back in the runs of text between the control tokens that are found afterwards.

Some templates look into the messages (``'</think>' in message.content``) and would see the swap.
If the swap changed anything but the characters themselves, only whole spellings of control tokens
are swapped instead, and that is trusted only if the same control tokens come out: a template that
cuts pieces out of a message can join the rest into a spelling that was not there.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChatPrompt
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

    def encode(self, prompt: ChatPrompt, check: Callable[[str], None] = lambda _: None) -> list[int]:
        """Return the token ids of a conversation.

        Args:
            prompt: The conversation.
            check: Given the rendered text before any other work on it; raises if that is too long.

        Raises:
            InvalidRequestError: The template or the vocabulary cannot take the messages.
        """
        rendered, restore = self._render(prompt, check)
        return self._tokenizer.encode_split(rendered, restore)

    def _render(self, prompt: ChatPrompt, check: Callable[[str], None]) -> tuple[str, Callable[[str], str]]:
        """Render with the control tokens in messages disguised, and say how to undo it."""
        pattern = self._tokenizer.control_pattern
        for index, message in enumerate(prompt.messages):
            if pattern.search(message.role):
                raise InvalidRequestError(
                    "A role must not spell a control token; expected system, user or assistant.",
                    param=f"messages.{index}.role",
                )
        plain = self._template.render(prompt)
        check(plain)
        edges = [char for char in self._edges if any(char in text for text in prompt.texts)]
        if not edges:
            return plain, lambda run: run
        disguise = dict(zip(edges, self._unused(prompt, plain, len(edges)), strict=True))
        hide = str.maketrans(disguise)
        show = str.maketrans({private: char for char, private in disguise.items()})

        def restore(run: str) -> str:
            return run.translate(show)

        hidden = self._template.render(_changed(prompt, lambda text: text.translate(hide)))
        if restore(hidden) == plain:
            return hidden, restore
        spelt = self._template.render(
            _changed(prompt, lambda text: pattern.sub(lambda found: found[0].translate(hide), text))
        )
        same = pattern.findall(spelt) == pattern.findall(hidden)
        return (spelt if same else hidden), restore

    def _unused(self, prompt: ChatPrompt, rendered: str, count: int) -> list[str]:
        """Return private code points that occur nowhere.

        Raises:
            InvalidRequestError: There are not so many.
        """
        used = set(rendered).union(self._template.source, *prompt.texts)
        free = list(islice((chr(code) for code in _PRIVATE if chr(code) not in used), count))
        if len(free) < count:
            raise InvalidRequestError(
                "The messages hold nearly every private code point from U+F0000 on: remove them.",
                param="messages",
            )
        return free


def _changed(prompt: ChatPrompt, change: Callable[[str], str]) -> ChatPrompt:
    """Return the prompt with another text in the place of each of its texts."""
    return replace(
        prompt,
        messages=tuple(replace(message, content=change(message.content)) for message in prompt.messages),
        variables=tuple(
            (name, change(value) if isinstance(value, str) else value) for name, value in prompt.variables
        ),
    )
