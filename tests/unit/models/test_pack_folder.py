"""The folder of packs: whole packs or none, bounded in size, safe from other writers and from a full disk."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.models.packs import NewPart, PackFolder, PackKey, folder

LAYOUT = 1
SIZE = 100_000
FILE_BYTES = 4096 + SIZE


def key(number: int, recipe: int = 0) -> PackKey:
    return PackKey(f"{number:032x}", f"{recipe:064x}"[::-1])


def write(packs: PackFolder, key_: PackKey, size: int = SIZE) -> None:
    with packs.writing():
        packs.write(key_, [NewPart("a", "u8", memoryview(os.urandom(size)))], layout=LAYOUT)


def is_there(packs: PackFolder, key_: PackKey) -> bool:
    return packs.open(key_, layout=LAYOUT, n_threads=1) is not None


@pytest.fixture
def packs(tmp_path: Path) -> PackFolder:
    return PackFolder(tmp_path / "packs", 1 << 30)


def test_a_pack_is_found_by_what_it_is_of(packs: PackFolder) -> None:
    assert not is_there(packs, key(1))
    write(packs, key(1))
    assert is_there(packs, key(1))
    assert not is_there(packs, key(2))
    assert not is_there(packs, key(1, 5))
    assert packs.folder.stat().st_mode & 0o777 == 0o700


def test_a_pack_under_anothers_name_is_not_taken(packs: PackFolder) -> None:
    write(packs, key(1))
    (packs.folder / key(1).file_name).rename(packs.folder / key(2).file_name)
    assert not is_there(packs, key(2))


def test_a_pack_of_another_layout_or_stoker_is_not_used_and_replaced(
    packs: PackFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(packs, key(1))
    assert packs.open(key(1), layout=LAYOUT + 1, n_threads=1) is None
    with monkeypatch.context() as patch:
        patch.setattr(folder, "__version__", "999")
        assert not is_there(packs, key(1))
        write(packs, key(1))
        assert is_there(packs, key(1))
    assert not is_there(packs, key(1))
    assert len(list(packs.folder.glob("*.pack"))) == 1


def test_a_damaged_pack_is_told_of_and_not_used(packs: PackFolder, caplog: pytest.LogCaptureFixture) -> None:
    write(packs, key(1))
    path = packs.folder / key(1).file_name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert not is_there(packs, key(1))
    assert str(path) in caplog.text
    assert "damaged" in caplog.text


def test_the_packs_used_least_recently_make_room(packs: PackFolder) -> None:
    packs.max_bytes = 3 * FILE_BYTES
    for number in (1, 2, 3):
        write(packs, key(number))
        os.utime(packs.folder / key(number).file_name, (number, number))
    assert is_there(packs, key(1))  # which uses it
    write(packs, key(4))
    assert {number for number in range(1, 5) if is_there(packs, key(number))} == {1, 3, 4}
    assert sum(path.stat().st_size for path in packs.folder.glob("*.pack")) <= packs.max_bytes


def test_a_pack_in_use_is_never_removed_for_room(packs: PackFolder) -> None:
    packs.max_bytes = 2 * FILE_BYTES
    write(packs, key(1))
    write(packs, key(2))
    used = packs.open(key(1), layout=LAYOUT, n_threads=1)
    os.utime(packs.folder / key(1).file_name, (1, 1))
    assert used is not None
    write(packs, key(3))
    assert [is_there(packs, key(number)) for number in (1, 2, 3)] == [True, False, True]
    with pytest.raises(OSError, match="max_packs_bytes allows"):
        write(packs, key(4), SIZE + FILE_BYTES)
    assert [is_there(packs, key(number)) for number in (1, 3, 4)] == [True, True, False], "nothing in vain"


def test_where_locks_cannot_be_had_no_pack_is_removed_for_room(
    packs: PackFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.max_bytes = 2 * FILE_BYTES
    write(packs, key(1))
    write(packs, key(2))
    lock = fcntl.flock

    def lock_folder_alone(descriptor: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".pack":
            raise OSError(errno.ENOLCK, "no locks available")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_folder_alone)
    with pytest.raises(OSError, match="those in use included"):
        write(packs, key(3))
    assert [is_there(packs, key(number)) for number in (1, 2)] == [True, True]


def test_memory_of_packs_in_use_is_known(packs: PackFolder) -> None:
    write(packs, key(1))
    write(packs, key(2))
    used = packs.open(key(1), layout=LAYOUT, n_threads=1)
    assert packs.in_use_bytes(beside=key(2)) == FILE_BYTES
    assert packs.in_use_bytes(beside=key(1)) == 0
    del used
    assert packs.in_use_bytes(beside=key(2)) == 0


def test_a_removed_pack_goes_on_serving_who_uses_it(packs: PackFolder) -> None:
    write(packs, key(1))
    write(packs, key(1, 5))
    write(packs, key(2))
    used = packs.open(key(1), layout=LAYOUT, n_threads=1)
    assert used is not None
    packs.remove(key(1).digest)
    assert [path.name for path in packs.folder.glob("*.pack")] == [key(2).file_name]
    used.load(1)


def test_a_writer_waits_for_another_and_gives_up(packs: PackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LOCK_WAIT_S", 0.05)
    with packs.writing(), pytest.raises(TimeoutError), packs.writing():
        pass
    with packs.writing():
        pass


def test_packs_of_a_file_system_that_is_read_only_are_used(small_disk: Path) -> None:
    packs = PackFolder(small_disk / "packs", 1 << 30)
    write(packs, key(1))
    command = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(command, check=True)
    assert is_there(packs, key(1))
    with pytest.raises(OSError, match="Read-only"):
        write(packs, key(2))


DIE_AT_THE_NTH_CALL = """
import os, signal, sys
from pathlib import Path
from stoker.models.packs import NewPart, PackFolder, PackKey

