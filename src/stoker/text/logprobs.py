"""A token's log-probability to that of its text."""

from stoker.core.text import TextLogprob, TopToken
from stoker.core.tokens import TokenLogprob
from stoker.text.tokenizer import Tokenizer


def text_logprob(
    tokenizer: Tokenizer, token_id: int, logprob: TokenLogprob | None, *, added: bytes
) -> TextLogprob:
    """Return the log-probability of a token with its spelling and those of its alternatives.

    Args:
        tokenizer: The model's tokenizer.
        token_id: The token.
        logprob: Its log-probability; None if it has none.
        added: What it adds to the text.
    """
    raw = tokenizer.token_bytes(token_id)
    return TextLogprob(
        text=raw.decode(errors="replace"),
        raw=raw,
        logprob=None if logprob is None else logprob.logprob,
        top=() if logprob is None else tuple(_top(tokenizer, *pair) for pair in logprob.top),
        added=None if added == raw else added,
    )


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopToken:
    raw = tokenizer.token_bytes(token_id)
    return TopToken(text=raw.decode(errors="replace"), raw=raw, logprob=logprob)
