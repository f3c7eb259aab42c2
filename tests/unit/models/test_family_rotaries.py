"""Rotary embeddings as GGUF files of every architecture state them."""

from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import Rotary
from stoker.models.rope import divided_frequencies, linear_frequencies, rope_frequencies, yarn_frequencies
from stoker.testing.gguf_architectures import TINY, Changes, open_tiny, tiny_config, tiny_tensors, vector
from stoker.testing.gguf_files import StoredTensor

HEAD_SIZE = TINY.head_size
PLAIN = Rotary(frequencies=rope_frequencies(10_000.0, HEAD_SIZE))


def rotary(base: float) -> Rotary:
    return Rotary(frequencies=rope_frequencies(base, HEAD_SIZE))


def test_gemma3_stretches_the_rotary_embedding_of_full_layers_alone(tmp_path: Path) -> None:
    stretched = linear_frequencies(rope_frequencies(1_000_000.0, HEAD_SIZE), 8.0)
    assert tiny_config(tmp_path, "gemma3").rotaries == (Rotary(frequencies=stretched), PLAIN)
    config = tiny_config(tmp_path, "gemma3", {"rope.freq_base_swa": 20_000.0})
    assert config.rotaries[1] == rotary(20_000.0)


def test_olmo3_stretches_the_rotary_embedding_of_full_layers_alone(tmp_path: Path) -> None:
    changes: Changes = {
        "attention.sliding_window": 24,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 8.0,
    }
    config = tiny_config(tmp_path, "olmo2", changes)
    assert [layer.rotary for layer in config.layers] == [1, 1, 1, 0]
    assert config.rotaries[1] == rotary(500_000.0)
    assert config.rotaries[0].magnitude == 0.1 * log(8) + 1


def test_gpt_oss_stretches_by_yarn_without_rounding_the_ramp(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "gpt-oss")
    expected = yarn_frequencies(150_000.0, HEAD_SIZE, factor=32.0, original_context=64, truncate=False)
    assert config.rotaries == (Rotary(frequencies=expected, magnitude=0.1 * log(32) + 1),)
    rounded = yarn_frequencies(150_000.0, HEAD_SIZE, factor=32.0, original_context=64)
    assert config.rotaries[0].frequencies != rounded


def test_yarn_of_other_families_rounds_the_ramp_and_takes_its_ends(tmp_path: Path) -> None:
    changes: Changes = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 128,
        "rope.scaling.yarn_beta_fast": 16.0,
        "rope.scaling.yarn_beta_slow": 2.0,
        "rope.scaling.yarn_log_multiplier": 1.0,
    }
    expected = yarn_frequencies(
        10_000.0, HEAD_SIZE, factor=4.0, original_context=128, beta_fast=16.0, beta_slow=2.0
    )
    assert tiny_config(tmp_path, "mistral3", changes).rotaries == (Rotary(frequencies=expected),)


def test_llama3_divides_by_the_files_factors(tmp_path: Path) -> None:
    factors = [1.0] * 8 + [1.5, 2.0, 4.0, 8.0] + [8.0] * 4
    tensors = [*tiny_tensors("llama"), vector("rope_freqs.weight", factors)]
    with open_tiny(tmp_path, "llama", {}, tensors) as model:
        expected = divided_frequencies(PLAIN.frequencies, factors)
        assert model.config.rotaries == (Rotary(frequencies=expected),)
        assert "rope_freqs.weight" not in model.tensors


def test_phi3_has_factors_for_short_and_long_contexts(tmp_path: Path) -> None:
    short, long = [1.0 + index / 10 for index in range(12)], [2.0 + index for index in range(12)]
    factors = [vector("rope_factors_short.weight", short), vector("rope_factors_long.weight", long)]
    magnitude = sqrt(1 + log(4) / log(128))
    changes: Changes = {
        "rope.dimension_count": 24,  # of 32, as in Phi-4 mini
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": 128,
        "rope.scaling.attn_factor": magnitude,
    }
    with open_tiny(tmp_path, "phi3", changes, [*tiny_tensors("phi3"), *factors]) as model:
        (found,) = model.config.rotaries
    plain = rope_frequencies(10_000.0, 24)
    # Factors and magnitude are in the file in fp32.
    assert found.frequencies == divided_frequencies(plain, np.array(short, np.float32).tolist())
    assert found.long_frequencies == divided_frequencies(plain, long)
    assert found.original_context == 128
    assert found.magnitude == pytest.approx(magnitude, rel=1e-7)
    assert found.at(129) == found.long_frequencies != found.at(128)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([vector("rope_freqs.weight", [1.0] * 8)], r"of the shape \(8,\), expected F32 of the shape \(16,\)"),
        ([vector("rope_freqs.weight", [float("nan")] * 16)], "has a factor outside of"),
        ([vector("rope_freqs.weight", [0.0] * 16)], "has a factor outside of"),
        ([vector("rope_factors_long.weight", [1.0] * 16)], "has one of rope_factors_long.weight"),
        (
            [
                vector(f"rope_{name}.weight", [1.0] * 16)
                for name in ("freqs", "factors_long", "factors_short")
            ],
            "has both",
        ),
    ],
)
def test_refuses_wrong_frequency_factors(tmp_path: Path, extra: list[StoredTensor], words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        open_tiny(tmp_path, "llama", {}, [*tiny_tensors("llama"), *extra])


def test_refuses_frequency_factors_beside_yarn_and_in_families_without(tmp_path: Path) -> None:
    factors = vector("rope_freqs.weight", [1.0] * 16)
    yarn: Changes = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight beside llama\.rope\.scaling\.type"):
        open_tiny(tmp_path, "llama", yarn, [*tiny_tensors("llama"), factors])
    with pytest.raises(UnsupportedModelError, match=r"the tensor 'rope_freqs\.weight'"):
        open_tiny(tmp_path, "qwen3", {}, [*tiny_tensors("qwen3"), factors])
