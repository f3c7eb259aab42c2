"""Every setting: one frozen model. ``docs/settings.md`` is generated from its descriptions."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from stoker.config.engine_settings import EngineSettings
from stoker.config.model_settings import ModelName, ModelSettings

_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, strip_whitespace=True)]
_Host = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,253}$", strip_whitespace=True, to_lower=True)
]

GUESSES_WITH: Mapping[str, str] = {"draft_model": "draft-model", "skip_layers": "skip-layers"}
"""Settings that only one way of `speculation` has a use for, and which."""


class Settings(EngineSettings):
    """Every setting of Stoker; each has a default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = Field(
        default=None,
        description="Folder for everything that Stoker keeps. Unset, models are stored in "
        "`~/.cache/stoker/models`, packs in `~/.cache/stoker/packs`, KV blocks in `~/.cache/stoker/kv`, and "
        "the settings file is `~/.config/stoker/config.toml`.",
    )
    model: ModelName = Field(
        default="smollm2-135m-instruct",
        description="Model to serve or run: a name from the catalogue, the path of a GGUF file "
        "or of a folder of safetensors, `hf:owner/repository`, or the `https://` address of a GGUF file. "
        "`stoker serve` takes several.",
    )
    chat_template: Path | None = Field(
        default=None,
        description="File with a Jinja2 chat template that takes the place of the model's own, for a model "
        "that has none or a wrong one. It is read when the model is loaded.",
    )
    max_packs_bytes: ByteSize = Field(
        default=ByteSize(64 * 2**30),
        ge=0,
        description="Most bytes of all packs, such as `20GiB`: repacked weights that are kept in `packs` "
        "below `home` (`~/.cache/stoker/packs`), so that later starts map them. Those used least recently "
        "are removed when a new one needs the room. With 0 none is kept or used: every start repacks.",
    )
    offline: bool = Field(
        default=False,
        description="Reach no other machine: only models that are on this one can be used. `HF_HUB_OFFLINE` "
        "says the same.",
    )
    hf_endpoint: _Text = Field(
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
    max_models: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Most models served at a time, those being loaded or unloaded included. Each is an "
        "engine process of its own; all of them compute on the same cores.",
    )
    memory_budget: ByteSize | None = Field(
        default=None,
        ge=2**20,
        description="Most memory that the engines of all models may need together, such as `8GiB`. Before a "
        "model is loaded or woken that does not fit, the idle ones used least recently are put to sleep. "
        "Unset, models sleep only by `sleep_after_s` and when asked to (sleep.md).",
    )
    models: Mapping[str, ModelSettings] = Field(
        default={},
        description="Settings of single models: a table `[models.NAME]` for each, where `NAME` is the name "
        "or path that the model is served or loaded by. It may have `alias` (the name that clients use), "
        "`batching`, `chat_template`, `context_length`, `draft_model`, `engine`, `itl_target_s`, "
        "`kv_memory`, `max_running`, `max_waiting`, `pooling`, `precise`, `quantize`, `skip_layers`, "
        "`sleep_after_s`, `speculation` and `threads`; what is left out is as for all models. A table does "
        "not load its model.",
    )
    host: _Text = Field(
        default="127.0.0.1",
        description="Address to listen on. Any other than a loopback address needs `api_key`.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        default=None,
        description="Key that clients must send as `Authorization: Bearer KEY`. Prefer the environment "
        "to the flag, which other users of the machine can see.",
    )
    allowed_hosts: tuple[_Host, ...] = Field(
        default=(),
        description="Host names, separated by commas, by which clients may address a server without "
        "`api_key`, beside `localhost` and loopback addresses. Other names get status 403, so that a web "
        "page cannot reach the server under a name of its own.",
    )
    max_choices: int = Field(
        default=128, ge=1, le=1024, description="Most choices (prompts times `n`) of one request."
    )
    max_scored_choices: int = Field(
        default=128,
        ge=2,
        le=1024,
        description="Most texts in `choices` or `labels` of one request, which are scored (early-exit.md); "
        "more get status 400.",
    )
    max_grammar_bytes: ByteSize = Field(
        default=ByteSize(65_536),
        ge=1024,
        le=2**20,
        description="Largest grammar of a request, such as `64KiB`: a JSON Schema, a regular expression, "
        "choices or a grammar (structured-output.md); a larger one gets status 400.",
    )
    max_schema_depth: int = Field(
        default=32,
        ge=1,
        le=64,
        description="Deepest nesting of arrays and objects in a JSON Schema; a deeper one gets status 400.",
    )
    max_inputs: int = Field(
        default=2048,
        ge=1,
        le=65536,
        description="Most inputs of one request for embeddings; also most documents to rank and texts to "
        "score.",
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

    @field_validator("home", "chat_template", "kv_dir", "lora_dir", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("hf_endpoint", mode="after")
    @classmethod
    def _address(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an address such as https://huggingface.co")
        return address.rstrip("/")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _separated(cls, hosts: object) -> object:
        return hosts.split(",") if isinstance(hosts, str) else hosts

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
        self._check_speculation()
        for name, model in self.models.items():
            if model.max_running is not None and model.max_running > self.step_tokens:
                raise ValueError(
                    f"models.{name}.max_running ({model.max_running}) must be at most step_tokens "
                    f"({self.step_tokens})"
                )
        return self

    def _check_speculation(self) -> None:
        """Refuse what would have no effect."""
        ways = {self.speculation, *[each.speculation for each in self.models.values()]}
        for name, way in GUESSES_WITH.items():
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and way not in ways:
                raise ValueError(f"{name} is set, but speculation is {self.speculation}: set it to {way}")
            for model, own in self.models.items():
                used = own.speculation or self.speculation
                if getattr(own, name) is not None and used != way:
                    raise ValueError(
                        f"models.{model}.{name} is set, but its speculation is {used}: set it to {way}"
                    )

    @property
    def models_dir(self) -> Path:
        """Where pulled models are stored."""
        return (self.home or Path("~/.cache/stoker").expanduser()) / "models"

    @property
    def packs_dir(self) -> Path:
        """Where packs are kept."""
        return (self.home or Path("~/.cache/stoker").expanduser()) / "packs"

    @property
    def kv_folder(self) -> Path:
        """Where KV blocks are kept in files."""
        return self.kv_dir or (self.home or Path("~/.cache/stoker").expanduser()) / "kv"

    @property
    def catalogue_file(self) -> Path:
        """The user's own catalogue, which adds to the built-in one; need not exist."""
        return (self.home or default_folder()) / "catalogue.toml"


def is_loopback(host: str) -> bool:
    """Tell whether `host` can be reached from this machine only; an unknown name counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_folder() -> Path:
    """Where the settings file and the user's catalogue are unless `home` is set."""
    return Path("~/.config/stoker").expanduser()
