"""A place for an engine's socket."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        yield Path(folder) / "engine.sock"
