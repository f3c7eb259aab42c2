"""Truncated and damaged model files: a `StokerError`, bounded memory, bounded time; nothing else."""

import struct
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.errors import CorruptFileError, StokerError
from stoker.models import open_model
from stoker.testing.gguf_blocks import TYPE_NUMBERS
from stoker.testing.gguf_files import TinyLlama, encode_gguf

MODEL = TinyLlama(n_layers=1, width=32, n_heads=1, ffn_width=32, dtype="Q4_0")
WHOLE = encode_gguf(MODEL.metadata(), MODEL.tensors())
DATA_START = len(WHOLE) - sum(-(-len(tensor.data) // 32) * 32 for tensor in MODEL.tensors())
MAX_MEMORY_BYTES = 8 * 2**20


def read_all(path: Path) -> None:
    with open_model(path) as model:
        assert len(model.digest) == 32
        assert len(model.tokenizer.tokens) == model.config.vocab_size
        for name, tensor in model.tensors.items():
            assert tensor.name == name
            assert len(tensor.data) <= model.size_bytes


def read_bytes(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(content)
        file.flush()
        read_all(Path(file.name))


def interesting_lengths() -> list[int]:
    """The first bytes one by one, then around the beginning of every name, then steps through the data."""
    names = [key.encode() for key in MODEL.metadata()] + [tensor.name.encode() for tensor in MODEL.tensors()]
    starts = {WHOLE.index(struct.pack("<Q", len(name)) + name) for name in names}
    around = {start + step for start in starts for step in (-1, 0, 1, 7, 8, 9, 20)}
    lengths = {*range(80), *around, *range(80, DATA_START, 211), *range(DATA_START, len(WHOLE), 499)}
    return sorted(length for length in lengths | {DATA_START - 1, len(WHOLE) - 1} if length < len(WHOLE))


def test_the_whole_file_is_fine() -> None:
    read_bytes(WHOLE)
    read_bytes(WHOLE + b"more")


def test_every_truncation_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for length in interesting_lengths():
        path.write_bytes(WHOLE[:length])
        with pytest.raises(CorruptFileError) as caught:
            open_model(path)
        assert str(length) in str(caught.value), f"cut to {length} bytes"


HEADER_OFFSETS = st.integers(0, DATA_START - 1)
EXTREMES = st.sampled_from(
    [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
)


def survives(content: bytes) -> None:
    message = ""
    tracemalloc.start()
    try:
        read_bytes(content)
    except StokerError as error:
        message = str(error)
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < MAX_MEMORY_BYTES
    assert len(message) < 1000, "a message never carries the file's content away"


@settings(max_examples=300, deadline=2000)
@given(st.lists(st.tuples(HEADER_OFFSETS, st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_header_bytes(flips: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for offset, mask in flips:
        content[offset] ^= mask
    survives(bytes(content))


@settings(max_examples=300, deadline=2000)
@given(HEADER_OFFSETS, EXTREMES, st.sampled_from(["<I", "<Q"]))
def test_extreme_numbers_anywhere(offset: int, number: int, layout: str) -> None:
    raw = struct.pack(layout, number % 2 ** (8 * struct.calcsize(layout)))
    survives((WHOLE[:offset] + raw + WHOLE[offset + len(raw) :])[: len(WHOLE)])


@settings(max_examples=100, deadline=2000)
@given(HEADER_OFFSETS, HEADER_OFFSETS, st.integers(1, 64))
def test_bytes_moved_about(source: int, target: int, length: int) -> None:
    piece = WHOLE[source : source + length]
    survives(WHOLE[:target] + piece + WHOLE[target:])


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=200))
def test_noise_after_the_magic(noise: bytes) -> None:
    survives(b"GGUF\x03\0\0\0" + noise)


BLOCK_TYPES = sorted(TYPE_NUMBERS)


def whole_file(dtype: str) -> bytes:
    """A model whose matrices are of this type, 256 wide so that super-blocks fit."""
    model = TinyLlama(
        n_layers=1, width=256, n_heads=1, n_kv_heads=1, head_size=256, ffn_width=256, dtype=dtype
    )
    return encode_gguf(model.metadata(), model.tensors())


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_a_file_of_every_type_cut_anywhere_is_told(dtype: str, tmp_path: Path) -> None:
    whole = whole_file(dtype)
    read_bytes(whole)
    path = tmp_path / "cut.gguf"
    for length in (*range(100, len(whole), len(whole) // 40), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError):
            open_model(path)


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_a_row_that_is_no_whole_number_of_blocks_is_told(dtype: str) -> None:
    whole = whole_file(dtype)
    entry = b"blk.0.attn_q.weight" + struct.pack("<IQ", 2, 256)
    (at,) = [found for found in range(DATA_START) if whole.startswith(entry, found)]
    at += len(entry) - 8
    for columns in (0, 1, 31, 33, 255, 257, 2**40 + 1, 2**63, 2**64 - 1):
        with pytest.raises(StokerError):
            read_bytes(whole[:at] + struct.pack("<Q", columns) + whole[at + 8 :])


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_a_type_number_changed_to_any_other_is_told_or_read(dtype: str) -> None:
    whole = whole_file(dtype)
    entry = b"blk.0.ffn_up.weight" + struct.pack("<IQQI", 2, 256, 256, TYPE_NUMBERS[dtype])
    at = whole.index(entry) + len(entry) - 4
    for number in (*range(50), 2**31, 2**32 - 1):
        survives(whole[:at] + struct.pack("<I", number) + whole[at + 4 :])
