"""What keeps a server from starting is one line on standard error, before any work that is in vain."""

import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.testing.gguf_files import TinyLlama, encode_gguf
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


def write_huge_model(path: Path, *, n_layers: int, ffn_width: int) -> int:
    """Write a model whose feed-forward tensors are one hole in the file; return the hole's bytes."""
    model = TinyLlama(n_layers=1, width=32, n_heads=1, ffn_width=32, dtype="F32")
    stored, holes = [], []
    for tensor in model.tensors():
        n_copies = n_layers if tensor.name.startswith("blk.0.") else 1
        copies = [
            replace(tensor, name=tensor.name.replace("blk.0.", f"blk.{layer}.")) for layer in range(n_copies)
        ]
        if tensor.shape == (32, 32) and "ffn" in tensor.name:
            shape = (32, ffn_width) if "down" in tensor.name else (ffn_width, 32)
            holes += [replace(copy, shape=shape, data=b"") for copy in copies]
        else:
            stored += copies
    sizes = {"llama.block_count": n_layers, "llama.feed_forward_length": ffn_width}
    content = bytearray(encode_gguf(model.metadata() | sizes, [*stored, *holes]))
    size_bytes = ffn_width * 32 * 4
    for index, tensor in enumerate(holes):
        at = content.index(tensor.name.encode()) + len(tensor.name) + 4 + 2 * 8 + 4  # its offset in the data
        (offset,) = struct.unpack_from("<Q", content, at)
        struct.pack_into("<Q", content, at, offset + index * size_bytes)
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + len(holes) * size_bytes)
    return len(holes) * size_bytes


def test_a_model_that_does_not_fit_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    size_bytes = write_huge_model(path, n_layers=1024, ffn_width=2**20)
    ended = serve(tmp_path, str(path), "--port", "0")
    assert ended.returncode == 1
    line = one_line(ended)
    assert f"weights need {size_bytes / 2**30:.0f}." in line
    assert "free memory" in line


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
