"""Pulling, finding, showing and removing models, from files on this machine."""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError, SourceError, StokerError, UnknownModelError
from stoker.models.catalogue import CatalogueEntry
from stoker.models.digest import DIGEST_CHARS
from stoker.models.library import ModelLibrary
from stoker.models.manifest import MANIFEST_NAME
from stoker.models.packs import NewPart, PackFolder, PackKey
from stoker.models.sources import LocalFileSource


def entry(*sources: LocalFileSource, name: str = "mine") -> CatalogueEntry:
    return CatalogueEntry(
        name=name, description="A model", licence="MIT", context_length=None, sources=sources
    )


def library(folder: Path, *sources: LocalFileSource) -> ModelLibrary:
    return ModelLibrary(folder / "models", {"mine": entry(*sources)})


@pytest.fixture
def source(tiny_path: Path) -> LocalFileSource:
    return LocalFileSource(path=str(tiny_path), sha256=hashlib.sha256(tiny_path.read_bytes()).hexdigest())


def left_behind(folder: Path) -> list[Path]:
    """What lies in the store beside whole models and the locks."""
    return list(folder.glob("models/.partial/*"))


def test_a_model_is_pulled_once_and_found_from_then_on(
    tmp_path: Path, source: LocalFileSource, tiny_path: Path
) -> None:
    mine = library(tmp_path, source)
    assert mine.locate("mine") is None
    seen: list[tuple[int, int | None]] = []
    stored = mine.pull("Mine", lambda done, total: seen.append((done, total)))
    size_bytes = tiny_path.stat().st_size
    assert stored.path.read_bytes() == tiny_path.read_bytes()
    assert stored.path.parent == tmp_path / "models" / "mine"
    assert (stored.name, stored.size_bytes, stored.licence) == ("mine", size_bytes, "MIT")
    assert stored.sha256 == source.sha256
    assert seen[-1] == (size_bytes, size_bytes)
    assert left_behind(tmp_path) == []
    assert mine.pull("mine") == stored
    located = mine.ensure("MINE")
    assert (located.model_id, located.path) == ("mine", stored.path)
    assert library(tmp_path).store.find("mine") == stored, "another process finds it too"


def test_a_path_is_served_as_it_is_and_never_removed(tmp_path: Path, tiny_path: Path) -> None:
    mine = library(tmp_path)
    located = mine.ensure(str(tiny_path))
    assert (located.model_id, located.path) == ("tiny-model", tiny_path)
    with pytest.raises(UnknownModelError):
        mine.remove(str(tiny_path))
    assert tiny_path.exists()
    with pytest.raises(UnknownModelError, match="There is no model file"):
        mine.ensure(str(tmp_path / "absent.gguf"))
    with pytest.raises(UnknownModelError, match="can be served as it is"):
        mine.pull(str(tiny_path))


@pytest.mark.parametrize("name", ["mien", "../mine", ".", "..", "", "a\0b", "x" * 10_000])
def test_an_unknown_name_is_told_shortly_and_touches_nothing(
    tmp_path: Path, source: LocalFileSource, name: str
) -> None:
    mine = library(tmp_path, source)
    for act in (mine.pull, mine.show, mine.remove):
        with pytest.raises(UnknownModelError) as unknown:
            act(name)
        assert len(str(unknown.value)) < 500
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", [f"./{'a' * 5000}", "~nobody-of-this-name/model.gguf"])
@pytest.mark.parametrize("use", ["locate", "show", "pull", "ensure"])
def test_a_path_where_nobody_can_look_is_told(tmp_path: Path, name: str, use: str) -> None:
    with pytest.raises(UnknownModelError, match="Cannot look for a model at") as caught:
        getattr(library(tmp_path), use)(name)
    assert len(str(caught.value)) < 400


def test_close_names_are_suggested(tmp_path: Path, source: LocalFileSource) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean mine"):
        library(tmp_path, source).pull("mien")


def test_sources_are_tried_in_order_and_every_failure_is_told(
    tmp_path: Path, source: LocalFileSource
) -> None:
    absent = LocalFileSource(path="/nonexistent/a.gguf")
    assert library(tmp_path, absent, source).pull("mine").source == source.label
    other = LocalFileSource(path=source.path, sha256="0" * 64)
    with pytest.raises(SourceError, match=r"None of the 2 sources.*no file.*another file, or damaged"):
        library(tmp_path / "second", absent, other).pull("mine")
    with pytest.raises(SourceError, match=r"^There is no file /nonexistent/a\.gguf"):
        library(tmp_path / "third", absent).pull("mine")
    assert left_behind(tmp_path / "second") == left_behind(tmp_path / "third") == []


def test_what_is_no_model_is_not_kept(tmp_path: Path, tiny_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_path.read_bytes()[:-100])
    mine = library(tmp_path, LocalFileSource(path=str(damaged)))
    with pytest.raises(CorruptFileError):
        mine.pull("mine")
    assert mine.locate("mine") is None
    assert left_behind(tmp_path) == []


