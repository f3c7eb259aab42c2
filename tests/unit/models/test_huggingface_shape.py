"""`config.json` of every family, in the spellings of several versions of `transformers`."""

from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import ModelConfig
from stoker.models.huggingface.families import FAMILIES
from stoker.models.huggingface.shape import describe, read_shape
from stoker.models.rope import linear_frequencies, rope_frequencies

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 32}
PAIRS = 16


def read(of: str, /, embedding_type: str = "F32", **changes: Any) -> ModelConfig:
    config: dict[str, Any] = {"model_type": of, **SIZES}
    config |= {key: value for key, value in EXPERTS.items() if key in FAMILIES[of].keys}
    config |= changes
    return read_shape(describe("config.json", config), embedding_type)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_is_read(model_type: str) -> None:
    config = read(model_type, architectures=[FAMILIES[model_type].classes[0]])
    assert config.architecture == FAMILIES[model_type].architecture
    assert (config.n_layers, config.width, config.n_heads, config.n_kv_heads) == (6, 64, 2, 1)
    assert config.rope_pairs == "halves"
    assert (config.experts is not None) == (model_type in {"mixtral", "qwen3_moe", "gpt_oss"})
    assert config.pre_norms == (model_type != "olmo2")
    assert config.post_norms == (model_type in {"olmo2", "gemma2", "gemma3_text"})


def test_every_family_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    for family in FAMILIES.values():
        assert f"| `{family.model_type}` | `{family.classes[0]}`" in page
    for kind in ("linear", "llama3", "yarn", "longrope"):
        assert f"`{kind}`" in page


def test_what_sets_the_families_apart() -> None:
    llama = read("llama", attention_bias=True, tie_word_embeddings=True)
    assert (llama.qkv_bias, llama.attention_output_bias, llama.tied_embeddings) == (True, True, True)
    qwen2 = read("qwen2")
    assert (qwen2.qkv_bias, qwen2.attention_output_bias, qwen2.qk_norm) == (True, False, "none")
    assert read("qwen3").qk_norm == "head"
    assert read("olmo2").qk_norm == "row"
    gemma = read("gemma2", query_pre_attn_scalar=144)
    assert (gemma.score_scale, gemma.score_softcap, gemma.logit_softcap) == (1 / 12, 50.0, 30.0)
    assert (gemma.embedding_scale, gemma.activation, gemma.tied_embeddings) == (8.0, "gelu_tanh", True)
    granite = read(
        "granite",
        embedding_multiplier=12.0,
        logits_scaling=8.0,
        residual_multiplier=0.22,
        attention_multiplier=0.015625,
    )
    assert (granite.embedding_scale, granite.logit_scale, granite.residual_scale) == (12.0, 0.125, 0.22)
    assert granite.score_scale == 0.015625
    gpt = read("gpt_oss")
    assert (gpt.activation, gpt.sinks, gpt.qkv_bias) == ("clamped_swiglu", True, True)
    assert gpt.experts is not None
    assert (gpt.experts.biases, gpt.experts.normalized) == (True, True)


def test_gemmas_scale_is_rounded_as_its_embeddings_are() -> None:
    width = {"hidden_size": 640}
    assert read("gemma3_text", "BF16", **width).embedding_scale == 25.25
    assert read("gemma3_text", "F16", **width).embedding_scale == 25.296875
    assert abs(read("gemma3_text", "F32", **width).embedding_scale - 640**0.5) < 1e-6


def windows(model_type: str, **changes: Any) -> str:
    config = read(model_type, **changes)
    return "".join("-" if layer.window is None else "w" for layer in config.layers)


