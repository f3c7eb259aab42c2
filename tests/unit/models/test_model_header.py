"""The text side of files whose weights nobody here reads."""

from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.header import MAX_CONTEXT, ModelHeader, check_model
from stoker.models.library import ModelLibrary
from stoker.testing.gguf_files import TINY_VOCAB_SIZE, MetadataValue, TinyLlama, encode_gguf, write_tiny_llama
from stoker.testing.gguf_gpt2 import write_tiny_gpt2


def written(path: Path, **changes: MetadataValue) -> Path:
    metadata = TinyLlama().metadata() | {key.replace("__", "."): value for key, value in changes.items()}
    path.write_bytes(encode_gguf(metadata, []))
    return path


def test_a_header_says_what_the_text_side_needs(tmp_path: Path) -> None:
    header = ModelHeader(write_tiny_gpt2(tmp_path / "m.gguf", context_length=300))
    assert header.architecture == "gpt2"
    assert header.context_length == 300
    assert header.vocab_size == TINY_VOCAB_SIZE
    assert header.tokenizer.pre == "smollm"
    assert header.size_bytes == (tmp_path / "m.gguf").stat().st_size


def test_a_tokenizer_is_the_one_that_the_native_engine_has(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf")
    with open_model(path) as opened:
        assert ModelHeader(path).tokenizer == opened.tokenizer


def test_digests_tell_models_apart(tmp_path: Path) -> None:
    paths = [
        write_tiny_gpt2(tmp_path / "a.gguf"),
        write_tiny_gpt2(tmp_path / "b.gguf", seed=1),
        write_tiny_gpt2(tmp_path / "c.gguf", context_length=511),
    ]
    digests = [ModelHeader(path).digest for path in paths]
    assert len(set(digests)) == 3
    assert ModelHeader(write_tiny_gpt2(tmp_path / "d.gguf")).digest == digests[0]


@pytest.mark.parametrize("length", [0, MAX_CONTEXT + 1])
def test_a_context_that_cannot_be_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(CorruptFileError, match=f"context_length is {length}, expected 1 to {MAX_CONTEXT}"):
        ModelHeader(written(tmp_path / "m.gguf", llama__context_length=length))


def test_a_model_is_checked_for_either_engine(tmp_path: Path) -> None:
    check_model(write_tiny_llama(tmp_path / "llama.gguf"))
    check_model(write_tiny_gpt2(tmp_path / "gpt2.gguf"))
    with pytest.raises(CorruptFileError):
        check_model(written(tmp_path / "no-tensors.gguf"))
    odd = written(tmp_path / "odd.gguf", general__architecture="odd", odd__context_length=8)
    check_model(odd)
    untokenizable = written(
        tmp_path / "untokenizable.gguf",
        general__architecture="odd",
        odd__context_length=8,
        tokenizer__ggml__model="rwkv",
    )
    with pytest.raises(UnsupportedModelError, match="architecture 'odd'"):
        check_model(untokenizable)


def test_what_is_shown_of_it(tmp_path: Path) -> None:
    path = write_tiny_gpt2(tmp_path / "m.gguf")
    file = ModelLibrary(tmp_path / "models", {}).show(str(path)).file
    assert file is not None
    assert file.refusal is not None
    assert "gpt2" in file.refusal
    assert (file.architecture, file.title, file.config) == ("gpt2", "Tiny GPT-2", None)
    assert (file.vocab_size, file.context_length) == (TINY_VOCAB_SIZE, 512)


@pytest.mark.parametrize("lacks", ["a context", "a tokenizer"])
def test_what_no_engine_can_be_given_is_shown_by_its_architecture(tmp_path: Path, lacks: str) -> None:
    changes: dict[str, MetadataValue] = {} if lacks == "a context" else {"odd__context_length": 8}
    if lacks == "a tokenizer":
        changes["tokenizer__ggml__model"] = "rwkv"
    path = written(tmp_path / "m.gguf", general__architecture="odd", **changes)
    with pytest.raises(UnsupportedModelError, match="architecture 'odd'"):
        ModelLibrary(tmp_path / "models", {}).show(str(path))
