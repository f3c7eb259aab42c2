"""What a ``tokenizer.json`` does to a text before it merges, recognized or refused.

The file spells its steps out. Only sequences of steps that the catalogue's families use are recognized,
each exactly as they write it: others may be slow on hostile texts, or differ here in ways that nobody
notices.
"""

from dataclasses import dataclass
from typing import Any, Literal

from stoker.core.errors import UnsupportedModelError
from stoker.models.config import SpacePrefix
from stoker.models.word_rules import WordRule, rule_name

_SPACE = "\u2581"
_MAX_STEPS = 8


@dataclass(frozen=True, slots=True)
class Steps:
    """What `stoker.models.config.TokenizerSpec` calls by the same names."""

    kind: Literal["bpe", "spm"]
    pre: str = ""
    space_prefix: SpacePrefix = "none"


def recognize(label: str, normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None) -> Steps:
    """Return what a file's normalizer and pre-tokenizer amount to.

    Raises:
        UnsupportedModelError: Steps that no known family has.
    """
    before = _flatten(label, normalizer, "normalizers")
    splits = _flatten(label, pre_tokenizer, "pretokenizers")
    if any(each.get("type") == "ByteLevel" for each in splits):
        return _byte_level(label, before, splits)
    return _sentencepiece(label, before, splits)


def _flatten(label: str, step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a sequence, or the one step, or none."""
    if step is None:
        return []
    steps = step.get(key, []) if step.get("type") == "Sequence" else [step]
    if not isinstance(steps, list) or len(steps) > _MAX_STEPS or not all(isinstance(s, dict) for s in steps):
        raise _unknown(label, key, step)
    return steps


def _byte_level(label: str, before: list[dict[str, Any]], splits: list[dict[str, Any]]) -> Steps:
    if [each.get("type") for each in before] not in ([], ["NFC"]):
        raise _unknown(label, "normalizer", before)
    digits = splits[0].get("type") == "Digits"
    if digits and splits[0].get("individual_digits") is not True:
        raise _unknown(label, "pre_tokenizer", splits)
    *words, last = splits[digits:]
    rule = WordRule(words=_words(label, words[0]) if words else None, digits_first=digits, nfc=bool(before))
    whole = (
        len(words) <= 1
        and last.get("type") == "ByteLevel"
        and last.get("add_prefix_space") is False
        and last.get("use_regex", True) is (not words)
    )
    name = rule_name(rule)
    if not whole or name is None:
        raise _unknown(label, "pre_tokenizer", splits)
    return Steps(kind="bpe", pre=name)


def _words(label: str, split: dict[str, Any]) -> str:
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    isolates = split.get("behavior") == "Isolated" and not split.get("invert", False)
    if split.get("type") != "Split" or not isolates or not isinstance(regex, str):
        raise _unknown(label, "pre_tokenizer", split)
    return regex


def _sentencepiece(label: str, before: list[dict[str, Any]], splits: list[dict[str, Any]]) -> Steps:
    spells = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if not before:
        return Steps(kind="spm", space_prefix=_metaspace_prefix(label, splits))
    # With every space replaced, cutting at spaces cuts nothing.
    cuts_nothing = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    if not all({**each, "invert": False} == {**cuts_nothing, "invert": False} for each in splits):
        raise _unknown(label, "pre_tokenizer", splits)
    if before == [spells]:
        return Steps(kind="spm", space_prefix="none")
    if before == [{"type": "Prepend", "prepend": _SPACE}, spells]:
        return Steps(kind="spm", space_prefix="prepend")
    raise _unknown(label, "normalizer", before)


def _metaspace_prefix(label: str, splits: list[dict[str, Any]]) -> SpacePrefix:
    prefixes: dict[str, SpacePrefix] = {"first": "first", "always": "always", "never": "none"}
    if len(splits) == 1:
        step = splits[0]
        default = "always" if step.get("add_prefix_space", True) is True else "never"
        prefix = prefixes.get(str(step.get("prepend_scheme", default)))
        whole = step.get("replacement") == _SPACE and step.get("split") is False
        if step.get("type") == "Metaspace" and whole and prefix is not None:
            return prefix
    raise _unknown(label, "pre_tokenizer", splits)


def _unknown(label: str, part: str, step: object) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{label}: its {part} is {str(step)[:400]}, which is none that Stoker knows to be exact; "
        "it would give wrong tokens, so the model cannot run here."
    )
