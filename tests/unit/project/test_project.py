"""What README, docs and the tree promise of each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from stoker import __version__
from stoker.cli import app
from stoker.config import Settings

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_pages_are_up_to_date() -> None:
    ended = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_every_setting_and_every_command_has_a_section() -> None:
    settings_page, cli_page = ((ROOT / "docs" / name).read_text() for name in ("settings.md", "cli.md"))
    assert set(re.findall(r"^### (\w+)$", settings_page, re.MULTILINE)) == set(Settings.model_fields)
    commands = {name for name in app if not name.startswith("-")}
    assert {"serve", "run"} < commands
    assert set(re.findall(r"^## stoker (\w+)$", cli_page, re.MULTILINE)) == commands


def test_readme_has_the_two_commands_and_the_example() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert "pip install . && stoker serve\n" in blocks
    assert "pip install '.[test]' && pytest\n" in blocks
    example = (ROOT / "examples" / "chat.py").read_text(encoding="utf-8")
    assert any(block.strip() and example.endswith(block) for block in blocks if "OpenAI" in block)


@pytest.mark.parametrize(
    "page", sorted(p.relative_to(ROOT) for p in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_every_part_is_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = [
        path.name
        for path in (ROOT / "src" / "stoker").iterdir()
        if path.is_dir() and (path / "__init__.py").exists()
    ]
    assert [part for part in parts if f"`{part}" not in page] == []


def test_files_named_in_the_architecture_page_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|toml|cpp|h|inl|md))`", page)
    assert named
    missing = [
        name for name in named if not ((ROOT / "src" / "stoker" / name).exists() or (ROOT / name).exists())
    ]
    assert missing == []


def test_layers_cover_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]
    listed = set(re.findall(r"\w+", " ".join(layers["layers"]))) | set(layers["exhaustive_ignores"])
    folder = ROOT / "src" / "stoker"
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert packages <= listed


def test_decisions_are_numbered_and_complete() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        headings = re.findall(r"^## (\w+)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"], record.name


def test_ci_is_executable_and_ends_with_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").rstrip().endswith("\npytest")


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
