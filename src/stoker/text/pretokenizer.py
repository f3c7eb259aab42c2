"""What happens to a text before BPE merges run, in the terms of the `tokenizers` library."""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from stoker.models.config import SpacePrefix
from stoker.models.token_bytes import SPACE
from stoker.models.word_rules import word_rule


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What the `tokenizers` library needs for one family.

    Attributes:
        split: Cuts a text into words, and spells their bytes in the byte-level alphabet where the
            vocabulary is byte-level; None when a text is one word.
        normalizer: Runs before it, or None.
    """

    split: pre_tokenizers.PreTokenizer | None
    normalizer: normalizers.Normalizer | None


def make_pretokenizer(name: str) -> PreTokenizer:
    """Return a byte-level family's rule by GGUF's name of it.

    Raises:
        UnsupportedModelError: No family of this name is known to be exact.
    """
    rule = word_rule(name)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rule.digits_first:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.words is not None:
        steps.append(pre_tokenizers.Split(Regex(rule.words), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.words is None))
    return PreTokenizer(
        split=pre_tokenizers.Sequence(steps), normalizer=normalizers.NFC() if rule.nfc else None
    )


def make_space_speller(prefix: SpacePrefix) -> PreTokenizer:
    """Return what spells spaces for a SentencePiece-style vocabulary.

    For ``first`` the space in front is the caller's to add: only the caller knows which run of a
    text is its first.
    """
    if prefix == "always":
        speller = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
        return PreTokenizer(split=speller, normalizer=None)
    spell = normalizers.Replace(" ", SPACE)
    if prefix == "prepend":
        return PreTokenizer(split=None, normalizer=normalizers.Sequence([normalizers.Prepend(SPACE), spell]))
    return PreTokenizer(split=None, normalizer=spell)
