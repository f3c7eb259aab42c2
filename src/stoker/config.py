"""Settings: one frozen model, filled from flags, the environment and a TOML file, in that order.

`load_settings` is the only place that looks at the environment, once, at start. Everything else is
given the values it needs. ``docs/settings.md`` is generated from the descriptions below.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from stoker.core.errors import SettingsError

ENV_PREFIX = "STOKER_"
"""A setting's environment variable is this and its name in capitals."""

CONFIG_VARIABLE = "STOKER_CONFIG"
"""Names the settings file; not itself a setting."""

HUB_VARIABLES: Mapping[str, str] = {
    "HF_TOKEN": "hf_token",
    "HF_ENDPOINT": "hf_endpoint",
    "HF_HUB_OFFLINE": "offline",
}
"""Variables of Hugging Face's own tools that stand for a setting, unless Stoker's own is set."""

_KUBERNETES_VARIABLE = re.compile(
    r"STOKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)"
)
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://\S+")
"""What Kubernetes tells every pod of a Service whose name begins with ``stoker``."""

_Name = Annotated[str, StringConstraints(min_length=1, max_length=4096, strip_whitespace=True)]


GROUPS: Mapping[str, tuple[str, ...]] = {
    "Model and folders": ("home", "model"),
    "Model sources": ("offline", "hf_endpoint", "hf_token", "allow_http"),
    "Server": (
        "host",
        "port",
        "api_key",
        "max_choices",
        "max_body_bytes",
        "max_connections",
        "max_header_bytes",
        "header_timeout_s",
        "body_timeout_s",
        "write_timeout_s",
        "keep_alive_timeout_s",
        "max_bodies_bytes",
        "max_prompt_bytes",
        "queue_timeout_s",
        "request_timeout_s",
        "shutdown_timeout_s",
    ),
    "Engine": (
        "threads",
        "isa",
        "max_running",
        "max_waiting",
        "max_waiting_tokens",
        "step_tokens",
        "kv_memory",
        "context_length",
        "engine_timeout_s",
        "resume_timeout_s",
    ),
    "Logs": ("log_level", "log_format"),
}
"""Every setting under the heading that help and documentation show it below."""


