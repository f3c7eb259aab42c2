"""docs/openai.md, and the tables of fields that it leads to, agree with the code."""

from pathlib import Path

import pytest

from stoker.api.openai import fields
from stoker.api.openai.errors import KINDS

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "openai.md").read_text(encoding="utf-8")
TABLES = (DOCS / "openai-api.md").read_text(encoding="utf-8")


def rows_below(page: str, heading: str) -> list[str]:
    """Return the rows of the table in a section, without its head."""
    (section,) = [part for part in page.split("\n## ") if part.startswith(heading + "\n")]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("Fields of `POST /v1/chat/completions`", fields.CHAT_FIELDS),
        ("Fields of `POST /v1/completions`", fields.COMPLETION_FIELDS),
        ("Fields of `response_format`", fields.RESPONSE_FORMAT_FIELDS),
        ("Fields of `response_format.json_schema`", fields.JSON_SCHEMA_FIELDS),
        ("Fields of `structured_outputs`", fields.STRUCTURED_OUTPUTS_FIELDS),
        ("Fields of `early_exit`", fields.EARLY_EXIT_FIELDS),
        ("Fields of `POST /v1/classify` and `POST /classify`", fields.CLASSIFY_FIELDS),
        ("Fields of `stream_options`", fields.STREAM_OPTIONS_FIELDS),
        ("Fields of one of `messages`", fields.MESSAGE_FIELDS),
        ("Fields of one part of a message's `content`", fields.PART_FIELDS),
        ("Fields of `POST /tokenize`", fields.TOKENIZE_FIELDS),
        ("Fields of `POST /detokenize`", fields.DETOKENIZE_FIELDS),
    ],
)
def test_every_field_is_documented_as_it_is_treated(heading: str, table: tuple[fields.Field, ...]) -> None:
    assert rows_below(TABLES, heading) == [
        f"| `{field.name}` | {field.treatment} | {field.note} |" for field in table
    ]


def test_the_page_leads_to_the_tables() -> None:
    assert "(openai-api.md)" in PAGE


def test_every_kind_of_error_is_listed() -> None:
    listed = [
        tuple(cell.strip(" `") for cell in row.strip("|").split(" | ")) for row in rows_below(PAGE, "Errors")
    ]
    expected = [(error.__name__, str(kind.status), kind.type) for error, kind in KINDS.items()]
    assert [row[:3] for row in listed] == expected
    codes = [kind.code for kind in KINDS.values()]
    assert all(code in (None, row[3]) for row, code in zip(listed, codes, strict=True))
