"""The tokenizer as a file describes it."""

import struct
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.config import TokenizerSpec
from stoker.models.gguf.file import GgufFile
from stoker.models.tokenizer_spec import read_tokenizer
from stoker.testing.gguf_files import (
    CHAT_TEMPLATE,
    MERGES,
    TINY_VOCAB_SIZE,
    Encoded,
    TinyLlama,
    byte_alphabet,
    encode_gguf,
)

ABSENT = object()


def tokenizer_of(folder: Path, **changes: object) -> TokenizerSpec:
    """The tiny model's tokenizer with changed keys (without their prefix ``tokenizer.``)."""
    model = TinyLlama(n_layers=1)
    metadata = model.metadata()
    for suffix, value in changes.items():
        key = "tokenizer." + suffix
        if value is ABSENT:
            metadata.pop(key, None)
        else:
            assert isinstance(value, str | bool | int | list)
            metadata[key] = value
    path = folder / "model.gguf"
    path.write_bytes(encode_gguf(metadata, model.tensors()))
    with open_model(path) as opened:
        return opened.tokenizer


def tokens_with(first: str, second: str = "<|im_start|>", third: str = "<|im_end|>") -> list[str]:
    return [first, second, third, *(f"t{n}" for n in range(TINY_VOCAB_SIZE - 3))]


def test_reads_the_whole(tmp_path: Path) -> None:
    spec = tokenizer_of(tmp_path)
    assert spec.kind == "bpe"
    assert spec.pre == "smollm"
    assert spec.tokens[:4] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ā")
    assert spec.tokens[3 : 3 + 256] == tuple(byte_alphabet())
    assert spec.token_types[:4] == (3, 3, 3, 1)
    assert spec.merges == MERGES
    assert (spec.bos_token_id, spec.add_bos) == (1, False)
    assert spec.end_token_ids == {0, 2}
    assert spec.chat_template == CHAT_TEMPLATE


def test_a_model_without_chat_format(tmp_path: Path) -> None:
    assert tokenizer_of(tmp_path, chat_template=ABSENT).chat_template is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ggml.add_bos_token": True}, True),
        ({"ggml.add_bos_token": ABSENT}, False),
        ({"ggml.add_bos_token": ABSENT, "ggml.pre": "llama-bpe"}, True),
        ({"ggml.add_bos_token": False, "ggml.pre": "llama-bpe"}, False),
        ({"ggml.add_bos_token": ABSENT, "ggml.pre": "llama-bpe", "ggml.bos_token_id": ABSENT}, False),
    ],
)
def test_begin_token(tmp_path: Path, changes: dict[str, object], expected: bool) -> None:
    assert tokenizer_of(tmp_path, **changes).add_bos is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ggml.eos_token_id": 5}, {0, 2, 5}),
        ({"ggml.eot_token_id": 6, "ggml.eom_token_id": 7}, {0, 2, 6, 7}),
        ({"ggml.tokens": tokens_with("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")}, {0, 1, 2}),
        ({"ggml.tokens": tokens_with("<|end|>", "</s>")}, {2}),
        ({"ggml.tokens": tokens_with("<end_of_turn>", "<|return|>", "<|call|>")}, {0, 1, 2}),
        ({"ggml.eos_token_id": ABSENT}, {0, 2}),
    ],
)
def test_end_tokens(tmp_path: Path, changes: dict[str, object], expected: set[int]) -> None:
    assert tokenizer_of(tmp_path, **changes).end_token_ids == expected


