"""Text to token ids, and token ids to bytes: byte-level BPE and SentencePiece-style BPE.

The merging is the `tokenizers` library's. Control tokens are cut out here and not there, because a
spelling such as ``<|im_start|>`` is a control token only where the chat template put it.
"""

import re
from collections.abc import Callable, Iterable

from stoker.core.errors import InvalidRequestError
from stoker.models.config import TokenizerSpec
from stoker.models.token_bytes import CONTROL, SPACE, UNKNOWN, bytes_of_tokens
from stoker.text.bpe import build_bpe, missing_bytes, user_defined_texts

_MAX_COMPOSED = 4
"""Most characters that normalization to NFC turns into one (U+1F82 and its like)."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_WHITE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)
"""What counts as white space around tokens that take it along; not all that `str.strip` strips."""


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
        adds_space: Whether a text's tokens begin with a space that the text does not have.
        control_pattern: Matches the spelling of any control token, the longest at each place.

    Raises:
        UnsupportedModelError: A pre-tokenizer or vocabulary that Stoker cannot run exactly.
        CorruptFileError: Merges and tokens contradict each other.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.bos_token_id = spec.bos_token_id
        self.add_bos = spec.add_bos
        self.end_token_ids = spec.end_token_ids
        self.adds_space = spec.kind == "spm" and spec.space_prefix != "none"
        self._byte_level = spec.kind == "bpe"
        self._adds_first_space = self.adds_space and spec.space_prefix == "first"
        self._spellings = spec.tokens
        self._lstrip_ids = spec.lstrip_ids
        self._rstrip_ids = spec.rstrip_ids
        kinds = {UNKNOWN, CONTROL}
        self._control_ids = {
            text: token_id
            for token_id, (text, kind) in enumerate(zip(spec.tokens, spec.token_types, strict=True))
            if kind in kinds and text
        }
        self._controls = frozenset(
            token_id for token_id, kind in enumerate(spec.token_types) if kind in kinds
        )
        self._bytes = bytes_of_tokens(spec)
        self._lengths = tuple(map(len, self._bytes))
        self._max_token_chars = max(self._lengths, default=1) or 1
        self.control_pattern = _any_of(self._control_ids)
        self._user_defined = _any_of(user_defined_texts(spec))
        self._bpe = build_bpe(spec)
        if self._byte_level and self._bpe.normalizer is not None:
            self._max_token_chars *= _MAX_COMPOSED
        self._missing = missing_bytes(spec)

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
        character that the vocabulary lacks makes no token, and encoding refuses it; white space that
        a control token takes along counts as if it did not.)
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
        start, strips = 0, False
        for found in self.control_pattern.finditer(text):
            token_id = self._control_ids[found.group()]
            run = restore(text[start : found.start()])
            run = run.rstrip(_WHITE) if token_id in self._lstrip_ids else run
            ids += self.encode_run(run.lstrip(_WHITE) if strips else run, first=start == 0)
            ids.append(token_id)
            start, strips = found.end(), token_id in self._rstrip_ids
        run = restore(text[start:])
        return ids + self.encode_run(run.lstrip(_WHITE) if strips else run, first=start == 0)

    def encode_run(self, text: str, *, first: bool = True) -> list[int]:
        """Encode a text that holds no control tokens, whatever it spells.

        Args:
            text: Any text.
            first: It begins the whole text: there some tokenizers put a space.

        Raises:
            InvalidRequestError: As in `encode`.
        """
        if not text:
            return []
        if self._adds_first_space and first and self._takes_space(text):
            text = SPACE + text
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
        data = b"".join(map(self.text_bytes, token_ids))
        return (data.removeprefix(b" ") if self.adds_space else data).decode(errors="replace")

    def text_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a generated token adds to the answer: none for a control token."""
        return b"" if token_id in self._controls else self.token_bytes(token_id)

    def _check_complete(self, text: str, ids: list[int]) -> None:
        """Refuse a text of which BPE dropped a character or gave the unknown token.

        The library drops a byte that the vocabulary has no token for. Small vocabularies lack some
        control characters; nothing of a prompt is ever dropped silently.
        """
        if self._byte_level:
            normalizer = self._bpe.normalizer
            whole = normalizer.normalize_str(text) if normalizer is not None else text
            if sum(map(self._lengths.__getitem__, ids)) == len(whole.encode()):
                return
        else:
            whole = text.replace(" ", SPACE)
            if self._controls.isdisjoint(ids):
                return
        lost = next((char for char in whole if self._loses(char)), None)
        if lost is not None:
            raise InvalidRequestError(
                f"The text holds U+{ord(lost):04X}, which this model's vocabulary cannot spell: remove it."
            )
        raise InvalidRequestError(
            "This model's vocabulary cannot spell the text: a token of it stands for two."
        )

    def _loses(self, char: str) -> bool:
        if self._missing.isdisjoint(char.encode()):
            return False
        return self._byte_level or self._bpe.token_to_id(char) is None

    def _takes_space(self, text: str) -> bool:
        """Whether a space is put before the text: not before a space, nor before an added token."""
        return text[0] not in {" ", SPACE} and self._user_defined.match(text) is None


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Match the leftmost spelling, and the longest that begins there."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
