"""The benchmarks' modules are found beside their scripts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(autouse=True, scope="session")
def _bench_on_path() -> Iterator[None]:
    folders = [str(BENCH), str(BENCH / "contenders")]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)
