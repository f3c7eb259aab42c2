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

_SYMMETRIC_ZEROS = {4: 8, 8: 128}
"""By the bits of a code."""

_LARGEST_HALF = 65504.0
_CHUNK_ELEMENTS = 2**20
"""How much is converted at a time: what is made on the way takes several times the result."""


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
        inputs = shape[1]
        group_size = min(scheme.group_size or inputs, inputs)
        n_groups = -(-inputs // group_size)
        _check(label, parts, scheme, shape, n_groups)
        self._words = elements(parts.qweight).view(np.uint32)
        self._zero_words = elements(parts.qzeros).view(np.uint32)
        self._scales: Halves = elements(parts.scales).view(np.float16)
        groups = np.arange(inputs, dtype=np.int32) // group_size
        if parts.g_idx is not None:
            groups = elements(parts.g_idx).view(np.int32)
            if groups.min() < 0 or groups.max() >= n_groups:
                raise CorruptFileError(
                    f"{label}: the tensor {parts.g_idx.name[:80]!r} names groups beyond 0 to {n_groups - 1}."
                )
        self._groups = groups
        self.dtype = self._choose_type()
        """``Q4_1``, ``Q8_0`` or ``F16``."""

    def read(self, start: int, stop: int) -> memoryview:
        """Blocks of the rows from `start` up to `stop`.

        Raises:
            CorruptFileError: Scales are not finite, or too large.
        """
        step = max(1, _CHUNK_ELEMENTS // self.shape[1])
        pieces = [self._read(first, min(stop, first + step)) for first in range(start, stop, step)]
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def _read(self, start: int, stop: int) -> memoryview:
        codes, zeros = self._codes(start, stop), self._zeros(start, stop)
        scales = self._scales[:, start:stop].T
        match self.dtype:
            case "Q4_1":
                return _q4_1(codes, scales[:, self._groups[::BLOCK]], zeros[:, self._groups[::BLOCK]])
            case "Q8_0":
                return _q8_0(codes, scales[:, self._groups[::BLOCK]])
            case _:
                return raw_bytes(_products(scales[:, self._groups], codes - zeros[:, self._groups]))

    @property
    def fidelity(self) -> str:
        """How the blocks hold what is stored: ``exact``, ``rounded minimums`` or ``rounded to f16``."""
        if self.dtype == "Q4_1" and not self._all_zeros(_SYMMETRIC_ZEROS[4]):
            return "rounded minimums"
        return "rounded to f16" if self.dtype == "F16" else "exact"

    def _all_zeros(self, zero: int) -> bool:
        """Tell whether all zero points are this one."""
        places = range(0, _WORD_BITS, self._scheme.bits)
        word = sum((zero - self._scheme.zero_offset) << place for place in places)
        return bool((self._zero_words == np.uint32(word)).all())

    def _choose_type(self) -> str:
        blocks = self._groups.reshape(-1, BLOCK)
        if (blocks != blocks[:, :1]).any():
            return "F16"
        if self._scheme.bits == 4:  # noqa: PLR2004 - a nibble
            return "Q4_1"
        return "Q8_0" if self._all_zeros(_SYMMETRIC_ZEROS[8]) else "F16"

    def _codes(self, start: int, stop: int) -> Codes:
        """``[stop - start, inputs]``."""
        if self._scheme.method == "awq":
            return self._columns(self._words, start, stop).T
        words = self._words[:, start:stop].T
        return _unpacked(words, _WORD_BITS // self._scheme.bits).reshape(len(words), -1)

    def _zeros(self, start: int, stop: int) -> NDArray[np.int16]:
        """``[stop - start, groups]``."""
        stored = self._columns(self._zero_words, start, stop).T.astype(np.int16)
        # A zero of 0, stored less one, has wrapped round.
        zeros: NDArray[np.int16] = (stored + self._scheme.zero_offset) & ((1 << self._scheme.bits) - 1)
        return zeros

    def _columns(self, words: Words, start: int, stop: int) -> Codes:
        """Unpack words that hold neighbouring outputs: ``[rows of words, stop - start]``."""
        per_word = _WORD_BITS // self._scheme.bits
        first = start // per_word
        codes = _unpacked(words[:, first : -(-stop // per_word)], per_word)
        if self._scheme.method == "awq":
            codes = codes[..., np.argsort(_AWQ_PLACES)]
        return codes.reshape(len(words), -1)[:, start - first * per_word : stop - first * per_word]


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


def _products(scales: Halves, integers: NDArray[np.int16]) -> Halves:
    """``scales * integers``, rounded once."""
    with np.errstate(invalid="ignore"):
        values = scales.astype(np.float32) * integers
    largest = max(float(values.max()), -float(values.min()))  # NaN if there is one
    if not largest <= _LARGEST_HALF:
        raise CorruptFileError(f"A quantized matrix holds {largest}, more than an f16 can: it is damaged.")
    return values.astype(np.float16)


def _q4_1(codes: Codes, scales: Halves, zeros: NDArray[np.int16]) -> memoryview:
    """Blocks of an f16 scale, an f16 minimum and 16 bytes; byte i has elements i (low) and i + 16."""
    minima = _products(scales, -zeros)
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
    out[..., 2:] = (codes ^ _SYMMETRIC_ZEROS[8]).reshape(*scales.shape, BLOCK)  # less 128, as a signed byte
    return raw_bytes(out)
