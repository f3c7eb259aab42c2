"""A base's matrices with an adapter's addition in them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stoker._native import kernels
from stoker.core.errors import CorruptFileError
from stoker.models.adapters import AdapterPart
from stoker.models.adapters.gguf import TARGETS
from stoker.models.config import ModelConfig, Tensor
from stoker.models.gguf import TENSOR_TYPES
from stoker.models.huggingface.matrices import FLOAT_BYTES, Matrix, raw_bytes
from stoker.models.huggingface.quantize import QuantizedMatrix

MergedType = Literal["q8_0", "bf16"]
"""Types that quantized matrices may be merged to."""

TENSOR_NAMES = {target: name for name, target in TARGETS.items()}
"""GGUF's names of the matrices that an adapter may change, by the engine's."""

_BLOCKS = {kind.name: (kind.block_elements, kind.block_bytes) for kind in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True)
class MergedMatrix:
    """``W + scale * up @ down`` in fp32, rounded to floats of `dtype`.

    Attributes:
        base: ``W`` as it is stored.
        up: ``[outputs, rank]``, in the order of the base's rows.
        down: ``[rank, inputs]``, times the scale.
        dtype: F32, F16 or BF16.
    """

    base: Tensor
    up: NDArray[np.float32]
    down: NDArray[np.float32]
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""
        rows, inputs = self.base.shape
        return rows, inputs

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes of the rows from `start` up to `stop`.

        Raises:
            CorruptFileError: The base's rows cannot be used, or the type cannot hold a sum.
        """
        inputs = self.shape[1]
        block_elements, block_bytes = _BLOCKS[self.base.dtype]
        row_bytes = inputs // block_elements * block_bytes
        stored = np.frombuffer(self.base.data[start * row_bytes : stop * row_bytes], np.uint8)
        try:
            rows = kernels.unpack(self.base.dtype, stored, stop - start, inputs, dequantize=True)
        except ValueError as error:
            raise CorruptFileError(f"tensor {self.base.name}: {error}") from error
        sums = np.asarray(rows, np.float32) + self.up[start:stop] @ self.down
        encoded, decoded = _encode(sums, self.dtype)
        if not np.isfinite(decoded).all():
            raise CorruptFileError(
                f"With the adapter, {self.base.name} has a number that {self.dtype} cannot hold."
            )
        return raw_bytes(encoded)


def merged_matrix(base: Tensor, part: AdapterPart, config: ModelConfig, dtype: MergedType) -> Matrix:
    """Return a matrix with an adapter's addition in it.

    Matrices of floats keep their type.

    Args:
        base: The matrix as it is stored.
        part: What is added to it.
        config: The base's shape.
        dtype: What a quantized matrix becomes.
    """
    up = part.up
    if part.target in ("q", "k") and config.rope_pairs == "adjacent":
        heads = up.reshape(-1, 2, config.head_size // 2, up.shape[1])
        up = np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(up.shape)
    down = np.float32(part.scale) * part.down
    if base.dtype in FLOAT_BYTES or dtype == "bf16":
        return MergedMatrix(base, up, down, base.dtype if base.dtype in FLOAT_BYTES else "BF16")
    return QuantizedMatrix(MergedMatrix(base, up, down, "F32"), "Q8_0")


def _encode(values: NDArray[np.float32], dtype: str) -> tuple[NDArray[np.generic], NDArray[np.floating]]:
    """Round to the nearest number of a type; return its bits, and the numbers."""
    match dtype:
        case "F32":
            return values, values
        case "F16":
            with np.errstate(over="ignore"):
                halves = values.astype(np.float16)
            return halves, halves
        case _:
            bits = np.ascontiguousarray(values).view(np.uint32)
            rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16
            return rounded.astype(np.uint16), (rounded << 16).view(np.float32)