class Settings(BaseModel):
    """Every setting of Stoker; each has a default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = Field(
        default=None,
        description="Folder for everything that Stoker keeps. Unset, models are stored in "
        "`~/.cache/stoker/models`, and the settings file is `~/.config/stoker/config.toml`.",
    )
    model: _Name = Field(
        default="smollm2-135m-instruct",
        description="Model to serve or run: a name from the catalogue, the path of a GGUF file or of a "
        "folder with a `config.json`, `hf:owner/repository`, or the `https://` address of a GGUF file.",
    )
    offline: bool = Field(
        default=False,
        description="Reach no other machine: only models that are on this one can be used. `HF_HUB_OFFLINE` "
        "says the same.",
    )
    hf_endpoint: _Name = Field(
        default="https://huggingface.co",
        description="Address of the Hugging Face hub or of a mirror. `HF_ENDPOINT` says the same.",
    )
    hf_token: SecretStr | None = Field(
        default=None,
        description="Token for gated and private repositories, sent to `hf_endpoint` and nowhere else. "
        "`HF_TOKEN` says the same. Prefer the environment to the flag, which other users of the machine can "
        "see.",
    )
    allow_http: bool = Field(
        default=False,
        description="Also fetch over unencrypted http from other machines. The hub's token is not sent "
        "there.",
    )
    host: _Name = Field(
        default="127.0.0.1",
        description="Address to listen on. Any other than a loopback address needs `api_key`.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        default=None,
        description="Key that clients must send as `Authorization: Bearer KEY`. Prefer the environment "
        "to the flag, which other users of the machine can see.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Compute threads of the engine. Unset, as many as there are processor cores that this "
        "process may use (its affinity and its cgroup's quota).",
    )
    isa: Literal["auto", "amx", "avx512vnni", "avx2vnni", "avx2", "portable"] = Field(
        default="auto",
        description="Instruction-set path of the kernels: `auto` (the fastest that the processor has), "
        "`amx`, `avx512vnni`, `avx2vnni`, `avx2` or `portable`.",
    )
    max_running: int = Field(
        default=64, ge=1, le=1024, description="Most sequences computed in one engine call."
    )
    max_waiting: int = Field(
        default=256,
        ge=0,
        le=65536,
        description="Most sequences that wait for a place; the next one gets status 429 with `Retry-After`.",
    )
    step_tokens: int = Field(
        default=512,
        ge=16,
        le=16384,
        description="Most tokens computed in one engine call; at least `max_running`. More speeds up "
        "long prompts, less evens out the streams that run beside them.",
    )
    kv_memory: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Memory for the KV cache, such as `2GiB`. Unset, what every place needs for a full "
        "context, but at most a quarter of the memory that is available beside the weights.",
    )
    context_length: int | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="Most tokens of one sequence, prompt and output together; at most the model's own "
        "context length, which is the default.",
    )
    engine_timeout_s: float = Field(
        default=60.0,
        ge=6,
        le=3600,
        description="Seconds without a word from an engine that has requests, after which it is killed and "
        "restarted; after a sixth of them the server is not ready. An engine gives a word at the end of "
        "every call, and four times a second during one that takes longer.",
    )
    resume_timeout_s: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="Seconds that a request whose engine died waits for the next engine to be ready, to go "
        "on where it stopped; after them it fails.",
    )
    max_choices: int = Field(
        default=128, ge=1, le=1024, description="Most choices (prompts times `n`) of one request."
    )
    max_body_bytes: ByteSize = Field(
        default=ByteSize(10_000_000),
        ge=1024,
        le=2**30,
        description="Largest request body, such as `10MB`; a larger one gets status 413.",
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that a client has for sending a request's body."
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=2**20,
        description="Most connections at a time; the next one gets status 503. Each takes a file descriptor "
        "(`ulimit -n`).",
    )
    max_header_bytes: ByteSize = Field(
        default=ByteSize(65_536),
        ge=1024,
        le=2**24,
        description="Largest head of a request, which is its URL and at most 100 headers; a larger one gets "
        "status 431.",
    )
    header_timeout_s: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Seconds that a client has from connecting, or from the first byte of a further request, "
        "to the end of the request's headers; then the connection is closed.",
    )
    write_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds that a client may leave the server waiting to send more of an answer; then the "
        "connection is cut and the request cancelled.",
    )
    keep_alive_timeout_s: int = Field(
        default=75, ge=1, le=3600, description="Seconds after which an idle connection is closed."
    )
    shutdown_timeout_s: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that running requests have for ending after SIGTERM or SIGINT.",
    )
    queue_timeout_s: float = Field(
        default=60.0,
        ge=0.001,
        le=86_400,
        description="Seconds in which a request must begin to be computed; after them it gets status 429 "
        "with `Retry-After`. A request may ask for less (`queue_timeout`).",
    )
    request_timeout_s: float | None = Field(
        default=None,
        ge=0.001,
        le=86_400,
        description="Seconds in which a request must be finished; after them it gets status 504, or an error "
        "event if its stream has begun. Unset, there is no limit. A request may ask for less (`timeout`).",
    )
    max_waiting_tokens: int = Field(
        default=2_000_000,
        ge=0,
        le=2**31,
        description="Most tokens of the sequences that wait for a place, together; what would exceed it gets "
        "status 429, unless nothing waits. A token takes about 45 bytes of the engine process.",
    )
    max_prompt_bytes: ByteSize = Field(
        default=ByteSize(512 * 2**20),
        ge=2**20,
        description="Most memory of the server process for the prompts of requests being answered, such as "
        "`512MiB`; what would exceed it gets status 429, unless it is alone.",
    )
    max_bodies_bytes: ByteSize = Field(
        default=ByteSize(512 * 2**20),
        ge=2**20,
        description="Most bytes in the bodies of all requests being answered; what would exceed it gets "
        "status 429, unless it is alone.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines to write: `debug`, `info`, `warning` or `error`."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="Log lines for people (`console`) or one `json` object a line; `auto` is console on a "
        "terminal, else json.",
    )

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path | None) -> Path | None:
        return None if home is None else home.expanduser().absolute()

    @field_validator("hf_endpoint", mode="after")
    @classmethod
    def _address(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an address such as https://huggingface.co")
        return address.rstrip("/")

    @field_validator("api_key", "hf_token", mode="after")
    @classmethod
    def _sendable(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            text = key.get_secret_value()
            if not text or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError("must be printable ASCII without spaces, at least one character")
        return key

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if not is_loopback(self.host) and self.api_key is None:
            raise ValueError(
                f"host {self.host} can be reached from other machines, so a key is needed: set "
                "STOKER_API_KEY (or --api-key), or listen on 127.0.0.1"
            )
        if self.step_tokens < self.max_running:
            raise ValueError(
                f"step_tokens ({self.step_tokens}) must be at least max_running ({self.max_running}), "
                "so that every running sequence gets a token in every engine call"
            )
        return self

    @property
    def models_dir(self) -> Path:
        """Where pulled models are stored."""
        return (self.home or Path("~/.cache/stoker").expanduser()) / "models"

    @property
    def catalogue_file(self) -> Path:
        """The user's own catalogue, which adds to the built-in one; need not exist."""
        return (self.home or _default_config()) / "catalogue.toml"


