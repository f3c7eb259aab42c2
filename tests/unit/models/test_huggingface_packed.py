"""GPTQ, AWQ and MXFP4 matrices against plain readings of matrices packed by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError, StokerError, UnsupportedModelError
from stoker.models.huggingface.matrices import Mxfp4Slice
from stoker.models.huggingface.packed import PackedMatrix, PackedParts
from stoker.models.huggingface.quantization import Quantization, read_quantization
from stoker.models.huggingface.safetensors import SafetensorsFile, StoredTensor
from stoker.testing.gguf_blocks import decode_blocks
from stoker.testing.model_folders import encode_safetensors, raw, raw_integers

Codes = NDArray[np.int64]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
OUTPUTS, INPUTS = 16, 128


def packed(values: Codes, bits: int, order: tuple[int, ...] | None = None) -> NDArray[np.int32]:
    """Pack along the last axis: one code after the other into 32-bit words, the first lowest."""
    per_word = 32 // bits
    words = np.zeros((*values.shape[:-1], values.shape[-1] // per_word), np.uint64)
    for place in range(per_word):
        taken = values[..., (order or range(per_word))[place] :: per_word]
        words |= taken.astype(np.uint64) << np.uint64(place * bits)
    return words.astype(np.uint32).view(np.int32)


def stored(folder: Path, name: str, tensor: Any) -> StoredTensor:
    path = folder / f"{name}.safetensors"
    path.write_bytes(encode_safetensors({name: tensor}))
    return SafetensorsFile(path).tensors[name]


class Packed:
    """A random matrix: codes ``[outputs, inputs]``, zeros and scales ``[outputs, groups]``."""

    def __init__(self, bits: int, group_size: int, zero: int | None = None, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        n_groups = -(-INPUTS // group_size)
        self.bits = bits
        self.codes: Codes = random.integers(0, 1 << bits, (OUTPUTS, INPUTS))
        self.zeros: Codes = random.integers(0, 1 << bits, (OUTPUTS, n_groups))
        if zero is not None:
            self.zeros[:] = zero
        self.scales = random.uniform(0.001, 0.1, (OUTPUTS, n_groups)).astype(np.float16)
        self.groups: Codes = np.arange(INPUTS) // group_size

    def values(self) -> NDArray[np.float64]:
        zeros, scales = self.zeros[:, self.groups], self.scales[:, self.groups].astype(np.float64)
        return (self.codes - zeros) * scales

    def gptq(self, folder: Path, *, offset: int = 1, g_idx: bool = True) -> PackedParts:
        mask = (1 << self.bits) - 1
        groups = raw_integers(self.groups.astype(np.int32))
        return PackedParts(
            qweight=stored(folder, "qweight", raw_integers(packed(self.codes, self.bits).T)),
            qzeros=stored(folder, "qzeros", raw_integers(packed((self.zeros.T - offset) & mask, self.bits))),
            scales=stored(folder, "scales", raw(self.scales.T.astype(np.float32), "F16")),
            g_idx=stored(folder, "g_idx", groups) if g_idx else None,
        )

    def awq(self, folder: Path) -> PackedParts:
        return PackedParts(
            qweight=stored(folder, "qweight", raw_integers(packed(self.codes.T, 4, AWQ_ORDER))),
            qzeros=stored(folder, "qzeros", raw_integers(packed(self.zeros.T, 4, AWQ_ORDER))),
            scales=stored(folder, "scales", raw(self.scales.T.astype(np.float32), "F16")),
            g_idx=None,
        )


def gptq(bits: int, group_size: int | None, offset: int = 1) -> Quantization:
    return Quantization(method="gptq", bits=bits, group_size=group_size, zero_offset=offset)


def decoded(matrix: PackedMatrix) -> NDArray[np.floating]:
    return decode_blocks(matrix.read(0, OUTPUTS), matrix.dtype, (OUTPUTS, INPUTS))


def read(parts: PackedParts, scheme: Quantization) -> PackedMatrix:
    return PackedMatrix("folder", parts, scheme, (OUTPUTS, INPUTS))


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_symmetric_4_bits_are_exact(tmp_path: Path, group_size: int) -> None:
    made = Packed(4, group_size, zero=8)
    matrix = read(made.gptq(tmp_path), gptq(4, group_size))
    assert (matrix.dtype, matrix.fidelity) == ("Q4_1", "exact")
    assert np.array_equal(decoded(matrix), made.values())


@pytest.mark.parametrize("offset", [0, 1])
def test_other_zeros_lose_what_rounding_the_minimum_loses(tmp_path: Path, offset: int) -> None:
    made = Packed(4, 32)
    assert {0, 15} <= set(made.zeros.ravel())
    matrix = read(made.gptq(tmp_path, offset=offset), gptq(4, 32, offset))
    assert (matrix.dtype, matrix.fidelity) == ("Q4_1", "rounded minimums")
    minima = np.abs(made.zeros * made.scales.astype(np.float64))[:, made.groups]
    assert (np.abs(decoded(matrix) - made.values()) <= minima * 2**-11 + 1e-7).all()


def test_symmetric_8_bits_are_exact(tmp_path: Path) -> None:
    made = Packed(8, 64, zero=128)
    matrix = read(made.gptq(tmp_path), gptq(8, 64))
    assert (matrix.dtype, matrix.fidelity) == ("Q8_0", "exact")
    assert np.array_equal(decoded(matrix), made.values())


def test_other_zeros_of_8_bits_are_rounded_to_halves(tmp_path: Path) -> None:
    made = Packed(8, 64)
    matrix = read(made.gptq(tmp_path), gptq(8, 64))
    assert (matrix.dtype, matrix.fidelity) == ("F16", "rounded to f16")
    assert np.array_equal(decoded(matrix), made.values().astype(np.float16))


def test_inputs_in_any_order_are_rounded_to_halves(tmp_path: Path) -> None:
    made = Packed(4, 32, zero=8)
    made.groups = np.random.default_rng(1).permutation(made.groups)
    matrix = read(made.gptq(tmp_path), gptq(4, 32))
    assert matrix.dtype == "F16"
    assert np.array_equal(decoded(matrix), made.values().astype(np.float16))


def test_whole_blocks_in_any_order_stay_codes(tmp_path: Path) -> None:
    made = Packed(4, 32, zero=8)
    made.groups = made.groups[::-1].copy()
    matrix = read(made.gptq(tmp_path), gptq(4, 32))
    assert matrix.dtype == "Q4_1"
    assert np.array_equal(decoded(matrix), made.values())


def test_one_group_for_all_inputs(tmp_path: Path) -> None:
    made = Packed(4, INPUTS, zero=8)
    matrix = read(made.gptq(tmp_path, g_idx=False), gptq(4, None))
    assert np.array_equal(decoded(matrix), made.values())


@pytest.mark.parametrize("group_size", [32, 64])
def test_awq(tmp_path: Path, group_size: int) -> None:
    made = Packed(4, group_size)
    matrix = read(made.awq(tmp_path), Quantization(method="awq", bits=4, group_size=group_size))
    assert matrix.dtype == "Q4_1"
    minima = np.abs(made.zeros * made.scales.astype(np.float64))[:, made.groups]
    assert (np.abs(decoded(matrix) - made.values()) <= minima * 2**-11 + 1e-7).all()


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_any_rows_can_be_read(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Packed(4, 32)
    if method == "gptq":
        matrix = read(made.gptq(tmp_path), gptq(4, 32))
    else:
        matrix = read(made.awq(tmp_path), Quantization(method="awq", bits=4, group_size=32))
    whole = bytes(matrix.read(0, OUTPUTS))
    row_bytes = len(whole) // OUTPUTS
    monkeypatch.setattr("stoker.models.huggingface.packed._CHUNK_ELEMENTS", 3 * INPUTS)
    for start, stop in ((0, 1), (3, 13), (15, 16), (8, 16), (0, OUTPUTS)):
        assert bytes(matrix.read(start, stop)) == whole[start * row_bytes : stop * row_bytes]


def test_mxfp4_keeps_every_code(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    blocks = random.integers(0, 256, (2, 6, 3, 16), np.uint8)
    scales = random.integers(110, 130, (2, 6, 3), np.uint8)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    values = np.empty((2, 6, 3, 32))
    values[..., 0::2], values[..., 1::2] = table[blocks & 15], table[blocks >> 4]
    flat = (values * 2.0 ** (scales[..., None].astype(float) - 127)).reshape(2, 6, 96)
    parts = stored(tmp_path, "b", raw_integers(blocks)), stored(tmp_path, "s", raw_integers(scales))
    for expert in range(2):
        for first, step in ((0, 1), (0, 2), (1, 2)):
            part = Mxfp4Slice(*parts, expert, first, step)
            expected = flat[expert, first::step]
            assert part.shape == expected.shape
            assert np.array_equal(decode_blocks(part.read(0, len(expected)), "MXFP4", part.shape), expected)
            assert part.read(1, 2) == part.read(0, 3)[3 * 17 : 6 * 17]


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = Packed(4, 32)
    parts = made.gptq(tmp_path)
    with pytest.raises(CorruptFileError, match="'qweight' has the shape"):
        PackedMatrix("folder", parts, gptq(4, 32), (OUTPUTS, INPUTS + 32))
    with pytest.raises(CorruptFileError, match="'qzeros' has the shape"):
        read(parts, gptq(4, 64))
    with pytest.raises(UnsupportedModelError, match="12 outputs, which do not fill its 32-bit words"):
        PackedMatrix("folder", parts, gptq(4, 32), (12, INPUTS))
    made.groups = made.groups + 1
    with pytest.raises(CorruptFileError, match="groups beyond 0 to 3"):
        read(made.gptq(tmp_path), gptq(4, 32))
    whole = made.gptq(tmp_path)
    wide = replace(whole, scales=stored(tmp_path, "scales", raw(made.scales.T.astype(np.float32))))
    with pytest.raises(UnsupportedModelError, match="'scales' has the type F32; Stoker reads F16"):
        read(wide, gptq(4, 32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 60_000.0])
def test_scales_that_no_block_holds_are_refused(tmp_path: Path, value: float) -> None:
    made = Packed(4, 32, zero=15)
    made.scales[3, 2] = value
    made.zeros[3] = [0, 15, 15, 0]
    matrix = read(made.gptq(tmp_path), gptq(4, 32))
    with pytest.raises(CorruptFileError, match="A quantized matrix holds"):
        matrix.read(0, OUTPUTS)


def test_quantization_configs() -> None:
    assert read_quantization("c", None) is None
    assert read_quantization("c", {}) is None
    v1: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
    assert read_quantization("c", v1) == gptq(4, 128)
    assert read_quantization("c", v1 | {"checkpoint_format": "gptq_v2"}) == gptq(4, 128, 0)
    assert read_quantization("c", v1 | {"group_size": -1, "bits": 8}) == gptq(8, None)
    awq: dict[str, Any] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 64,
        "version": "GEMM",
        "zero_point": True,
    }
    expected = Quantization(method="awq", bits=4, group_size=64)
    assert read_quantization("c", awq) == expected
    old: dict[str, Any] = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64}
    assert read_quantization("c", old) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "the quant_method 'bitsandbytes'; Stoker reads gptq, awq, mxfp4"),
        ({"quant_method": None, "load_in_8bit": True}, "the quant_method 'None'"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "codes of 3 bits; Stoker reads 4 and 8"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {}}}, "settings for single layers (dynamic)"),
        ({"quant_method": "awq", "bits": 8}, "codes of 8 bits; Stoker reads 4"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "the version 'gemv'"),
        ({"quant_method": "awq", "bits": 4, "zero_point": False}, "no zero points"),
        ({"quant_method": "gptq", "bits": "4"}, "bits is '4', expected a whole number"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size is '0'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": []}, "group_size is '[]'"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": [1]}, "checkpoint_format '[1]'"),
    ],
)
def test_other_quantizations_are_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(StokerError) as caught:
        read_quantization("config.json", config)
    assert message in str(caught.value)
