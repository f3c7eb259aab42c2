"""Writes settings.md, cli.md and openai-api.md from the code; with ``--check`` only compares them."""

import argparse
import sys
from pathlib import Path

from pydantic import BaseModel

from stoker.api.openai.fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    DETOKENIZE_FIELDS,
    MESSAGE_FIELDS,
    PART_FIELDS,
    STREAM_OPTIONS_FIELDS,
    TOKENIZE_FIELDS,
    Field,
)
from stoker.cli import app
from stoker.config import CONFIG_VARIABLE, ENV_PREFIX, GROUPS, HUB_VARIABLES, Settings

DOCS = Path(__file__).parent

SETTINGS_HEAD = f"""# Settings

<!-- Written by docs/generate.py from src/stoker/config.py; do not edit. -->

Every setting is a flag of `stoker serve`, an environment variable and a key of the settings file. The first
of them that is given wins, in this order. The settings file is TOML; it is looked for at `--config`, at
`{CONFIG_VARIABLE}`, as `config.toml` in `home`, and at `~/.config/stoker/config.toml`. Unknown keys and
unknown `{ENV_PREFIX}…` variables are errors, except those that Kubernetes makes of a Service named `stoker`
(`STOKER_SERVICE_HOST`, `STOKER_PORT=tcp://…`), which are left alone. Sizes take units (`512MB`, `2GiB`).

Three settings are also taken from the variables of Hugging Face's own tools, below Stoker's own variable
and above the file: {", ".join(f"`{name}` ({field})" for name, field in HUB_VARIABLES.items())}.

A `catalogue.toml` beside the settings file (in `home`, or in `~/.config/stoker`) adds models to the built-in
catalogue; `src/stoker/models/catalogue.py` describes its fields.
"""

CLI_HEAD = "<!-- Written by docs/generate.py from the commands' own help; do not edit. -->\n\n"

API_HEAD = """# OpenAI API

<!-- Written by docs/generate.py from src/stoker/api/openai/fields.py; do not edit. -->

`POST /v1/chat/completions`, `POST /v1/completions`, `GET /v1/models` and `GET /v1/models/{name}` take and
give what OpenAI's do, streams included; `POST /tokenize` and `POST /detokenize` what vLLM's do. A request's
field that could change the answer is honoured or refused by name, never ignored:

- **honoured**: it does what OpenAI says;
- **no-op**: it cannot change the answer; every value is accepted;
- **refused**: it is not supported; status 400 names it, unless its value asks for nothing.

`null` is the same as leaving a field out. A field in no table is refused. Errors have OpenAI's shape:
`{"error": {"message", "type", "param", "code"}}`.
"""

API_TABLES = (
    ("Fields of `POST /v1/chat/completions`", CHAT_FIELDS),
    ("Fields of `POST /v1/completions`", COMPLETION_FIELDS),
    ("Fields of `stream_options`", STREAM_OPTIONS_FIELDS),
    ("Fields of one of `messages`", MESSAGE_FIELDS),
    ("Fields of one part of a message's `content`", PART_FIELDS),
    ("Fields of `POST /tokenize`", TOKENIZE_FIELDS),
    ("Fields of `POST /detokenize`", DETOKENIZE_FIELDS),
)


def settings_page(settings: type[BaseModel]) -> str:
    """Return the page with every setting under its group."""
    parts = [SETTINGS_HEAD]
    for group, names in GROUPS.items():
        parts.append(f"\n## {group}\n")
        for name in names:
            field = settings.model_fields[name]
            default = "unset" if field.default is None else f"`{field.default}`"
            parts.append(
                f"\n### {name}\n\n"
                f"`--{name.replace('_', '-')}` · `{ENV_PREFIX}{name.upper()}` · default: {default}\n\n"
                f"{field.description}\n"
            )
    return "".join(parts)


def cli_page() -> str:
    """Return the page with every command's help."""
    return CLI_HEAD + app.generate_docs(heading_level=1).rstrip() + "\n"


def api_page() -> str:
    """Return the page with what becomes of every field of a request."""
    return API_HEAD + "".join(f"\n## {title}\n\n{field_table(fields)}\n" for title, fields in API_TABLES)


def field_table(fields: tuple[Field, ...]) -> str:
    """Return one table, a row for each field."""
    rows = [f"| `{field.name}` | {field.treatment} | {field.note} |" for field in fields]
    return "\n".join(["| field | | |", "| --- | --- | --- |", *rows])


def main() -> int:
    """Write the pages, or say which of them are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = []
    pages = {"settings.md": settings_page(Settings), "cli.md": cli_page(), "openai-api.md": api_page()}
    for file, text in pages.items():
        path = DOCS / file
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            stale.append(file)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python docs/generate.py\n")
    return len(stale)


if __name__ == "__main__":
    sys.exit(main())
