"""Matrices of GPTQ and AWQ checkpoints, as blocks that the engine reads.

A weight is ``scale * (code - zero)``, with one f16 scale and one zero point for a group of inputs and an
output. Codes lie in 32-bit integers, the first in the lowest bits:

- GPTQ: ``qweight [inputs * bits / 32, outputs]``, ``qzeros [groups, outputs * bits / 32]``, ``scales
  [groups, outputs]``, and ``g_idx [inputs]``, the group of each input.
- AWQ: ``qweight [inputs, outputs / 8]``, ``qzeros [groups, outputs / 8]``, ``scales [groups, outputs]``; of
  eight outputs those in even places come first.

4-bit codes become Q4_1: codes and scales as they are, the minimum ``-scale * zero`` rounded to f16, which
is exact for symmetric files (zero 8). 8-bit codes around 128, those of symmetric files, become Q8_0
exactly. Everything else is rounded to f16, value by value: other zero points of 8 bits, and groups that do
not hold whole blocks of 32 neighbours (``desc_act``, odd group sizes).

Sources: https://arxiv.org/abs/2210.17323, https://arxiv.org/abs/2306.00978 and what their tools write.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.huggingface.matrices import elements, raw_bytes, require_shape
from stoker.models.huggingface.quantization import Quantization
from stoker.models.huggingface.safetensors import StoredTensor, shown

Words = NDArray[np.uint32]
Codes = NDArray[np.uint8]
Halves = NDArray[np.float16]

BLOCK = 32
_WORD_BITS = 32
_AWQ_PLACES = np.array([0, 2, 4, 6, 1, 3, 5, 7])
"""Which of eight outputs the i-th nibble of a word belongs to."""

_SYMMETRIC_ZERO = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedParts:
    """The tensors of one quantized matrix, as stored.

    Attributes:
        qweight: Its codes.
        qzeros: Its zero points.
        scales: Its scales.
        g_idx: The group of each input, or None.
    """

    qweight: StoredTensor
    qzeros: StoredTensor
    scales: StoredTensor
    g_idx: StoredTensor | None


class PackedMatrix:
    """A quantized matrix that can be read by rows.

    Args:
        label: The folder's name, for messages.
        parts: Its tensors.
        scheme: How they are stored.
        shape: ``(outputs, inputs)``.

    Raises:
        CorruptFileError: Tensors do not fit the shape or each other.
        UnsupportedModelError: Tensors of types that the method does not have.
    """

    def __init__(self, label: str, parts: PackedParts, scheme: Quantization, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._scheme = scheme
        outputs, inputs = shape
        group_size = min(scheme.group_size or inputs, inputs)
        n_groups = -(-inputs // group_size)
        per_word = _WORD_BITS // scheme.bits
        _check(label, parts, scheme, shape, n_groups)
        self._words = elements(parts.qweight).view(np.uint32)
        self._zeros = self._zero_points(elements(parts.qzeros).view(np.uint32), per_word)[:, :outputs]
        self._scales: Halves = elements(parts.scales).view(np.float16)
        groups = np.arange(inputs) // group_size
        if parts.g_idx is not None:
            groups = elements(parts.g_idx).astype(np.int64)
            if groups.min() < 0 or groups.max() >= n_groups:
                raise CorruptFileError(
                    f"{label}: the tensor {parts.g_idx.name[:80]!r} names groups beyond 0 to {n_groups - 1}."
                )
        self._groups = groups
        self.dtype = self._choose_type()
        """``Q4_1``, ``Q8_0`` or ``F16``."""

    def read(self, start: int, stop: int) -> memoryview:
        """Blocks of the rows from `start` up to `stop`."""
        codes = self._codes(start, stop)
        scales, zeros = self._scales[:, start:stop].T, self._zeros[:, start:stop].T
        match self.dtype:
            case "Q4_1":
                return _q4_1(codes, scales[:, self._groups[::BLOCK]], zeros[:, self._groups[::BLOCK]])
            case "Q8_0":
                return _q8_0(codes, scales[:, self._groups[::BLOCK]])
            case _:
                shifted = codes.astype(np.float32) - zeros[:, self._groups]
                return raw_bytes((shifted * scales[:, self._groups].astype(np.float32)).astype(np.float16))

    def _choose_type(self) -> str:
        blocks = self._groups.reshape(-1, BLOCK)
        if (blocks != blocks[:, :1]).any():
            return "F16"
        if self._scheme.bits == 4:  # noqa: PLR2004 - a nibble
            return "Q4_1"
        return "Q8_0" if (self._zeros == _SYMMETRIC_ZERO).all() else "F16"

    def _zero_points(self, words: Words, per_word: int) -> NDArray[np.int16]:
        """``[groups, outputs]``."""
        stored = _unpacked(words, per_word)
        if self._scheme.method == "awq":
            stored = stored[..., np.argsort(_AWQ_PLACES)]
        joined = stored.reshape(len(words), -1).astype(np.int16) + self._scheme.zero_offset
        # A zero of 0, stored less one, has wrapped round.
        wrapped: NDArray[np.int16] = joined & ((1 << self._scheme.bits) - 1)
        return wrapped

    def _codes(self, start: int, stop: int) -> Codes:
        """``[stop - start, inputs]``."""
        per_word = _WORD_BITS // self._scheme.bits
        if self._scheme.method == "awq":
            first = start // per_word
            words = self._words[:, first : -(-stop // per_word)]
            codes = _unpacked(words, per_word)[..., np.argsort(_AWQ_PLACES)].reshape(len(words), -1)
            return codes[:, start - first * per_word : stop - first * per_word].T
        words = self._words[:, start:stop].T
        return _unpacked(words, per_word).reshape(len(words), -1)


def _check(
    label: str, parts: PackedParts, scheme: Quantization, shape: tuple[int, int], n_groups: int
) -> None:
    outputs, inputs = shape
    per_word = _WORD_BITS // scheme.bits
    if outputs % per_word:
        raise UnsupportedModelError(
            f"{label}: the tensor {shown(parts.qweight.name)} has {outputs} outputs, which do not fill its "
            f"32-bit words; Stoker reads multiples of {per_word}."
        )
    packed = (inputs, outputs // per_word) if scheme.method == "awq" else (inputs // per_word, outputs)
    require_shape(label, parts.qweight, packed)
    require_shape(label, parts.qzeros, (n_groups, outputs // per_word))
    require_shape(label, parts.scales, (n_groups, outputs))
    types = [(parts.qweight, "I32"), (parts.qzeros, "I32"), (parts.scales, "F16")]
    if parts.g_idx is not None:
        require_shape(label, parts.g_idx, (inputs,))
        types.append((parts.g_idx, "I32"))
    for stored, expected in types:
        if stored.dtype != expected:
            raise UnsupportedModelError(
                f"{label}: the tensor {shown(stored.name)} has the type {stored.dtype}; Stoker reads "
                f"{expected} there."
            )


def _unpacked(words: Words, per_word: int) -> Codes:
    """The codes of each word, lowest bits first, along a new last axis."""
    bits = _WORD_BITS // per_word
    # Little-endian bytes come lowest first, as the codes do.
    as_bytes = np.ascontiguousarray(words)[..., None].view(np.uint8)
    if bits == 8:  # noqa: PLR2004 - a byte
        return as_bytes
    return np.stack([as_bytes & 15, as_bytes >> 4], axis=-1).reshape(*words.shape, per_word)


def _q4_1(codes: Codes, scales: Halves, zeros: NDArray[np.int16]) -> memoryview:
    """Blocks of an f16 scale, an f16 minimum and 16 bytes; byte i has elements i (low) and i + 16."""
    minima = (-scales.astype(np.float32) * zeros).astype(np.float16)
    blocks = codes.reshape(*scales.shape, BLOCK)
    out = np.empty((*scales.shape, 20), np.uint8)
    out[..., 0:2] = np.ascontiguousarray(scales)[..., None].view(np.uint8)
    out[..., 2:4] = minima[..., None].view(np.uint8)
    out[..., 4:] = blocks[..., :16] | blocks[..., 16:] << 4
    return raw_bytes(out)


def _q8_0(codes: Codes, scales: Halves) -> memoryview:
    """Blocks of an f16 scale and 32 signed bytes."""
    out = np.empty((*scales.shape, 34), np.uint8)
    out[..., 0:2] = np.ascontiguousarray(scales)[..., None].view(np.uint8)
    out[..., 2:] = (codes ^ _SYMMETRIC_ZERO).reshape(*scales.shape, BLOCK)  # less 128, as a signed byte
    return raw_bytes(out)
