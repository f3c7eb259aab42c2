"""Quantizing at load: how far values move, which tensors are left alone, and how long it takes."""

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError
from stoker.models.huggingface.files import QUANTIZE, Quantize
from stoker.models.huggingface.folder import OpenedFolder
from stoker.models.huggingface.matrices import FloatMatrix
from stoker.models.huggingface.quantize import QuantizedMatrix
from stoker.models.huggingface.safetensors import StoredTensor
from stoker.testing.gguf_blocks import decode_blocks, encode_blocks
from stoker.testing.model_folders import write_tiny_folder

Floats = NDArray[np.float32]


def stored(values: Floats, dtype: str = "F32") -> FloatMatrix:
    data = memoryview(encode_blocks(values, dtype))
    return FloatMatrix(StoredTensor("w", dtype, values.shape, data))


def random(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("kind", "n_steps"), [("Q8_0", 254), ("Q4_1", 15)])
def test_each_value_moves_by_half_a_step_at_most(dtype: str, kind: str, n_steps: int) -> None:
    values = decode_blocks(encode_blocks(random(7, 96), dtype), dtype, (7, 96))
    matrix = QuantizedMatrix(stored(values, dtype), kind)
    assert (matrix.dtype, matrix.shape) == (kind, (7, 96))
    back = decode_blocks(matrix.read(0, 7), kind, (7, 96))
    blocks, moved = values.reshape(-1, 32), np.abs(back - values).reshape(-1, 32)
    extent = blocks.max(axis=1) - blocks.min(axis=1)
    if kind == "Q8_0":
        extent = 2 * np.abs(blocks).max(axis=1)
    # Beside the half step, the scale of f16 is off by 2^-11, as is the minimum.
    assert (moved <= (extent / n_steps * 0.5 + np.abs(blocks).max(axis=1) * 2**-10)[:, None]).all()
    assert moved.max() > 0


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_rows_can_be_read_apart_and_in_chunks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = QuantizedMatrix(stored(random(9, 64)), kind)
    whole = bytes(matrix.read(0, 9))
    row_bytes = len(whole) // 9
    monkeypatch.setattr("stoker.models.huggingface.quantize._CHUNK_ELEMENTS", 130)
    assert bytes(matrix.read(0, 9)) == whole
    assert bytes(matrix.read(2, 5)) == whole[2 * row_bytes : 5 * row_bytes]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_zeros_constants_and_extremes(kind: str) -> None:
    values = np.zeros((5, 32), np.float32)
    values[1] = 3.0
    values[2, 4] = -60_000
    values[3] = 1e-12
    values[4] = np.linspace(-1, 1, 32)
    back = decode_blocks(QuantizedMatrix(stored(values), kind).read(0, 5), kind, (5, 32))
    assert not back[0].any()
    assert np.allclose(back[1], 3.0, rtol=1e-2)
    assert back[2, 4] == pytest.approx(-60_000, rel=1e-3)
    assert np.abs(back[3]).max() < 1e-7
    assert np.abs(back[4] - values[4]).max() < 0.07


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_values_that_no_block_holds_are_refused(kind: str, value: float) -> None:
    values = random(2, 32)
    values[1, 7] = value
    with pytest.raises(CorruptFileError, match="A matrix holds"):
        QuantizedMatrix(stored(values), kind).read(0, 2)


def types(folder: Path, quantize: Quantize) -> dict[str, str]:
    with OpenedFolder(folder, quantize) as model:
        return {name: tensor.dtype for name, tensor in model.tensors.items()}


def test_matrices_alone_are_quantized_embeddings_finer(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path, dtype="BF16", tied=False)
    assert set(types(folder, "none").values()) == {"BF16"}
    q8, q4 = types(folder, "q8"), types(folder, "q4")
    for name, dtype in types(folder, "none").items():
        is_vector = "norm" in name
        assert q8[name] == (dtype if is_vector else "Q8_0")
        fine = name in {"token_embd.weight", "output.weight"}
        assert q4[name] == (dtype if is_vector else "Q8_0" if fine else "Q4_1")


def test_tensors_have_the_length_that_type_and_shape_say(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path, dtype="F16")
    for quantize in QUANTIZE:
        with OpenedFolder(folder, quantize) as model:
            for tensor in model.tensors.values():
                decode_blocks(tensor.data, tensor.dtype, tensor.shape)


def test_the_digest_tells_how_a_folder_is_served(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    digests = set()
    for quantize in QUANTIZE:
        with OpenedFolder(folder, quantize) as model:
            digests.add(model.digest)
    assert len(digests) == 3


def test_it_is_fast_enough_for_billions() -> None:
    matrix = QuantizedMatrix(stored(random(2048, 1024), "BF16"), "Q4_1")
    matrix.read(0, 64)
    began = time.perf_counter()
    matrix.read(0, 2048)
    # 2 million elements in 0.1 s is 50 s for 10^9; some 0.03 s on an idle machine.
    assert time.perf_counter() - began < 0.5
