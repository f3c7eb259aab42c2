"""A chat template that the settings name."""

from pathlib import Path

import pytest

from stoker.core.errors import SettingsError
from stoker.models.template_file import read_template


def test_a_template_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes("{{ 'caf\u00e9' }}\r\n".encode())
    assert read_template(path) == "{{ 'caf\u00e9' }}\r\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no file"),
        (b"\xff", "UTF-8"),
        (b"x" * (2**17 + 1), "more than 131072"),
        (b"x" * 2**21, "more than"),
    ],
)
def test_what_is_no_template_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=reason) as caught:
        read_template(path)
    assert str(path) in str(caught.value)


def test_a_path_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read.*name too long"):
        read_template(tmp_path / ("x" * 5000))
