"""How much memory llama.cpp's keys and values take."""

import struct
from array import array
from pathlib import Path

import pytest

from stoker.engine.llamacpp.sizing import kv_block_bytes, most_kv_bytes
from stoker.models.header import ModelHeader
from stoker.testing.gguf_files import Encoded, MetadataValue, TinyLlama, encode_gguf

F16, BLOCK, INT32_ARRAY = 2, 16, 5


def block_bytes(path: Path, *without: str, **changes: MetadataValue) -> int:
    metadata = TinyLlama(n_layers=3, n_heads=4, n_kv_heads=2, head_size=32, width=64).metadata()
    metadata |= {f"llama.{key.replace('__', '.')}": value for key, value in changes.items()}
    for suffix in without:
        del metadata[f"llama.{suffix}"]
    path.write_bytes(encode_gguf(metadata, []))
    return kv_block_bytes("llama", ModelHeader(path).metadata)


def test_keys_and_values_of_all_layers(tmp_path: Path) -> None:
    assert block_bytes(tmp_path / "m.gguf") == 3 * 2 * (32 + 32) * BLOCK * F16


def test_heads_of_different_sizes(tmp_path: Path) -> None:
    assert block_bytes(tmp_path / "m.gguf", attention__value_length=64) == 3 * 2 * (32 + 64) * BLOCK * F16


def test_what_follows_from_the_width(tmp_path: Path) -> None:
    without = ("attention.key_length", "attention.value_length", "attention.head_count_kv")
    assert block_bytes(tmp_path / "m.gguf", *without) == 3 * 4 * (16 + 16) * BLOCK * F16


def test_layers_that_differ_count_as_the_largest(tmp_path: Path) -> None:
    heads = array("i", [2, 0, 4])
    per_layer = Encoded(9, struct.pack("<IQ", INT32_ARRAY, len(heads)) + heads.tobytes())
    assert block_bytes(tmp_path / "m.gguf", attention__head_count_kv=per_layer) == 3 * 4 * 64 * BLOCK * F16


@pytest.mark.parametrize("head_count", [0, None])
def test_a_model_without_heads(tmp_path: Path, head_count: int | None) -> None:
    without = ["attention.head_count_kv", "attention.key_length", "attention.value_length"]
    if head_count is None:
        assert block_bytes(tmp_path / "m.gguf", *without, "attention.head_count") == 1
    else:
        assert block_bytes(tmp_path / "m.gguf", *without, attention__head_count=head_count) == 1


def test_a_context_in_every_slot_is_the_most() -> None:
    assert most_kv_bytes(1000, context_length=4 * BLOCK, max_running=3) == 4 * 3 * 1000
    assert most_kv_bytes(1000, context_length=4 * BLOCK + 1, max_running=1) == 5 * 1000
