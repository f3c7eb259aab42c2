"""Templates that use what chat templates use, against what `transformers` rendered."""

import json
from pathlib import Path
from typing import Any

import pytest

from stoker.core.text import ChatPrompt, Message
from stoker.testing.golden_scripts import load_script
from stoker.text import ChatTemplate

GOLDEN_DIR = Path(__file__).parent.parent.parent / "golden" / "tokenizer"
CHATS: dict[str, Any] = json.loads((GOLDEN_DIR / "golden.json").read_text())["chats"]
GOLDEN: dict[str, Any] = CHATS["templates"]
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


CORPUS = load_script(GOLDEN_DIR / "corpus.py")


def prompt(messages: list[dict[str, str]]) -> ChatPrompt:
    return ChatPrompt(tuple(Message(each["role"], each["content"]) for each in messages))


@pytest.mark.parametrize("name", GOLDEN)
def test_renders_byte_for_byte(name: str) -> None:
    template = ChatTemplate(CORPUS.TEMPLATES[name], SPECIAL)
    rendered = {
        conversation: template.render(prompt(CORPUS.CONVERSATIONS[conversation]))
        for conversation in GOLDEN[name]
    }
    assert rendered == GOLDEN[name]


def test_every_template_has_golden_conversations() -> None:
    assert set(GOLDEN) == set(CORPUS.TEMPLATES)
    assert all(len(conversations) >= 4 for conversations in GOLDEN.values())
