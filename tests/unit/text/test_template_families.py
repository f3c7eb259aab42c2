"""Templates built as each family's are, against `transformers` (see tests/golden/templates)."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChatPrompt, Message
from stoker.testing.golden_scripts import load_script
from stoker.text import ChatTemplate

GOLDEN_DIR = Path(__file__).parents[2] / "golden" / "templates"
GOLDEN: dict[str, Any] = json.loads((GOLDEN_DIR / "golden.json").read_text(encoding="utf-8"))["rendered"]


CASES = load_script(GOLDEN_DIR / "cases.py")
SOURCES: dict[str, str] = CASES.sources()


def result(
    template: ChatTemplate,
    messages: list[dict[str, str]],
    variables: dict[str, Any],
    options: dict[str, bool],
    expected: dict[str, str],
) -> dict[str, str]:
    prompt = ChatPrompt(
        tuple(Message(each["role"], each["content"]) for each in messages),
        variables=tuple(variables.items()),
        **options,
    )
    try:
        return {"text": template.render(prompt)}
    except InvalidRequestError as error:
        refusal = expected.get("refusal")
        return {"refusal": refusal if refusal is not None and refusal in str(error) else str(error)}


@pytest.mark.parametrize("name", SOURCES)
def test_every_rendering_is_that_of_transformers(name: str) -> None:
    template = ChatTemplate(
        SOURCES[name], CASES.SPECIAL_TOKENS, now=lambda: datetime.fromisoformat(CASES.NOW)
    )
    for conversation, messages in CASES.CONVERSATIONS.items():
        expected = GOLDEN[name][conversation]
        rendered = [
            [
                result(template, messages, variables, options, expected[row][column])
                for column, variables in enumerate(CASES.variables(name))
            ]
            for row, options in enumerate(CASES.OPTIONS.values())
        ]
        assert rendered == expected, conversation


def test_every_template_is_compared_and_most_renderings_are_texts() -> None:
    assert set(GOLDEN) == set(SOURCES)
    assert all(set(GOLDEN[name]) == set(CASES.CONVERSATIONS) for name in SOURCES)
    for name in SOURCES:
        results = [each for rows in GOLDEN[name].values() for row in rows for each in row]
        assert sum("text" in each for each in results) > len(results) / 2, name


@pytest.mark.parametrize("name", set(CASES.VARIABLES) - {"llama3"})
def test_variables_change_what_is_rendered(name: str) -> None:
    assert any(row[0] != row[1] for row in GOLDEN[name]["one"]) or any(
        row[0] != row[2] for row in GOLDEN[name]["one"]
    )
