"""Matrices of a folder as rows of a type that the engine reads, however they are stored.

A matrix has a row of inputs for each output, as GGUF's. Rows are read when they are asked for: those that
are stored so are views of the mapped file, others are made anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.huggingface.safetensors import StoredTensor, shown

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The types that are served as they are, and the size of an element."""

MXFP4_ELEMENTS = 32
MXFP4_BYTES = 17


class Matrix(Protocol):
    """A matrix that can be read by rows."""

    @property
    def dtype(self) -> str:
        """GGUF's name of the type that `read` gives."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes of the rows from `start` up to `stop`."""


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """A matrix stored as floats, a row for each output."""

    stored: StoredTensor

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""
        rows, inputs = self.stored.shape
        return rows, inputs

    def read(self, start: int, stop: int) -> memoryview:
        """Rows of the mapped file."""
        row_bytes = self.shape[1] * FLOAT_BYTES[self.dtype]
        return self.stored.data[start * row_bytes : stop * row_bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a matrix's rows: `count` of them from `first`."""

    whole: Matrix
    first: int
    count: int

    @property
    def dtype(self) -> str:
        """That of the whole."""
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""
        return self.count, self.whole.shape[1]

    def read(self, start: int, stop: int) -> memoryview:
        """Rows of the whole."""
        return self.whole.read(self.first + start, self.first + stop)


@dataclass(frozen=True, slots=True)
class ExpertSlice:
    """One expert of a tensor ``[experts, outputs, inputs]``, its rows from `first` at every `step`-th.

    With `transposed`, the tensor is ``[experts, inputs, outputs]``.
    """

    stored: StoredTensor
    expert: int
    first: int = 0
    step: int = 1
    count: int | None = None
    transposed: bool = False

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""
        inputs, outputs = self.stored.shape[1:] if self.transposed else self.stored.shape[:0:-1]
        return len(range(self.first, outputs, self.step)) if self.count is None else self.count, inputs

    def read(self, start: int, stop: int) -> memoryview:
        """Rows of this expert."""
        rows = elements(self.stored)[self.expert]
        if self.transposed:
            rows = rows.T
        return raw_bytes(rows[self.first :: self.step][start:stop])


@dataclass(frozen=True, slots=True)
class Mxfp4Slice:
    """One expert of MXFP4: blocks ``[experts, outputs, groups, 16]``, scales ``[experts, outputs, groups]``.

    The file has elements 2 i and 2 i + 1 of a group in byte i, GGUF has elements i and i + 16.
    """

    blocks: StoredTensor
    scales: StoredTensor
    expert: int
    first: int = 0
    step: int = 1

    @property
    def dtype(self) -> str:
        """GGUF's name."""
        return "MXFP4"

    @property
    def shape(self) -> tuple[int, int]:
        """``(outputs, inputs)``."""
        _, outputs, groups, _ = self.blocks.shape
        return len(range(self.first, outputs, self.step)), groups * MXFP4_ELEMENTS

    def read(self, start: int, stop: int) -> memoryview:
        """GGUF's blocks of these rows: the scale's exponent, then 16 bytes of codes."""
        rows = slice(self.first + start * self.step, self.first + stop * self.step, self.step)
        stored = elements(self.blocks)[self.expert, rows].view(np.uint8)
        codes = np.empty((*stored.shape[:2], MXFP4_ELEMENTS), np.uint8)
        codes[..., 0::2], codes[..., 1::2] = stored & 15, stored >> 4
        half = MXFP4_ELEMENTS // 2
        out = np.empty((*stored.shape[:2], MXFP4_BYTES), np.uint8)
        out[..., 0] = elements(self.scales)[self.expert, rows]
        out[..., 1:] = codes[..., :half] | codes[..., half:] << 4
        return raw_bytes(out)


_ELEMENT_TYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "U8": np.uint8,
    "I32": np.int32,
}


def elements(stored: StoredTensor) -> NDArray[np.generic]:
    """A tensor as an array of its shape; BF16 as the 16 bits of each element."""
    return np.frombuffer(stored.data, _ELEMENT_TYPES[stored.dtype]).reshape(stored.shape)


def raw_bytes(array: NDArray[np.generic]) -> memoryview:
    """The bytes of an array, row-major."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def require_float(label: str, stored: StoredTensor) -> None:
    """Refuse a tensor that is not of floats which are served as they are.

    Raises:
        UnsupportedModelError: It has another type.
    """
    if stored.dtype not in FLOAT_BYTES:
        raise UnsupportedModelError(
            f"{label}: the tensor {shown(stored.name)} has the type {stored.dtype}; Stoker reads "
            f"{', '.join(FLOAT_BYTES)}."
        )


def require_shape(label: str, stored: StoredTensor, *shapes: Sequence[int]) -> None:
    """Refuse a tensor of another shape.

    Raises:
        CorruptFileError: It has none of the shapes.
    """
    if stored.shape not in map(tuple, shapes):
        expected = " or ".join(str(tuple(shape)) for shape in shapes)
        raise CorruptFileError(
            f"{label}: the tensor {shown(stored.name)} has the shape {stored.shape}, expected {expected}."
        )
