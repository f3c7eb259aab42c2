"""docs/openai.md shows the tables that the code goes by."""

from pathlib import Path

import pytest

from stoker.api.openai import fields
from stoker.api.openai.errors import KINDS

PAGE = (Path(__file__).parents[3] / "docs" / "openai.md").read_text(encoding="utf-8")

TABLES = {
    "`POST /v1/chat/completions`": fields.CHAT_FIELDS,
    "One of `messages`": fields.MESSAGE_FIELDS,
    "One part of a message's `content`": fields.PART_FIELDS,
    "`POST /v1/completions`": fields.COMPLETION_FIELDS,
    "`stream_options`": fields.STREAM_OPTIONS_FIELDS,
}


def rows_below(heading: str) -> list[str]:
    """Return the rows of the table in a section, without its head."""
    (section,) = [part for part in PAGE.split("\n## ") if part.startswith(heading + "\n")]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("heading", TABLES)
def test_every_field_is_documented_as_it_is_treated(heading: str) -> None:
    assert rows_below(heading) == [
        f"| `{field.name}` | {field.treatment} | {field.note} |" for field in TABLES[heading]
    ]


def test_every_table_has_a_section() -> None:
    assert len([name for name in vars(fields) if name.endswith("_FIELDS")]) == len(TABLES)


def test_every_kind_of_error_is_listed() -> None:
    listed = [tuple(cell.strip(" `") for cell in row.strip("|").split(" | ")) for row in rows_below("Errors")]
    expected = [(error.__name__, str(kind.status), kind.type) for error, kind in KINDS.items()]
    assert [row[:3] for row in listed] == expected
    codes = [kind.code for kind in KINDS.values()]
    assert all(code in (None, row[3]) for row, code in zip(listed, codes, strict=True))
