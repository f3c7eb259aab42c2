"""Safetensors files and their index: what is read, and what is refused."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, StokerError, UnknownModelError, UnsupportedModelError
from stoker.models.huggingface.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from stoker.models.huggingface.shards import INDEX_NAME, Shards
from stoker.testing.model_folders import RawTensor, encode_safetensors, raw, with_header, write_json


def opened(folder: Path, content: bytes) -> SafetensorsFile:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return SafetensorsFile(path)


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_was_written(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    file = opened(
        tmp_path,
        encode_safetensors(
            {
                "a": raw(values),
                "half": raw(values[0], "F16"),
                "none": RawTensor("U8", (0, 3), b""),
                "scalar": RawTensor("I64", (), b"\1" * 8),
            },
            {"format": "pt"},
        ),
    )
    assert list(file.tensors) == ["a", "half", "none", "scalar"]
    stored = file.tensors["a"]
    assert (stored.dtype, stored.shape) == ("F32", (3, 4))
    assert np.array_equal(np.frombuffer(stored.data, np.float32).reshape(3, 4), values)
    assert file.tensors["half"].data.tobytes() == values[0].astype(np.float16).tobytes()
    assert (file.tensors["none"].shape, len(file.tensors["none"].data)) == ((0, 3), 0)
    assert file.tensors["scalar"].shape == ()


def test_tensors_are_mapped_read_only_and_outlive_the_file(tmp_path: Path) -> None:
    file = opened(tmp_path, encode_safetensors({"a": raw(np.ones(1000, np.float32))}))
    data = file.tensors["a"].data
    file.close()
    assert data.readonly
    assert bytes(data[:4]) == struct.pack("<f", 1)


def test_the_order_of_the_header_is_not_that_of_the_data(tmp_path: Path) -> None:
    header = {"late": entry(offsets=[8, 16]), "early": entry(offsets=[0, 8])}
    file = opened(tmp_path, with_header(header, struct.pack("<4f", 1, 2, 3, 4)))
    assert bytes(file.tensors["late"].data) == struct.pack("<2f", 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"\0" * 7, "too short"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "more than the 16777216 allowed"),
        (b"\xff" * 16, "more than the 16777216 allowed"),
        (struct.pack("<Q", 100) + b"{}", "truncated: its header ends at 108"),
        (struct.pack("<Q", 0), "begins with b''"),
        (struct.pack("<Q", 2) + b"[]", "begins with b'[]'"),
        (struct.pack("<Q", 2) + b"{\xff", "header is malformed"),
        (struct.pack("<Q", 40_000) + b'{"a":' + b"[" * 39_995, "header is malformed"),
        (with_header({"a": 1}), "header is malformed"),
        (with_header({"a": entry() | {"extra": 1}}, b"\0" * 8), "header is malformed"),
        (with_header({"a": {"dtype": "F32", "shape": [2]}}), "header is malformed"),
        (with_header({"__metadata__": {"a": 1}}), "header is malformed"),
        (with_header({"a": entry(shape=[-2])}, b"\0" * 8), "header is malformed"),
        (with_header({"a": entry(shape=[1] * 9)}, b"\0" * 8), "header is malformed"),
        (with_header({"a": entry(shape=[2**41])}, b"\0" * 8), "header is malformed"),
        (with_header({"a": entry(offsets=[-8, 0])}, b"\0" * 8), "header is malformed"),
        (with_header({"a": entry(offsets=[0, 2**63])}, b"\0" * 8), "header is malformed"),
        (with_header({"a": entry(offsets=[0, 8, 16])}, b"\0" * 8), "header is malformed"),
        (with_header({"a": entry(offsets=[8, 0])}, b"\0" * 8), "needs 8 bytes, but has -8"),
        # 2^40 * 2^40 * 4 is 16 modulo 2^64: sizes are multiplied without wrapping round.
        (with_header({"a": entry(shape=[2**40, 2**40])}, b"\0" * 8), f"needs {2**82} bytes, but has 8"),
        (with_header({"a": entry(shape=[2**31, 2**31, 0])}, b"\0" * 8), "needs 0 bytes, but has 8"),
        (with_header({"a": entry(offsets=[4, 12])}, b"\0" * 12), "leaves a gap before it, at 0"),
        (with_header({"a": entry(), "b": entry()}, b"\0" * 8), "overlaps the one before"),
        (with_header({"a": entry(), "b": entry(offsets=[4, 12])}, b"\0" * 12), "overlaps the one before"),
        (with_header({"a": entry(), "b": entry(offsets=[12, 20])}, b"\0" * 20), "leaves a gap"),
        (with_header({"a": entry()}, b"\0" * 7), "truncated: its tensors need 8 bytes, but the file has 7"),
        (with_header({"a": entry()}, b"\0" * 9), "has 1 bytes that no tensor uses"),
        (with_header({"a" * 600: entry()}, b"\0" * 8), "a name of 600 characters"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        opened(tmp_path, content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_unknown_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="'w' has the type 'F4'; Stoker knows BOOL, U8"):
        opened(tmp_path, with_header({"w": entry("F4", [16])}, b"\0" * 8))


def test_more_tensors_than_allowed_are_refused_before_they_are_made(tmp_path: Path) -> None:
    one = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    text = b"{" + b"".join(one % index for index in range(65_537))[:-1] + b"}"
    with pytest.raises(CorruptFileError, match="lists more than 65536 tensors"):
        opened(tmp_path, struct.pack("<Q", len(text)) + text)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="No such file"):
        SafetensorsFile(tmp_path / "missing.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CorruptFileError, match="not a regular file"):
        SafetensorsFile(tmp_path / "pipe.safetensors")


def shard(folder: Path, name: str, *tensors: str) -> None:
    content = encode_safetensors({each: raw(np.zeros(2, np.float32)) for each in tensors})
    (folder / name).write_bytes(content)


def index(folder: Path, weight_map: object) -> None:
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": 1}, "weight_map": weight_map})


def test_shards_are_joined(tmp_path: Path) -> None:
    shard(tmp_path, "model-00001-of-00002.safetensors", "a", "b")
    shard(tmp_path, "other.safetensors", "c")
    index(tmp_path, {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors",
                     "c": "other.safetensors"})  # fmt: skip
    shards = Shards(tmp_path)
    assert sorted(shards.tensors) == ["a", "b", "c"]
    assert shards.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    shards.close()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../secret.safetensors"}, "names the file '../secret.safetensors', expected the plain name"),
        ({"a": "/etc/x.safetensors"}, "expected the plain name"),
        ({"a": "sub/x.safetensors"}, "expected the plain name"),
        ({"a": ".safetensors"}, "expected the plain name"),
        ({"a": "one.safetensors\n"}, "expected the plain name"),
        ({"a": "one.bin"}, "expected the plain name"),
        ({}, "names 0 files"),
        ({str(number): f"{number}.safetensors" for number in range(1001)}, "names 1001 files"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "two.safetensors is missing"),
        (
            {"a": "one.safetensors", "x": "one.safetensors"},
            "places the tensor 'x' in one.safetensors, which lacks",
        ),
        ({"x": "one.safetensors"}, "does not say that the tensor 'a' is in one.safetensors"),
        ([], "is malformed"),
        ({"a": 1}, "is malformed"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    (tmp_path / "folder").mkdir()
    shard(tmp_path, "secret.safetensors", "a")
    shard(tmp_path / "folder", "one.safetensors", "a")
    index(tmp_path / "folder", weight_map)
    with pytest.raises(CorruptFileError) as caught:
        Shards(tmp_path / "folder")
    assert message in str(caught.value)


def test_a_folder_without_safetensors_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="has neither"):
        Shards(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UnsupportedModelError, match="whose format can run code"):
        Shards(tmp_path)


def test_an_index_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / INDEX_NAME).open("wb") as file:
        file.truncate(2**25 + 1)
    with pytest.raises(CorruptFileError, match="more than 33554432 bytes"):
        Shards(tmp_path)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = encode_safetensors(
        {"a": raw(np.ones((2, 3), np.float32)), "b": raw(np.ones(5, np.float32), "F16")}
    )
    opened(tmp_path, whole)
    for length in range(len(whole)):
        with pytest.raises(StokerError):
            opened(tmp_path, whole[:length])


def test_names_are_json_strings(tmp_path: Path) -> None:
    name = "läyer\n" + json.dumps("x")
    file = opened(tmp_path, encode_safetensors({name: raw(np.ones(2, np.float32))}))
    assert list(file.tensors) == [name]