def load_settings(
    *, flags: Mapping[str, str], environ: Mapping[str, str], config_file: str | None = None
) -> Settings:
    """Merge every source of settings: flag > environment > file > default.

    Args:
        flags: Settings given on the command line, by field name.
        environ: The process's environment.
        config_file: The file given on the command line, or None to look where `find_config_file` says.

    Raises:
        SettingsError: A value is wrong, a name is unknown, or the file cannot be read.
    """
    file, must_exist = find_config_file(flags=flags, environ=environ, config_file=config_file)
    from_file = _read_file(file, must_exist=must_exist)
    from_environ = _read_environ(environ)
    merged: dict[str, Any] = {**from_file, **from_environ, **flags}
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, flags, environ, from_environ.keys(), file)) from None


def find_config_file(
    *, flags: Mapping[str, str], environ: Mapping[str, str], config_file: str | None = None
) -> tuple[Path, bool]:
    """Return the settings file's path and whether it was named explicitly, so that it must exist.

    The order is ``--config``, ``STOKER_CONFIG``, ``config.toml`` in ``home``, and
    ``~/.config/stoker/config.toml``.
    """
    named = config_file or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser(), True
    home = flags.get("home") or environ.get(ENV_PREFIX + "HOME")
    if home:
        return Path(home).expanduser() / "config.toml", False
    return _default_config() / "config.toml", False


def is_loopback(host: str) -> bool:
    """Tell whether `host` can be reached from this machine only; an unknown name counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _default_config() -> Path:
    return Path("~/.config/stoker").expanduser()


def _read_environ(environ: Mapping[str, str]) -> dict[str, str]:
    values = {field: environ[name] for name, field in HUB_VARIABLES.items() if environ.get(name)}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if _KUBERNETES_VARIABLE.fullmatch(variable):
            continue
        if variable.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(value):
            continue
        field = variable.removeprefix(ENV_PREFIX).lower()
        if field not in Settings.model_fields or variable != variable.upper():
            known = [*map(_variable, Settings.model_fields), CONFIG_VARIABLE]
            raise SettingsError(
                f"the environment variable {variable} is not a setting{_did_you_mean(variable, known)}"
            )
        values[field] = value
    return values


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise SettingsError(f"the settings file {path} does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error}") from error
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(
                f"{key} in {path} is not a setting{_did_you_mean(key, list(Settings.model_fields))}"
            )
    return values


def _did_you_mean(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(matches)}?" if matches else "; docs/settings.md lists every one"


def _variable(field: str) -> str:
    return ENV_PREFIX + field.upper()


def _variable_of(field: str, environ: Mapping[str, str]) -> str:
    """Return the variable that a setting was taken from."""
    if _variable(field) in environ:
        return _variable(field)
    return next(name for name, other in HUB_VARIABLES.items() if other == field)


def _explain(
    error: ValidationError,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    from_environ: Collection[str],
    file: Path,
) -> str:
    """Say for each wrong value where it came from and what was expected, on one line."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            problems.append(message)
            continue
        field = str(problem["loc"][0])
        if field in flags:
            origin = "--" + field.replace("_", "-")
        elif field in from_environ:
            origin = _variable_of(field, environ)
        else:
            origin = f"{field} in {file}"
        problems.append(f"{origin}: {message[0].lower()}{message[1:]}")
    return "; ".join(problems)
