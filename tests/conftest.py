"""Fixtures that need a model, a server or a file system."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from stoker.models.catalogue import load_catalogue
from stoker.models.library import ModelLibrary
from stoker.testing.server_process import ServerProcess, seed_model_store

DEFAULT_MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model's file, fetched once and kept between test runs."""
    cache = Path(os.environ.get("STOKER_TEST_CACHE", "~/.cache/stoker-tests")).expanduser()
    library = ModelLibrary(cache / "models", load_catalogue())
    return library.ensure(DEFAULT_MODEL).path


@pytest.fixture
def home(tmp_path: Path, default_model_path: Path) -> Path:
    """A fresh home folder whose store has the default model."""
    seed_model_store(tmp_path, default_model_path)
    return tmp_path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, default_model_path: Path) -> Iterator[ServerProcess]:
    """A server with default settings that the tests share; it must survive all of them."""
    home = tmp_path_factory.mktemp("server")
    seed_model_store(home, default_model_path)
    with ServerProcess(home) as process:
        process.wait_ready()
        yield process
        assert process.process.poll() is None, process.stderr
        assert process.stop() == 0, process.stderr


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    """The official client, talking to `server`; it does not retry."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as openai_client:
        yield openai_client


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        unmount = ["umount", str(folder)]
        subprocess.run(unmount, check=True)
