"""The tiny models of every architecture, read from both formats and computed in NumPy.

Their golden logits are `transformers`' own (see tests/golden/architectures). Whatever a reader gets
wrong, a norm, a scale, a window or a frequency, shows in them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.models import open_model
from stoker.models.architectures import FAMILIES
from stoker.models.config import LayerConfig, ModelConfig, Rotary
from stoker.testing.golden_models import GoldenModel, golden_models
from stoker.testing.reference_forward import ReferenceForward
from stoker.text import Tokenizer

MODELS = list(golden_models(Path(__file__).parents[2] / "golden" / "architectures"))
CLOSE = 1e-4
"""Largest difference of logits, which spread over several units."""

FAR = 0.02
"""Least difference when a part of the model is left out."""


@pytest.mark.parametrize("golden", MODELS, ids=lambda golden: golden.label)
def test_logits_are_those_of_transformers(golden: GoldenModel) -> None:
    with open_model(golden.path) as model:
        forward = ReferenceForward(model.config, model.tensors, context_length=golden.context_length)
        assert golden.error(forward.logits(golden.tokens)) <= CLOSE


def test_every_architecture_has_golden_logits() -> None:
    found = set()
    for golden in (each for each in MODELS if each.path.is_file()):
        assert golden.logits.std() > 0.5
        with open_model(golden.path) as model:
            found.add(model.config.architecture)
    assert found == set(FAMILIES) - {"mistral3"}  # to the reader, another name of llama


def test_both_formats_have_the_same_tokenizer() -> None:
    text = "Hello, the world has 2026 things;  <|im_start|> is spelt, \u00fcber \U0001f600."
    by_name: dict[str, set[tuple[int, ...]]] = {}
    for golden in MODELS:
        with open_model(golden.path) as model:
            tokenizer = Tokenizer(model.tokenizer)
            assert tokenizer.vocab_size == model.config.vocab_size
            by_name.setdefault(golden.name, set()).add(tuple(tokenizer.encode(text)))
            assert model.tokenizer.end_token_ids == {0, 2}
    assert len(by_name) == 16
    assert set(map(len, by_name.values())) == {1}


LEFT_OUT: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "windows": lambda c: replace(c, layers=tuple(replace(each, window=None) for each in c.layers)),
    "layers without positions": lambda c: replace(
        c, layers=tuple(LayerConfig(window=each.window, rotary=each.rotary or 0) for each in c.layers)
    ),
    "magnitude": lambda c: replace(c, rotaries=tuple(replace(each, magnitude=1.0) for each in c.rotaries)),
    "long frequencies": lambda c: replace(
        c, rotaries=tuple(replace(each, long_frequencies=None) for each in c.rotaries)
    ),
    "order of pairs": lambda c: replace(c, rope_pairs="halves" if c.rope_pairs == "adjacent" else "adjacent"),
    "head norms": lambda c: replace(c, qk_norm="none"),
    "norms behind": lambda c: replace(c, post_norms=False),
    "biases": lambda c: replace(c, qkv_bias=False),
    "output bias": lambda c: replace(c, attention_output_bias=False),
    "sinks": lambda c: replace(c, sinks=False),
    "score cap": lambda c: replace(c, score_softcap=None),
    "logit cap": lambda c: replace(c, logit_softcap=None),
    "score scale": lambda c: c if c.score_scale == c.head_size**-0.5 else replace(c, score_scale=None),
    "embedding scale": lambda c: replace(c, embedding_scale=1.0),
    "residual scale": lambda c: replace(c, residual_scale=1.0),
    "logit scale": lambda c: replace(c, logit_scale=1.0),
    "activation": lambda c: replace(c, activation="silu"),
    "biases of experts": lambda c: replace(
        c, experts=None if c.experts is None else replace(c.experts, biases=False)
    ),
    "shares of the used": lambda c: replace(
        c, experts=None if c.experts is None else replace(c.experts, normalized=False)
    ),
}


def one_rotary(config: ModelConfig) -> ModelConfig:
    """Give all layers the frequencies of the first one."""
    first: Rotary = config.rotaries[config.layers[0].rotary or 0]
    return replace(config, rotaries=(first,) * len(config.rotaries))


LEFT_OUT["second rotary"] = one_rotary


@pytest.mark.parametrize("what", LEFT_OUT)
def test_the_golden_logits_need_every_part(what: str) -> None:
    n_models = 0
    for golden in (each for each in MODELS if each.label.endswith("-gguf")):
        with open_model(golden.path) as model:
            changed = LEFT_OUT[what](model.config)
            if changed != model.config:
                forward = ReferenceForward(changed, model.tensors, context_length=golden.context_length)
                assert golden.error(forward.logits(golden.tokens)) >= FAR, golden.label
                n_models += 1
    assert n_models
