"""Templates that use what chat templates use, against what `transformers` rendered."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from stoker.core.text import Message
from stoker.text import ChatTemplate

GOLDEN_DIR = Path(__file__).parent.parent.parent / "golden" / "tokenizer"
GOLDEN: dict[str, Any] = json.loads((GOLDEN_DIR / "golden.json").read_text())["chats"]["templates"]
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def load_corpus() -> Any:
    spec = importlib.util.spec_from_file_location("golden_template_corpus", GOLDEN_DIR / "corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CORPUS = load_corpus()


@pytest.mark.parametrize("name", GOLDEN)
def test_renders_byte_for_byte(name: str) -> None:
    template = ChatTemplate(CORPUS.TEMPLATES[name], SPECIAL)
    rendered = {
        conversation: template.render(
            [Message(each["role"], each["content"]) for each in CORPUS.CONVERSATIONS[conversation]]
        )
        for conversation in GOLDEN[name]
    }
    assert rendered == GOLDEN[name]


def test_every_template_has_golden_conversations() -> None:
    assert set(GOLDEN) == set(CORPUS.TEMPLATES)
    assert all(len(conversations) >= 4 for conversations in GOLDEN.values())
