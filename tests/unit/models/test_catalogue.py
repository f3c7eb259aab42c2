"""Catalogue files: what is taken, and what a wrong one is told."""

from pathlib import Path

import pytest

from stoker.config import Settings
from stoker.core.errors import SettingsError
from stoker.models.catalogue import MAX_CATALOGUE_BYTES, load_catalogue
from stoker.models.sources import LocalFileSource, PackageIndexSource

MINE = """
[models.mine]
description = "Mine"
licence = "MIT"
sources = [{ path = "weights/mine.gguf" }]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "catalogue.toml"
    path.write_text(text)
    return path


def test_the_built_in_catalogue_has_the_default_model() -> None:
    entry = load_catalogue()[Settings().model]
    (source,) = entry.sources
    assert isinstance(source, PackageIndexSource)
    assert source.size_bytes < source.peak_bytes
    assert entry.licence
    assert entry.context_length


def test_only_entries_that_pin_their_contents_count_as_verified() -> None:
    for entry in load_catalogue().values():
        pinned = all(getattr(source, "sha256", None) for source in entry.sources)
        assert entry.verified == pinned, entry.name


def test_a_users_file_adds_to_it_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    catalogue = load_catalogue([tmp_path / "absent.toml", write(tmp_path, MINE)])
    assert Settings().model in catalogue
    entry = catalogue["mine"]
    assert (entry.name, entry.description, entry.licence, entry.context_length) == (
        "mine",
        "Mine",
        "MIT",
        None,
    )
    assert entry.sources == (LocalFileSource(path=str(tmp_path / "weights" / "mine.gguf")),)


def test_a_later_file_replaces_an_entry(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    files = [write(tmp_path, MINE), write(other, MINE.replace("MIT", "BSD"))]
    assert load_catalogue(files)["mine"].licence == "BSD"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = 1", r"object.*\$\.models"),
        ("", "models"),
        ("[models", "not valid TOML"),
        ("[other]", "other"),
        (MINE.replace("licence", "license"), "license"),
        (MINE.replace("models.mine", 'models."../mine"'), "pattern|match"),
        (MINE.replace("models.mine", "models.Mine"), "pattern|match"),
        (MINE.replace('[{ path = "weights/mine.gguf" }]', "[]"), "sources"),
        (MINE.replace("path =", "file ="), "one of `package`, `repo`, `url`, `path`"),
        (MINE.replace("{ path", '{ package = "p", path'), "one of `package`, `repo`, `url`, `path`"),
        (MINE.replace('path = "weights/mine.gguf"', 'url = "https://host/mine.gguf"'), "needs `sha256`"),
        (MINE.replace('path = "weights/mine.gguf"', 'url = "ftp://host/mine.gguf"'), r"url.*sources\[0\]"),
        (MINE.replace('path = "weights/mine.gguf"', 'repo = "only-a-name"'), r"repo.*sources\[0\]"),
        (MINE.replace('path = "weights/mine.gguf"', 'repo = "../x"'), r"repo.*sources\[0\]"),
        (MINE.replace('path = "weights/mine.gguf"', 'repo = "a/b", file = "c.bin"'), r"file.*sources\[0\]"),
        (
            MINE.replace(
                'path = "weights/mine.gguf"', 'repo = "a/b", file = "c.gguf", quantization = "Q8_0"'
            ),
            "not both",
        ),
        (
            MINE.replace('path = "weights/mine.gguf"', f'repo = "a/b", sha256 = "{"0" * 64}"'),
            "`sha256` needs `file`",
        ),
        (MINE + "sampling = { temperature = 3 }", "temperature"),
        (MINE + "sampling = { heat = 1 }", "heat"),
        (MINE.replace("mine.gguf", "mine.bin"), r"sources\[0\]"),
        (MINE.replace("path = ", 'sha256 = "12", path = '), r"sha256.*sources\[0\]"),
        (MINE.replace('path = "weights/mine.gguf"', 'package = "--index-url=x"'), r"package.*sources\[0\]"),
        (MINE + "context_length = 0", "context_length"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply|not valid TOML"),
        ("#" * (MAX_CATALOGUE_BYTES + 1), "more than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_told_by_its_path_and_field(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError, match=words) as wrong:
        load_catalogue([path])
    assert str(path) in str(wrong.value)


def test_a_file_that_is_no_text_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_catalogue([path])
    with pytest.raises(SettingsError, match="Cannot read the catalogue"):
        load_catalogue([tmp_path])