def test_which_layers_have_a_window() -> None:
    assert windows("llama") == "------"
    assert windows("mistral", sliding_window=512) == "wwwwww"
    assert windows("mistral", sliding_window=None) == "------"
    assert windows("mistral", sliding_window=4096) == "------", "as long as the context"
    assert windows("phi3", sliding_window=2047) == "wwwwww"
    assert windows("qwen2", sliding_window=512, max_window_layers=4) == "------"
    assert windows("qwen2", sliding_window=512, max_window_layers=4, use_sliding_window=True) == "----ww"
    assert windows("qwen3_moe", sliding_window=512, use_sliding_window=True) == "wwwwww"
    assert windows("gemma2", sliding_window=512) == "w-w-w-"
    assert windows("gemma3_text", sliding_window=512) == "wwwww-"
    assert windows("gemma3_text", sliding_window=512, sliding_window_pattern=3) == "ww-ww-"
    assert windows("gpt_oss") == "w-w-w-"
    types = ["full_attention", "sliding_attention"] * 3
    assert windows("gemma3_text", sliding_window=512, layer_types=types) == "-w-w-w"
    assert read("mistral", sliding_window=512).layers[0].window == 512


def test_layers_without_positions() -> None:
    assert [layer.rotary for layer in read("smollm3").layers] == [0, 0, 0, None, 0, 0]
    stated = read("smollm3", no_rope_layers=[0, 1, 1, 0, 1, 1])
    assert [layer.rotary for layer in stated.layers] == [None, 0, 0, None, 0, 0]
    faulty: list[list[object]] = [[1, 1], [[]] * 6, [{}] * 6]
    for listed in faulty:
        with pytest.raises(CorruptFileError, match="no_rope_layers"):
            read("smollm3", no_rope_layers=listed)


def test_both_spellings_of_rotary_embeddings_say_the_same() -> None:
    llama3 = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    yarn = {"factor": 4.0, "original_max_position_embeddings": 1024}
    longrope = {"short_factor": [1.5] * PAIRS, "long_factor": [4.0] * PAIRS}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("default", {}),
        ("linear", {"factor": 2.0}),
        ("llama3", llama3),
        ("yarn", yarn),
        ("longrope", longrope | {"original_max_position_embeddings": 1024}),
    ]
    for kind, keys in cases:
        new = read("llama", rope_parameters={"rope_type": kind, "rope_theta": 5e5, **keys})
        older = read("llama", rope_theta=5e5, rope_scaling={"rope_type": kind, **keys})
        oldest = read("llama", rope_theta=5e5, rope_scaling={"type": kind, **keys})
        assert new.rotaries == older.rotaries == oldest.rotaries, kind
        assert (new.rotaries == read("llama", rope_theta=5e5).rotaries) == (kind == "default")
    assert read("llama").rotaries[0].frequencies == rope_frequencies(1e4, 32)
    assert read("smollm3").rotaries[0].frequencies == rope_frequencies(2e6, 32)


def test_phi3_turns_a_part_of_its_heads_by_factors_of_the_context() -> None:
    longrope = {"type": "su", "short_factor": [1.0] * 12, "long_factor": [2.0] * 12}
    config = read(
        "phi3", rope_scaling=longrope, partial_rotary_factor=0.75, original_max_position_embeddings=1024
    )
    (rotary,) = config.rotaries
    assert rotary.frequencies == rope_frequencies(1e4, 24)
    assert rotary.long_frequencies == linear_frequencies(rotary.frequencies, 2.0)
    assert rotary.original_context == 1024
    assert abs(rotary.magnitude - (1 + 0.2) ** 0.5) < 1e-12, "4,096 is 1,024 times 4, and log_1024 4 is 0.2"
    with pytest.raises(CorruptFileError, match=r"short_factor is .* expected a list of 16 positive numbers"):
        read("phi3", rope_scaling=longrope)


