"""Pulls that are killed or run out of disk: what they leave, and what the next one makes of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from stoker.core.errors import SourceError
from stoker.models.catalogue import CatalogueEntry
from stoker.models.library import ModelLibrary
from stoker.models.sources import LocalFileSource, Network
from stoker.models.store import RESUMABLE_S
from stoker.testing.hub_server import HubServer
from stoker.testing.model_folders import write_tiny_folder
from stoker.testing.server_process import clean_environment

NAME = "hf:someone/tiny"
FAST = Network(first_wait_s=0.001, max_wait_s=0.01, timeout_s=5.0, attempts=3)


@pytest.fixture
def hub(tmp_path: Path, tiny_path: Path) -> Iterator[HubServer]:
    repo = tmp_path / "hub" / "someone" / "tiny"
    repo.mkdir(parents=True)
    (repo / "tiny.gguf").write_bytes(tiny_path.read_bytes())
    with HubServer(tmp_path / "hub") as server:
        yield server


def start_pull(home: Path, hub: HubServer, name: str = NAME) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "stoker", "pull", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(home, {"HF_ENDPOINT": hub.url}),
    )


def partial_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.glob("models/.partial/*/*.part"))


def test_a_killed_pull_leaves_no_model_and_the_next_one_goes_on(
    tmp_path: Path, hub: HubServer, tiny_path: Path
) -> None:
    home, half = tmp_path / "home", tiny_path.stat().st_size // 2
    hub.faults.stall_after_bytes = half
    pull = start_pull(home, hub)
    deadline = time.monotonic() + 60
    while partial_bytes(home) < half:
        assert pull.poll() is None, pull.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pull.send_signal(signal.SIGKILL)
    pull.communicate()
    hub.faults.stall_after_bytes = None
    hub.faults.resume.set()

    mine = ModelLibrary(home / "models", {}, FAST)
    assert mine.locate(NAME) is None
    assert mine.list_models() == []
    assert [path for path in home.rglob("*.gguf") if path.is_file()] == []

    again = start_pull(home, hub)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    stored = mine.store.find("someone--tiny")
    assert stored is not None
    assert out.decode() == f"{stored.name}: {stored.path}\n"
    assert stored.path.read_bytes() == tiny_path.read_bytes()
    assert stored.sha256 == sha256(tiny_path.read_bytes()).hexdigest()
    assert hub.ranges() == [None, f"bytes={half}-"]
    assert list(home.glob("models/.partial/*")) == []


def test_of_a_killed_pull_of_a_folder_whole_files_are_kept(tmp_path: Path, hub: HubServer) -> None:
    repo = write_tiny_folder(tmp_path / "hub" / "someone" / "folder", n_shards=2, ffn_width=1024)
    home, name = tmp_path / "home", "hf:someone/folder"
    first, second = sorted(repo.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    # The smaller file arrives whole, whichever comes first; the larger one stops at its size.
    half = first.stat().st_size
    assert half < second.stat().st_size
    hub.faults.stall_after_bytes = half + 1
    pull = start_pull(home, hub, name)
    deadline = time.monotonic() + 60
    while partial_bytes(home) <= half:
        assert pull.poll() is None, pull.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pull.send_signal(signal.SIGKILL)
    pull.communicate()
    hub.faults.stall_after_bytes = None
    hub.faults.resume.set()
    mine = ModelLibrary(home / "models", {}, FAST)
    assert mine.locate(name) is None
    assert mine.list_models() == []

    again = start_pull(home, hub, name)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    stored = mine.store.find("someone--folder")
    assert stored is not None
    for path in repo.iterdir():
        assert (stored.path / path.name).read_bytes() == path.read_bytes()
    assert f"bytes={half + 1}-" in hub.ranges(), "the larger file went on where it stopped"
    assert len(hub.ranges()) == 3
    assert list(home.glob("models/.partial/*")) == []


def test_a_forgotten_download_is_swept_when_it_is_old_and_removed_by_name(
    tmp_path: Path, hub: HubServer, tiny_path: Path
) -> None:
    local = CatalogueEntry(
        name="other",
        description="",
        licence="MIT",
        context_length=None,
        sources=(LocalFileSource(path=str(tiny_path)),),
    )
    mine = ModelLibrary(tmp_path / "models", {"other": local}, Network(hub=hub.url, attempts=1))
    for sweep in (False, True):
        hub.faults.drop_after_bytes, hub.faults.n_drops = 1000, 1
        with pytest.raises(SourceError):
            mine.pull(NAME)
        assert partial_bytes(tmp_path) == 1000
        mine.pull("other")
        mine.remove("other")
        assert partial_bytes(tmp_path) == 1000, "it is young"
        if sweep:
            old_s = time.time() - RESUMABLE_S - 60
            for path in tmp_path.glob("models/.partial/**/*"):
                os.utime(path, (old_s, old_s))
            mine.pull("other")
        else:
            mine.remove(NAME)
        assert list(tmp_path.glob("models/.partial/*")) == []


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def test_a_file_that_does_not_fit_is_told_before_it_is_fetched(small_disk: Path, hub: HubServer) -> None:
    repo = hub.root / "someone" / "tiny"
    (repo / "tiny.gguf").write_bytes(b"x" * 2_000_000)
    mine = ModelLibrary(small_disk / "models", {}, Network(hub=hub.url))
    with pytest.raises(SourceError, match=r"needs 1\.9 MiB of free disk space .* are free"):
        mine.pull(NAME)
    assert hub.ranges() == []
    assert list(small_disk.glob("models/.partial/*")) == []


def test_a_disk_that_fills_up_meanwhile_is_told_and_the_space_is_freed(
    small_disk: Path, hub: HubServer
) -> None:
    (hub.root / "someone" / "tiny" / "tiny.gguf").write_bytes(b"x" * 800_000)
    mine = ModelLibrary(small_disk / "models", {}, Network(hub=hub.url))
    hog = small_disk / "hog"

    def fill(_done_bytes: int, _: int | None) -> None:
        """Somebody else takes the room once the download has begun."""
        if not hog.exists():
            hog.write_bytes(b"x" * (free_bytes(small_disk) - 100_000))

    with pytest.raises(SourceError, match=r"needs .* of free disk space"):
        mine.pull(NAME, fill)
    assert len(hub.ranges()) == 1, "it had begun"
    assert mine.locate(NAME) is None
    assert mine.list_models() == []
    assert list(small_disk.glob("models/.partial/*")) == []
    hog.unlink()
    assert free_bytes(small_disk) > 900_000
