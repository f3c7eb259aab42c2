"""How a text that is the only one to follow is cut into tokens."""

from bisect import bisect_right

from stoker.grammar.vocabulary import Vocabulary

MAX_FORCED = 256
"""Most tokens that are taken in one go."""


class TokenCutter:
    """Cuts bytes into the longest tokens, one after the other, as far as what follows cannot change them.

    What is left over might be the beginning of a longer token; choosing it is left to the model.

    Args:
        vocabulary: The model's tokens; those that are no text are not used.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ids = {
            token: token_id
            for token_id, token in reversed(list(enumerate(vocabulary.tokens)))
            if token and token_id not in vocabulary.controls
        }
        self._sorted = sorted(self._ids)
        self._longest = max(map(len, self._sorted), default=0)

    def cut(self, text: bytes, most: int) -> list[int]:
        """Return the tokens that a text begins with, whatever comes after it, `most` of them at most."""
        tokens: list[int] = []
        most = min(most, MAX_FORCED)
        start = 0
        while len(tokens) < most and not self._may_go_on(text[start : start + self._longest]):
            for end in range(min(len(text), start + self._longest), start, -1):
                token = self._ids.get(text[start:end])
                if token is not None:
                    tokens.append(token)
                    start = end
                    break
            else:  # no token stands for this byte
                break
        return tokens

    def _may_go_on(self, rest: bytes) -> bool:
        """Whether `rest`, the end of a text, is the beginning of a longer token; nothing is of any."""
        index = bisect_right(self._sorted, rest)
        return index < len(self._sorted) and self._sorted[index].startswith(rest)
