"""Every architecture: the config that its file means, and its tensors under the names of the layout."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.architectures import FAMILIES, locate_tensors
from stoker.models.config import Experts, LayerConfig, ModelConfig, Rotary
from stoker.models.gguf import TENSOR_TYPES
from stoker.models.opened import open_gguf
from stoker.models.rope import (
    rope_frequencies,
)
from stoker.models.tensor_layout import expected_shapes
from stoker.models.word_rules import WORD_RULES
from stoker.testing.gguf_architectures import (
    TINY,
    Changes,
    TinySizes,
    booleans,
    layer_tensors,
    open_tiny,
    tiny_config,
    tiny_metadata,
    tiny_tensors,
)
from stoker.testing.gguf_blocks import decode_blocks
from stoker.testing.gguf_files import MetadataValue, encode_gguf

HEAD_SIZE, WIDTH, KV_WIDTH, FFN_WIDTH = TINY.head_size, TINY.width, TINY.kv_width, TINY.ffn_width
PLAIN = Rotary(frequencies=rope_frequencies(10_000.0, HEAD_SIZE))


def rotary(base: float) -> Rotary:
    return Rotary(frequencies=rope_frequencies(base, HEAD_SIZE))


def windows(config: ModelConfig) -> list[int | None]:
    return [layer.window for layer in config.layers]


def rotary_indexes(config: ModelConfig) -> list[int | None]:
    return [layer.rotary for layer in config.layers]


def test_the_page_lists_every_architecture_and_tokenizers_that_are_known() -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    section = page.split("### Architectures")[1].split("###")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    assert [architecture.strip(" `") for architecture, *_ in rows] == list(FAMILIES)
    for _, _, tokenizers, _ in rows:
        assert set(re.findall("`([^`]+)`", tokenizers)) <= WORD_RULES.keys()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_sizes_are_read_and_every_expected_tensor_is_found(tmp_path: Path, architecture: str) -> None:
    with open_tiny(tmp_path, architecture) as model:
        config = model.config
        assert config.architecture == architecture
        assert (config.width, config.n_heads, config.n_kv_heads, config.head_size) == (128, 4, 2, 32)
        assert config.ffn_width == (TINY.expert_width if config.experts else FFN_WIDTH)
        assert config.context_length == TINY.context_length
        found = {name: tensor.shape for name, tensor in model.tensors.items()}
        assert found == expected_shapes(config)
        for tensor in model.tensors.values():
            assert len(tensor.data) == 4 * np.prod(tensor.shape)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_unknown_key_is_refused_by_name_and_value(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{architecture}\.attention\.twist to 1.5, which"):
        open_tiny(tmp_path, architecture, {"attention.twist": 1.5})


@pytest.mark.parametrize("architecture", FAMILIES)
def test_keys_of_another_family_are_refused_where_they_mean_something(
    tmp_path: Path, architecture: str
) -> None:
    meant: dict[str, MetadataValue] = {
        "embedding_scale": 3.0,
        "logit_scale": 3.0,
        "residual_scale": 3.0,
        "attention.scale": 3.0,
        "attn_logit_softcapping": 9.0,
        "final_logit_softcapping": 9.0,
        "attention.sliding_window": 9,
        "expert_count": 4,
        "attention.temperature_scale": 0.1,
        "expert_shared_count": 1,
        "rope.dimension_sections": booleans(True),
    }
    read = {
        "granite": {"embedding_scale", "logit_scale", "residual_scale", "attention.scale"},
        "gemma2": {"attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"},
        "gemma3": {"final_logit_softcapping", "attention.sliding_window"},
        "phi3": {"attention.sliding_window"},
        "olmo2": {"attention.sliding_window"},
        "llama": {"attention.sliding_window", "expert_count"},
        "mistral3": {"attention.sliding_window", "expert_count"},
        "qwen3moe": {"expert_count"},
        "gpt-oss": {"attention.sliding_window", "expert_count"},
    }
    for key in meant.keys() - read.get(architecture, set()):
        with pytest.raises(UnsupportedModelError, match=rf"{architecture}\.{key} to "):
            open_tiny(tmp_path, architecture, {key: meant[key]})


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("llama", {"rope_pairs": "adjacent", "tied_embeddings": False}),
        ("mistral3", {"rope_pairs": "adjacent", "tied_embeddings": True}),
        ("qwen2", {"rope_pairs": "halves", "qkv_bias": True, "qk_norm": "none"}),
        ("qwen3", {"rope_pairs": "halves", "qkv_bias": False, "qk_norm": "head"}),
        ("qwen3moe", {"qk_norm": "head", "experts": Experts(n_experts=4, n_used=2, normalized=True)}),
        (
            "gemma2",
            {
                "activation": "gelu_tanh",
                "pre_norms": True,
                "post_norms": True,
                "score_softcap": 50.0,
                "logit_softcap": 30.0,
                "embedding_scale": 11.3125,  # the root of 128, 11.3137, as bfloat16 holds it
                "score_scale": None,
            },
        ),
        (
            "gemma3",
            {"qk_norm": "head", "post_norms": True, "score_softcap": None, "logit_softcap": None},
        ),
        ("phi3", {"rope_pairs": "halves", "tied_embeddings": False, "rotaries": (PLAIN,)}),
        (
            "granite",
            {
                "embedding_scale": 12.0,
                "residual_scale": 0.25,
                "logit_scale": 0.125,
                "score_scale": 0.125,
                "rope_pairs": "adjacent",
            },
        ),
        ("olmo2", {"pre_norms": False, "post_norms": True, "qk_norm": "row"}),
        ("smollm3", {"rope_pairs": "adjacent", "rotaries": (rotary(5_000_000.0),)}),
        (
            "gpt-oss",
            {
                "activation": "clamped_swiglu",
                "sinks": True,
                "qkv_bias": True,
                "attention_output_bias": True,
                "post_norms": False,
                "experts": Experts(n_experts=4, n_used=2, normalized=True, biases=True),
            },
        ),
    ],
)
def test_what_a_family_is(tmp_path: Path, architecture: str, expected: dict[str, object]) -> None:
    config = tiny_config(tmp_path, architecture)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("architecture", "changes", "seen", "indexes"),
    [
        ("llama", {}, [None, None], [0, 0]),
        ("llama", {"attention.sliding_window": 24}, [24, 24], [0, 0]),  # Mistral 7B v0.1
        ("llama", {"attention.sliding_window": 512}, [None, None], [0, 0]),
        ("gemma2", {}, [24, None], [0, 0]),
        ("gemma3", {}, [24] * 5 + [None, 24], [1] * 5 + [0, 1]),
        ("gemma3", {"attention.sliding_window": 1024}, [None] * 7, [1] * 5 + [0, 1]),
        ("gemma3", {"attention.sliding_window": None}, [None] * 7, [0] * 7),
        ("gemma3", {"attention.sliding_window_pattern": 2}, [24, None] * 3 + [24], [1, 0] * 3 + [1]),
        ("phi3", {}, [24, 24], [0, 0]),
        ("phi3", {"attention.sliding_window": 0}, [None, None], [0, 0]),
        ("olmo2", {}, [None] * 4, [0] * 4),
        ("olmo2", {"attention.sliding_window": 24}, [24, 24, 24, None], [0] * 4),
        (
            "olmo2",
            {
                "attention.sliding_window": 24,
                "attention.sliding_window_pattern": booleans(False, True, False, True),
            },
            [None, 24, None, 24],
            [0] * 4,
        ),
        ("smollm3", {}, [None] * 4, [0, 0, 0, None]),
        ("gpt-oss", {}, [24, None], [0, 0]),
    ],
)
def test_what_each_layer_sees_and_how_it_tells_positions(
    tmp_path: Path, architecture: str, changes: Changes, seen: list[int | None], indexes: list[int | None]
) -> None:
    config = tiny_config(tmp_path, architecture, changes)
    assert windows(config) == seen
    assert rotary_indexes(config) == indexes
    assert {index for index in indexes if index is not None} <= set(range(len(config.rotaries)))


def test_gemma2_without_the_keys_of_later_converters(tmp_path: Path) -> None:
    changes: Changes = {
        "attention.sliding_window": None,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "context_length": 8192,
    }
    config = tiny_config(tmp_path, "gemma2", changes)
    assert (config.score_softcap, config.logit_softcap) == (50.0, 30.0)
    assert windows(config) == [4096, None]


@pytest.mark.parametrize(("architecture", "n_layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_scores_by_the_share_of_the_width(
    tmp_path: Path, architecture: str, n_layers: int
) -> None:
    sizes = TinySizes(width=64, n_heads=1, n_kv_heads=1, n_layers=n_layers)
    narrow = {"attention.key_length": 32, "attention.value_length": 32}
    path = tmp_path / "model.gguf"
    named = layer_tensors(architecture, sizes) | {
        "attn_q.weight": (32, 64), "attn_k.weight": (32, 64), "attn_v.weight": (32, 64),
        "attn_output.weight": (64, 32),
    }  # fmt: skip
    if architecture == "gemma3":
        named |= {"attn_q_norm.weight": (32,), "attn_k_norm.weight": (32,)}
    tensors = tiny_tensors(architecture, named, sizes=sizes)
    path.write_bytes(encode_gguf(tiny_metadata(architecture, narrow, sizes), tensors))
    with open_gguf(path) as model:
        assert model.config.score_scale == 64**-0.5


@pytest.mark.parametrize("dtype", ["F32", "Q8_0", "Q4_1"])
def test_phi3s_fused_matrices_are_cut_into_rows(tmp_path: Path, dtype: str) -> None:
    tensors = tiny_tensors("phi3", dtype=dtype)
    whole = {
        tensor.name: decode_blocks(memoryview(tensor.data), dtype, tensor.shape)
        for tensor in tensors
        if tensor.name in ("blk.1.attn_qkv.weight", "blk.1.ffn_up.weight")
    }
    with open_tiny(tmp_path, "phi3", {}, tensors) as model:
        parts = {
            name: decode_blocks(tensor.data, dtype, tensor.shape)
            for name, tensor in model.tensors.items()
            if tensor.dtype == dtype
        }
    rows = whole["blk.1.attn_qkv.weight"]
    assert np.array_equal(parts["blk.1.attn_q.weight"], rows[:WIDTH])
    assert np.array_equal(parts["blk.1.attn_k.weight"], rows[WIDTH : WIDTH + KV_WIDTH])
    assert np.array_equal(parts["blk.1.attn_v.weight"], rows[WIDTH + KV_WIDTH :])
    rows = whole["blk.1.ffn_up.weight"]
    assert np.array_equal(parts["blk.1.ffn_gate.weight"], rows[:FFN_WIDTH])
    assert np.array_equal(parts["blk.1.ffn_up.weight"], rows[FFN_WIDTH:])


def test_gpt_oss_calls_the_feed_forward_norm_otherwise_and_keeps_experts_as_mxfp4(tmp_path: Path) -> None:
    tensors = tiny_tensors("gpt-oss", dtype="MXFP4")
    by_name = {tensor.name: tensor for tensor in tensors}
    with open_tiny(tmp_path, "gpt-oss", {}, tensors) as model:
        norm = model.tensors["blk.1.ffn_norm.weight"]
        assert bytes(norm.data) == by_name["blk.1.post_attention_norm.weight"].data
        experts = model.tensors["blk.1.ffn_up_exps.weight"]
        assert (experts.dtype, experts.shape) == ("MXFP4", (4, TINY.expert_width, WIDTH))
        assert bytes(experts.data) == by_name["blk.1.ffn_up_exps.weight"].data


def test_mixtral_is_a_llama_with_experts(tmp_path: Path) -> None:
    changes: Changes = {"expert_count": 4, "expert_used_count": 2}
    with open_tiny(tmp_path, "llama", changes, tiny_tensors("llama", layer_tensors("mixtral"))) as model:
        assert model.config.experts == Experts(n_experts=4, n_used=2, normalized=True)
        assert model.config.ffn_width == FFN_WIDTH


@pytest.mark.parametrize(
    ("changes", "normalized"),
    [
        ({}, True),
        ({"expert_weights_norm": True, "expert_gating_func": 1}, True),
        ({"expert_weights_norm": False, "expert_gating_func": 1}, False),
        ({"expert_weights_norm": False, "expert_gating_func": 3}, True),
    ],
)
def test_how_experts_share(tmp_path: Path, changes: Changes, normalized: bool) -> None:
    experts = tiny_config(tmp_path, "qwen3moe", changes).experts
    assert experts is not None
    assert experts.normalized == normalized


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("mistral3", {"rope.scaling.type": "dynamic"}, "'dynamic'; Stoker computes none, linear, yarn"),
        ("mistral3", {"attention.temperature_scale": 0.1}, "temperature_scale to 0.1"),
        ("gpt-oss", {"rope.scaling.yarn_attn_factor": 1.5}, "yarn_attn_factor to 1.5"),
        ("gpt-oss", {"rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor to 0.5"),
        ("granite", {"rope.scaling.finetuned": False}, "finetuned to False"),
        ("qwen3moe", {"expert_gating_func": 2}, "expert_gating_func to 2; Stoker computes 1 and 3"),
        ("qwen3moe", {"expert_weights_scale": 2.5}, "expert_weights_scale to 2.5"),
        ("qwen3moe", {"leading_dense_block_count": 1}, "leading_dense_block_count to 1"),
        ("gemma3", {"attention.key_length_swa": 64}, "key_length_swa is 64, but heads have 32"),
        ("gemma3", {"rope.dimension_count_swa": 16}, "dimension_count_swa is 16, but 32 elements"),
        ("phi3", {"rope.dimension_sections": [8, 8, 8, 8]}, "to an array of 4 INT32"),
        ("qwen2", {"pooling_type": "x" * 200}, "pooling_type to 'x{80}…'"),
    ],
)
def test_refuses_by_name(tmp_path: Path, architecture: str, changes: Changes, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        open_tiny(tmp_path, architecture, changes)


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("phi3", {"attention.sliding_window": None}, "lacks .* 'phi3.attention.sliding_window'"),
        ("gpt-oss", {"attention.sliding_window": None}, "gpt-oss.attention.sliding_window"),
        ("gemma2", {"attention.sliding_window": -1.0}, "is float, expected one integer"),
        ("gemma2", {"attention.sliding_window": 2**32 - 1}, "expected 0 to 2147483648"),
        ("olmo2", {"attention.sliding_window": 4, "attention.sliding_window_pattern": booleans(True)},
         "lists 1 layers, expected 4"),
        ("gemma3", {"attention.sliding_window_pattern": [0, 1, 2, 0, 0, 0, 0]}, "expected an array of bool"),
        ("gemma3", {"attention.sliding_window_pattern": ["a"]}, "expected an array of integers"),
        ("phi3", {"rope.scaling.type": "longrope"}, "is 'longrope', but there is no rope_factors_long"),
        ("phi3", {"rope.dimension_count": 34}, "an even number from 2 to the head's size 32"),
        ("phi3", {"rope.dimension_count": 15}, "an even number"),
        ("phi3", {"rope.dimension_count": 0}, "an even number"),
        ("gemma3", {"rope.scaling.factor": float("inf")}, "expected a finite number"),
        ("gemma3", {"rope.scaling.factor": 1e-6}, "expected at least 0.001"),
        ("gemma3", {"rope.freq_base_swa": 0.5}, "expected 2 to 1e"),
        ("gpt-oss", {"rope.scaling.yarn_beta_fast": 0.5}, "expected more than .*yarn_beta_slow"),
        ("gpt-oss", {"rope.scaling.original_context_length": 0}, "original_context_length is 0"),
        ("gpt-oss", {"expert_count": 0}, "expert_count is 0, expected 1 to 1024"),
        ("gpt-oss", {"expert_count": 2**31}, "expected 1 to 1024"),
        ("gpt-oss", {"expert_used_count": 5}, "expert_used_count is 5, expected 1 to 4"),
        ("gpt-oss", {"expert_used_count": None}, "lacks the metadata key"),
        ("qwen3moe", {"expert_feed_forward_length": None}, "lacks the metadata key"),
        ("qwen3moe", {"expert_weights_norm": 1}, "is int, expected a boolean"),
        ("granite", {"embedding_scale": float("nan")}, "embedding_scale is nan"),
        ("granite", {"residual_scale": 0.0}, "residual_scale is 0.0"),
        ("granite", {"logit_scale": 1e30}, "expected 1e-12 to 1e"),
        ("granite", {"attention.scale": "big"}, "is str, expected one number"),
        ("gemma2", {"attn_logit_softcapping": -1.0}, "softcapping is -1.0"),
    ],
)  # fmt: skip
def test_refuses_contradictions(tmp_path: Path, architecture: str, changes: Changes, words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        open_tiny(tmp_path, architecture, changes)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_each_tensor_is_needed_and_none_more(tmp_path: Path, architecture: str) -> None:
    with open_tiny(tmp_path, architecture) as model:
        config, infos = model.config, dict(model.tensor_infos)
    for name, info in infos.items():
        if name == "output.weight":  # without it, the config would say that the embedding takes its place
            continue
        with pytest.raises(CorruptFileError, match="lacks"):
            locate_tensors("it", config, {other: infos[other] for other in infos if other != name})
        other = replace(info, shape=(*info.shape[:-1], info.shape[-1] + 32))
        with pytest.raises(CorruptFileError, match=re.escape(f"{name} has the shape {other.shape}")):
            locate_tensors("it", config, infos | {name: other})
    more = {"blk.0.attn_rot_embd.weight": infos["token_embd.weight"]}
    with pytest.raises(UnsupportedModelError, match="attn_rot_embd"):
        locate_tensors("it", config, infos | more)


@pytest.mark.parametrize("name", ["attn_sinks.weight", "attn_q.bias", "ffn_up_exps.bias", "attn_norm.weight"])
def test_vectors_are_not_quantized(tmp_path: Path, name: str) -> None:
    with open_tiny(tmp_path, "gpt-oss") as model:
        config, infos = model.config, dict(model.tensor_infos)
    q8_0 = next(kind for kind in TENSOR_TYPES.values() if kind.name == "Q8_0")
    changed = {f"blk.1.{name}": replace(infos[f"blk.1.{name}"], type=q8_0)}
    with pytest.raises(UnsupportedModelError, match=rf"blk\.1\.{name} is stored as Q8_0"):
        locate_tensors("it", config, infos | changed)


def test_a_layer_is_as_the_first_one(tmp_path: Path) -> None:
    """The default of `LayerConfig` is what plain models have."""
    assert tiny_config(tmp_path, "qwen3").layers == (LayerConfig(),) * 2