def test_text_that_looks_like_an_end_token_is_none(tmp_path: Path) -> None:
    """Only control tokens count: a user's text can become the others."""
    types = [1, 4, *[1] * (TINY_VOCAB_SIZE - 2)]
    tokens = tokens_with("<|endoftext|>", "<|im_end|>", "end")
    spec = tokenizer_of(tmp_path, **{"ggml.token_type": types, "ggml.tokens": tokens, "ggml.eos_token_id": 2})
    assert spec.end_token_ids == {2}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ggml.model": "t5"}, UnsupportedModelError, r"kind 't5'; Stoker runs gpt2"),
        ({"ggml.model": "llama"}, CorruptFileError, "tokenizer.ggml.scores"),
        ({"ggml.model": ABSENT}, CorruptFileError, "lacks the metadata key 'tokenizer.ggml.model'"),
        ({"ggml.pre": ABSENT}, CorruptFileError, "tokenizer.ggml.pre"),
        ({"ggml.tokens": ABSENT}, CorruptFileError, "tokenizer.ggml.tokens"),
        ({"ggml.merges": ABSENT}, CorruptFileError, "tokenizer.ggml.merges"),
        ({"ggml.token_type": ABSENT}, CorruptFileError, "tokenizer.ggml.token_type"),
        ({"ggml.token_type": [1]}, CorruptFileError, "for each of the 275 tokens"),
        ({"ggml.token_type": [7] * TINY_VOCAB_SIZE}, CorruptFileError, "one number from 1 to 6"),
        ({"ggml.merges": ["ab"]}, CorruptFileError, "merge 0 is 'ab'"),
        ({"ggml.merges": ["a b", "a b c"]}, CorruptFileError, "merge 1 is 'a b c'"),
        ({"ggml.eos_token_id": 275}, CorruptFileError, "eos_token_id is 275, expected 0 to 274"),
        ({"ggml.bos_token_id": 2**32 - 1}, CorruptFileError, "bos_token_id is 4294967295"),
        (
            {"ggml.add_bos_token": True, "ggml.bos_token_id": ABSENT},
            CorruptFileError,
            "no tokenizer.ggml.bos",
        ),
        (
            {"ggml.eos_token_id": ABSENT, "ggml.tokens": tokens_with("a", "b", "c")},
            UnsupportedModelError,
            "no end",
        ),
        ({"chat_template": "x" * (2**17 + 1)}, CorruptFileError, "131073 characters"),
        ({"chat_template": 3}, CorruptFileError, "expected a string"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tokenizer_of(tmp_path, **changes)


def spm_of(folder: Path, architecture: str, **changes: object) -> TokenizerSpec:
    """A SentencePiece-style tokenizer of three tokens beside two control tokens."""
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "<|end|>", "a", "  ", "<0x41>"],
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 4, 6],
        "tokenizer.ggml.scores": Encoded(9, struct.pack("<IQ6f", 6, 6, 0, 0, 0, -1, -1, 0)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 1,
        **changes,
    }
    path = folder / "vocabulary.gguf"
    path.write_bytes(encode_gguf(metadata, []))
    return read_tokenizer("vocabulary.gguf", GgufFile(path).metadata)


def test_reads_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    spec = spm_of(tmp_path, "llama")
    assert (spec.kind, spec.space_prefix, spec.add_bos) == ("spm", "first", True)
    assert not spec.merges
    assert list(spec.scores) == [0, 0, 0, -1, -1, 0]
    assert spec.tokens[4] == "  "
    assert (spec.end_token_ids, spec.rstrip_ids) == (frozenset({1}), frozenset())
    assert spec.special_tokens == {"bos_token": "<s>", "eos_token": "<s>"}


def test_gemma_merges_by_id_and_spells_spaces_as_the_others_do(tmp_path: Path) -> None:
    spec = spm_of(tmp_path, "gemma2")
    assert (spec.space_prefix, spec.scores) == ("none", (0, -1, -2, -3, -4, -5))
    assert spec.tokens[4] == "\u2581\u2581"


def test_phi_3_ends_a_turn_and_takes_white_space_along(tmp_path: Path) -> None:
    spec = spm_of(tmp_path, "phi3")
    assert (spec.space_prefix, spec.end_token_ids) == ("prepend", frozenset({1, 2}))
    assert spec.rstrip_ids == {2}


@pytest.mark.parametrize(
    ("architecture", "adds", "expected"),
    [("llama", False, "none"), ("llama", True, "first"), ("gemma3", True, "first"), ("phi3", False, "none")],
)
def test_a_file_says_whether_a_space_is_put_before_a_text(
    tmp_path: Path, architecture: str, adds: bool, expected: str
) -> None:
    spec = spm_of(tmp_path, architecture, **{"tokenizer.ggml.add_space_prefix": adds})
    assert spec.space_prefix == expected


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"remove_extra_whitespaces": True}, UnsupportedModelError, "removes extra white space"),
        ({"scores": Encoded(9, struct.pack("<IQf", 6, 1, 0))}, CorruptFileError, "each of the 6 tokens"),
        (
            {"scores": Encoded(9, struct.pack("<IQ6f", 6, 6, *[float("nan")] * 6))},
            CorruptFileError,
            "one finite number",
        ),
        ({"scores": [1, 2, 3, 4, 5, 6]}, CorruptFileError, "floating-point"),
    ],
)
def test_refuses_sentencepiece(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        spm_of(tmp_path, "llama", **{f"tokenizer.ggml.{key}": value for key, value in changes.items()})
