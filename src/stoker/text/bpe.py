"""What the `tokenizers` library merges with."""

from itertools import repeat

from tokenizers import AddedToken
from tokenizers import Tokenizer as Bpe
from tokenizers.models import BPE

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import TokenizerSpec
from stoker.models.token_bytes import BYTE, NORMAL, SPACE, UNKNOWN, USER_DEFINED, byte_alphabet
from stoker.text.merges import merges_of_scores
from stoker.text.pretokenizer import make_pretokenizer, make_space_speller


def missing_bytes(spec: TokenizerSpec) -> frozenset[int]:
    """Return the bytes that no token stands for alone, so that some characters cannot be spelt."""
    spelt = {text for text, kind in zip(spec.tokens, spec.token_types, strict=True) if kind in {NORMAL, BYTE}}
    letters = byte_alphabet() if spec.kind == "bpe" else [f"<0x{byte:02X}>" for byte in range(256)]
    return frozenset(byte for byte, letter in enumerate(letters) if letter not in spelt)


def build_bpe(spec: TokenizerSpec) -> Bpe:
    """Build the library's tokenizer for runs of text without control tokens.

    Raises:
        UnsupportedModelError: A pre-tokenizer that is not known to be exact.
        CorruptFileError: Merges and tokens contradict each other.
    """
    rule = make_pretokenizer(spec.pre) if spec.kind == "bpe" else make_space_speller(spec.space_prefix)
    # A control token is no word and no merge makes one: text that merely spells it stays text.
    vocabulary = _ids_of(spec, {NORMAL, USER_DEFINED, BYTE} if spec.kind == "spm" else {NORMAL, USER_DEFINED})
    unknown = None if spec.kind == "bpe" else _add_unknown(spec, vocabulary)
    model = BPE(
        vocab=vocabulary,
        merges=_checked(_merges(spec, vocabulary), vocabulary),
        ignore_merges=spec.whole_words,
        byte_fallback=spec.kind == "spm",
        unk_token=unknown,
        fuse_unk=True,
    )
    bpe = Bpe(model)
    if rule.split is not None:
        bpe.pre_tokenizer = rule.split
    if rule.normalizer is not None:
        bpe.normalizer = rule.normalizer
    bpe.add_tokens(
        [
            AddedToken(
                text,
                normalized=False,
                lstrip=token_id in spec.lstrip_ids,
                rstrip=token_id in spec.rstrip_ids,
            )
            for text, token_id in user_defined_texts(spec).items()
        ]
    )
    return bpe


def user_defined_texts(spec: TokenizerSpec) -> dict[str, int]:
    """Return the spellings that become a token wherever they stand in a text.

    Runs of spaces are not among them: they are merged, as in `transformers`.
    """
    return {text: token_id for text, token_id in _ids_of(spec, {USER_DEFINED}).items() if text.strip(SPACE)}


def _ids_of(spec: TokenizerSpec, kinds: set[int]) -> dict[str, int]:
    if kinds.isdisjoint(spec.token_types):
        return {}
    return {
        text: token_id
        for token_id, (text, kind) in enumerate(zip(spec.tokens, spec.token_types, strict=True))
        if kind in kinds
    }


def _add_unknown(spec: TokenizerSpec, vocabulary: dict[str, int]) -> str | None:
    """Let characters that the vocabulary cannot spell show as the unknown token, not vanish."""
    if not missing_bytes(spec):
        return None
    # One of a single character would come out of text that holds it.
    unknown = next((each for each in _ids_of(spec, {UNKNOWN}).items() if len(each[0]) > 1), None)
    if unknown is None:
        raise UnsupportedModelError(
            "The model's vocabulary lacks tokens for some bytes and has no unknown token, "
            "so some texts could not be told from others; Stoker does not run it."
        )
    vocabulary[unknown[0]] = unknown[1]
    return unknown[0]


def _merges(spec: TokenizerSpec, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    if spec.scores:
        pieces = _ids_of(spec, {NORMAL, USER_DEFINED})
        return merges_of_scores(tuple(pieces), [spec.scores[token_id] for token_id in pieces.values()])
    others = frozenset(spec.tokens).difference(vocabulary)
    return [
        (left, right)
        for left, _, right in map(str.partition, spec.merges, repeat(" "))
        if left + right not in others
    ]


def _checked(merges: list[tuple[str, str]], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Refuse merges that the library would take on trust, and panic of."""
    for left, right in merges:
        if not (left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise CorruptFileError(
                f"The tokenizer's merges do not fit its tokens: {left[:80]!r} and {right[:80]!r} are merged, "
                "and both and what they make should be tokens."
            )
    return merges
