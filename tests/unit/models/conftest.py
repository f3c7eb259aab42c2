"""Fixtures of the tests of models on disk."""

from pathlib import Path

import pytest

from stoker.testing.gguf_files import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's file; not to be changed."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "Tiny-Model.gguf")