def test_gemma3_has_two_rotary_embeddings() -> None:
    old = read("gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0}, sliding_window=512)
    parts = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert read("gemma3_text", rope_parameters=parts, sliding_window=512).rotaries == old.rotaries
    assert old.rotaries[0].frequencies == linear_frequencies(rope_frequencies(1e6, 32), 8.0)
    assert old.rotaries[1].frequencies == rope_frequencies(1e4, 32)
    assert [layer.rotary for layer in old.layers] == [1, 1, 1, 1, 1, 0]


def test_the_text_part_of_a_model_that_sees() -> None:
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "sliding_window": 1024,
    }
    outer: dict[str, Any] = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    config = read_shape(describe("config.json", outer | {"text_config": text}), "BF16")
    assert (config.n_heads, config.n_kv_heads, config.head_size) == (8, 4, 256)
    assert (config.vocab_size, config.context_length, config.tied_embeddings) == (262_208, 131_072, True)
    with pytest.raises(CorruptFileError, match="text_config is missing"):
        describe("config.json", outer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "has the model_type 'mamba'; Stoker runs llama, mistral, qwen2"),
        ({"model_type": None}, "has the model_type 'None'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "Stoker runs LlamaForCausalLM of the"),
        ({"hidden_act": "gelu"}, "sets hidden_act to 'gelu'"),
        ({"mlp_bias": True}, "sets mlp_bias to 'True'"),
        ({"rope_interleaved": True}, "keys that Stoker does not know for llama: 'rope_interleaved'"),
        ({"sliding_window": 16}, "does not know for llama: 'sliding_window'"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "by 'dynamic'; Stoker computes default, linear",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "wave": 1}}, "does not know: 'wave'"),
        ({"hidden_size": 72}, "a width of 72; Stoker runs multiples of 32"),
        ({"intermediate_size": 100}, "a feed-forward width of 100"),
        ({"head_dim": 24}, "heads of 24 elements"),
        ({"head_dim": 512}, "heads of 512 elements"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read("llama", **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("qwen3_moe", {"decoder_sparse_step": 2}, "sets decoder_sparse_step to '2'"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "sets mlp_only_layers"),
        ("gpt_oss", {"swiglu_limit": 6.0}, "sets swiglu_limit to '6.0'"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "sets use_bidirectional_attention"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 6}, "layers of the type 'chunked_attention'"),
        ("gemma2", {"layer_types": [[]] * 6}, "layers of the type '[]'"),
    ],
)
def test_so_are_variants_of_other_families(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read(model_type, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size is 'None', expected a whole number"),
        ({"hidden_size": 2**17}, "hidden_size is '131072'"),
        ({"hidden_size": True}, "hidden_size is 'True'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is '0'"),
        ({"num_hidden_layers": 10**100}, "num_hidden_layers is"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 query heads cannot be shared"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is '-1.0', expected a positive number"),
        ({"rms_norm_eps": "x" * 1000}, "rms_norm_eps is 'xxx"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
        ({"rope_theta": 0}, "rope_theta is '0'"),
        ({"rope_scaling": []}, "rope_scaling is '[]', expected an object"),
        ({"rope_scaling": {"type": 3}}, "rope_type is '3'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is left out"),
        ({"rope_theta": 1e-29, "rope_scaling": {"type": "linear", "factor": 1e-29}}, "make no frequencies"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_theta": 1.0}, "a number above 1"),
        ({"partial_rotary_factor": 0.05}, "partial_rotary_factor is '0.05', expected one that turns an even"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        read("llama", **changes)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_llama3_frequencies_need_two_different_bounds() -> None:
    keys = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
    with pytest.raises(CorruptFileError, match="make no frequencies"):
        read("llama", rope_scaling={"type": "llama3", **keys})


def test_keys_that_change_nothing_are_passed_over() -> None:
    read("llama", transformers_version="9", use_cache=True, torch_dtype="bfloat16", eos_token_id=[1, 2])
    read("llama", unknown_switch=False, unknown_list=[], unknown_number=0, unknown_text="", nothing=None)


@pytest.mark.parametrize("key", ["logits_scaling", "residual_multiplier", "attention_multiplier"])
@pytest.mark.parametrize("value", [1e-300, 1e-40, 1e40])
def test_numbers_that_32_bits_do_not_hold_are_refused(key: str, value: float) -> None:
    changes: dict[str, Any] = {key: value}
    with pytest.raises(CorruptFileError, match="expected a positive number between 1e-30 and 1e\\+30"):
        read("granite", **changes)


def test_experts_that_no_matrix_holds_are_refused() -> None:
    sizes: dict[str, Any] = {"num_experts": 512, "num_local_experts": 512}
    assert read("qwen3_moe", **sizes, moe_intermediate_size=2**15 - 32).experts is not None
    with pytest.raises(UnsupportedModelError, match="fewer than 16777216 outputs of all"):
        read("qwen3_moe", **sizes, moe_intermediate_size=2**15)
