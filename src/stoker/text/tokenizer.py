"""Byte-level BPE: text to token ids, and token ids to bytes.

The merging is the `tokenizers` library's. Control tokens are cut out here and not there, because a
spelling such as ``<|im_start|>`` is a control token only where the chat template put it.
"""

import re
from collections.abc import Callable

from tokenizers import AddedToken
from tokenizers import Tokenizer as Bpe
from tokenizers.models import BPE

from stoker.core.errors import CorruptFileError, InvalidRequestError, UnsupportedModelError
from stoker.models.config import TokenizerSpec
from stoker.text.pretokenizer import make_pretokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4

_MAX_COMPOSED = 4
"""Most characters that normalization to NFC turns into one (U+1F82 and its like)."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def byte_alphabet() -> tuple[str, ...]:
    """Return the 256 letters that spell bytes in a byte-level vocabulary.

    Bytes that print in Latin-1 spell themselves; the others, in order, are U+0100 onwards
    (Radford et al., 2019, GPT-2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


class Tokenizer:
    """A model's tokenizer. Thread-safe; encoding releases the GIL.

    User-defined tokens (GGUF type 4) are text: their spelling becomes the token anywhere, as in
    `transformers`. Control tokens never come out of text unless `encode` is asked for them.

    Args:
        spec: The tokenizer as the model file describes it.

    Attributes:
        bos_token_id: Token that begins a text, or None.
        add_bos: Whether raw prompts begin with it.
        end_token_ids: Tokens that end a turn.
        control_pattern: Matches the spelling of any control token, the longest at each place.

    Raises:
        UnsupportedModelError: A pre-tokenizer or vocabulary that Stoker cannot run exactly.
        CorruptFileError: Merges and tokens contradict each other.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        letters = byte_alphabet()
        byte_of = {letter: byte for byte, letter in enumerate(letters)}
        self.bos_token_id = spec.bos_token_id
        self.add_bos = spec.add_bos
        self.end_token_ids = spec.end_token_ids
        self._spellings = spec.tokens
        self._control_ids = {
            text: token_id
            for token_id, (text, kind) in enumerate(zip(spec.tokens, spec.token_types, strict=True))
            if kind in {_UNKNOWN, _CONTROL} and text
        }
        self._controls = frozenset(
            token_id for token_id, kind in enumerate(spec.token_types) if kind in {_UNKNOWN, _CONTROL}
        )
        self._bytes = tuple(
            _spell(text, byte_of) if kind == _NORMAL else text.encode()
            for text, kind in zip(spec.tokens, spec.token_types, strict=True)
        )
        self._lengths = tuple(map(len, self._bytes))
        self._max_token_chars = max(self._lengths, default=1) or 1
        self.control_pattern = _any_of(self._control_ids)
        self._bpe = _build(spec)
        if self._bpe.normalizer is not None:
            self._max_token_chars *= _MAX_COMPOSED
        spelt = set(self._bpe.get_vocab())
        self._missing = frozenset(byte for byte, letter in enumerate(letters) if letter not in spelt)

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return len(self._bytes)

    @property
    def control_texts(self) -> frozenset[str]:
        """Spellings of the control tokens."""
        return frozenset(self._control_ids)

    def is_control(self, token_id: int) -> bool:
        """Whether the token structures a conversation and is no text."""
        return token_id in self._controls

    def spelling(self, token_id: int) -> str:
        """Return the token's text in the file, in the byte-level alphabet if it is a normal one."""
        return self._spellings[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; a control token's are those of its spelling.

        Empty for an id past the vocabulary: embedding matrices are padded at times, and a padding
        row stands for nothing.
        """
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def min_tokens(self, text: str) -> int:
        """Return a number of tokens that `text` has at least, however it is encoded, at almost no cost.

        A token stands for as many bytes as it is long, so for no more characters than that. (A
        character that the vocabulary lacks makes no token, and encoding refuses it.)
        """
        return -(-len(text) // self._max_token_chars)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: Any text.
            special: Spellings of control tokens become those tokens; by default they are text.

        Raises:
            InvalidRequestError: The text is not valid Unicode, or the vocabulary cannot spell it.
        """
        if not special:
            return self.encode_run(text)
        return self.encode_split(text, lambda run: run)

    def encode_split(self, text: str, restore: Callable[[str], str]) -> list[int]:
        """Encode a text whose control tokens count, changing each run of text between them first.

        Each run is one piece: words are cut across the border of a template's text and a user's.

        Args:
            text: Spellings of control tokens in it become those tokens.
            restore: Applied to each run of text between two control tokens before it is encoded.

        Raises:
            InvalidRequestError: As in `encode`.
        """
        ids: list[int] = []
        start = 0
        for found in self.control_pattern.finditer(text):
            ids += self.encode_run(restore(text[start : found.start()]))
            ids.append(self._control_ids[found.group()])
            start = found.end()
        return ids + self.encode_run(restore(text[start:]))

    def encode_run(self, text: str) -> list[int]:
        """Encode a text that holds no control tokens, whatever it spells.

        Raises:
            InvalidRequestError: As in `encode`.
        """
        if not text:
            return []
        try:
            # Unlike `encode`, the batch call releases the GIL and computes no offsets.
            ids = self._bpe.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except TypeError as error:
            surrogate = _SURROGATE.search(text)
            if surrogate is None:
                raise
            raise InvalidRequestError(
                f"The text holds an unpaired surrogate (U+{ord(surrogate[0]):04X}) at character "
                f"{surrogate.start()}: it is not valid Unicode. Send well-formed UTF-8."
            ) from error
        if self._missing:
            self._check_complete(text, ids)
        return ids

    def count(self, text: str) -> int:
        """Return how many tokens a text has, control tokens not counted as such."""
        return len(self.encode_run(text))

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of tokens; control tokens give none, malformed UTF-8 gives U+FFFD."""
        return b"".join(map(self.text_bytes, token_ids)).decode(errors="replace")

    def text_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a generated token adds to the answer: none for a control token."""
        return b"" if token_id in self._controls else self.token_bytes(token_id)

    def _check_complete(self, text: str, ids: list[int]) -> None:
        """Refuse a text of which BPE dropped a character.

        The library drops a byte that the vocabulary has no token for. Small vocabularies lack some
        control characters; nothing of a prompt is ever dropped silently.
        """
        normalizer = self._bpe.normalizer
        whole = normalizer.normalize_str(text) if normalizer is not None else text
        if sum(map(self._lengths.__getitem__, ids)) == len(whole.encode()):
            return
        for char in whole:
            if not self._missing.isdisjoint(char.encode()):
                raise InvalidRequestError(
                    f"The text holds U+{ord(char):04X}, which this model's vocabulary cannot spell: "
                    "remove it."
                )
        raise InvalidRequestError("This model's vocabulary cannot spell the text: one token stands for two.")


def _spell(text: str, byte_of: dict[str, int]) -> bytes:
    """Return the bytes of a normal token."""
    try:
        return bytes(map(byte_of.__getitem__, text))
    except KeyError as error:
        raise UnsupportedModelError(
            f"Token {text[:80]!r} is not spelt in the byte-level alphabet, as a normal token of a byte-level "
            "BPE vocabulary is; Stoker cannot tell which bytes it stands for."
        ) from error


def _any_of(texts: dict[str, int]) -> re.Pattern[str]:
    """Match the leftmost spelling, and the longest that begins there."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _build(spec: TokenizerSpec) -> Bpe:
    """Build the library's tokenizer for runs of text without control tokens."""
    rule = make_pretokenizer(spec.pre)
    kinds = (_NORMAL, _USER_DEFINED)
    vocabulary = {
        text: token_id
        for token_id, (text, kind) in enumerate(zip(spec.tokens, spec.token_types, strict=True))
        if kind in kinds
    }
    # A merge into a control token could only ever run on text that merely spells one: it is left out.
    others = frozenset(spec.tokens).difference(vocabulary)
    merges = [
        (left, right)
        for left, _, right in (merge.partition(" ") for merge in spec.merges)
        if left + right not in others
    ]
    for left, right in merges:  # which the library takes on trust, and panics
        if not (left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise CorruptFileError(
                f"The tokenizer's merges do not fit its tokens: {left[:80]!r} and {right[:80]!r} are merged, "
                "and both and what they make should be tokens."
            )
    model = BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.whole_words)
    bpe = Bpe(model)
    bpe.pre_tokenizer = rule.split
    if rule.normalizer is not None:
        bpe.normalizer = rule.normalizer
    bpe.add_tokens(
        [
            AddedToken(text, normalized=False)
            for text, kind in zip(spec.tokens, spec.token_types, strict=True)
            if kind == _USER_DEFINED and text
        ]
    )
    return bpe
