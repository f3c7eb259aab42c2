"""Pack files: what is written is read; what is damaged is refused, wherever the damage is."""

import zlib
from pathlib import Path
from struct import Struct

import pytest

from stoker.core.errors import CorruptFileError
from stoker.models.packs import NewPart, PackFile, PackFolder, PackKey
from stoker.models.packs.format import (
    ALIGNMENT,
    CHUNK_BYTES,
    FORMAT_VERSION,
    PackDescription,
    encode_header,
    n_chunks,
    placed,
    read_header,
)

KEY = PackKey("0123456789abcdef" * 2, "fedcba9876543210" * 4)
LAYOUT = 7
PARTS = {"token_embd.weight": ("u8", bytes(range(256)) * 5000), "output_norm.weight": ("vector", b"\1\2\3\4")}
"""More than a chunk, then a little."""


def new_parts() -> list[NewPart]:
    return [NewPart(name, kind, memoryview(data)) for name, (kind, data) in PARTS.items()]


@pytest.fixture
def packs(tmp_path: Path) -> PackFolder:
    folder = PackFolder(tmp_path / "packs", 1 << 30)
    with folder.writing():
        folder.write(KEY, new_parts(), layout=LAYOUT)
    return folder


@pytest.fixture
def path(packs: PackFolder) -> Path:
    return packs.folder / KEY.file_name


def test_what_is_written_is_read(path: Path) -> None:
    pack = PackFile(path)
    pack.load(2)
    assert pack.header.layout == LAYOUT
    found = {name: (part.kind, bytes(pack.data(part))) for name, part in pack.parts.items()}
    assert found == PARTS
    assert all((pack.header.data_start + part.start) % ALIGNMENT == 0 for part in pack.parts.values())


def test_checksums_are_crc_32_of_each_chunk(path: Path) -> None:
    pack = PackFile(path)
    data = path.read_bytes()[pack.header.data_start :]
    assert len(data) > CHUNK_BYTES
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    assert pack.header.checksums == tuple(map(zlib.crc32, chunks))


def test_no_flipped_bit_is_overlooked(path: Path) -> None:
    whole = path.read_bytes()
    start = PackFile(path).header.data_start
    for place in range(start):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(CorruptFileError):
            read_header(memoryview(damaged), "x")
    # The ends of the data, the borders of parts and chunks, and some in between.
    places = [*range(start, len(whole), 40_961), start + CHUNK_BYTES - 1, start + CHUNK_BYTES, len(whole) - 1]
    places += [start + len(PARTS["token_embd.weight"][1]) + more for more in (-1, 0)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError):
            PackFile(path).load(1)


@pytest.mark.parametrize(
    "cut", [0, 1, 8, 63, 64, 100, ALIGNMENT - 1, ALIGNMENT, ALIGNMENT + 1, -ALIGNMENT, -1]
)
def test_no_truncation_is_overlooked(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorruptFileError):
        PackFile(path).load(1)


def test_what_is_behind_the_end_is_no_part_of_it(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptFileError, match="its header says"):
        PackFile(path)


def sealed(description: PackDescription, checksums: list[int], data_bytes: int) -> memoryview:
    """A file whose header has the right checksum, whatever it says."""
    return memoryview(encode_header(LAYOUT, description, checksums) + bytes(data_bytes))


def describe(*parts: tuple[str, str, int]) -> PackDescription:
    return PackDescription("1", KEY.digest, KEY.recipe, placed(list(parts)))


def test_a_header_is_held_against_the_file() -> None:
    good = describe(("a", "u4", 10), ("b", "u4", 10))
    checksums = [0] * n_chunks(good.data_bytes)
    read_header(sealed(good, checksums, good.data_bytes), "x")
    twice = describe(("a", "u4", 10), ("a", "u4", 10))
    with pytest.raises(CorruptFileError, match="out of place"):
        read_header(sealed(twice, checksums, twice.data_bytes), "x")
    with pytest.raises(CorruptFileError, match="checksums"):
        read_header(sealed(good, [0, 0], good.data_bytes), "x")
    with pytest.raises(CorruptFileError, match="its header says"):
        read_header(sealed(good, checksums, good.data_bytes - 1), "x")


def test_another_version_of_the_format_is_named(path: Path) -> None:
    content = bytearray(path.read_bytes())
    Struct("<I").pack_into(content, 8, FORMAT_VERSION + 1)
    with pytest.raises(CorruptFileError, match=f"version {FORMAT_VERSION + 1}; this Stoker reads"):
        read_header(memoryview(content), "x")


def test_a_description_that_would_take_gigabytes_is_refused_by_its_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in (24, 28):
        Struct("<I").pack_into(content, place, 2**32 - 1)
        with pytest.raises(CorruptFileError, match="which cannot be"):
            read_header(memoryview(content), "x")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError):
        PackFile(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(CorruptFileError):
        PackFile(tmp_path / "empty")
