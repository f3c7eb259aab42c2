"""The header: what is read, and what is refused with which words."""

import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError, UnknownModelError, UnsupportedModelError
from stoker.models.gguf import GgufFile
from stoker.testing.gguf_files import Encoded, MetadataValue, StoredTensor, encode_gguf

Open = Callable[[bytes], GgufFile]

STRING, ARRAY, UINT8, BOOL, UINT64, FLOAT64 = 8, 9, 0, 7, 10, 12


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_bytes(content: bytes) -> GgufFile:
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        return GgufFile(path)

    return open_bytes


def file_with(
    metadata: Mapping[str, MetadataValue] | None = None,
    tensors: Sequence[StoredTensor] = (),
    version: int = 3,
) -> bytes:
    return encode_gguf(metadata or {}, tensors, version=version)


def f32(name: str, *shape: int) -> StoredTensor:
    size = 4
    for each in shape:
        size *= each
    return StoredTensor(name, shape, 0, bytes(size))


@pytest.mark.parametrize("version", [2, 3])
def test_reads_every_scalar_type(opened: Open, version: int) -> None:
    layouts = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q", 6: "f", 12: "d"}
    metadata: dict[str, MetadataValue] = {
        f"key{kind}": Encoded(kind, struct.pack("<" + layout, 7)) for kind, layout in layouts.items()
    }
    metadata |= {"flag": True, "text": "größer", "list": ["a", "", "ü"], "numbers": [1, -2, 3]}
    read = opened(file_with(metadata, version=version)).metadata
    for kind, layout in layouts.items():
        assert read.number(f"key{kind}") == 7
        if layout not in "fd":
            assert read.integer(f"key{kind}") == 7
    assert read.flag("flag") is True
    assert read.text("text") == "größer"
    assert read.strings("list") == ("a", "", "ü")
    assert read.integers("numbers") == (1, -2, 3)
    assert read.length("list") == 3


def test_places_tensors(opened: Open) -> None:
    first = StoredTensor("first", (2, 3), 0, struct.pack("<6f", *range(6)))
    second = StoredTensor("second", (32,), 8, b"\x01" * 34)
    file = opened(file_with({"general.architecture": "none"}, [first, second]))
    assert file.tensors["first"].shape == (2, 3)
    assert file.tensors["second"].type.name == "Q8_0"
    for tensor in (first, second):
        info = file.tensors[tensor.name]
        assert info.start % 32 == 0
        assert file.view(info.start, info.size_bytes) == tensor.data


def test_honours_alignment(opened: Open) -> None:
    content = encode_gguf({"general.alignment": 256}, [f32("a", 3), f32("b", 3)], alignment=256)
    infos = opened(content).tensors
    assert infos["b"].start - infos["a"].start == 256
    assert infos["a"].start % 256 == 0


@pytest.mark.parametrize("alignment", [0, 1, 24, 2**17, -8])
def test_refuses_alignment(opened: Open, alignment: int) -> None:
    value = Encoded(5, struct.pack("<i", alignment))
    with pytest.raises(CorruptFileError, match=r"general\.alignment"):
        opened(file_with({"general.alignment": value}))


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", CorruptFileError, "0 bytes"),
        (b"GG", CorruptFileError, "2 bytes"),
        (b"PK\x03\x04" + bytes(64), CorruptFileError, "begins with b'PK"),
        (b"GGUF\x01\0\0\0" + bytes(64), UnsupportedModelError, "version 1"),
        (b"GGUF\0\0\0\x03" + bytes(64), UnsupportedModelError, "big-endian"),
        (b"GGUF\x03\0\0\0", CorruptFileError, "at least 16 bytes, but it has 8"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 0), CorruptFileError, "tensors, more than"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**64 - 1), CorruptFileError, "metadata keys, more than"),
        (
            struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**64 - 1),
            CorruptFileError,
            "claims 18446744073709551615",
        ),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 60_000), CorruptFileError, "needs the file to have"),
    ],
)
def test_refuses_preamble(opened: Open, content: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        opened(content)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (Encoded(13, b""), CorruptFileError, "unknown value type 13"),
        (Encoded(BOOL, b"\x02"), CorruptFileError, "boolean with the value 2"),
        (Encoded(STRING, struct.pack("<Q", 2**62)), CorruptFileError, "claims 4611686018427387904 bytes"),
        (Encoded(STRING, struct.pack("<Q", 2**20)), CorruptFileError, "truncated"),
        (Encoded(STRING, struct.pack("<Q", 1) + b"\xff"), CorruptFileError, "not UTF-8"),
        (Encoded(ARRAY, struct.pack("<IQ", 13, 0)), CorruptFileError, "unknown value type 13"),
        (Encoded(ARRAY, struct.pack("<IQ", ARRAY, 1)), UnsupportedModelError, "array of arrays"),
        (Encoded(ARRAY, struct.pack("<IQ", UINT64, 2**61)), CorruptFileError, "elements, more than"),
        (Encoded(ARRAY, struct.pack("<IQ", FLOAT64, 2**20)), CorruptFileError, "truncated"),
        (Encoded(ARRAY, struct.pack("<IQ", STRING, 2**20)), CorruptFileError, "truncated"),
        (Encoded(ARRAY, struct.pack("<IQQ", STRING, 1, 2**64 - 1)), CorruptFileError, "truncated"),
        (Encoded(ARRAY, struct.pack("<IQQQ", STRING, 2, 2**64 - 16, 0)), CorruptFileError, "truncated"),
    ],
)
def test_refuses_value(opened: Open, value: Encoded, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        opened(file_with({"key": value}))


def test_refuses_key_twice(opened: Open) -> None:
    entry = struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 1)
    with pytest.raises(CorruptFileError, match="'k' appears twice"):
        opened(struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + entry + entry + bytes(64))


