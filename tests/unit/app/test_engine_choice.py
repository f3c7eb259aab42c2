"""Which engine computes a model."""

from pathlib import Path

import pytest

from stoker.app.engine_choice import choose_engine
from stoker.config import Settings
from stoker.core import extras
from stoker.core.errors import CorruptFileError, SettingsError, UnknownModelError, UnsupportedModelError
from stoker.testing.gguf_files import TINY_VOCAB_SIZE, StoredTensor, TinyLlama, encode_gguf, write_tiny_llama
from stoker.testing.gguf_gpt2 import write_tiny_gpt2

TQ2_0 = 35
"""GGUF's number of a tensor type that the native engine does not read."""


@pytest.fixture(params=[True, False], ids=["installed", "missing"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(extras, "has_llamacpp", lambda: request.param)
    return bool(request.param)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "llama.gguf")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return write_tiny_gpt2(tmp_path / "gpt2.gguf", context_length=384)


def test_auto_is_the_default() -> None:
    assert Settings().engine == "auto"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("wanted", ["auto", "native"])
def test_what_the_native_engine_knows_is_its_own(wanted: str, llama: Path) -> None:
    facts = choose_engine(wanted, llama)  # type: ignore[arg-type]  # one of them
    assert facts.engine == "native"
    assert facts.context_length == 512
    assert len(facts.tokenizer.tokens) == TINY_VOCAB_SIZE
    assert facts.tokenizer.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


@pytest.mark.usefixtures("installed")
def test_native_alone_refuses_by_name_what_it_does_not_know(gpt2: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"architecture 'gpt2'; Stoker runs .*llama") as refused:
        choose_engine("native", gpt2)
    assert "stoker[llamacpp]" not in str(refused.value)


def test_llama_cpp_takes_what_the_native_engine_does_not_know(gpt2: Path, *, installed: bool) -> None:
    if not installed:
        with pytest.raises(
            UnsupportedModelError, match=r"architecture 'gpt2'; Stoker runs .*llama.*stoker\[llamacpp\]"
        ):
            choose_engine("auto", gpt2)
        return
    facts = choose_engine("auto", gpt2)
    assert facts.engine == "llamacpp"
    assert facts.context_length == 384
    assert len(facts.tokenizer.tokens) == TINY_VOCAB_SIZE
    assert facts.tokenizer.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def test_llama_cpp_takes_any_model_if_told_to(llama: Path, gpt2: Path, *, installed: bool) -> None:
    if not installed:
        with pytest.raises(SettingsError, match=r"xllamacpp: pip install 'stoker\[llamacpp\]'"):
            choose_engine("llamacpp", llama)
        return
    assert choose_engine("llamacpp", llama).engine == "llamacpp"
    assert choose_engine("llamacpp", gpt2).engine == "llamacpp"


def test_a_tensor_type_that_nobody_here_reads_does_not_matter(tmp_path: Path, *, installed: bool) -> None:
    path = tmp_path / "ternary.gguf"
    ternary = StoredTensor("token_embd.weight", (1, 256), TQ2_0, bytes(66))
    path.write_bytes(encode_gguf(TinyLlama().metadata(), [ternary]))
    if installed:
        assert choose_engine("auto", path).engine == "llamacpp"
    else:
        with pytest.raises(UnsupportedModelError, match=r"type TQ2_0.*stoker\[llamacpp\]"):
            choose_engine("auto", path)


@pytest.mark.usefixtures("installed")
def test_a_tokenizer_that_cannot_be_run_is_refused_for_either(tmp_path: Path) -> None:
    path, model = tmp_path / "odd.gguf", TinyLlama()
    path.write_bytes(encode_gguf(model.metadata() | {"tokenizer.ggml.model": "rwkv"}, model.tensors()))
    with pytest.raises(UnsupportedModelError, match="kind 'rwkv'") as refused:
        choose_engine("auto", path)
    assert str(refused.value).count("rwkv") == 1
    assert "stoker[llamacpp]" not in str(refused.value)


@pytest.mark.usefixtures("installed")
def test_damage_is_damage(tmp_path: Path, gpt2: Path) -> None:
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(gpt2.read_bytes()[:2000])
    with pytest.raises(CorruptFileError, match="truncated"):
        choose_engine("auto", truncated)
    with pytest.raises(UnknownModelError, match="Cannot open"):
        choose_engine("auto", tmp_path / "none.gguf")


def test_quantizing_is_for_folders(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has_llamacpp", lambda: True)
    with pytest.raises(SettingsError, match="quantize is q8, but engine is llamacpp"):
        choose_engine("llamacpp", llama, "q8")


def test_folders_are_not_for_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has_llamacpp", lambda: True)
    with pytest.raises(UnsupportedModelError, match="is a folder"):
        choose_engine("llamacpp", tmp_path)
