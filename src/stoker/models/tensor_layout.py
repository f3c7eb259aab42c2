"""Which tensors a model has, and their shapes; every reader brings a file's tensors to these names."""

from stoker.models.config import Experts, ModelConfig

Shape = tuple[int, ...]
"""Outermost dimension first; see `Tensor.shape`."""


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor that a model of this shape has, by name.

    Names are GGUF's. A matrix is ``(outputs, inputs)``, the same matrix of all experts
    ``(experts, outputs, inputs)``.
    """
    shapes: dict[str, Shape] = {
        "token_embd.weight": (config.vocab_size, config.width),
        "output_norm.weight": (config.width,),
    }
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, config.width)
    layer = _attention(config) | _feed_forward(config) | _norms(config)
    for index in range(config.n_layers):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _attention(config: ModelConfig) -> dict[str, Shape]:
    width, query_width = config.width, config.n_heads * config.head_size
    kv_width = config.n_kv_heads * config.head_size
    shapes: dict[str, Shape] = {
        "attn_q.weight": (query_width, width),
        "attn_k.weight": (kv_width, width),
        "attn_v.weight": (kv_width, width),
        "attn_output.weight": (width, query_width),
    }
    if config.qkv_bias:
        shapes |= {"attn_q.bias": (query_width,), "attn_k.bias": (kv_width,), "attn_v.bias": (kv_width,)}
    if config.attention_output_bias:
        shapes["attn_output.bias"] = (width,)
    if config.qk_norm == "head":
        shapes |= {"attn_q_norm.weight": (config.head_size,), "attn_k_norm.weight": (config.head_size,)}
    if config.qk_norm == "row":
        shapes |= {"attn_q_norm.weight": (query_width,), "attn_k_norm.weight": (kv_width,)}
    if config.sinks:
        shapes["attn_sinks.weight"] = (config.n_heads,)
    return shapes


def _feed_forward(config: ModelConfig) -> dict[str, Shape]:
    width, inner = config.width, config.ffn_width
    if config.experts is not None:
        return _experts(config.experts, width, inner)
    return {
        "ffn_gate.weight": (inner, width),
        "ffn_up.weight": (inner, width),
        "ffn_down.weight": (width, inner),
    }


def _experts(experts: Experts, width: int, inner: int) -> dict[str, Shape]:
    n = experts.n_experts
    shapes: dict[str, Shape] = {
        "ffn_gate_inp.weight": (n, width),
        "ffn_gate_exps.weight": (n, inner, width),
        "ffn_up_exps.weight": (n, inner, width),
        "ffn_down_exps.weight": (n, width, inner),
    }
    if experts.biases:
        shapes |= {
            "ffn_gate_inp.bias": (n,),
            "ffn_gate_exps.bias": (n, inner),
            "ffn_up_exps.bias": (n, inner),
            "ffn_down_exps.bias": (n, width),
        }
    return shapes


def _norms(config: ModelConfig) -> dict[str, Shape]:
    names: tuple[str, ...] = ()
    if config.pre_norms:
        names += ("attn_norm.weight", "ffn_norm.weight")
    if config.post_norms:
        names += ("post_attention_norm.weight", "post_ffw_norm.weight")
    return dict.fromkeys(names, (config.width,))
