"""How a text is cut into words before BPE merges run; each family of models has its own rule.

A model file names its rule (``tokenizer.ggml.pre``). A wrong rule gives almost the right tokens and
a slightly worse model, so that nobody notices: hence only rules that a test compares with
`transformers` are here, and any other name is refused.
"""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from stoker.core.errors import UnsupportedModelError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class _Family:
    """One rule.

    Attributes:
        words: Regular expression of a word; None for GPT-2's, which the library has built in.
        digits_first: Cut every digit out before the words are looked for.
        nfc: Normalize the text to NFC first.
        whole_words: A word that is a token becomes it, whatever the merges say.
    """

    words: str | None = None
    digits_first: bool = False
    nfc: bool = False
    whole_words: bool = False


_GPT2_FAMILY = _Family()
_DIGITS_FAMILY = _Family(digits_first=True)
_LLAMA3_FAMILY = _Family(words=_LLAMA3, whole_words=True)
_QWEN2_FAMILY = _Family(words=_QWEN2, nfc=True)

_FAMILIES = {
    "gpt-2": _GPT2_FAMILY,
    "smollm": _DIGITS_FAMILY,
    "starcoder": _DIGITS_FAMILY,
    "llama3": _LLAMA3_FAMILY,
    "llama-v3": _LLAMA3_FAMILY,
    "llama-bpe": _LLAMA3_FAMILY,
    "qwen2": _QWEN2_FAMILY,
    "deepseek-r1-qwen": _QWEN2_FAMILY,
}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What the `tokenizers` library needs for one family.

    Attributes:
        split: Cuts a text into words and spells their bytes in the byte-level alphabet.
        normalizer: Runs before it, or None.
        whole_words: A word that is a token becomes it, whatever the merges say.
    """

    split: pre_tokenizers.PreTokenizer
    normalizer: normalizers.Normalizer | None
    whole_words: bool


def make_pretokenizer(name: str) -> PreTokenizer:
    """Return the family's rule by GGUF's name of it.

    Raises:
        UnsupportedModelError: No family of this name is known to be exact.
    """
    family = _FAMILIES.get(name)
    if family is None:
        known = ", ".join(sorted(_FAMILIES))
        raise UnsupportedModelError(
            f"The model's pre-tokenizer is {name[:80]!r}; Stoker knows {known}. "
            "Another one would give wrong tokens, so the model cannot run here."
        )
    steps: list[pre_tokenizers.PreTokenizer] = []
    if family.digits_first:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if family.words is not None:
        steps.append(pre_tokenizers.Split(Regex(family.words), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family.words is None))
    return PreTokenizer(
        split=pre_tokenizers.Sequence(steps),
        normalizer=normalizers.NFC() if family.nfc else None,
        whole_words=family.whole_words,
    )
