"""KV files: written whole, read only when they are what they should be, bounded, the oldest removed."""

import errno
import os
import time
from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError
from stoker.kvcache import Link, Namespace
from stoker.kvcache.chain import link, root_name
from stoker.worker.tiers.folder import DEAD_S, KVFolder
from stoker.worker.tiers.format import HEADER_BYTES

BLOCK_BYTES = 1000
FILE_BYTES = HEADER_BYTES + BLOCK_BYTES
ROOT = root_name(Namespace("model", ""))
LINKS = [link(ROOT, [n] * 16) for n in range(12)]


def content(each: Link) -> memoryview:
    return memoryview(each.name * 40)[:BLOCK_BYTES]


def folder_in(path: Path, *, root: str = "model", max_files: int = 100) -> KVFolder:
    folder = KVFolder(path / "kv", root, max_files * FILE_BYTES)
    folder.scan()
    return folder


def read(folder: KVFolder, each: Link) -> bytes:
    into = memoryview(bytearray(BLOCK_BYTES))
    folder.read(each, into)
    return bytes(into)


def age(folder: KVFolder, each: Link, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder.path(each.name), (then, then))


def test_what_is_written_is_read_by_a_next_one_and_is_for_this_user_alone(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for each in LINKS[:3]:
        assert folder.write(each, content(each)) == []
    assert folder.path(LINKS[0].name).stat().st_mode & 0o777 == 0o600
    other = KVFolder(tmp_path / "kv", "model", 10**6)
    assert set(other.scan()) == {each.name for each in LINKS[:3]}
    for each in LINKS[:3]:
        assert read(other, each) == bytes(content(each))
    with pytest.raises(FileNotFoundError):
        read(other, LINKS[3])


def test_files_of_another_identity_are_not_found(tmp_path: Path) -> None:
    folder_in(tmp_path).write(LINKS[0], content(LINKS[0]))
    other = KVFolder(tmp_path / "kv", "another model", 10**6)
    assert other.scan() == []
    with pytest.raises(FileNotFoundError):
        read(other, LINKS[0])


@pytest.mark.parametrize("place", [0, 9, 13, 17, 26, 40, 70, 100, 140, HEADER_BYTES, FILE_BYTES - 1])
def test_one_flipped_bit_anywhere_is_found(tmp_path: Path, place: int) -> None:
    folder = folder_in(tmp_path)
    folder.write(LINKS[0], content(LINKS[0]))
    path = folder.path(LINKS[0].name)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError, match=f"{LINKS[0].name.hex()}.kv is not used: it"):
        read(folder, LINKS[0])


@pytest.mark.parametrize("size", [0, 10, HEADER_BYTES, FILE_BYTES - 1, FILE_BYTES + 1])
def test_a_file_of_another_length_is_not_used(tmp_path: Path, size: int) -> None:
    folder = folder_in(tmp_path)
    folder.write(LINKS[0], content(LINKS[0]))
    os.truncate(folder.path(LINKS[0].name), size)
    with pytest.raises(CorruptFileError, match=f"it has {size} bytes, not {FILE_BYTES}"):
        read(folder, LINKS[0])


def test_a_file_in_the_place_of_another_is_not_used(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for each in LINKS[:2]:
        folder.write(each, content(each))
    folder.path(LINKS[1].name).replace(folder.path(LINKS[0].name))
    with pytest.raises(CorruptFileError, match="it holds another block"):
        read(folder, LINKS[0])
    theirs = folder_in(tmp_path, root="another model")
    theirs.write(LINKS[2], content(LINKS[2]))
    mine = folder.path(LINKS[2].name)
    mine.parent.mkdir(exist_ok=True)
    theirs.path(LINKS[2].name).replace(mine)
    with pytest.raises(CorruptFileError, match="of another model, KV type or version"):
        read(folder, LINKS[2])


def test_a_link_or_a_folder_in_the_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    path = folder.path(LINKS[0].name)
    path.parent.mkdir(parents=True)
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        read(folder, LINKS[0])
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptFileError):
        read(folder, LINKS[0])
    assert folder.scan() == []


def test_those_used_least_recently_are_removed_also_others(tmp_path: Path) -> None:
    others = folder_in(tmp_path, root="another model", max_files=10)
    others.write(LINKS[0], content(LINKS[0]))
    age(others, LINKS[0], 1000)
    folder = folder_in(tmp_path, max_files=10)
    for n, each in enumerate(LINKS[1:10]):
        assert folder.write(each, content(each)) == []
        age(folder, each, 500 - n)
    read(folder, LINKS[1])  # it is the newest now
    removed = folder.write(LINKS[10], content(LINKS[10]))
    assert removed == [], "that of the other model was the oldest"
    assert others.scan() is not None
    assert not others.path(LINKS[0].name).exists()
    assert folder.write(LINKS[11], content(LINKS[11])) == [LINKS[2].name]
    assert folder.path(LINKS[1].name).exists()
    files = list(tmp_path.glob("kv/*/*/*.kv"))
    assert len(files) <= 10


def test_what_a_dead_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    folder.write(LINKS[0], content(LINKS[0]))
    old, new = (folder.path(LINKS[0].name).with_name(f"{name}.partial") for name in ("old", "new"))
    for partial in (old, new):
        partial.write_bytes(b"half")
    then = time.time() - DEAD_S - 1
    os.utime(old, (then, then))
    folder.scan()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    folder = KVFolder(small_disk / "kv", "model", 10**9)
    big = memoryview(bytes(300 << 10))
    for each in LINKS[:3]:
        folder.write(each, big)
    with pytest.raises(OSError, match="No space left") as told:
        folder.write(LINKS[3], big)
    assert told.value.errno == errno.ENOSPC
    assert len(list(small_disk.glob("kv/*/*/*"))) == 3


def test_a_block_larger_than_all_files_may_be_is_an_error_of_its_own(tmp_path: Path) -> None:
    folder = KVFolder(tmp_path / "kv", "model", FILE_BYTES - 1)
    with pytest.raises(OSError, match="more than max_kv_disk_bytes allows"):
        folder.write(LINKS[0], content(LINKS[0]))
    assert list(tmp_path.glob("kv/*")) == []
