"""How a text is cut into words before byte-level BPE merges run; each family of models has its own rule.

A model file names its rule (``tokenizer.ggml.pre``) or spells it out (``tokenizer.json``). A wrong rule
gives almost the right tokens and a slightly worse model, so that nobody notices: hence only rules that a
test compares with `transformers` are here, and any other one is refused.
"""

from dataclasses import dataclass

from stoker.core.errors import UnsupportedModelError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# Letters with case cut at a capital that follows a small one; marks belong to their letter.
_CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SMALLS = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_CAPITALS}*{_SMALLS}+|{_CAPITALS}+{_SMALLS}*|\p{{N}}|{_REST}"
_GPT_4O = (
    rf"{_CAPITALS}*{_SMALLS}+{_CONTRACTIONS}?|{_CAPITALS}+{_SMALLS}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST}"
)


@dataclass(frozen=True, slots=True)
class WordRule:
    """One rule.

    Attributes:
        words: Regular expression of a word (Oniguruma); None for GPT-2's, which the library has built in.
        digits_first: Cut every digit out before the words are looked for.
        nfc: Normalize the text to NFC first.
    """

    words: str | None = None
    digits_first: bool = False
    nfc: bool = False


_GPT2_RULE = WordRule()
_DIGITS_RULE = WordRule(digits_first=True)
_LLAMA3_RULE = WordRule(words=_LLAMA3)
_QWEN2_RULE = WordRule(words=_QWEN2, nfc=True)

WORD_RULES = {
    "gpt-2": _GPT2_RULE,
    "olmo": _GPT2_RULE,
    "smollm": _DIGITS_RULE,
    "starcoder": _DIGITS_RULE,
    "refact": _DIGITS_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "dbrx": _LLAMA3_RULE,
    "smaug-bpe": _LLAMA3_RULE,
    "qwen2": _QWEN2_RULE,
    "deepseek-r1-qwen": _QWEN2_RULE,
    "tekken": WordRule(words=_TEKKEN),
    "gpt-4o": WordRule(words=_GPT_4O),
}
"""The known rules by GGUF's name. Granite's files say ``refact``, OLMo 2's and Phi-4's ``dbrx``,
SmolLM3's ``smaug-bpe``, gpt-oss's and Phi-4-mini's ``gpt-4o``."""

WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
"""Rules of families in which a word that is a token becomes it, whatever the merges say; a GGUF file
does not tell, a ``tokenizer.json`` does (``ignore_merges``)."""


def word_rule(name: str) -> WordRule:
    """Return the rule by GGUF's name of it.

    Raises:
        UnsupportedModelError: No rule of this name is known to be exact.
    """
    rule = WORD_RULES.get(name)
    if rule is None:
        known = ", ".join(sorted(WORD_RULES))
        raise UnsupportedModelError(
            f"The model's pre-tokenizer is {name[:80]!r}; Stoker knows {known}. "
            "Another one would give wrong tokens, so the model cannot run here."
        )
    return rule


def rule_name(rule: WordRule) -> str | None:
    """Return a name of a rule that a file spells out, or None when it is unknown."""
    return next((name for name, known in WORD_RULES.items() if known == rule), None)
