"""What a case must compute and read at least, by the shape of the model and the layout of its weights."""

from math import prod
from pathlib import Path
from typing import TypedDict

from harness.contender import Case
from stoker.core.step import BLOCK_TOKENS
from stoker.engine.native.sizing import kv_block_bytes, packed_bytes
from stoker.models import open_model

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_MATRIX = 2


class Work(TypedDict):
    """Of one call: operations of the matrix products, bytes of weights and of KV that it reads."""

    matrix_ops: float
    weight_bytes: float
    kv_bytes: float


class ModelWork:
    """Counts what cases of one model must do.

    A token costs two operations for each weight of the layers; the output matrix is computed for the last
    token of a prompt and for every token of a step. A step reads all weights once, of an embedding that is
    no output one row, and each sequence's KV. Mixtures of experts are not told apart from dense models.

    Args:
        model: GGUF file.
    """

    def __init__(self, model: Path) -> None:
        with open_model(model) as source:
            tensors = list(source.tensors.values())
            self._kv_token_bytes = kv_block_bytes(source.config, float_path=False) / BLOCK_TOKENS
        tied = not any(tensor.name == OUTPUT for tensor in tensors)
        ends = {EMBEDDING, OUTPUT}
        self._output = sum(
            prod(each.shape) for each in tensors if each.name == (EMBEDDING if tied else OUTPUT)
        )
        matrices = [each for each in tensors if len(each.shape) >= _MATRIX]
        self._layers = sum(prod(each.shape) for each in matrices if each.name not in ends)
        read = [each for each in tensors if tied or each.name != EMBEDDING]
        self._weight_bytes = packed_bytes(read, float_path=False)

    def of(self, case: Case) -> Work:
        """Count one case."""
        kind, n_sequences, n_tokens = case
        if kind == "prefill":
            return {
                "matrix_ops": 2.0 * (self._layers * n_tokens + self._output),
                "weight_bytes": float(self._weight_bytes),
                "kv_bytes": 0.0,
            }
        return {
            "matrix_ops": 2.0 * (self._layers + self._output) * n_sequences,
            "weight_bytes": float(self._weight_bytes),
            "kv_bytes": n_sequences * n_tokens * self._kv_token_bytes,
        }
