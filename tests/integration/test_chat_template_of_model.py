"""The default model's own chat template against `transformers` (see tests/golden/templates)."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChatPrompt, Message
from stoker.models import open_model
from stoker.testing.golden_scripts import load_script
from stoker.text import ChatTemplate

pytestmark = pytest.mark.integration

GOLDEN_DIR = Path(__file__).parents[1] / "golden" / "templates"
FILES: dict[str, str] = json.loads((GOLDEN_DIR / "golden.json").read_text(encoding="utf-8"))["files"]


def test_every_case_is_rendered_as_transformers_does(default_model_path: Path) -> None:
    cases = load_script(GOLDEN_DIR / "cases.py")
    with open_model(default_model_path) as model:
        source = model.tokenizer.chat_template
    assert source is not None
    template = ChatTemplate(source, cases.SPECIAL_TOKENS, now=lambda: datetime.fromisoformat(cases.NOW))

    def render(messages: list[dict[str, str]], options: dict[str, Any]) -> dict[str, str]:
        prompt = ChatPrompt(tuple(Message(each["role"], each["content"]) for each in messages), **options)
        try:
            return {"text": template.render(prompt)}
        except InvalidRequestError as error:
            return {"refusal": str(error)}

    rendered = {
        conversation: [[render(messages, options)] for options in cases.OPTIONS.values()]
        for conversation, messages in cases.CONVERSATIONS.items()
    }
    assert cases.digest(rendered) == FILES[default_model_path.name]
