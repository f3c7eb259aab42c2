"""docs/architecture.md names files, and names in them, that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "adr").glob("*.md"))]

PLACE = re.compile(r"`((?:src/stoker|native|tests|bench|docs)/[^`\s:]*)(?::([\w.:]+))?`")
"""A path in backticks, and after a colon the qualified name of something in that file."""


def places(page: Path) -> list[tuple[str, str]]:
    return PLACE.findall(page.read_text(encoding="utf-8"))


def defines(file: Path, name: str) -> bool:
    """Whether a Python or C++ file defines each part of a qualified name, outer parts first."""
    text = file.read_text(encoding="utf-8")
    parts = re.split(r"::|\.", name)
    if file.suffix == ".py":
        patterns = [rf"^\s*(?:async def|def|class) {part}\b|^{part}\b.* = " for part in parts]
    elif len(parts) > 1:
        patterns = [rf"\b{re.escape(name)}\("]
    else:
        patterns = [rf"^(?:class|struct) {name}\b|^[\w:&*<> ]+\b{name}\("]
    return all(re.search(pattern, text, re.MULTILINE) for pattern in patterns)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_exist(page: Path) -> None:
    assert [path for path, _ in places(page) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_are_defined_where_the_page_says(page: Path) -> None:
    wrong = [f"{path}:{name}" for path, name in places(page) if name and not defines(ROOT / path, name)]
    assert wrong == []


def test_the_steps_of_a_requests_life_are_numbered_and_placed() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    life = text.split("\n## The life of a request\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", life, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert all(PLACE.search(where) for _, where in steps)


def test_the_check_can_fail() -> None:
    file = ROOT / "src" / "stoker" / "api" / "edge.py"
    assert defines(file, "Edge.__call__")
    assert not defines(file, "Edge.nothing")
    assert not defines(ROOT / "native" / "src" / "forward.cpp", "Model::nothing")
