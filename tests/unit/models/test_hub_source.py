"""Models from a hub: a real HTTP server on loopback stands in for it."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError, SourceError, StokerError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.library import ModelLibrary
from stoker.models.manifest import folder_sha256, recorded_folder_sha256
from stoker.models.sources import HuggingFaceSource, Network
from stoker.models.store import ModelStore
from stoker.testing.hub_server import COMMIT, HubServer
from stoker.testing.model_folders import write_tiny_folder

REPO = "someone/Tiny-GGUF"


@pytest.fixture
def hub(tmp_path: Path, tiny_path: Path) -> Iterator[HubServer]:
    repo = tmp_path / "hub" / REPO
    repo.mkdir(parents=True)
    (repo / "tiny-Q8_0.gguf").write_bytes(tiny_path.read_bytes())
    (repo / "tiny-Q4_0.gguf").write_bytes(tiny_path.read_bytes())
    (repo / "README.md").write_text("# Tiny")
    (repo / "evil.py").write_text("raise SystemExit")
    with HubServer(tmp_path / "hub") as server:
        yield server


def network(hub: HubServer, token: str | None = None, **changes: object) -> Network:
    fields = {"first_wait_s": 0.001, "max_wait_s": 0.01, "timeout_s": 5.0, "attempts": 4, **changes}
    return Network(hub=hub.url, hub_token=token, **fields)  # type: ignore[arg-type] # checked by the class


def library(folder: Path, reached: Network) -> ModelLibrary:
    return ModelLibrary(folder / "models", {}, reached)


def left_behind(folder: Path) -> list[Path]:
    return [path for path in folder.glob("models/.partial/**/*") if path.is_file()]


@pytest.mark.parametrize("part", ["tiny-Q8_0.gguf", "Q8_0", "q8_0"])
def test_a_file_is_pulled_by_its_name_or_quantization(
    tmp_path: Path, hub: HubServer, tiny_path: Path, part: str
) -> None:
    mine = library(tmp_path, network(hub))
    seen: list[tuple[int, int | None]] = []
    name = f"hf:{REPO}:{part}"
    stored = mine.pull(name, lambda done, total: seen.append((done, total)))
    content = tiny_path.read_bytes()
    assert stored.path.read_bytes() == content
    assert stored.sha256 == sha256(content).hexdigest()
    assert stored.name == f"someone--tiny-gguf--{part.lower().removesuffix('.gguf')}"
    assert COMMIT[:12] in stored.source
    assert stored.licence == "apache-2.0"
    assert seen[-1] == (len(content), len(content))
    assert left_behind(tmp_path) == []
    n_asked = len(hub.asked)
    assert mine.ensure(name).path == stored.path
    assert mine.ensure(stored.name).path == stored.path
    assert len(hub.asked) == n_asked, "a stored model needs no network"
    details = mine.show(name)
    assert (details.name, details.licence, details.verified) == (stored.name, "apache-2.0", True)
    mine.remove(name)
    assert mine.locate(name) is None


def test_a_branch_is_asked_for_by_its_name_and_files_by_the_commit(tmp_path: Path, hub: HubServer) -> None:
    stored = library(tmp_path, network(hub)).pull(f"hf:{REPO}@refs/pr/1:Q8_0")
    paths = [asked.path for asked in hub.asked]
    assert paths[0] == f"/api/models/{REPO}/revision/refs/pr/1"
    assert paths[1] == f"/{REPO}/resolve/{COMMIT}/tiny-Q8_0.gguf"
    assert stored.name.startswith("someone--tiny-gguf--refs-pr-1--q8_0-")


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(tmp_path: Path, hub: HubServer) -> None:
    hub.faults.token = "hf_secret"  # noqa: S105 - made up
    library(tmp_path, network(hub, "hf_secret")).pull(f"hf:{REPO}:Q8_0")
    sent = [(asked.path.startswith("/cdn/"), asked.authorization) for asked in hub.asked]
    assert sent == [(False, "Bearer hf_secret"), (False, "Bearer hf_secret"), (True, None)]
    assert "hf_secret" not in repr(network(hub, "hf_secret"))


@pytest.mark.parametrize(
    ("status", "code", "token", "words"),
    [
        (401, None, None, r"no such repository or file, or it is private.*HF_TOKEN"),
        (401, None, "wrong", r"token \(HF_TOKEN\) is wrong"),
        (401, "GatedRepo", None, r"gated: accept its licence at http\S+/someone/Tiny-GGUF"),
        (403, None, "right", r"gated: accept its licence"),
        (404, None, None, r"status 404.*no such repository"),
        (404, "RevisionNotFound", None, "no such revision"),
        (418, None, None, "status 418"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_asked_again(
    tmp_path: Path, hub: HubServer, status: int, code: str | None, token: str | None, words: str
) -> None:
    hub.faults.statuses, hub.faults.error_code = [status], code
    with pytest.raises(SourceError, match=words):
        library(tmp_path, network(hub, token)).pull(f"hf:{REPO}:Q8_0")
    assert len(hub.asked) == 1
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_waited_out(tmp_path: Path, hub: HubServer, status: int) -> None:
    hub.faults.statuses = [status, status]
    hub.faults.retry_after_s = 3600  # but never longer than `max_wait_s`
    library(tmp_path, network(hub)).pull(f"hf:{REPO}:Q8_0")
    assert len(hub.asked) == 5


def test_a_failure_that_stays_is_given_up(tmp_path: Path, hub: HubServer) -> None:
    hub.faults.statuses = [429] * 100
    with pytest.raises(SourceError, match=r"status 429. Try again later"):
        library(tmp_path, network(hub)).pull(f"hf:{REPO}:Q8_0")
    assert len(hub.asked) == 4, "`attempts`"


def test_a_hub_that_is_not_there(tmp_path: Path, hub: HubServer) -> None:
    reached = network(hub)
    hub.close()
    with pytest.raises(SourceError, match=r"Fetching the repository .* failed"):
        library(tmp_path, reached).pull(f"hf:{REPO}:Q8_0")


def test_what_a_repository_does_not_decide_is_asked(tmp_path: Path, hub: HubServer) -> None:
    mine = library(tmp_path, network(hub))
    with pytest.raises(SourceError, match=r"several GGUF files.*tiny-Q4_0\.gguf, tiny-Q8_0\.gguf"):
        mine.pull(f"hf:{REPO}")
    with pytest.raises(SourceError, match=r"no GGUF file of the quantization Q5_K.*tiny-Q4_0\.gguf"):
        mine.pull(f"hf:{REPO}:Q5_K")
    with pytest.raises(SourceError, match=r"no file other\.gguf.*tiny-Q4_0\.gguf"):
        mine.pull(f"hf:{REPO}:other.gguf")
    (hub.root / REPO / "tiny-Q4_0.gguf").unlink()
    assert mine.pull(f"hf:{REPO}").name == "someone--tiny-gguf"


def test_split_files_and_pickles_are_refused_by_name(tmp_path: Path, hub: HubServer) -> None:
    mine = library(tmp_path, network(hub))
    repo = hub.root / "someone" / "other"
    repo.mkdir()
    (repo / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(SourceError, match="pickled weights only"):
        mine.pull("hf:someone/other")
    (repo / "m-Q8_0-00001-of-00002.gguf").write_bytes(b"x")
    (repo / "m-Q8_0-00002-of-00002.gguf").write_bytes(b"x")
    for part in ("Q8_0", "m-Q8_0-00001-of-00002.gguf"):
        with pytest.raises(
            SourceError, match=r"m-Q8_0-00001-of-00002\.gguf is one part of a model that is split"
        ):
            mine.pull(f"hf:someone/other:{part}")


def test_wrong_bytes_are_not_kept(tmp_path: Path, hub: HubServer) -> None:
    hub.faults.corrupt = True
    mine = library(tmp_path, network(hub))
    with pytest.raises(SourceError, match=r"has the SHA-256 .* is expected"):
        mine.pull(f"hf:{REPO}:Q8_0")
    assert mine.locate(f"hf:{REPO}:Q8_0") is None
    assert left_behind(tmp_path) == []


def test_a_replaced_file_is_refused_before_it_is_fetched(tmp_path: Path, hub: HubServer) -> None:
    source = HuggingFaceSource(repo=REPO, file="tiny-Q8_0.gguf", sha256="0" * 64)
    with pytest.raises(SourceError, match="has been replaced"):
        source.fetch(tmp_path, lambda *_: None, network(hub))
    assert hub.ranges() == []


def test_offline_asks_nobody_and_still_finds_what_is_stored(tmp_path: Path, hub: HubServer) -> None:
    offline = library(tmp_path, network(hub, offline=True))
    with pytest.raises(SourceError, match="`offline` is set"):
        offline.pull(f"hf:{REPO}:Q8_0")
    assert hub.asked == []
    stored = library(tmp_path, network(hub)).pull(f"hf:{REPO}:Q8_0")
    assert offline.ensure(f"hf:{REPO}:Q8_0").path == stored.path


@pytest.fixture
def folder_repo(hub: HubServer) -> Path:
    """A safetensors repository with files that must not be fetched."""
    repo = write_tiny_folder(hub.root / "someone" / "folder", n_shards=2, ffn_width=2048)
    for name in ("vocab.json", "adapter_config.json", "special_tokens_map.json"):
        (repo / name).write_text("{}")
    (repo / "chat_template.jinja").write_text("{{ messages }}")
    for name in ("consolidated", "adapter_model"):
        (repo / f"{name}.safetensors").write_bytes(name.encode() * 50_000)
    for name in ("modeling_x.py", "pytorch_model.bin", "training_args.bin", "README.md"):
        (repo / name).write_text("x")
    return repo


FOLDER_FILES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
    "chat_template.jinja",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}


def test_a_safetensors_folder_is_fetched_checked_and_stored(
    tmp_path: Path, hub: HubServer, folder_repo: Path
) -> None:
    store = ModelStore(tmp_path / "models")
    seen: list[tuple[int, int | None]] = []
    source = HuggingFaceSource(repo="someone/folder")
    with store.lock("folder"), store.workspace("folder", 0, source.resume_key) as workspace:
        fetched = source.fetch(workspace, lambda done, total: seen.append((done, total)), network(hub))
        assert fetched.is_folder
        assert fetched.path == workspace
        stored = store.publish("folder", fetched, source=fetched.source, licence="MIT")
    assert {path.name for path in stored.path.iterdir()} == FOLDER_FILES | {"manifest.json"}
    for name in FOLDER_FILES:
        assert (stored.path / name).read_bytes() == (folder_repo / name).read_bytes()
    size_bytes = sum((folder_repo / name).stat().st_size for name in FOLDER_FILES)
    assert seen[-1] == (size_bytes, size_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert stored.size_bytes == size_bytes
    sums = {name: sha256((folder_repo / name).read_bytes()).hexdigest() for name in FOLDER_FILES}
    assert stored.sha256 == folder_sha256(sums) == recorded_folder_sha256(stored.path)
    located = ModelLibrary(tmp_path / "models", {}).locate("folder")
    assert located is not None
    assert located.path == stored.path
    config = (stored.path / "config.json").read_text()
    (stored.path / "config.json").write_text(config.replace("silu", "SILU"))
    assert recorded_folder_sha256(stored.path) is None, "an edited file of the same size"
    (stored.path / "model-00002-of-00002.safetensors").unlink()
    assert store.find("folder") is None


def test_a_small_file_with_wrong_bytes_is_told_by_its_git_checksum(
    tmp_path: Path, hub: HubServer, folder_repo: Path
) -> None:
    assert folder_repo.is_dir()
    hub.faults.corrupt = True
    with pytest.raises(SourceError, match=r"has the git SHA-1 .* is expected"):
        HuggingFaceSource(repo="someone/folder").fetch(tmp_path / "hub", lambda *_: None, network(hub))


def test_a_folder_is_resumed_file_by_file(tmp_path: Path, hub: HubServer, folder_repo: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    source, reached = HuggingFaceSource(repo="someone/folder"), network(hub, attempts=1)
    large = (folder_repo / "model-00001-of-00002.safetensors").stat().st_size
    hub.faults.drop_after_bytes, hub.faults.n_drops = large // 2, 1
    with pytest.raises(SourceError):
        source.fetch(workspace, lambda *_: None, reached)
    first = len(hub.asked)
    source.fetch(workspace, lambda *_: None, reached)
    again = [asked.path.rpartition("/")[2] for asked in hub.asked[first:] if "/resolve/" in asked.path]
    assert "config.json" not in again, "it was whole"
    assert hub.ranges()[1] == f"bytes={large // 2}-"


def test_a_folder_is_pulled_listed_shown_and_removed(
    tmp_path: Path, hub: HubServer, folder_repo: Path
) -> None:
    mine = library(tmp_path, network(hub))
    stored = mine.pull("hf:someone/folder")
    assert stored.name == "someone--folder"
    with open_model(stored.path) as model, open_model(folder_repo) as original:
        assert model.config == original.config
        assert model.tokenizer == original.tokenizer
        assert model.digest != original.digest, "the store knows the checksums of its files"
        assert model.tensors["output_norm.weight"].data == original.tensors["output_norm.weight"].data
    (listed,) = [each for each in mine.list_models() if each.stored]
    assert (listed.name, listed.size_bytes, listed.licence) == (stored.name, stored.size_bytes, "apache-2.0")
    details = mine.show(stored.name)
    assert details.sha256 == stored.sha256
    assert details.file is not None
    assert (details.file.path, details.file.tensor_types) == (stored.path, {"F32": 20})
    n_asked = len(hub.asked)
    assert mine.ensure("hf:someone/folder").path == stored.path
    assert len(hub.asked) == n_asked, "a stored model needs no network"
    mine.remove(stored.name)
    assert mine.locate("hf:someone/folder") is None
    assert not stored.path.exists()


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path, hub: HubServer, folder_repo: Path) -> None:
    whole = (folder_repo / "model-00002-of-00002.safetensors").read_bytes()
    (folder_repo / "model-00002-of-00002.safetensors").write_bytes(whole[:-4])
    mine = library(tmp_path, network(hub))
    with pytest.raises(CorruptFileError, match="truncated"):
        mine.pull("hf:someone/folder")
    assert mine.locate("hf:someone/folder") is None
    assert left_behind(tmp_path) == []
    (folder_repo / "model-00002-of-00002.safetensors").write_bytes(whole)
    hub.faults.drop_after_bytes, hub.faults.n_drops = 100, 1000
    with pytest.raises(SourceError):
        mine.pull("hf:someone/folder")
    assert mine.locate("hf:someone/folder") is None
    hub.faults.n_drops = 0
    mine.pull("hf:someone/folder")


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("config.json", '"llama"', '"mamba"', "the model_type 'mamba'; Stoker runs llama"),
        ("tokenizer.json", '"BPE"', '"Unigram"', "a tokenizer of the type 'Unigram'; Stoker runs BPE"),
    ],
)
def test_a_folder_that_cannot_be_run_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, hub: HubServer, folder_repo: Path, file: str, old: str, new: str, words: str
) -> None:
    content = (folder_repo / file).read_text()
    assert old in content
    (folder_repo / file).write_text(content.replace(old, new))
    with pytest.raises(UnsupportedModelError, match=words):
        library(tmp_path, network(hub)).pull("hf:someone/folder")
    assert not any(asked.path.endswith(".safetensors") for asked in hub.asked)
    assert left_behind(tmp_path) == []


def test_a_folder_without_a_tokenizer_is_refused_before_anything_is_fetched(
    tmp_path: Path, hub: HubServer, folder_repo: Path
) -> None:
    (folder_repo / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"a folder of safetensors without tokenizer\.json"):
        library(tmp_path, network(hub)).pull("hf:someone/folder")
    assert len(hub.asked) == 1


def test_of_both_formats_gguf_is_taken_unless_the_folder_is_asked_for(
    tmp_path: Path, hub: HubServer, folder_repo: Path, tiny_path: Path
) -> None:
    (folder_repo / "tiny-Q8_0.gguf").write_bytes(tiny_path.read_bytes())
    mine = library(tmp_path, network(hub))
    assert mine.pull("hf:someone/folder").path.name == "tiny-Q8_0.gguf"
    assert mine.pull("hf:someone/folder:safetensors").path.is_dir()
    (folder_repo / "tiny-Q4_0.gguf").write_bytes(tiny_path.read_bytes())
    mine.remove("hf:someone/folder")
    with pytest.raises(SourceError, match=r"several GGUF files: .* or safetensors for the folder"):
        mine.pull("hf:someone/folder")
    with pytest.raises(SourceError, match="holds no folder of safetensors"):
        mine.pull(f"hf:{REPO}:safetensors")


def test_a_path_to_a_folder_with_a_model_is_located(tmp_path: Path) -> None:
    mine = ModelLibrary(tmp_path / "models", {})
    folder = tmp_path / "My-Model"
    folder.mkdir()
    with pytest.raises(StokerError, match=r"nor a folder with a config\.json"):
        mine.ensure(str(folder))
    write_tiny_folder(folder)
    located = mine.ensure(str(folder))
    assert (located.model_id, located.path) == ("my-model", folder)
    with pytest.raises(StokerError, match="is a folder, not a name"):
        mine.pull(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:one",
        "hf:a/b/c",
        "hf:../x",
        "hf:a/b:",
        "hf:a/b:c/d",
        "hf:a/b@x@y",
        "hf:a--b/c",
        "hf:a/b-:x.gguf",
        "https://[/x.gguf",
        "hf:a/b:--x",
        "https://",
        "https://h/\n",
        "hf:" + "x" * 10_000,
    ],
)
def test_a_malformed_reference_is_told_shortly(tmp_path: Path, name: str) -> None:
    mine = ModelLibrary(tmp_path / "models", {}, Network(offline=True))
    for act in (mine.pull, mine.show, mine.remove, mine.locate):
        with pytest.raises(StokerError) as told:
            act(name)
        assert len(str(told.value)) < 600
    assert not (tmp_path / "models").exists()
