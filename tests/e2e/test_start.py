"""What keeps a server from starting is one line on standard error, before any work that is in vain."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from stoker.testing.server_process import clean_environment

pytestmark = pytest.mark.e2e


def serve(
    home: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `stoker serve` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "stoker", "serve", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment(home, environment),
        timeout=60,
        check=False,
    )


def one_line(ended: subprocess.CompletedProcess[str]) -> str:
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("stoker: ")
    assert ended.stdout == ""
    return lines[0]


def test_a_port_in_use_is_found_before_the_model_is_looked_at(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = serve(tmp_path, "no-such-model", "--port", str(port))
    assert ended.returncode == 2
    line = one_line(ended)
    assert str(port) in line
    assert "in use" in line


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    ended = serve(tmp_path, "--host", "192.0.2.1", environment={"STOKER_API_KEY": "k"})
    assert ended.returncode == 2
    assert "192.0.2.1" in one_line(ended)


def test_an_unknown_model_names_close_ones(tmp_path: Path) -> None:
    ended = serve(tmp_path, "smollm2-135m-instuct", "--port", "0")
    assert ended.returncode == 1
    assert "smollm2-135m-instruct" in one_line(ended)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.5, 0.999])
def test_a_truncated_model_file(tmp_path: Path, default_model_path: Path, share: float) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copyfile(default_model_path, path)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    ended = serve(tmp_path, str(path), "--port", "0")
    assert ended.returncode == 1
    assert "cut.gguf" in one_line(ended)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(bytes(range(256)) * 1000)
    ended = serve(tmp_path, str(path), "--port", "0")
    assert ended.returncode == 1
    assert "noise.gguf" in one_line(ended)


@pytest.mark.parametrize("size", ["1KiB", "500TiB"])
def test_a_kv_cache_that_does_not_fit(home: Path, size: str) -> None:
    ended = serve(home, "--port", "0", "--kv-memory", size)
    assert ended.returncode == 1
    assert "memory" in one_line(ended).lower()


def test_a_context_beyond_the_models(home: Path) -> None:
    ended = serve(home, "--port", "0", "--context-length", "1000000")
    assert ended.returncode in {1, 2}
    assert "8192" in one_line(ended).replace(",", "")


def test_an_open_address_needs_a_key(tmp_path: Path) -> None:
    ended = serve(tmp_path, "--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert ended.returncode == 2
    assert "STOKER_API_KEY" in one_line(ended)


def test_a_misspelt_variable(tmp_path: Path) -> None:
    ended = serve(tmp_path, environment={"STOKER_PROT": "1"})
    assert ended.returncode == 2
    assert "STOKER_PORT" in one_line(ended)