left = int(sys.argv[1])

def mortal(call):
    def run(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return run

for name in ("write", "fsync", "posix_fallocate", "rename"):
    setattr(os, name, mortal(getattr(os, name)))
packs = PackFolder(Path(sys.argv[2]), 1 << 30)
with packs.writing():
    packs.write(PackKey("1" * 32, "1" * 64), [NewPart("a", "u8", memoryview(b"x" * 2000000))], layout=1)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_pack_or_none(packs: PackFolder) -> None:
    """Each of the system calls that write is the last one once."""
    written = PackKey("1" * 32, "1" * 64)
    outcomes = []
    for n_calls in range(1, 100):
        command = [sys.executable, "-c", DIE_AT_THE_NTH_CALL, str(n_calls), str(packs.folder)]
        ended = subprocess.run(command, check=False, timeout=60)
        found = packs.open(written, layout=1, n_threads=1)
        if found is not None:
            assert set(bytes(found.data(found.parts["a"]))) == {ord("x")}
            (packs.folder / written.file_name).unlink()
        else:
            assert not list(packs.folder.glob("*.pack"))
            assert ended.returncode < 0
        outcomes.append(found is not None)
        if ended.returncode == 0:
            break
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) >= 6
    assert outcomes[-1]
    left = list((packs.folder / ".partial").iterdir())
    write(packs, key(5))
    assert not list((packs.folder / ".partial").iterdir()), left


def test_a_full_disk_is_told_and_nothing_is_left(small_disk: Path) -> None:
    packs = PackFolder(small_disk / "packs", 1 << 30)
    write(packs, key(1))
    with pytest.raises(OSError, match="space"):
        write(packs, key(2), 2_000_000)
    assert is_there(packs, key(1))
    assert not list((packs.folder / ".partial").iterdir())
    write(packs, key(3), 500_000)


def test_the_lock_is_the_kernels(packs: PackFolder) -> None:
    """Whoever dies with it has let go of it."""
    with packs.writing(), (packs.folder / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
