"""What a start imports: half of its time goes there, so what is not needed for it must not creep in."""

import subprocess
import sys

import pytest

MODULES = "import sys, {}; print(*sys.modules)"


def imported(module: str) -> set[str]:
    command = [sys.executable, "-c", MODULES.format(module)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted", "budget"),
    [
        # The engine process, up to its configuration.
        (
            "stoker.worker.native",
            {"structlog", "rich", "asyncio", "importlib.metadata", "pydantic", "jinja2", "tokenizers"}
            | {"stoker.api", "stoker.config", "stoker.text", "stoker.observe.logs"},
            360,
        ),
        # The gateway, up to the start of its engine.
        (
            "stoker.cli.serve",
            {"numpy", "jinja2", "tokenizers", "rich.progress", "stoker._native", "stoker.engine"}
            | {"stoker.scheduler", "stoker.text", "stoker.testing"},
            720,
        ),
    ],
)
def test_a_start_imports_only_what_it_needs(module: str, unwanted: set[str], budget: int) -> None:
    found = imported(module)
    assert module in found
    assert not unwanted & found
    assert len(found) <= budget, "more modules than a start has time for; import what is new when it is used"
