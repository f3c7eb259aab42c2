"""The bytes that the tokens of a vocabulary stand for."""

import re

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import TokenizerSpec

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's types of tokens."""

SPACE = "\u2581"
"""How SentencePiece spells a space."""

_BYTE_SPELLING = re.compile(r"<0x([0-9A-F]{2})>\Z")


def byte_alphabet() -> tuple[str, ...]:
    """Return the 256 letters that spell bytes in a byte-level vocabulary.

    Bytes that print in Latin-1 spell themselves; the others, in order, are U+0100 onwards
    (Radford et al., 2019, GPT-2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


def bytes_of_tokens(spec: TokenizerSpec) -> tuple[bytes, ...]:
    """Return the bytes that each token stands for; a control token's are those of its spelling.

    Raises:
        UnsupportedModelError: A normal token of a byte-level vocabulary is not spelt in its alphabet.
        CorruptFileError: A byte token is not spelt as one.
    """
    kinds = zip(spec.tokens, spec.token_types, strict=True)
    if spec.kind == "bpe":
        byte_of = {letter: byte for byte, letter in enumerate(byte_alphabet())}
        return tuple(
            _from_letters(text, byte_of) if kind == NORMAL else text.encode() for text, kind in kinds
        )
    return tuple(_from_piece(text, kind) for text, kind in kinds)


def _from_letters(text: str, byte_of: dict[str, int]) -> bytes:
    try:
        return bytes(map(byte_of.__getitem__, text))
    except KeyError as error:
        raise UnsupportedModelError(
            f"Token {text[:80]!r} is not spelt in the byte-level alphabet, as a normal token of a byte-level "
            "BPE vocabulary is; Stoker cannot tell which bytes it stands for."
        ) from error


def _from_piece(text: str, kind: int) -> bytes:
    if kind != BYTE:
        return (text if kind in {UNKNOWN, CONTROL} else text.replace(SPACE, " ")).encode()
    spelt = _BYTE_SPELLING.match(text)
    if spelt is None:
        raise CorruptFileError(f"Byte token {text[:80]!r} is not spelt <0x00> to <0xFF>.")
    return bytes.fromhex(spelt[1])
