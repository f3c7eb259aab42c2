"""Every tensor type: read as the `gguf` package reads it, held as docs/models.md says."""

import re
from pathlib import Path

import numpy as np
import pytest

from stoker._native import kernels
from stoker.engine.native.sizing import PACKED_BITS
from stoker.models.gguf import TENSOR_TYPES
from stoker.testing.gguf_blocks import TYPE_NUMBERS, decode_blocks, encode_blocks

ROOT = Path(__file__).parents[3]
GOLDEN = np.load(ROOT / "tests" / "golden" / "blocks" / "golden.npz")
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\w+) \| ([\d.]+) \| (\d+) \| ([a-z0-9 ]+) \| ([\d.e-]+) \|$", PAGE, re.MULTILINE)
QUANTIZED = [kind.name for kind in TENSOR_TYPES.values() if kind.block_elements > 1]
FIDELITIES = {kind.name: kind.fidelity for kind in TENSOR_TYPES.values()}


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_blocks_are_read_as_the_gguf_package_reads_them(dtype: str) -> None:
    data, values = GOLDEN[f"{dtype}.data"], GOLDEN[f"{dtype}.values"]
    n, k = values.shape
    floats = kernels.unpack(dtype, data.ravel(), n, k, dequantize=True)
    np.testing.assert_array_equal(floats, values)
    np.testing.assert_array_equal(decode_blocks(data.tobytes(), dtype, values.shape), values)
    held = kernels.unpack(dtype, data.ravel(), n, k)
    match FIDELITIES[dtype]:
        case "exact":
            np.testing.assert_array_equal(held, values)
        case "widened to f16":
            np.testing.assert_array_equal(held, values.astype(np.float16))
        case _:
            np.testing.assert_allclose(held, values, atol=2e-3 * np.abs(values).max())


def test_the_page_lists_every_type() -> None:
    stated = {name: (float(stored), float(packed), fidelity) for name, stored, packed, fidelity, _ in ROWS}
    assert len(stated) == len(ROWS)
    assert stated == {
        kind.name: (8 * kind.block_bytes / kind.block_elements, PACKED_BITS[kind.name], kind.fidelity)
        for kind in TENSOR_TYPES.values()
    }
    assert {kind.name: number for number, kind in TENSOR_TYPES.items()} == TYPE_NUMBERS


@pytest.mark.parametrize(("dtype", "error"), [(name, float(error)) for name, *_, error in ROWS])
def test_the_errors_are_those_of_the_page(dtype: str, error: float) -> None:
    weights = np.random.default_rng(1).standard_normal((256, 4096)).astype(np.float32) / np.float32(64)
    data = encode_blocks(weights, dtype)
    stored = decode_blocks(data, dtype, weights.shape).reshape(-1, 32)
    held = kernels.unpack(dtype, np.frombuffer(data, np.uint8), *weights.shape).reshape(-1, 32)
    largest = (np.abs(held - stored).max(axis=1) / np.abs(stored).max(axis=1)).max()
    assert error * 0.9 <= largest <= error