def test_a_model_that_is_not_whole_is_pulled_anew(tmp_path: Path, source: LocalFileSource) -> None:
    mine = library(tmp_path, source)
    stored = mine.pull("mine")
    whole = stored.path.read_bytes()
    for damage in (
        lambda: stored.path.write_bytes(whole[:-1]),
        stored.path.unlink,
        lambda: (stored.path.parent / MANIFEST_NAME).write_text("{"),
        (stored.path.parent / MANIFEST_NAME).unlink,
    ):
        damage()
        assert mine.locate("mine") is None
        assert not any(model.stored for model in mine.list_models())
        assert mine.pull("mine").path.read_bytes() == whole
    assert left_behind(tmp_path) == []


def test_what_a_dead_pull_left_is_swept_and_what_a_live_one_has_is_not(
    tmp_path: Path, source: LocalFileSource
) -> None:
    mine = library(tmp_path, source)
    partial = tmp_path / "models" / ".partial"
    dead, alive = partial / "mine~0", partial / "other~0"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
    with mine.store.lock("other"):
        mine.pull("mine")
        assert not dead.exists()
        assert alive.exists()
    mine.remove("mine")
    mine.pull("mine")
    assert not alive.exists()


def test_two_pulls_at_once_fetch_once(tmp_path: Path, source: LocalFileSource) -> None:
    mine = library(tmp_path, source)
    fetched: list[str] = []
    results: list[Path] = []

    def pull() -> None:
        results.append(mine.pull("mine", lambda *_: fetched.append("")).path)

    with mine.store.lock("mine"):
        threads = [threading.Thread(target=pull) for _ in range(4)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    assert len(set(results)) == 1
    assert len(fetched) == 1, "the file has one chunk"


def test_show_tells_what_the_file_says(tmp_path: Path, source: LocalFileSource, tiny_path: Path) -> None:
    mine = library(tmp_path, source)
    before = mine.show("mine")
    assert (before.file, before.sources, before.pulled_at) == (None, (source.label,), None)
    mine.pull("mine")
    after = mine.show("mine")
    assert after.file is not None
    assert after.sha256 is not None
    assert (after.licence, after.sha256) == ("MIT", source.sha256)
    by_path = mine.show(str(tiny_path))
    assert by_path.file is not None
    assert by_path.name == "tiny-model"
    assert by_path.file.config == after.file.config
    assert by_path.file.size_bytes == after.file.size_bytes == tiny_path.stat().st_size
    assert by_path.file.n_parameters == after.file.n_parameters > 0
    assert after.file.digest == after.sha256[:32], "what the pull has checked"


def test_models_are_listed_stored_ones_first(tmp_path: Path, source: LocalFileSource) -> None:
    mine = ModelLibrary(tmp_path / "models", {name: entry(source, name=name) for name in ("a", "b")})
    assert [(model.name, model.stored) for model in mine.list_models()] == [("a", False), ("b", False)]
    mine.pull("b")
    assert [(model.name, model.stored) for model in mine.list_models()] == [("b", True), ("a", False)]
    forgotten = ModelLibrary(tmp_path / "models", {})
    assert [(model.name, model.licence) for model in forgotten.list_models()] == [("b", "MIT")]


def test_remove_takes_the_folder_and_an_open_file_stays_readable(
    tmp_path: Path, source: LocalFileSource
) -> None:
    mine = library(tmp_path, source)
    stored = mine.pull("mine")
    with stored.path.open("rb") as file:
        mine.remove("MINE")
        assert not stored.path.exists()
        assert len(file.read()) == stored.size_bytes
    assert left_behind(tmp_path) == []
    with pytest.raises(UnknownModelError):
        mine.remove("mine")


@contextmanager
def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage("/")._replace(free=free)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        yield


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    tmp_path: Path, source: LocalFileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = library(tmp_path, source)
    touched: list[int] = []
    with free_bytes(monkeypatch, 1000), pytest.raises(SourceError, match=r"needs .* MiB of free disk space"):
        mine.pull("mine", lambda done, _: touched.append(done))
    assert touched == []
    assert left_behind(tmp_path) == []


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path, source: LocalFileSource) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SourceError, match="Cannot write the model store"):
        library(tmp_path, source).pull("mine")


def test_a_full_disk_in_mid_copy_is_told_and_swept(
    tmp_path: Path, source: LocalFileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    mine = library(tmp_path, source)
    with pytest.raises(StokerError, match="free disk space"):
        mine.pull("mine")
    monkeypatch.undo()
    assert mine.locate("mine") is None
    mine.pull("mine")
    assert left_behind(tmp_path) == []


def test_a_model_is_removed_with_its_packs(tmp_path: Path, source: LocalFileSource) -> None:
    packs = PackFolder(tmp_path / "packs", 1 << 30)
    mine = ModelLibrary(tmp_path / "models", {"mine": entry(source)}, packs=packs)
    digest = mine.pull("mine").sha256[:DIGEST_CHARS]
    keys = [PackKey(digest, "1" * 64), PackKey(digest, "2" * 64), PackKey("0" * DIGEST_CHARS, "1" * 64)]
    with packs.writing():
        for key in keys:
            packs.write(key, [NewPart("a", "u8", memoryview(b"x"))], layout=1)
    mine.remove("mine")
    assert [path.name for path in packs.folder.glob("*.pack")] == [keys[2].file_name]
