"""What a prompt takes in the gateway's memory, before it is tokenized."""

import sys

from stoker.core.text import ChatPrompt, Prompt, TextPrompt

TOKEN_BYTES = 44
"""A token id as Python holds it until its request ends: the integer (28), in a list and in a tuple."""

_MAX_TOKENS_PER_CHAR = 4  # a token is a byte at least, and a character has four in UTF-8 at most


def prompt_bytes(prompt: Prompt, *, context_length: int) -> int:
    """Return the bytes that a prompt takes at most: its text, and the tokens that it will become.

    What would have more tokens than the context is refused without keeping them.

    Args:
        prompt: As it was sent.
        context_length: Most tokens of one sequence.
    """
    match prompt:
        case ChatPrompt():
            texts = prompt.texts
        case TextPrompt(text):
            texts = [text]
        case _:
            return len(prompt.token_ids) * TOKEN_BYTES
    n_tokens = min(context_length, _MAX_TOKENS_PER_CHAR * sum(map(len, texts)))
    return sum(map(sys.getsizeof, texts)) + n_tokens * TOKEN_BYTES
