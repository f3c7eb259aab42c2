"""`open_model`: tensors, digest, closing."""

import time
from pathlib import Path

import numpy as np
import pytest

from stoker.models import open_model
from stoker.models.config import WeightSource
from stoker.models.opened import open_gguf
from stoker.testing.gguf_blocks import TYPE_NUMBERS, decode_blocks, encode_blocks
from stoker.testing.gguf_files import write_tiny_llama

ROUNDING = {
    "F32": 0.0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 0.02, "Q6_K": 0.02,
    "Q5_0": 0.1, "Q5_1": 0.1, "Q5_K": 0.1, "Q4_0": 0.3, "Q4_1": 0.2, "Q4_K": 0.2,
    "IQ4_NL": 0.2, "IQ4_XS": 0.2, "MXFP4": 0.3, "Q3_K": 0.3, "Q2_K": 0.4,
}  # fmt: skip


@pytest.mark.parametrize("dtype", list(TYPE_NUMBERS))
def test_every_tensor_type(tmp_path: Path, dtype: str) -> None:
    with open_model(
        write_tiny_llama(tmp_path / "a.gguf", dtype=dtype, width=256, n_heads=8, ffn_width=512)
    ) as model:
        source: WeightSource = model
        tensor = source.tensors["blk.1.ffn_down.weight"]
        assert (tensor.name, tensor.dtype, tensor.shape) == ("blk.1.ffn_down.weight", dtype, (256, 512))
        values = decode_blocks(tensor.data, dtype, tensor.shape)
        assert 0.04 < values.std() < 0.05
        assert len(source.tensors) == 2 + 2 * 9


@pytest.mark.parametrize("dtype", list(TYPE_NUMBERS))
def test_block_encoders_round_to_the_nearest(dtype: str) -> None:
    values = np.random.default_rng(1).standard_normal((5, 256)).astype(np.float32)
    values[0] = 0
    back = decode_blocks(encode_blocks(values, dtype), dtype, values.shape)
    assert np.abs(back - values).max() <= ROUNDING[dtype] * np.abs(values).max()
    assert not back[0].any()


def test_tensor_data_is_mapped_and_read_only(tiny_path: Path) -> None:
    with open_gguf(tiny_path) as model:
        tensor = model.tensors["token_embd.weight"]
        info = model.tensor_infos["token_embd.weight"]
        assert tensor.data.readonly
        assert tensor.data.nbytes == info.size_bytes
        assert tensor.data == tiny_path.read_bytes()[info.start : info.start + info.size_bytes]


def test_unknown_tensor_is_a_key_error(tiny_path: Path) -> None:
    with open_model(tiny_path) as model:
        assert "blk.9.attn_q.weight" not in model.tensors
        with pytest.raises(KeyError):
            model.tensors["blk.9.attn_q.weight"]


def test_tensors_outlive_the_model(tiny_path: Path) -> None:
    model = open_model(tiny_path)
    tensor = model.tensors["output_norm.weight"]
    before = bytes(tensor.data)
    model.close()
    model.close()
    assert bytes(tensor.data) == before


def test_a_closed_model_gives_no_more_tensors(tiny_path: Path) -> None:
    model = open_model(tiny_path)
    model.close()
    with pytest.raises(ValueError, match="closed"):
        _ = model.tensors["output_norm.weight"]


def test_opening_leaves_no_file_descriptor_behind(tiny_path: Path) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = n_open()
    for _ in range(20):
        open_model(tiny_path).close()
    assert n_open() <= before


def test_digest_names_the_weights(tmp_path: Path) -> None:
    first, same, other = (tmp_path / f"{name}.gguf" for name in ("first", "same", "other"))
    write_tiny_llama(first, seed=1)
    write_tiny_llama(same, seed=1)
    write_tiny_llama(other, seed=2)
    digests = []
    for path in (first, same, other):
        with open_model(path) as model:
            digests.append(model.digest)
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 32
    int(digests[0], 16)


def test_digest_depends_on_every_tensor_and_the_header(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf")
    whole = path.read_bytes()
    with open_gguf(path) as model:
        original = model.digest
        changed = [info.start + info.size_bytes // 2 for info in model.tensor_infos.values()]
    for offset in [*changed, whole.index(b"Tiny")]:
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        with open_model(path) as model:
            assert model.digest != original, f"byte {offset}"


def test_a_large_vocabulary_opens_quickly(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", n_layers=1, width=32, n_heads=1, vocab_size=150_000)
    began = time.perf_counter()
    with open_model(path) as model:
        opened_s = time.perf_counter() - began
        assert len(model.tokenizer.tokens) == 150_000
    assert opened_s < 0.3
    assert time.perf_counter() - began < 1.5
