"""Writes settings.md, limits.md, cli.md and openai-api.md from the code; with ``--check`` only compares."""

import argparse
import sys
from pathlib import Path

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel

from stoker.api import served
from stoker.api.connection import ConnectionLimits
from stoker.api.limits import ApiLimits
from stoker.api.openai import scoring_request, wire
from stoker.api.openai.fields import (
    CHAT_FIELDS,
    CLASSIFY_FIELDS,
    COMPLETION_FIELDS,
    DETOKENIZE_FIELDS,
    EARLY_EXIT_FIELDS,
    EMBEDDING_FIELDS,
    JSON_SCHEMA_FIELDS,
    MESSAGE_FIELDS,
    PART_FIELDS,
    RERANK_FIELDS,
    RESPONSE_FORMAT_FIELDS,
    SCORE_FIELDS,
    STREAM_OPTIONS_FIELDS,
    STRUCTURED_OUTPUTS_FIELDS,
    TOKENIZE_FIELDS,
    Field,
)
from stoker.cli import app
from stoker.config import CONFIG_VARIABLE, ENV_PREFIX, FILE_ONLY, GROUPS, HUB_VARIABLES, Settings, effect_of
from stoker.core import sampling, tokens
from stoker.grammar import schema
from stoker.models import catalogue, tokenizer_spec
from stoker.models.gguf import cursor
from stoker.models.gguf import file as gguf_file
from stoker.models.gguf import metadata as gguf_metadata
from stoker.models.huggingface import files as folder_files
from stoker.models.huggingface import safetensors, shards, tokenizer_json
from stoker.models.sources import http, selection
from stoker.worker import client, frames, grammars, mailbox, peer, pins, quarantine
from stoker.worker.restarts import RestartPolicy

DOCS = Path(__file__).parent

SETTINGS_HEAD = f"""# Settings

<!-- Written by docs/generate.py from src/stoker/config/settings.py; do not edit. -->

Every setting is a flag of `stoker serve`, an environment variable and a key of the settings file. The first
of them that is given wins, in this order. The settings file is TOML; it is looked for at `--config`, at
`{CONFIG_VARIABLE}`, as `config.toml` in `home`, and at `~/.config/stoker/config.toml`. Unknown keys and
unknown `{ENV_PREFIX}…` variables are errors, except those that Kubernetes makes of a Service named `stoker`
(`STOKER_SERVICE_HOST`, `STOKER_PORT=tcp://…`), which are left alone. Sizes take units (`512MB`, `2GiB`).

Three settings are also taken from the variables of Hugging Face's own tools, below Stoker's own variable
and above the file: {", ".join(f"`{name}` ({field})" for name, field in HUB_VARIABLES.items())}.

SIGHUP, or a change of the settings file, makes a server read its settings again; each setting below says when
a change of it is felt. [serving.md](serving.md) tells more.

A `catalogue.toml` beside the settings file (in `home`, or in `~/.config/stoker`) adds models to the built-in
catalogue; `src/stoker/models/catalogue.py` describes its fields.
"""

CLI_HEAD = "<!-- Written by docs/generate.py from the commands' own help; do not edit. -->\n\n"

API_HEAD = """# OpenAI API

<!-- Written by docs/generate.py from src/stoker/api/openai/fields.py; do not edit. -->

`POST /v1/chat/completions`, `POST /v1/completions`, `POST /v1/embeddings`, `GET /v1/models` and
`GET /v1/models/{name}` take and give what OpenAI's do, streams included; `POST /v1/rerank`, `POST /v1/score`,
`POST /v1/classify`, `POST /tokenize` and `POST /detokenize` what vLLM's do. A request's
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
    ("Fields of `response_format`", RESPONSE_FORMAT_FIELDS),
    ("Fields of `response_format.json_schema`", JSON_SCHEMA_FIELDS),
    ("Fields of `structured_outputs`", STRUCTURED_OUTPUTS_FIELDS),
    ("Fields of `early_exit`", EARLY_EXIT_FIELDS),
    ("Fields of `stream_options`", STREAM_OPTIONS_FIELDS),
    ("Fields of one of `messages`", MESSAGE_FIELDS),
    ("Fields of one part of a message's `content`", PART_FIELDS),
    ("Fields of `POST /v1/embeddings`", EMBEDDING_FIELDS),
    ("Fields of `POST /v1/rerank` and `POST /rerank`", RERANK_FIELDS),
    ("Fields of `POST /v1/score` and `POST /score`", SCORE_FIELDS),
    ("Fields of `POST /v1/classify` and `POST /classify`", CLASSIFY_FIELDS),
    ("Fields of `POST /tokenize`", TOKENIZE_FIELDS),
    ("Fields of `POST /detokenize`", DETOKENIZE_FIELDS),
)


def _binary(size_bytes: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes >= 2**power:
            return f"{size_bytes / 2**power:g} {unit}"
    return f"{size_bytes} B"


LIMITS_HEAD = """# Limits

