"""Quantizing matrices while they are loaded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError
from stoker.models.huggingface.files import Quantize
from stoker.models.huggingface.matrices import FLOAT_BYTES, Matrix, raw_bytes

BLOCK = 32
_CHUNK_ELEMENTS = 2**20
"""How much is converted at a time, so that the fp32 copy stays in the processor's cache or near it."""

_LARGEST_HALF = 65504.0
_FINE = ("token_embd.weight", "output.weight")
_ROUTER = "ffn_gate_inp.weight"

Floats = NDArray[np.float32]


def quantized_type(name: str, dtype: str, quantize: Quantize) -> str:
    """Return the type that a matrix is served in.

    Args:
        name: GGUF's name of its tensor.
        dtype: How it is stored.
        quantize: What is asked for.
    """
    if quantize == "none" or dtype not in FLOAT_BYTES or name.endswith(_ROUTER):
        return dtype
    return "Q8_0" if quantize == "q8" or name in _FINE else "Q4_1"


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix of floats, read as blocks of 32 inputs.

    ``Q8_0``: the scale is the largest magnitude over 127. ``Q4_1``: the minimum is the smallest value, the
    scale the range over 15. Both are rounded to f16 before codes are chosen, each code the nearest.
    """

    whole: Matrix
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""
        return self.whole.shape

    def read(self, start: int, stop: int) -> memoryview:
        """Blocks of the rows from `start` up to `stop`.

        Raises:
            CorruptFileError: A value is not finite, or too large for the blocks.
        """
        inputs = self.shape[1]
        encode, block_bytes = (_q8_0, 34) if self.dtype == "Q8_0" else (_q4_1, 20)
        out = np.empty((stop - start, inputs // BLOCK, block_bytes), np.uint8)
        step = max(1, _CHUNK_ELEMENTS // inputs)
        for first in range(start, stop, step):
            last = min(stop, first + step)
            blocks = floats(self.whole.read(first, last), self.whole.dtype).reshape(-1, BLOCK)
            _require_halves(blocks, self.dtype)
            out[first - start : last - start] = encode(blocks).reshape(last - first, -1, block_bytes)
        return raw_bytes(out)


def floats(data: memoryview, dtype: str) -> Floats:
    """Decode F32, F16 or BF16."""
    match dtype:
        case "F32":
            return np.frombuffer(data, np.float32)
        case "F16":
            return np.frombuffer(data, np.float16).astype(np.float32)
        case _:
            return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _require_halves(blocks: Floats, dtype: str) -> None:
    largest = max(float(blocks.max()), -float(blocks.min()))  # NaN if there is one
    if not largest <= _LARGEST_HALF * (127 if dtype == "Q8_0" else 1):
        raise CorruptFileError(
            f"A matrix holds {largest}, which {dtype} cannot: it is damaged, or must be served without "
            "`quantize`."
        )


def _q8_0(blocks: Floats) -> NDArray[np.uint8]:
    """``[n, 32]`` as ``[n, 34]``: an f16 scale and 32 signed bytes."""
    peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    scales = _half(peaks / 127)
    codes = blocks * _inverse(scales)[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, -127, 127, out=codes)
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = scales[:, None].view(np.uint8)
    out[:, 2:] = codes.astype(np.int8).view(np.uint8)
    return out


def _q4_1(blocks: Floats) -> NDArray[np.uint8]:
    """``[n, 32]`` as ``[n, 20]``: an f16 scale, an f16 minimum, 16 bytes of elements i (low) and i + 16."""
    minima = _half(blocks.min(axis=1))
    scales = _half((blocks.max(axis=1) - minima) / 15)
    codes = blocks - minima.astype(np.float32)[:, None]
    codes *= _inverse(scales)[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, 0, 15, out=codes)
    whole = codes.astype(np.uint8)
    out = np.empty((len(blocks), 20), np.uint8)
    out[:, 0:2] = scales[:, None].view(np.uint8)
    out[:, 2:4] = minima[:, None].view(np.uint8)
    out[:, 4:] = whole[:, :16] | whole[:, 16:] << 4
    return out


def _half(values: Floats) -> NDArray[np.float16]:
    """Round to f16, away from infinity."""
    return np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)


def _inverse(scales: NDArray[np.float16]) -> Floats:
    """1 over each scale, 0 for those of 0."""
    wide = scales.astype(np.float32)
    out = np.zeros_like(wide)
    np.divide(1.0, wide, out=out, where=wide > 0)
    return out
