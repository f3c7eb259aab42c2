"""A folder's tensors under the names that every reader gives them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stoker.core.errors import UnsupportedModelError
from stoker.models.config import Experts, ModelConfig, Tensor
from stoker.models.huggingface.families import Family
from stoker.models.huggingface.files import Quantize
from stoker.models.huggingface.inventory import Inventory
from stoker.models.huggingface.matrices import (
    MXFP4_ELEMENTS,
    ExpertSlice,
    Matrix,
    Mxfp4Slice,
    Part,
    elements,
    raw_bytes,
)
from stoker.models.huggingface.quantize import QuantizedMatrix, floats, quantized_type
from stoker.models.huggingface.safetensors import StoredTensor, shown

_NORMS = {
    "pre": {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    "post": {
        "post_attention_layernorm": "post_attention_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "both": {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
"""A layer's norms by where the family has them: the file's name, and GGUF's."""

_MIXTRAL_BLOCKS = ("block_sparse_moe", "mlp")
_GATE_UP = ("gate", "up")


def map_tensors(
    inventory: Inventory, family: Family, config: ModelConfig, quantize: Quantize
) -> dict[str, Tensor]:
    """Return every tensor of `expected_shapes`, each read when it is asked for.

    Raises:
        CorruptFileError: Tensors are missing or have other shapes than the model's.
        UnsupportedModelError: Types that Stoker does not read, or tensors that it would not use.
    """
    mapper = _Mapper(inventory, family, config, quantize)
    mapper.map_all()
    inventory.check_all_taken()
    return mapper.tensors


