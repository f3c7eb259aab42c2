"""Compare Stoker's renderings of any chat templates with those of `transformers`; needs both.

    python tests/golden/templates/compare.py model.gguf folder/chat_template.jinja ...

Says of each file whether every case is equal, or which are not. This is how the published templates of
the catalogue's families are compared that cannot be kept here.
"""

import argparse
import sys
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from stoker.core.errors import StokerError
from stoker.core.text import ChatPrompt, Message
from stoker.text import ChatTemplate

cases = import_module("cases")  # beside this script
make = import_module("make")

_VARIABLES: list[dict[str, Any]] = [
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"reasoning_effort": "high"},
    {"date_string": "1 Jan 2020"},
]


def ours(template: ChatTemplate, messages: list[dict[str, str]], **how: Any) -> str | None:
    """Return the text, or None if the template refuses."""
    options = {name: how.pop(name) for name in cases.OPTIONS["continued"] if name in how}
    known = tuple((name, value) for name, value in how.items() if name in template.variables)
    turns = tuple(Message(each["role"], each["content"]) for each in messages)
    try:
        return template.render(ChatPrompt(turns, variables=known, **options))
    except StokerError:
        return None


def differences(source: str) -> list[str]:
    """Return the cases in which the two differ."""
    template = ChatTemplate(source, cases.SPECIAL_TOKENS, now=lambda: datetime.fromisoformat(cases.NOW))
    theirs = make.rendered(source, _VARIABLES)
    return [
        f"{conversation!r}, {option}, {variables}"
        for conversation, messages in cases.CONVERSATIONS.items()
        for row, (option, options) in zip(theirs[conversation], cases.OPTIONS.items(), strict=True)
        for each, variables in zip(row, _VARIABLES, strict=True)
        if ours(template, messages, **options, **variables) != each.get("text")
    ]


def main() -> int:
    """Compare the files of the command line; return how many differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    n_unequal = 0
    for path in parser.parse_args().files:
        source = make.template_of(path) if path.suffix == ".gguf" else path.read_text(encoding="utf-8")
        unequal = differences(source)
        n_unequal += bool(unequal)
        said = f"differs in {len(unequal)} cases: {'; '.join(unequal[:5])}" if unequal else "equal"
        sys.stdout.write(f"{path}: {said}\n")
    return n_unequal


if __name__ == "__main__":
    sys.exit(main())
