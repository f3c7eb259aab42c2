"""A prompt said again in front of its choices, with the log-probabilities of its tokens."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from stoker.core.text import Prompt, TextDelta, TextPrompt
from stoker.core.tokens import TokenLogprob
from stoker.text.detokenize import Detokenizer
from stoker.text.logprobs import text_logprob
from stoker.text.tokenizer import Tokenizer

STEP_TOKENS = 128
"""Tokens whose log-probabilities are turned to text at a time: a few milliseconds' worth."""


class PromptEcho:
    """Says a prompt once in each choice, token by token if log-probabilities are wanted.

    What is said is what the tokens spell, control tokens of a prompt of token ids included. A token that
    was put before the prompt has its place among the log-probabilities and is not said.

    Args:
        prompt: As it was sent.
        token_ids: The tokens made of it.
        n_added: So many of them, at the beginning, were put before it.
        tokenizer: The model's tokenizer.
        n_choices: How many choices say it.
        scored: Whether log-probabilities are wanted.

    Attributes:
        held: The beginning of a character that the prompt ends with; not said, except by `closing`.
    """

    def __init__(
        self,
        prompt: Prompt,
        token_ids: Sequence[int],
        n_added: int,
        tokenizer: Tokenizer,
        *,
        n_choices: int,
        scored: bool,
    ) -> None:
        self._token_ids = token_ids
        self._tokenizer = tokenizer
        self._n_choices = n_choices
        self._scored = scored
        self._detokenizer = Detokenizer()
        self._n_said = 0
        self._pieces = [b""] * n_added + [tokenizer.token_bytes(each) for each in token_ids[n_added:]]
        whole = b"".join(self._pieces)
        if isinstance(prompt, TextPrompt) and whole == b" " + prompt.text.encode():
            # Some vocabularies put a space before a text, which is no part of it.
            self._pieces[n_added] = self._pieces[n_added].removeprefix(b" ")
        ending = Detokenizer()
        ending.feed(whole)
        self.held = ending.held

    def is_complete(self) -> bool:
        """Whether the prompt has been said."""
        return self._n_said == len(self._token_ids)

    def opening(self) -> list[TextDelta]:
        """Return what can be said before any score has come: the whole prompt, if none will."""
        if self._scored:
            return self._say([None])
        self._n_said = len(self._token_ids)
        return self._deltas(self._detokenizer.feed(b"".join(self._pieces)))

    def score(self, scores: Iterable[TokenLogprob]) -> Iterator[list[TextDelta]]:
        """Yield what can be said now that the next tokens have their scores, a part at a time."""
        left = iter(scores)
        while part := list(islice(left, STEP_TOKENS)):
            yield self._say(part)

    def closing(self) -> list[TextDelta]:
        """Return what is said at the end of a prompt that nothing follows."""
        return self._deltas(self._detokenizer.flush())

    def _say(self, scores: Iterable[TokenLogprob | None]) -> list[TextDelta]:
        text = ""
        entries = []
        for score in scores:
            added = self._pieces[self._n_said]
            token_id = self._token_ids[self._n_said]
            text += self._detokenizer.feed(added)
            entries.append(text_logprob(self._tokenizer, token_id, score, added=added))
            self._n_said += 1
        return [TextDelta(choice, text, tuple(entries), of_prompt=True) for choice in range(self._n_choices)]

    def _deltas(self, text: str) -> list[TextDelta]:
        choices = range(self._n_choices) if text else ()
        return [TextDelta(choice, text, of_prompt=True) for choice in choices]
