"""A model's shape in the native library's terms."""

from stoker import _native
from stoker.models.config import ModelConfig


def native_shape(config: ModelConfig, context_length: int) -> _native.ModelShape:
    """Return the shape of a model that serves contexts of so many tokens."""
    experts = config.experts
    return _native.ModelShape(
        layers=[(layer.window or 0, -1 if layer.rotary is None else layer.rotary) for layer in config.layers],
        width=config.width,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_size=config.head_size,
        ffn_width=config.ffn_width,
        vocab_size=config.vocab_size,
        context_length=context_length,
        rotaries=[_native.Rotary(rotary.at(context_length), rotary.magnitude) for rotary in config.rotaries],
        norm_epsilon=config.norm_epsilon,
        tied_embeddings=config.tied_embeddings,
        activation=config.activation,
        pre_norms=config.pre_norms,
        post_norms=config.post_norms,
        qk_norm=config.qk_norm,
        qkv_bias=config.qkv_bias,
        attention_output_bias=config.attention_output_bias,
        sinks=config.sinks,
        score_scale=config.head_size**-0.5 if config.score_scale is None else config.score_scale,
        score_softcap=config.score_softcap or 0.0,
        logit_softcap=config.logit_softcap or 0.0,
        embedding_scale=config.embedding_scale,
        residual_scale=config.residual_scale,
        logit_scale=config.logit_scale,
        experts=None
        if experts is None
        else _native.Experts(
            n_experts=experts.n_experts,
            n_used=experts.n_used,
            normalized=experts.normalized,
            biases=experts.biases,
        ),
    )