def test_names_missing_and_mistyped_keys(opened: Open) -> None:
    read = opened(file_with({"text": "x", "number": 1, "list": ["x"], "flag": True})).metadata
    with pytest.raises(CorruptFileError, match="lacks the metadata key 'absent'"):
        read.text("absent")
    with pytest.raises(CorruptFileError, match="'number' is int, expected a string"):
        read.text("number")
    with pytest.raises(CorruptFileError, match="'flag' is bool, expected one integer"):
        read.integer("flag")
    with pytest.raises(CorruptFileError, match="'flag' is bool, expected one number"):
        read.number("flag")
    with pytest.raises(CorruptFileError, match="'list' is an array of STRING, expected one integer"):
        read.integer("list")
    with pytest.raises(CorruptFileError, match="'list' is an array of STRING, expected an array of integers"):
        read.integers("list")
    with pytest.raises(CorruptFileError, match="'number' is int, expected a boolean"):
        read.flag("number")
    with pytest.raises(CorruptFileError, match="'text' is str, expected an array"):
        read.strings("text")


def test_array_of_bad_text_is_refused_when_read(opened: Open) -> None:
    payload = struct.pack("<IQ", STRING, 2) + struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 1) + b"\xff"
    read = opened(file_with({"list": Encoded(ARRAY, payload)})).metadata
    with pytest.raises(CorruptFileError, match="element 1 of the array 'list'"):
        read.strings("list")


@pytest.mark.parametrize(
    ("tensor", "error", "words"),
    [
        (StoredTensor("t", (), 0, b""), CorruptFileError, "0 dimensions"),
        (StoredTensor("t", (1,) * 5, 0, bytes(4)), CorruptFileError, "5 dimensions"),
        (StoredTensor("t", (0,), 0, b""), CorruptFileError, "sizes must be"),
        (StoredTensor("t", (2, 2**63), 0, b""), CorruptFileError, "sizes must be"),
        (StoredTensor("t", (2**40,) * 4, 0, b""), CorruptFileError, "are missing"),
        (StoredTensor("t", (33,), 2, bytes(64)), CorruptFileError, "multiple of 32 for Q4_0"),
        (StoredTensor("t", (2, 128), 12, bytes(144)), CorruptFileError, "multiple of 256 for Q4_K"),
        (StoredTensor("t", (256,), 14, bytes(64)), CorruptFileError, "are missing"),
        (
            StoredTensor("t", (256,), 15, bytes(292)),
            UnsupportedModelError,
            r"'t' has the type Q8_K.*Q2_K, Q3_K, Q4_0, Q4_1",
        ),
        (StoredTensor("t", (256,), 999, bytes(210)), UnsupportedModelError, "number 999"),
        (StoredTensor("n" * 300, (1,), 0, bytes(4)), CorruptFileError, "claims 300 bytes"),
    ],
)
def test_refuses_tensor(opened: Open, tensor: StoredTensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        opened(file_with(tensors=[tensor]))


def with_offset(content: bytes, name: bytes, offset: int) -> bytes:
    """Change where a one-dimensional tensor says it begins."""
    at = content.index(name) + len(name) + 4 + 8 + 4
    return content[:at] + struct.pack("<Q", offset) + content[at + 8 :]


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (0, "overlap"),
        (33, "begins at 33, which is not a multiple of the alignment 32"),
        (2**64 - 32, "truncated"),
        (64, "truncated"),
    ],
)
def test_refuses_offset(opened: Open, offset: int, words: str) -> None:
    content = file_with(tensors=[f32("first", 8), f32("second", 8)])
    with pytest.raises(CorruptFileError, match=words):
        opened(with_offset(content, b"second", offset))


def test_refuses_tensor_twice(opened: Open) -> None:
    with pytest.raises(CorruptFileError, match="'same' appears twice"):
        opened(file_with(tensors=[f32("same", 8), f32("same", 8)]))


def test_a_truncated_file_says_how_much_is_missing(opened: Open) -> None:
    content = file_with(tensors=[f32("first", 8)])
    with pytest.raises(CorruptFileError) as caught:
        opened(content[:-1])
    assert f"need {len(content)} bytes, but the file has {len(content) - 1} (1 are missing)" in str(
        caught.value
    )


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="No such file"):
        GgufFile(tmp_path / "absent.gguf")
    with pytest.raises(CorruptFileError, match="not a regular file"):
        GgufFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptFileError, match="not a regular file"):
        GgufFile(tmp_path / "pipe")


def empty_strings(count: int) -> Encoded:
    return Encoded(ARRAY, struct.pack("<IQ", STRING, count) + bytes(8 * count))


def test_as_many_claims_as_are_allowed_cost_little_time(opened: Open) -> None:
    content = file_with({f"key{n}": empty_strings(2**20) for n in range(5)})
    began = time.thread_time()
    with pytest.raises(CorruptFileError, match="more than the 4194304 strings"):
        opened(content)
    assert time.thread_time() - began < 5, "0.4 s alone; leave room for a busy machine"


def test_claims_cost_no_memory(opened: Open) -> None:
    content = file_with({"key": empty_strings(2**18)})
    tracemalloc.start()
    opened(content)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20, "a list of them would take 2 MiB"
