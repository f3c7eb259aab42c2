"""The forward pass of every architecture that `ModelConfig` describes, in NumPy and float64.

Written to be read beside `ModelConfig`: no cache, no blocks, one text at a time, every key's score
computed and the unseen ones struck out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stoker.models.config import Experts, LayerConfig, ModelConfig, Rotary, Tensor
from stoker.models.tensor_layout import expected_shapes
from stoker.testing.gguf_blocks import decode_blocks

Doubles = NDArray[np.float64]
Weights = Mapping[str, Tensor | NDArray[np.floating]]

_SWIGLU_LIMIT = 7.0
_SWIGLU_ALPHA = 1.702


class ReferenceForward:
    """Computes logits from a model's tensors.

    Args:
        config: The model's shape.
        weights: Its tensors by the names of `expected_shapes`: as stored, or decoded to floats.
        context_length: Tokens of the served context, which may choose the rotary frequencies; None for
            all that the model was made for.
    """

    def __init__(self, config: ModelConfig, weights: Weights, *, context_length: int | None = None) -> None:
        self.config = config
        self.context_length = config.context_length if context_length is None else context_length
        self._weights = weights
        self._names = frozenset(expected_shapes(config))
        self._decoded: dict[str, Doubles] = {}

    def logits(self, tokens: Sequence[int]) -> Doubles:
        """Logits after each of `tokens`, ``[n_tokens, vocab_size]``."""
        config = self.config
        x = self._weight("token_embd.weight")[list(tokens)] * config.embedding_scale
        for index, layer in enumerate(config.layers):
            name = f"blk.{index}"
            attended = self._attention(name, layer, self._pre_norm(f"{name}.attn_norm", x))
            x = x + config.residual_scale * self._post_norm(f"{name}.post_attention_norm", attended)
            fed = self._feed_forward(name, self._pre_norm(f"{name}.ffn_norm", x))
            x = x + config.residual_scale * self._post_norm(f"{name}.post_ffw_norm", fed)
        output = "token_embd" if config.tied_embeddings else "output"
        logits = self._norm("output_norm", x) @ self._weight(f"{output}.weight").T
        return softcapped(logits * config.logit_scale, config.logit_softcap)

    def _attention(self, name: str, layer: LayerConfig, x: Doubles) -> Doubles:
        """Output of the attention block ``name`` for its input ``x [n_tokens, width]``."""
        config = self.config
        queries, keys, values = (self._product(f"{name}.attn_{part}", x) for part in "qkv")
        if config.qk_norm == "row":
            queries, keys = (
                self._norm(f"{name}.attn_{part}_norm", rows) for part, rows in (("q", queries), ("k", keys))
            )
        queries, keys, values = (
            rows.reshape(len(x), -1, config.head_size) for rows in (queries, keys, values)
        )
        if config.qk_norm == "head":
            queries, keys = (
                self._norm(f"{name}.attn_{part}_norm", rows) for part, rows in (("q", queries), ("k", keys))
            )
        if layer.rotary is not None:
            queries, keys = (self._rotated(rows, config.rotaries[layer.rotary]) for rows in (queries, keys))
        group = config.n_heads // config.n_kv_heads
        keys, values = keys.repeat(group, axis=1), values.repeat(group, axis=1)
        scale = config.head_size**-0.5 if config.score_scale is None else config.score_scale
        scores = softcapped(np.einsum("qhd,khd->hqk", queries, keys) * scale, config.score_softcap)
        scores = np.where(seen_keys(len(x), layer.window), scores, -np.inf)
        shares = softmax(scores, self._weight(f"{name}.attn_sinks.weight") if config.sinks else None)
        attended = np.einsum("hqk,khd->qhd", shares, values).reshape(len(x), -1)
        return self._product(f"{name}.attn_output", attended)

    def _rotated(self, rows: Doubles, rotary: Rotary) -> Doubles:
        """Turn the pairs of ``rows [position, head, head_size]`` by each position's angles."""
        frequencies = np.array(rotary.at(self.context_length))
        n_turned = 2 * len(frequencies)
        turned, kept = rows[..., :n_turned], rows[..., n_turned:]
        adjacent = self.config.rope_pairs == "adjacent"
        split = (*turned.shape[:-1], *((-1, 2) if adjacent else (2, -1)))
        pair_axis = -1 if adjacent else -2
        first, second = np.moveaxis(turned.reshape(split), pair_axis, 0)
        angles = np.arange(len(rows))[:, None, None] * frequencies
        turns = (first + 1j * second) * np.exp(1j * angles) * rotary.magnitude
        joined = np.stack([turns.real, turns.imag], axis=pair_axis).reshape(turned.shape)
        return np.concatenate([joined, kept], axis=-1)

    def _feed_forward(self, name: str, x: Doubles) -> Doubles:
        """Output of the feed-forward block ``name`` for its input ``x [n_tokens, width]``."""
        if self.config.experts is not None:
            return self._experts(name, x, self.config.experts)
        gate, up = self._product(f"{name}.ffn_gate", x), self._product(f"{name}.ffn_up", x)
        return self._product(f"{name}.ffn_down", self._activated(gate, up))

    def _experts(self, name: str, x: Doubles, experts: Experts) -> Doubles:
        scores = self._product(f"{name}.ffn_gate_inp", x)
        # Of equal scores the first expert's counts as higher.
        used = np.argsort(-scores, axis=1, kind="stable")[:, : experts.n_used]
        if experts.normalized:
            shares = softmax(np.take_along_axis(scores, used, axis=1))
        else:
            shares = np.take_along_axis(softmax(scores), used, axis=1)
        out = np.zeros_like(x)
        for token, place in np.ndindex(used.shape):
            expert, row = int(used[token, place]), x[token]
            gate = self._product(f"{name}.ffn_gate_exps", row, expert)
            up = self._product(f"{name}.ffn_up_exps", row, expert)
            inner = self._activated(gate, up)
            out[token] += shares[token, place] * self._product(f"{name}.ffn_down_exps", inner, expert)
        return out

    def _activated(self, gate: Doubles, up: Doubles) -> Doubles:
        match self.config.activation:
            case "silu":
                return gate * sigmoid(gate) * up
            case "gelu_tanh":
                inner = (2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)
                gelu: Doubles = 0.5 * gate * (1 + np.tanh(inner))
                return gelu * up
            case "clamped_swiglu":
                limited: Doubles = gate.clip(max=_SWIGLU_LIMIT)
                shifted: Doubles = up.clip(-_SWIGLU_LIMIT, _SWIGLU_LIMIT) + 1
                return shifted * limited * sigmoid(_SWIGLU_ALPHA * limited)

    def _pre_norm(self, name: str, x: Doubles) -> Doubles:
        return self._norm(name, x) if self.config.pre_norms else x

    def _post_norm(self, name: str, x: Doubles) -> Doubles:
        return self._norm(name, x) if self.config.post_norms else x

    def _norm(self, name: str, x: Doubles) -> Doubles:
        """RMSNorm along the last axis."""
        mean = np.mean(x**2, axis=-1, keepdims=True)
        normed: Doubles = x / np.sqrt(mean + self.config.norm_epsilon) * self._weight(f"{name}.weight")
        return normed

    def _product(self, name: str, x: Doubles, expert: int | None = None) -> Doubles:
        """``x [..., inputs]`` times a matrix, or one expert's, and plus its bias when it has one."""
        weight = self._weight(f"{name}.weight")
        product: Doubles = x @ (weight if expert is None else weight[expert]).T
        if f"{name}.bias" in self._names:
            bias = self._weight(f"{name}.bias")
            product = product + (bias if expert is None else bias[expert])
        return product

    def _weight(self, name: str) -> Doubles:
        if name not in self._decoded:
            weight = self._weights[name]
            if isinstance(weight, Tensor):
                weight = decode_blocks(weight.data, weight.dtype, weight.shape)
            self._decoded[name] = weight.astype(np.float64)
        return self._decoded[name]


def seen_keys(n_tokens: int, window: int | None) -> NDArray[np.bool_]:
    """Which keys a query sees, ``[query, key]``: those up to itself, and not before its window."""
    distance = np.arange(n_tokens)[:, None] - np.arange(n_tokens)
    return (distance >= 0) & (distance < (n_tokens if window is None else window))


def softmax(scores: Doubles, sinks: Doubles | None = None) -> Doubles:
    """Shares along the last axis; each of the first axis may have a sink that takes its part of them."""
    peaks = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - peaks)
    totals = powers.sum(axis=-1, keepdims=True)
    if sinks is not None:
        totals = totals + np.exp(sinks.reshape(-1, *[1] * (scores.ndim - 1)) - peaks)
    shares: Doubles = powers / totals
    return shares


def softcapped(scores: Doubles, cap: float | None) -> Doubles:
    """Squeeze scores smoothly into ``-cap`` to ``cap``; None leaves them."""
    return scores if cap is None else cap * np.tanh(scores / cap)


def sigmoid(x: Doubles) -> Doubles:
    """The logistic function."""
    return 0.5 * (1 + np.tanh(x / 2))
