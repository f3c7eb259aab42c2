"""Shape of a model from its file: what is read, what is refused, and with which words."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.config import LayerConfig, ModelConfig, Rotary
from stoker.models.rope import linear_frequencies, rope_frequencies
from stoker.testing.gguf_files import (
    TINY_VOCAB_SIZE,
    Encoded,
    MetadataValue,
    StoredTensor,
    TinyLlama,
    encode_gguf,
    stored,
    write_tiny_llama,
)

ABSENT = object()


def opened_config(
    folder: Path,
    changes: Mapping[str, object] | None = None,
    model: TinyLlama | None = None,
    tensors: list[StoredTensor] | None = None,
) -> ModelConfig:
    model = model or TinyLlama()
    metadata: dict[str, MetadataValue] = model.metadata()
    for key, value in (changes or {}).items():
        if value is ABSENT:
            del metadata[key]
        else:
            assert isinstance(value, str | bool | int | float | list | Encoded)
            metadata[key] = value
    path = folder / "model.gguf"
    path.write_bytes(encode_gguf(metadata, model.tensors() if tensors is None else tensors))
    with open_model(path) as opened:
        return opened.config


def zeros(name: str, *shape: int, dtype: str = "F32") -> StoredTensor:
    return stored(name, np.zeros(shape, np.float32), dtype)


def test_reads_the_shape(tmp_path: Path) -> None:
    model = TinyLlama(
        n_layers=3, width=96, n_heads=4, n_kv_heads=2, head_size=64, ffn_width=160, vocab_size=300, tied=False
    )
    assert opened_config(tmp_path, model=model) == ModelConfig(
        architecture="llama",
        layers=(LayerConfig(),) * 3,
        width=96,
        n_heads=4,
        n_kv_heads=2,
        head_size=64,
        ffn_width=160,
        vocab_size=300,
        context_length=512,
        rotaries=(Rotary(frequencies=rope_frequencies(10_000.0, 64)),),
        rope_pairs="adjacent",
        norm_epsilon=struct.unpack("<f", struct.pack("<f", 1e-5))[0],
        tied_embeddings=False,
    )


def test_fills_in_what_a_file_may_leave_out(tmp_path: Path) -> None:
    left_out = (
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "llama.rope.dimension_count",
        "llama.rope.freq_base",
        "llama.vocab_size",
    )
    config = opened_config(tmp_path, dict.fromkeys(left_out, ABSENT), TinyLlama(n_kv_heads=2))
    assert (config.n_kv_heads, config.head_size) == (2, 32)
    assert config.rotaries == (Rotary(frequencies=rope_frequencies(10_000.0, 32)),)
    assert config.vocab_size == TINY_VOCAB_SIZE
    assert config.tied_embeddings


@pytest.mark.parametrize("key", ["llama.rope.scaling.factor", "llama.rope.scale_linear"])
def test_a_factor_alone_stretches_linearly(tmp_path: Path, key: str) -> None:
    stretched = linear_frequencies(rope_frequencies(10_000.0, 32), 2.0)
    assert opened_config(tmp_path, {key: 2.0}).rotaries == (Rotary(frequencies=stretched),)


@pytest.mark.parametrize(
    "neutral",
    [
        {"llama.rope.scaling.type": "none"},
        {"llama.expert_count": 0},
        {"llama.attention.causal": True},
        {"llama.rope.scale_linear": 1.0},
    ],
)
def test_takes_features_that_are_switched_off(tmp_path: Path, neutral: dict[str, object]) -> None:
    assert opened_config(tmp_path, neutral).n_layers == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'; Stoker runs llama, mistral3, qwen2"),
        ({"llama.rope.scaling.type": "dynamic"}, "llama.rope.scaling.type to 'dynamic'"),
        ({"llama.expert_shared_count": 1}, "llama.expert_shared_count to 1, .* absent or 0"),
        ({"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping to 30.0"),
        ({"llama.attention.causal": False}, "llama.attention.causal to False"),
        ({"llama.attention.key_length": 40}, "heads of 40 elements"),
        ({"llama.attention.key_length": 288}, "heads of 288 elements"),
        ({"llama.attention.key_length": 0}, "heads of 0 elements"),
        ({"llama.attention.value_length": 64}, "value_length is 64, but heads have 32"),
    ],
)
def test_refuses_by_name(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        opened_config(tmp_path, changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": ABSENT}, "lacks the metadata key 'general.architecture'"),
        ({"llama.block_count": ABSENT}, "lacks the metadata key 'llama.block_count'"),
        ({"llama.block_count": 0}, "llama.block_count is 0, expected 1 to 1024"),
        ({"llama.block_count": 2**31}, "llama.block_count is 2147483648"),
        ({"llama.block_count": 3}, "lacks 9 of its 29 tensors, the first of them blk.2.attn_q.weight"),
        ({"llama.embedding_length": 2**30}, "llama.embedding_length is 1073741824"),
        ({"llama.embedding_length": Encoded(5, struct.pack("<i", -64))}, "llama.embedding_length is -64"),
        (
            {"llama.embedding_length": 96},
            r"token_embd.weight has the shape \(275, 64\), expected \(275, 96\)",
        ),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.attention.head_count": [2, 2]}, "is an array of INT32, expected one integer"),
        ({"llama.attention.head_count_kv": 3}, "2 query heads cannot be shared evenly among 3"),
        (
            {"llama.feed_forward_length": 128},
            r"ffn_gate.weight has the shape \(96, 64\), expected \(128, 64\)",
        ),
        ({"llama.context_length": 2**30}, "llama.context_length is"),
        ({"llama.vocab_size": 274}, "vocab_size is 274, but token_embd.weight has 275 rows"),
        ({"tokenizer.ggml.tokens": ["a"]}, "token count is 1, but token_embd.weight has 275 rows"),
        ({"llama.rope.freq_base": float("nan")}, "freq_base is nan"),
        ({"llama.rope.freq_base": 0.0}, "freq_base is 0.0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("inf")}, "epsilon is inf"),
        ({"llama.attention.layer_norm_rms_epsilon": ABSENT}, "lacks the metadata key"),
    ],
)
def test_refuses_contradictions(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        opened_config(tmp_path, changes)


def test_a_width_that_heads_do_not_divide_needs_a_head_size(tmp_path: Path) -> None:
    changes = {"llama.attention.key_length": ABSENT, "llama.attention.head_count": 3}
    with pytest.raises(CorruptFileError, match="width 64 is not a multiple of 3 heads"):
        opened_config(tmp_path, changes | {"llama.attention.head_count_kv": 1})


def test_refuses_odd_widths(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="width of 48"):
        opened_config(tmp_path, model=TinyLlama(width=48, dtype="F32"))
    with pytest.raises(UnsupportedModelError, match="feed-forward width of 40"):
        opened_config(tmp_path, model=TinyLlama(ffn_width=40, dtype="F32"))


@pytest.mark.parametrize(
    "name",
    ["rope_factors.weight", "blk.0.attn_q.bias", "blk.1.attn_q_norm.weight", "blk.0.ffn_gate_exps.weight"],
)
def test_refuses_tensors_that_it_would_not_use(tmp_path: Path, name: str) -> None:
    tensors = [*TinyLlama().tensors(), zeros(name, 32)]
    with pytest.raises(UnsupportedModelError, match=name):
        opened_config(tmp_path, tensors=tensors)


def test_each_tensor_is_needed(tmp_path: Path) -> None:
    tensors = TinyLlama(n_layers=1, tied=False).tensors()
    for left_out in tensors:
        if left_out.name == "output.weight":  # without it the embedding takes its place
            continue
        rest = [tensor for tensor in tensors if tensor is not left_out]
        with pytest.raises(CorruptFileError, match=left_out.name):
            opened_config(tmp_path, model=TinyLlama(n_layers=1), tensors=rest)


def test_each_shape_is_checked(tmp_path: Path) -> None:
    tensors = TinyLlama(n_layers=1, tied=False).tensors()
    for index, tensor in enumerate(tensors):
        if tensor.name == "token_embd.weight":  # its rows are the vocabulary's size
            continue
        wrong = zeros(tensor.name, tensor.shape[0] + 32, *tensor.shape[1:])
        with pytest.raises(CorruptFileError, match=f"{tensor.name} has the shape"):
            opened_config(
                tmp_path,
                model=TinyLlama(n_layers=1),
                tensors=[*tensors[:index], wrong, *tensors[index + 1 :]],
            )


def test_norms_are_not_quantized(tmp_path: Path) -> None:
    for dtype in ("F16", "BF16"):
        with open_model(write_tiny_llama(tmp_path / "fine.gguf", norm_dtype=dtype)) as model:
            assert model.tensors["output_norm.weight"].dtype == dtype
    write_tiny_llama(tmp_path / "bad.gguf", norm_dtype="Q8_0")
    with pytest.raises(UnsupportedModelError, match=r"norm\.weight is stored as Q8_0"):
        open_model(tmp_path / "bad.gguf")
