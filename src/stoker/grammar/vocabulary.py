"""What a grammar must know of a model's tokens."""

from dataclasses import dataclass

from stoker.models.config import TokenizerSpec
from stoker.models.token_bytes import CONTROL, UNKNOWN, bytes_of_tokens


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens as bytes.

    Attributes:
        tokens: Bytes of each token id of the model; none for an id that stands for nothing.
        controls: Tokens that are no text.
        ends: Those of them that end an answer.
    """

    tokens: tuple[bytes, ...]
    controls: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, spec: TokenizerSpec, vocab_size: int) -> "Vocabulary":
        """Return that of a model, whose matrices may have more rows than its tokenizer has tokens."""
        tokens = bytes_of_tokens(spec)
        padding = (b"",) * (vocab_size - len(tokens))
        controls = frozenset(
            token_id for token_id, kind in enumerate(spec.token_types) if kind in {UNKNOWN, CONTROL}
        )
        return cls((*tokens, *padding), controls, spec.end_token_ids)
