"""Models from addresses: downloads that break off, resume, and are not what they should be."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from stoker.core.errors import SourceError
from stoker.models.catalogue import CatalogueEntry
from stoker.models.library import ModelLibrary
from stoker.models.sources import Network, UrlSource
from stoker.testing.hub_server import HubServer

FAST = Network(first_wait_s=0.001, max_wait_s=0.01, timeout_s=5.0, attempts=3)
SIZE_BYTES = 3_000_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "big.gguf").write_bytes(bytes(range(250)) * (SIZE_BYTES // 250))
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def content(hub: HubServer) -> bytes:
    return (hub.root / "big.gguf").read_bytes()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def source(hub: HubServer, content: bytes | None = None) -> UrlSource:
    digest = None if content is None else sha256(content).hexdigest()
    return UrlSource(url=f"{hub.cdn_url}/big.gguf", sha256=digest)


def fetch(source: UrlSource, workspace: Path, network: Network = FAST) -> bytes:
    (file,) = source.fetch(workspace, lambda *_: None, network).files
    whole = file.path.read_bytes()
    assert file.sha256 == sha256(whole).hexdigest()
    assert [path.name for path in workspace.iterdir()] == [file.path.name], "no notes, no parts"
    return whole


def break_off(source: UrlSource, workspace: Path, hub: HubServer, after_bytes: int) -> None:
    """Leave the first bytes of a download in the workspace."""
    hub.faults.drop_after_bytes, hub.faults.n_drops = after_bytes, 1
    with pytest.raises(SourceError, match=r"ended after|failed"):
        source.fetch(workspace, lambda *_: None, Network(attempts=1))
    assert (workspace / "big.gguf.part").stat().st_size == after_bytes
    hub.asked.clear()


@pytest.mark.parametrize("checked", [False, True])
def test_a_connection_that_breaks_is_resumed_at_once(
    hub: HubServer, content: bytes, workspace: Path, checked: bool
) -> None:
    hub.faults.drop_after_bytes, hub.faults.n_drops = 700_000, 2
    assert fetch(source(hub, content if checked else None), workspace) == content
    assert hub.ranges() == [None, "bytes=700000-", "bytes=1400000-"]


def test_progress_that_goes_on_is_never_given_up_and_none_is(
    hub: HubServer, content: bytes, workspace: Path
) -> None:
    hub.faults.drop_after_bytes, hub.faults.n_drops = 600_000, 4
    assert fetch(source(hub, content), workspace) == content, "every second try gets a MiB further"
    hub.faults.drop_after_bytes, hub.faults.n_drops = 10, 100
    (workspace / "big.gguf").unlink()
    hub.asked.clear()
    with pytest.raises(SourceError):
        fetch(source(hub, content), workspace)
    assert len(hub.asked) == 3, "`attempts`"


@pytest.mark.parametrize("checked", [False, True])
def test_a_later_try_goes_on_where_the_earlier_one_ended(
    hub: HubServer, content: bytes, workspace: Path, checked: bool
) -> None:
    wanted = source(hub, content if checked else None)
    break_off(wanted, workspace, hub, 1_234_567)
    assert fetch(wanted, workspace) == content
    assert hub.ranges() == ["bytes=1234567-"]


def test_a_part_that_became_whole_is_not_asked_for_again(
    hub: HubServer, content: bytes, workspace: Path
) -> None:
    wanted = source(hub, content)
    break_off(wanted, workspace, hub, 1_000_000)
    (workspace / "big.gguf.part").write_bytes(content)
    assert fetch(wanted, workspace) == content
    assert hub.asked == []


def test_a_file_that_has_changed_meanwhile_is_begun_anew(
    hub: HubServer, content: bytes, workspace: Path
) -> None:
    break_off(source(hub), workspace, hub, 1_000_000)
    other = bytes(reversed(content))
    (hub.root / "big.gguf").write_bytes(other)
    assert fetch(source(hub), workspace) == other
    assert hub.ranges() == ["bytes=1000000-"], "If-Range did not hold, so all of it came"


def test_a_server_without_ranges_is_no_obstacle(hub: HubServer, content: bytes, workspace: Path) -> None:
    break_off(source(hub, content), workspace, hub, 1_000_000)
    hub.faults.ignore_range = True
    assert fetch(source(hub, content), workspace) == content


def test_without_checksum_or_strong_etag_nothing_is_built_upon(
    hub: HubServer, content: bytes, workspace: Path
) -> None:
    hub.faults.etag = 'W/"1"'
    break_off(source(hub), workspace, hub, 1_000_000)
    assert fetch(source(hub), workspace) == content
    assert hub.ranges() == [None]


@pytest.mark.parametrize("damage", ["bytes", "too long", "note", "other file"])
def test_a_damaged_part_is_found_out(hub: HubServer, content: bytes, workspace: Path, damage: str) -> None:
    wanted = source(hub, content)
    break_off(wanted, workspace, hub, 1_000_000)
    part, note = workspace / "big.gguf.part", workspace / "big.gguf.part.json"
    if damage == "bytes":
        part.write_bytes(b"x" * 1_000_000)
    elif damage == "too long":
        part.write_bytes(b"x" * (SIZE_BYTES + 1))
    elif damage == "note":
        note.write_text("{")
    else:
        note.write_bytes(note.read_bytes().replace(b"big.gguf", b"bad.gguf"))
    assert fetch(wanted, workspace) == content


def test_a_wrong_checksum_is_told_and_nothing_is_kept(
    hub: HubServer, content: bytes, workspace: Path
) -> None:
    hub.faults.corrupt = True
    with pytest.raises(SourceError, match=r"SHA-256 [0-9a-f]{64}, but [0-9a-f]{64} is expected"):
        fetch(source(hub, content), workspace)
    assert list(workspace.iterdir()) == []


def test_a_wrong_size_is_told_before_anything_is_fetched(hub: HubServer, workspace: Path) -> None:
    wanted = UrlSource(url=f"{hub.cdn_url}/big.gguf", sha256="0" * 64, size_bytes=SIZE_BYTES + 1)
    with pytest.raises(SourceError, match=f"has {SIZE_BYTES} bytes, but {SIZE_BYTES + 1} are expected"):
        fetch(wanted, workspace)
    assert list(workspace.iterdir()) == []


def test_what_is_no_file_is_told(hub: HubServer, workspace: Path) -> None:
    hub.faults.html = True
    with pytest.raises(SourceError, match="is a web page, not a file"):
        fetch(source(hub), workspace)
    hub.faults.html, hub.faults.no_length = False, True
    with pytest.raises(SourceError, match="does not say how large"):
        fetch(source(hub), workspace)
    with pytest.raises(SourceError, match=r"must end in \.gguf"):
        fetch(UrlSource(url=f"{hub.url}/index.html"), workspace)
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "status 404. Check the address"), (401, "asks for credentials"), (403, "asks for credentials")],
)
def test_a_refusal_is_told_without_another_try(
    hub: HubServer, workspace: Path, status: int, words: str
) -> None:
    hub.faults.statuses = [status]
    with pytest.raises(SourceError, match=words):
        fetch(source(hub), workspace)
    assert len(hub.asked) == 1


def test_http_is_for_this_machine_unless_it_is_allowed(hub: HubServer, workspace: Path) -> None:
    elsewhere = UrlSource(url="http://models.invalid/big.gguf")
    with pytest.raises(SourceError, match=r"is not encrypted.*allow_http"):
        fetch(elsewhere, workspace)
    with pytest.raises(SourceError, match="failed"):
        fetch(elsewhere, workspace, Network(allow_http=True, attempts=1))
    hub.faults.redirect_to = "http://models.invalid/big.gguf"
    (hub.root / "a" / "b").mkdir(parents=True)
    (hub.root / "a" / "b" / "big.gguf").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"http://models\.invalid/big\.gguf is not encrypted"):
        fetch(UrlSource(url=f"{hub.url}/a/b/resolve/main/big.gguf"), workspace)


@pytest.mark.parametrize("location", ["http://[", "//", "", "\xb2"])
def test_a_redirect_to_nowhere_is_told(hub: HubServer, workspace: Path, location: str) -> None:
    (hub.root / "a" / "b").mkdir(parents=True)
    (hub.root / "a" / "b" / "big.gguf").write_bytes(b"x")
    hub.faults.redirect_to = location
    with pytest.raises(SourceError, match=r"no usable address|redirected more than|cannot be had"):
        fetch(UrlSource(url=f"{hub.url}/a/b/resolve/main/big.gguf"), workspace)


def test_a_refusal_keeps_what_is_there_already(hub: HubServer, content: bytes, workspace: Path) -> None:
    wanted = source(hub, content)
    break_off(wanted, workspace, hub, 1_000_000)
    hub.faults.statuses = [404]
    with pytest.raises(SourceError, match="status 404"):
        fetch(wanted, workspace)
    with pytest.raises(SourceError, match="offline"):
        fetch(wanted, workspace, Network(offline=True))
    assert fetch(wanted, workspace) == content
    assert hub.ranges()[-1] == "bytes=1000000-"


def test_redirects_are_bounded(hub: HubServer, workspace: Path) -> None:
    (hub.root / "a" / "b").mkdir(parents=True)
    (hub.root / "a" / "b" / "big.gguf").write_bytes(b"x")
    url = f"{hub.url}/a/b/resolve/main/big.gguf"
    hub.faults.redirect_to = url
    with pytest.raises(SourceError, match="redirected more than 5 times"):
        fetch(UrlSource(url=url), workspace)
    assert len(hub.asked) == 6


def test_offline_is_refused(hub: HubServer, workspace: Path) -> None:
    with pytest.raises(SourceError, match="`offline` is set"):
        fetch(source(hub), workspace, Network(offline=True))
    assert hub.asked == []


def test_an_address_is_pulled_by_name_and_an_interrupted_pull_goes_on(
    tmp_path: Path, hub: HubServer, tiny_path: Path
) -> None:
    content = tiny_path.read_bytes()
    (hub.root / "Tiny.gguf").write_bytes(content)
    name = f"{hub.cdn_url}/Tiny.gguf"
    mine = ModelLibrary(tmp_path / "models", {}, FAST)
    half = len(content) // 2

    def interrupt(done_bytes: int, _: int | None) -> None:
        if done_bytes >= half:
            raise KeyboardInterrupt

    hub.faults.drop_after_bytes, hub.faults.n_drops = half, 1
    with pytest.raises(KeyboardInterrupt):
        mine.pull(name, interrupt)
    assert mine.locate(name) is None
    assert mine.list_models() == []
    stored = mine.pull(name)
    assert stored.path.read_bytes() == content
    assert stored.name.startswith("tiny-")
    assert stored.licence == "not stated"
    assert hub.ranges()[-1] == f"bytes={half}-"
    assert list(tmp_path.glob("models/.partial/*")) == []
    assert mine.ensure(stored.name).path == mine.ensure(name).path == stored.path


def test_what_another_source_left_is_swept_when_the_model_is_there(
    tmp_path: Path, hub: HubServer, tiny_path: Path
) -> None:
    content = tiny_path.read_bytes()
    for name in ("one.gguf", "two.gguf"):
        (hub.root / name).write_bytes(content)
    sources = tuple(
        UrlSource(url=f"{hub.cdn_url}/{name}", sha256=sha256(content).hexdigest())
        for name in ("one.gguf", "two.gguf")
    )
    entry = CatalogueEntry(name="mine", description="", licence="MIT", context_length=None, sources=sources)
    mine = ModelLibrary(tmp_path / "models", {"mine": entry}, Network(attempts=1))
    hub.faults.drop_after_bytes, hub.faults.n_drops = 100, 2
    with pytest.raises(SourceError, match="None of the 2 sources"):
        mine.pull("mine")
    assert len(list(tmp_path.glob("models/.partial/mine~resumable-*"))) == 2
    mine.pull("mine")
    assert list(tmp_path.glob("models/.partial/*")) == []
