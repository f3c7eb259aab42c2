"""Make ``golden.json``: what `transformers` renders of the templates here; must not import stoker.

Needs `transformers`, and `gguf` for the templates of model files, of which only hashes are kept::

    python tests/golden/templates/make.py SmolLM2-135M-Instruct.Q4_1.gguf

The templates here are our own: each uses the constructs of one family's published template.
"""

import argparse
import json
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

cases = import_module("cases")  # beside this script
rendering: Any = import_module("transformers.utils.chat_template_utils")


class Clock(datetime):
    """The clock that templates read."""

    @classmethod
    def now(cls, tz: Any = None) -> "Clock":
        """Return the time that the golden file was made at, as far as templates can tell."""
        return cls.fromisoformat(cases.NOW).replace(tzinfo=tz)


def render(source: str, messages: list[dict[str, str]], **how: Any) -> dict[str, str]:
    """Return the text, or in whose words the template or `transformers` refuses."""
    try:
        (text,), _ = rendering.render_jinja_template(
            conversations=[messages], chat_template=source, **cases.SPECIAL_TOKENS, **how
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        return {"refusal": str(error) if type(error).__name__ == "TemplateError" else ""}
    return {"text": text}


def rendered(source: str, variables: list[dict[str, Any]]) -> dict[str, list[list[dict[str, str]]]]:
    """Render every case: conversation, options, variables."""
    rendering.datetime = Clock
    return {
        conversation: [
            [render(source, messages, **options, **each) for each in variables]
            for options in cases.OPTIONS.values()
        ]
        for conversation, messages in cases.CONVERSATIONS.items()
    }


def template_of(path: Path) -> str:
    """Return the chat template of a GGUF file."""
    field = import_module("gguf").GGUFReader(path).fields.get("tokenizer.chat_template")
    if field is None:
        raise SystemExit(f"{path} has no chat template.")
    source: str = field.contents()
    return source


def main() -> None:
    """Write the golden file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*")
    golden: dict[str, Any] = {
        "made_by": {name: import_module(name).__version__ for name in ("transformers", "jinja2")},
        "rendered": {
            name: rendered(source, cases.variables(name)) for name, source in cases.sources().items()
        },
        "files": {
            path.name: cases.digest(rendered(template_of(path), [{}])) for path in parser.parse_args().models
        },
    }
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
    (cases.HERE / "golden.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
