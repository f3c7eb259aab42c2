"""Places for engines' sockets."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        yield Path(folder) / "engine.sock"


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let supervisors make their folders where the test sees what they leave."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