class _Mapper:
    def __init__(self, inventory: Inventory, family: Family, config: ModelConfig, quantize: Quantize) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._inventory = inventory
        self._family = family
        self._config = config
        self._quantize = quantize

    def map_all(self) -> None:
        config, inventory = self._config, self._inventory
        shape = (config.vocab_size, config.width)
        self._add_matrix("token_embd.weight", inventory.matrix(f"{inventory.prefix}embed_tokens", shape))
        head = "language_model.lm_head" if inventory.has("language_model.lm_head.weight") else "lm_head"
        if config.tied_embeddings:
            inventory.ignore(f"{head}.weight")
        else:
            self._add_matrix("output.weight", inventory.matrix(head, shape))
        self._add_norm("output_norm.weight", f"{inventory.prefix}norm.weight", config.width)
        for index in range(config.n_layers):
            source, name = f"{inventory.prefix}layers.{index}", f"blk.{index}"
            self._map_attention(f"{source}.self_attn", name)
            if config.experts is None:
                self._map_feed_forward(f"{source}.mlp", name)
            else:
                self._map_experts(source, name, config.experts)
            for stored, own in _NORMS[self._family.norms].items():
                self._add_norm(f"{name}.{own}.weight", f"{source}.{stored}.weight", config.width)

    def _map_attention(self, source: str, name: str) -> None:
        config, inventory = self._config, self._inventory
        query_width, kv_width = config.n_heads * config.head_size, config.n_kv_heads * config.head_size
        widths = {"q": query_width, "k": kv_width, "v": kv_width}
        if self._family.fused_qkv:
            fused = inventory.matrix(f"{source}.qkv_proj", (sum(widths.values()), config.width))
            self._add_parts(fused, {f"{name}.attn_{each}.weight": rows for each, rows in widths.items()})
        else:
            for each, rows in widths.items():
                matrix = inventory.matrix(f"{source}.{each}_proj", (rows, config.width))
                self._add_matrix(f"{name}.attn_{each}.weight", matrix)
        output = inventory.matrix(f"{source}.o_proj", (config.width, query_width))
        self._add_matrix(f"{name}.attn_output.weight", output)
        if config.qkv_bias:
            for each, rows in widths.items():
                self._add_vector(f"{name}.attn_{each}.bias", f"{source}.{each}_proj.bias", rows)
        if config.attention_output_bias:
            self._add_vector(f"{name}.attn_output.bias", f"{source}.o_proj.bias", config.width)
        if config.qk_norm != "none":
            for each, rows in (("q", query_width), ("k", kv_width)):
                size = config.head_size if config.qk_norm == "head" else rows
                self._add_norm(f"{name}.attn_{each}_norm.weight", f"{source}.{each}_norm.weight", size)
        if config.sinks:
            self._add_vector(f"{name}.attn_sinks.weight", f"{source}.sinks", config.n_heads)

    def _map_feed_forward(self, source: str, name: str) -> None:
        width, inner = self._config.width, self._config.ffn_width
        if self._family.feed_forward == "fused":
            fused = self._inventory.matrix(f"{source}.gate_up_proj", (2 * inner, width))
            self._add_parts(fused, {f"{name}.ffn_{each}.weight": inner for each in _GATE_UP})
        else:
            for each in _GATE_UP:
                matrix = self._inventory.matrix(f"{source}.{each}_proj", (inner, width))
                self._add_matrix(f"{name}.ffn_{each}.weight", matrix)
        down = self._inventory.matrix(f"{source}.down_proj", (width, inner))
        self._add_matrix(f"{name}.ffn_down.weight", down)

    def _map_experts(self, layer: str, name: str, experts: Experts) -> None:
        if self._family.feed_forward == "gpt_oss":
            self._map_gpt_oss(f"{layer}.mlp", name, experts)
            return
        inventory, width, inner = self._inventory, self._config.width, self._config.ffn_width
        blocks = _MIXTRAL_BLOCKS if self._family.feed_forward == "mixtral" else ("mlp",)
        block = next((b for b in blocks if inventory.has(f"{layer}.{b}.gate.weight")), blocks[0])
        router = inventory.matrix(f"{layer}.{block}.gate", (experts.n_experts, width))
        self._add_matrix(f"{name}.ffn_gate_inp.weight", router)
        source = f"{layer}.{block}.experts"
        n = experts.n_experts
        if inventory.has(f"{source}.gate_up_proj"):  # as `transformers` 5 holds them
            both = inventory.floats(f"{source}.gate_up_proj", (n, 2 * inner, width))
            down = inventory.floats(f"{source}.down_proj", (n, width, inner))
            for place, each in enumerate(_GATE_UP):
                slices = [ExpertSlice(both, e, first=place * inner, count=inner) for e in range(n)]
                self._add_stack(f"{name}.ffn_{each}_exps.weight", slices)
            self._add_stack(f"{name}.ffn_down_exps.weight", [ExpertSlice(down, e) for e in range(n)])
            return
        old = inventory.has(f"{source}.0.w1.weight") or inventory.has(f"{source}.0.w1.qweight")
        names = ("w1", "w3", "w2") if old else ("gate_proj", "up_proj", "down_proj")
        for own, stored in zip((*_GATE_UP, "down"), names, strict=True):
            shape = (width, inner) if own == "down" else (inner, width)
            matrices = [inventory.matrix(f"{source}.{expert}.{stored}", shape) for expert in range(n)]
            self._add_stack(f"{name}.ffn_{own}_exps.weight", matrices)

    def _map_gpt_oss(self, source: str, name: str, experts: Experts) -> None:
        """Map experts whose gate and up are every other output of one product."""
        inventory, n = self._inventory, experts.n_experts
        width, inner = self._config.width, self._config.ffn_width
        self._add_matrix(f"{name}.ffn_gate_inp.weight", inventory.matrix(f"{source}.router", (n, width)))
        self._add_vector(f"{name}.ffn_gate_inp.bias", f"{source}.router.bias", n)
        both = self._gpt_oss_rows(f"{source}.experts.gate_up_proj", n, 2 * inner, width)
        down = self._gpt_oss_rows(f"{source}.experts.down_proj", n, width, inner)
        biases = inventory.floats(f"{source}.experts.gate_up_proj_bias", (n, 2 * inner))
        for first, each in enumerate(_GATE_UP):
            self._add_stack(f"{name}.ffn_{each}_exps.weight", [both(e, first, 2) for e in range(n)])
            self._add_columns(f"{name}.ffn_{each}_exps.bias", biases, first, 2)
        self._add_stack(f"{name}.ffn_down_exps.weight", [down(e, 0, 1) for e in range(n)])
        self._add_vector(f"{name}.ffn_down_exps.bias", f"{source}.experts.down_proj_bias", n, width)

    def _gpt_oss_rows(
        self, source: str, n: int, outputs: int, inputs: int
    ) -> Callable[[int, int, int], Matrix]:
        """Return what makes a matrix of an expert's outputs, from the first at each step."""
        inventory, scheme = self._inventory, self._inventory.quantization
        if scheme is not None and scheme.method == "mxfp4" and not inventory.has(source):
            groups = inputs // MXFP4_ELEMENTS
            blocks = inventory.take(f"{source}_blocks", (n, outputs, groups, 16))
            scales = inventory.take(f"{source}_scales", (n, outputs, groups))
            for stored in (blocks, scales):
                if stored.dtype != "U8":
                    raise UnsupportedModelError(
                        f"{inventory.label}: the tensor {shown(stored.name)} has the type {stored.dtype}, "
                        "expected U8."
                    )
            return lambda expert, first, step: Mxfp4Slice(blocks, scales, expert, first, step)
        whole = inventory.floats(source, (n, inputs, outputs))
        return lambda expert, first, step: ExpertSlice(whole, expert, first, step, transposed=True)

    def _add_matrix(self, name: str, matrix: Matrix) -> None:
        served = self._served(name, matrix)
        rows = served.shape[0]
        self.tensors[name] = Tensor(name, served.dtype, served.shape, lambda: served.read(0, rows))

    def _add_parts(self, whole: Matrix, rows: Mapping[str, int]) -> None:
        first = 0
        for name, count in rows.items():
            self._add_matrix(name, Part(whole, first, count))
            first += count

    def _add_stack(self, name: str, matrices: Sequence[Matrix]) -> None:
        served = [self._served(name, matrix) for matrix in matrices]
        types = {matrix.dtype for matrix in served}
        if len(types) > 1:
            raise UnsupportedModelError(
                f"{self._inventory.label}: the experts of {name} are stored in different types: "
                f"{', '.join(sorted(types))}."
            )
        shape = (len(served), *served[0].shape)
        self.tensors[name] = Tensor(name, served[0].dtype, shape, lambda: _joined(served))

    def _add_vector(self, name: str, source: str, *shape: int) -> None:
        stored = self._inventory.floats(source, shape)
        self.tensors[name] = Tensor(name, stored.dtype, shape, lambda: stored.data)

    def _add_columns(self, name: str, stored: StoredTensor, first: int, step: int) -> None:
        shape = (stored.shape[0], len(range(first, stored.shape[1], step)))
        self.tensors[name] = Tensor(
            name, stored.dtype, shape, lambda: raw_bytes(elements(stored)[:, first::step])
        )

    def _add_norm(self, name: str, source: str, size: int) -> None:
        if not self._family.gemma_norms:
            self._add_vector(name, source, size)
            return
        stored = self._inventory.floats(source, (size,))
        self.tensors[name] = Tensor(name, "F32", (size,), lambda: _plus_one(stored))

    def _served(self, name: str, matrix: Matrix) -> Matrix:
        dtype = quantized_type(name, matrix.dtype, self._quantize)
        return matrix if dtype == matrix.dtype else QuantizedMatrix(matrix, dtype)


def _plus_one(stored: StoredTensor) -> memoryview:
    return raw_bytes(floats(stored.data, stored.dtype) + np.float32(1))


def _joined(matrices: Sequence[Matrix]) -> memoryview:
    out: bytearray | None = None
    for place, matrix in enumerate(matrices):
        data = matrix.read(0, matrix.shape[0])
        if out is None:
            out = bytearray(len(data) * len(matrices))
        out[place * len(data) : (place + 1) * len(data)] = data
    return memoryview(out or b"").toreadonly()