<!-- Written by docs/generate.py from the code; do not edit. -->

Everything that a client, an engine or a file could make grow is bounded. The first column says by which
setting ([settings.md](settings.md)) a limit is changed; the others are fixed. What exceeds one is refused,
never cut; [openai.md](openai.md) explains the codes. Of several models each has the limits of engines, and of
waiting and running, for itself.
"""

_API, _CONNECTION, _RESTARTS = ApiLimits(), ConnectionLimits(), RestartPolicy()

LIMITS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Connections and requests",
        (
            ("max_connections", "connections at a time", "503, and the connection is closed"),
            ("max_header_bytes", "URL and headers of a request", "431"),
            ("", f"{_CONNECTION.max_headers} headers of a request", "431"),
            ("header_timeout_s", "time for sending them", "the connection is closed"),
            ("max_body_bytes", "a request's body", "413"),
            ("body_timeout_s", "time for sending it", "408 `request_timeout`"),
            ("max_bodies_bytes", "bodies of all requests being answered", "429"),
            ("keep_alive_timeout_s", "time that a connection is idle", "it is closed"),
            ("write_timeout_s", "time in which a client reads nothing", "it is cut off"),
            ("", f"{_API.max_json_depth} levels of arrays and objects in a body", "400"),
            (
                "",
                f"{client.MAX_UNREAD:,} tokens and alternatives that a stream's reader is behind",
                "`slow_reader`",
            ),
        ),
    ),
    (
        "What a request asks for",
        (
            ("context_length", "tokens of prompt and answer", "400 `context_length_exceeded`"),
            ("max_choices", "choices: prompts times `n`, or `best_of`", "400"),
            ("max_scored_choices", "`choices`, or `labels`, that are scored", "400"),
            ("", f"{wire.MAX_SCORED_CHARS} characters of each of those", "400"),
            (
                "",
                f"{scoring_request.MAX_PAIRS:,} inputs times labels, or pairs of texts times choices",
                "400",
            ),
            ("max_inputs", "inputs to embed, documents to rank, texts to score", "400"),
            ("", f"{_API.max_n} for `n` and `best_of`", "400"),
            ("", f"{_API.max_prompts} prompts", "400"),
            ("", f"{_API.max_messages:,} messages", "400"),
            ("", f"{wire.MAX_STOPS} stop strings of {wire.MAX_STOP_CHARS} characters", "400"),
            ("", f"{tokens.MAX_STOP_TOKENS} `stop_token_ids`", "400"),
            ("", f"{sampling.MAX_BIASED_TOKENS:,} tokens in `logit_bias`", "400"),
            ("", f"{sampling.MAX_LOGPROBS} alternatives for each token", "400"),
            ("", f"{_API.max_prompt_scores:,} log-probabilities of a prompt that is echoed", "400"),
            ("max_grammar_bytes", "a grammar: schema, regular expression, choices", "400"),
            ("max_schema_depth", "levels of arrays and objects in a JSON Schema", "400 `invalid_schema`"),
            (
                "",
                f"{schema.MAX_COUNT:,} items, properties or characters that it may ask for",
                "400 `invalid_schema`",
            ),
            ("", f"{wire.MAX_GUIDED_CHOICES:,} choices of `guided_choice`", "400"),
            ("", f"{tokens.MAX_TIMEOUT_S:,.0f} s for `timeout` and `queue_timeout`", "400"),
            (
                "",
                f"{wire.MAX_VARIABLES} `chat_template_kwargs`, {wire.MAX_VARIABLE_CHARS:,} characters each",
                "400",
            ),
        ),
    ),
    (
        "Waiting and running",
        (
            ("max_running", "sequences computed at once, each a choice", "the next ones wait"),
            ("max_waiting", "sequences that wait", "429"),
            ("max_waiting_tokens", "tokens of those that wait", "429"),
            ("max_prompt_bytes", "memory for prompts in the server process", "429"),
            ("queue_timeout_s", "time until a request begins to be computed", "429 `queue_timeout`"),
            ("request_timeout_s", "time until it is finished", "504"),
            ("step_tokens", "tokens in one engine call", "the rest comes in the next"),
            ("kv_memory", "memory for KV caches", "sequences wait, or make room and are computed anew"),
            ("kv_host_memory", "memory for evicted KV blocks", "those used least recently are given up"),
            ("max_kv_disk_bytes", "files of KV blocks", "those used least recently are removed"),
            ("max_pinned_tokens", "tokens of pinned prefixes", "400 `pinned_limit_exceeded`"),
            ("draft_tokens", "tokens guessed of a stream in a call", "no more are guessed"),
            ("max_loras", "adapters in memory", "the one used least recently makes room"),
            ("max_lora_rank", "rank of an adapter", "400"),
            ("max_lora_bytes", "file of an adapter's weights", "400"),
            ("", f"{served.MAX_ADAPTERS:,} loaded adapters", "409"),
            ("", f"{pins.MAX_PINS} pinned prefixes of a model", "409"),
            ("max_models", "models", "409"),
            ("wake_timeout_s", "time that a request waits for its model to be awake", "503"),
        ),
    ),
    (
        "Engines",
        (
            ("grammar_timeout_s", "compiling a grammar", "400 `grammar_too_complex`"),
            ("max_grammar_symbols", "symbols of a compiled grammar", "400 `grammar_too_complex`"),
            ("max_grammar_states", "states of its lexer", "`grammar_too_complex`"),
            ("max_grammar_compile_work", "expressions for compiling it", "400 `grammar_too_complex`"),
            ("max_grammar_step_work", "expressions for one token of an answer", "`grammar_too_complex`"),
            ("max_grammar_step_items", "items of the parser for that", "`grammar_too_complex`"),
            ("max_grammar_row_items", "items of the parser at one place", "`grammar_too_complex`"),
            ("", f"{grammars.MAX_PREPARED:,} sequences whose grammars wait to be compiled", "429"),
            ("engine_timeout_s", "silence of an engine that has requests", "it is killed and replaced"),
            ("resume_timeout_s", "waiting for the engine that goes on with a stream", "`engine_died`"),
            ("shutdown_timeout_s", "time for ending after SIGTERM", "what still runs is cut off"),
            (
                "",
                f"{_RESTARTS.crash_loop_deaths} deaths of engines within {_RESTARTS.window_s:.0f} s",
                f"{_RESTARTS.max_delay_s:.0f} s before a start, until one lives {_RESTARTS.window_s:.0f} s",
            ),
            (
                "",
                f"{quarantine.STRIKES} deaths that one request alone can have caused",
                f"`request_quarantined`, for {quarantine.REMEMBERED_S:,.0f} s",
            ),
            ("", f"{_binary(frames.MAX_FRAME_BYTES)} for a message between the processes", "400"),
            ("", f"{mailbox.MAX_LETTERS:,} messages unread by an engine", "the server process waits"),
            ("", f"{mailbox.MAX_LETTER_TOKENS:,} tokens in those", "the server process waits"),
            ("", f"{_binary(peer.MAX_UNREAD_BYTES)} unread by the server process", "the engine hangs up"),
        ),
    ),
    (
        "Files",
        (
            ("", f"{gguf_metadata.MAX_KEYS:,} keys in a GGUF file's header", "refused"),
            ("", f"{_binary(cursor.MAX_STRING_BYTES)} for a string of it", "refused"),
            ("", f"{gguf_metadata.MAX_ARRAY_LENGTH:,} elements of an array", "refused"),
            ("", f"{gguf_file.MAX_TENSORS:,} tensors", "refused"),
            ("", f"{_binary(safetensors.MAX_HEADER_BYTES)} for a safetensors file's header", "refused"),
            ("", f"{safetensors.MAX_TENSORS:,} tensors in it", "refused"),
            ("", f"{shards.MAX_SHARDS:,} files of weights in a folder", "refused"),
            ("", f"{_binary(shards.MAX_INDEX_BYTES)} for their index", "refused"),
            ("", f"{_binary(folder_files.MAX_CONFIG_BYTES)} for a `config.json` and its like", "refused"),
            ("", f"{tokenizer_json.MAX_TOKENS:,} tokens in a vocabulary", "refused"),
            ("", f"{tokenizer_spec.MAX_TEMPLATE_CHARS:,} characters of a chat template", "refused"),
            ("", f"{_binary(tokenizer_json.MAX_TOKENIZER_BYTES)} for a `tokenizer.json`", "refused"),
            ("", f"{_binary(catalogue.MAX_CATALOGUE_BYTES)} for a catalogue", "refused"),
            ("", f"{selection.MAX_WEIGHT_FILES:,} files of weights in a repository", "refused"),
            ("", f"{http.MAX_REDIRECTS} redirects of a download", "refused"),
            ("max_packs_bytes", "all packs together", "those used least recently are removed"),
        ),
    ),
)
"""Headings, and below each the setting (or nothing), what is limited, and what happens beyond it."""


def settings_page(settings: type[BaseModel]) -> str:
    """Return the page with every setting under its group."""
    parts = [SETTINGS_HEAD]
    for group, names in GROUPS.items():
        parts.append(f"\n## {group}\n")
        for name in names:
            field = settings.model_fields[name]
            default = f"`{field.default}`" if field.default or field.default == 0 else "unset"
            flag = f"`--{name.replace('_', '-')}` · `{ENV_PREFIX}{name.upper()}`"
            where = "only in the settings file" if name in FILE_ONLY else flag
            parts.append(
                f"\n### {name}\n\n"
                f"{where} · default: {default} · changes {effect_of(name).value}\n\n"
                f"{field.description}\n"
            )
    return "".join(parts)


def limits_page(settings: type[BaseModel]) -> str:
    """Return the page with every limit, its default, and what it may be set to."""
    parts = [LIMITS_HEAD]
    for heading, rows in LIMITS:
        parts.append(f"\n## {heading}\n\n| setting | limit | default | may be set to | beyond it |\n")
        parts.append("| --- | --- | --- | --- | --- |\n")
        for name, what, beyond in rows:
            if not name:
                parts.append(f"| | {what} | | | {beyond} |\n")
                continue
            field = settings.model_fields[name]
            link = f"[`{name}`](settings.md#{name})"
            default = UNSET[name] if field.default is None else _amount(name, field.default)
            parts.append(f"| {link} | {what} | {default} | {_range(name, settings)} | {beyond} |\n")
    return "".join(parts)


UNSET = {
    "context_length": "the model's",
    "kv_host_memory": "half of `kv_memory`",
    "kv_memory": "a share of what is free",
    "request_timeout_s": "none",
}
"""What the default of a limit that is unset comes to."""


def _range(name: str, settings: type[BaseModel]) -> str:
    bounds = settings.model_fields[name].metadata
    least = [f"at least {_amount(name, each.ge)}" for each in bounds if isinstance(each, Ge)]
    least += [f"above {_amount(name, each.gt)}" for each in bounds if isinstance(each, Gt)]
    most = [f"at most {_amount(name, each.le)}" for each in bounds if isinstance(each, Le)]
    return ", ".join([*least, *most])


def _amount(name: str, value: object) -> str:
    if name.endswith("_bytes") or name == "kv_memory":
        size_bytes = int(str(value))
        if size_bytes == 0:
            return "0"
        return f"{size_bytes // 10**6} MB" if size_bytes % 10**6 == 0 else _binary(size_bytes)
    number = f"{value:,}" if isinstance(value, int | float) else str(value)
    return f"{number.removesuffix('.0')} s" if name.endswith("_s") else number


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
    pages = {
        "settings.md": settings_page(Settings),
        "limits.md": limits_page(Settings),
        "cli.md": cli_page(),
        "openai-api.md": api_page(),
    }
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
