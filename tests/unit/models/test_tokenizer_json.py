"""The tokenizer of a model folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import TokenizerSpec
from stoker.models.huggingface.files import MAX_CONFIG_BYTES
from stoker.models.huggingface.tokenizer_json import read_tokenizer_json
from stoker.models.token_bytes import byte_alphabet
from stoker.models.word_rules import WORD_RULES
from stoker.text import Tokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA3 = {"type": "Split", "pattern": {"Regex": WORD_RULES["llama-bpe"].words}, "behavior": "Isolated"}
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
BEGINS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}]}
LETTERS = byte_alphabet()


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(token_id: int, content: str, **flags: bool) -> dict[str, Any]:
    return {"id": token_id, "content": content, **flags}


def tokenizer_file(**changes: Any) -> dict[str, Any]:
    vocabulary = {letter: byte for byte, letter in enumerate(LETTERS)} | {"ab": 256, "abc": 257}
    return {
        "version": "1.0",
        "truncation": None,
        "added_tokens": [
            added(258, "<bos>", special=True),
            added(259, "<|im_end|>", special=True),
            added(260, "<think>", special=False),
        ],
        "normalizer": None,
        "pre_tokenizer": sequence(LLAMA3, BYTE_LEVEL),
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], "ab c"], "ignore_merges": True},
        **changes,
    }


def model(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = tokenizer_file()["model"]
    return {"model": content | changes}


def read(folder: Path, changes: dict[str, Any], **files: object) -> TokenizerSpec:
    for name, content in {"tokenizer": tokenizer_file(**changes), **files}.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_tokenizer_json(folder)


def test_reads_the_whole(tmp_path: Path) -> None:
    spec = read(
        tmp_path,
        {"post_processor": BEGINS},
        tokenizer_config={
            "bos_token": "<bos>",
            "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
            "chat_template": "old",
            "model_max_length": 1e30,
        },
        generation_config={"eos_token_id": [259, 257], "temperature": 0.6},
    )
    assert (spec.kind, spec.pre, spec.whole_words) == ("bpe", "llama-bpe", True)
    assert spec.tokens[256:] == ("ab", "abc", "<bos>", "<|im_end|>", "<think>")
    assert spec.token_types[255:] == (1, 1, 1, 3, 3, 4)
    assert spec.merges == ("a b", "ab c")
    assert (spec.bos_token_id, spec.add_bos) == (258, True)
    assert spec.end_token_ids == {257, 259}
    assert spec.special_tokens == {"bos_token": "<bos>", "eos_token": "<|im_end|>"}
    assert spec.chat_template == "old"
    tokenizer = Tokenizer(spec)
    assert tokenizer.encode("abc<think><bos>") == [257, 260, *b"<bos>"]


def test_a_template_file_comes_before_the_one_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("new é")
    assert read(tmp_path, {}, tokenizer_config={"chat_template": "old"}).chat_template == "new é"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}], "b"),
        ([{"name": "tool_use", "template": "a"}], None),
        (None, None),
    ],
)
def test_the_default_of_several_templates(tmp_path: Path, template: object, expected: str | None) -> None:
    assert read(tmp_path, {}, tokenizer_config={"chat_template": template}).chat_template == expected


@pytest.mark.parametrize(
    ("config", "processor", "expected"),
    [
        ({}, None, False),
        ({"bos_token": "<bos>"}, None, False),
        ({"bos_token": "<bos>", "add_bos_token": True}, None, True),
        ({"bos_token": "<bos>", "add_bos_token": False}, BEGINS, False),
        ({}, BEGINS, True),
        ({}, {"type": "Sequence", "processors": [{"type": "ByteLevel"}, BEGINS]}, True),
        ({}, {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}, False),
    ],
)
def test_begin_token(tmp_path: Path, config: object, processor: object, expected: bool) -> None:
    spec = read(tmp_path, {"post_processor": processor}, tokenizer_config=config)
    assert spec.add_bos is expected
    assert spec.bos_token_id == (258 if expected or config == {"bos_token": "<bos>"} else spec.bos_token_id)


@pytest.mark.parametrize("name", WORD_RULES)
def test_every_known_rule_is_recognized(tmp_path: Path, name: str) -> None:
    rule = WORD_RULES[name]
    steps: list[dict[str, Any]] = [{"type": "Digits", "individual_digits": True}] if rule.digits_first else []
    if rule.words is not None:
        steps.append(
            {"type": "Split", "pattern": {"Regex": rule.words}, "behavior": "Isolated", "invert": False}
        )
    steps.append({**BYTE_LEVEL, "use_regex": rule.words is None})
    changes = {
        "pre_tokenizer": steps[0] if len(steps) == 1 else sequence(*steps),
        "normalizer": {"type": "NFC"} if rule.nfc else None,
    }
    assert WORD_RULES[read(tmp_path, changes).pre] == rule


def test_ids_that_the_file_skips_are_unused(tmp_path: Path) -> None:
    spec = read(tmp_path, {"added_tokens": [added(300, "<|im_end|>", special=True)]})
    assert len(spec.tokens) == 301
    assert set(spec.tokens[258:300]) == {""}
    assert set(spec.token_types[258:300]) == {5}
    assert Tokenizer(spec).encode("abc") == [257]


def test_added_tokens_that_take_white_space_along(tmp_path: Path) -> None:
    tokens = [
        added(258, "<a>", special=True, rstrip=True),
        added(259, "<|im_end|>", special=True, lstrip=True),
        added(260, "<t>", lstrip=True, rstrip=True),
    ]
    spec = read(tmp_path, {"added_tokens": tokens})
    assert spec.lstrip_ids == {259, 260}
    assert spec.rstrip_ids == {258, 260}
    tokenizer = Tokenizer(spec)
    assert tokenizer.encode("x <a>\n y \n<|im_end|> z", special=True) == [
        *b"x ", 258, *b"y", 259, *b" z",
    ]  # fmt: skip
    assert tokenizer.encode("x <t> y") == [*b"x", 260, *b"y"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0]]}}, "type 'Unigram'"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "type 'WordPiece'"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer.*Lowercase"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA=="}}, "normalizer.*Precompiled"),
        ({"pre_tokenizer": None}, "pre_tokenizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer.*Whitespace"),
        ({"pre_tokenizer": sequence({**LLAMA3, "pattern": {"Regex": "(a+)+$"}}, BYTE_LEVEL)}, r"\(a\+\)\+"),
        ({"pre_tokenizer": sequence({**LLAMA3, "behavior": "Removed"}, BYTE_LEVEL)}, "Removed"),
        ({"pre_tokenizer": sequence({**LLAMA3, "invert": True}, BYTE_LEVEL)}, "invert"),
        ({"pre_tokenizer": sequence(LLAMA3, {**BYTE_LEVEL, "add_prefix_space": True})}, "add_prefix_space"),
        ({"pre_tokenizer": sequence(LLAMA3, {**BYTE_LEVEL, "use_regex": True})}, "use_regex"),
        ({"pre_tokenizer": sequence(BYTE_LEVEL, LLAMA3)}, "pre_tokenizer"),
        ({"pre_tokenizer": sequence(LLAMA3, LLAMA3, BYTE_LEVEL)}, "pre_tokenizer"),
        ({"pre_tokenizer": sequence(*[BYTE_LEVEL] * 9)}, "pretokenizers"),
        ({"pre_tokenizer": {**METASPACE, "split": True}}, "Metaspace"),
        ({"pre_tokenizer": METASPACE}, "byte fallback"),
        (model(dropout=0.1), "dropout"),
        (model(continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        ({"added_tokens": [added(258, "<a>", single_word=True)]}, "single word"),
        ({"added_tokens": []}, "no end token"),
        ({"post_processor": {"type": "BertProcessing"}}, "BertProcessing"),
        ({"post_processor": {"type": []}}, r"its post_processor is '\[\]'"),
    ],
)
def test_refuses_what_stoker_does_not_run(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read(tmp_path, changes)


DEEP = '{"model":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"


@pytest.mark.parametrize(
    ("changes", "files", "words"),
    [
        ({}, {"tokenizer": "{"}, "malformed"),
        ({}, {"tokenizer": "[]"}, "malformed"),
        ({}, {"tokenizer": DEEP}, "malformed"),
        ({}, {"tokenizer": DEEP.replace("model", "normalizer")}, "malformed"),
        ({}, {"tokenizer": "{}"}, "model"),
        ({}, {"tokenizer_config": '{"bos_token": 5}'}, "tokenizer_config.json is malformed"),
        ({}, {"tokenizer_config": {"bos_token": "<none>"}}, "'<none>', which is no token"),
        ({}, {"tokenizer_config": {"add_bos_token": True}}, "none is named"),
        ({}, {"tokenizer_config": " " * (MAX_CONFIG_BYTES + 1)}, "more than 8388608 bytes"),
        ({}, {"tokenizer_config": {"chat_template": "x" * (2**17 + 1)}}, "131073 characters"),
        ({}, {"generation_config": {"eos_token_id": [261]}}, "token 261, expected 0 to 260"),
        ({}, {"generation_config": {"eos_token_id": -1}}, "token -1"),
        (model(vocab={"a": 0, "b": 0}), {}, "have the id 0"),
        (model(vocab={"a": -1}), {}, "token ids must be"),
        (model(vocab={"a": 2**22}), {}, "token ids must be"),
        (model(vocab={"a": "b"}), {}, "malformed"),
        (model(vocab=[1]), {}, "malformed"),
        (model(merges=["ab"]), {}, "merge 0 is 'ab'"),
        (model(merges=[["a", "b", "c"]]), {}, "malformed"),
        (model(merges=[["a", "b c"]]), {}, "merge 0 is 'a b c'"),
        ({"added_tokens": [added(256, "<a>")]}, {}, "disagree on the id 256"),
        ({"added_tokens": [added(258, "ab")]}, {}, "disagree on the id 258"),
        ({"added_tokens": [added(258, "<a>"), added(259, "<a>")]}, {}, "same text or the same id"),
    ],
)
def test_damage(tmp_path: Path, changes: dict[str, Any], files: dict[str, object], words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        read(tmp_path, changes, **files)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"tokenizer\.json is missing"):
        read_tokenizer_json(tmp_path)


def test_merges_of_unknown_tokens_are_refused_when_the_tokenizer_is_built(tmp_path: Path) -> None:
    spec = read(tmp_path, model(merges=["a q", "zz b"]))
    with pytest.raises(CorruptFileError, match="merges"):
        Tokenizer(spec)
