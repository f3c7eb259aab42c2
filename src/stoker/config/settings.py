"""Every setting: one frozen model. ``docs/settings.md`` is generated from the descriptions below."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from stoker.config.model_settings import ModelSettings, Precise
from stoker.core.step import MAX_CALL_STEPS

_Name = Annotated[str, StringConstraints(min_length=1, max_length=4096, strip_whitespace=True)]
_Host = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,253}$", strip_whitespace=True, to_lower=True)
]


GROUPS: Mapping[str, tuple[str, ...]] = {
    "Model and folders": ("home", "model"),
    "Model sources": ("offline", "hf_endpoint", "hf_token", "allow_http"),
    "Several models": ("max_models",),
    "Single models": ("models",),
    "Server": (
        "host",
        "port",
        "api_key",
        "allowed_hosts",
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
        "engine",
        "quantize",
        "threads",
        "isa",
        "precise",
        "max_running",
        "max_waiting",
        "max_waiting_tokens",
        "step_tokens",
        "call_steps",
        "batching",
        "itl_target_s",
        "prefill_share",
        "prompt_patience_s",
        "batch_wait_s",
        "kv_type",
        "kv_memory",
        "kv_host_memory",
        "max_kv_disk_bytes",
        "kv_dir",
        "max_pinned_tokens",
        "context_length",
        "chat_template",
        "engine_timeout_s",
        "resume_timeout_s",
        "max_packs_bytes",
    ),
    "Logs": ("log_level", "log_format"),
}
"""Every setting under the heading that help and documentation show it below."""


FILE_ONLY = ("models",)
"""Settings that have neither a flag nor a variable."""


class Settings(BaseModel):
    """Every setting of Stoker; each has a default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = Field(
        default=None,
        description="Folder for everything that Stoker keeps. Unset, models are stored in "
        "`~/.cache/stoker/models`, packs in `~/.cache/stoker/packs`, KV blocks in `~/.cache/stoker/kv`, and "
        "the settings file is `~/.config/stoker/config.toml`.",
    )
    model: _Name = Field(
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
    max_models: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Most models served at a time, those being loaded or unloaded included. Each is an "
        "engine process of its own; all of them compute on the same cores.",
    )
    models: Mapping[str, ModelSettings] = Field(
        default={},
        description="Settings of single models: a table `[models.NAME]` for each, where `NAME` is the name "
        "or path that the model is served or loaded by. It may have `alias` (the name that clients use), "
        "`batching`, `chat_template`, `context_length`, `engine`, `itl_target_s`, `kv_memory`, "
        "`max_running`, `max_waiting`, `quantize` and `threads`; what is left out is as for all models. A "
        "table does not load its model.",
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
    allowed_hosts: tuple[_Host, ...] = Field(
        default=(),
        description="Host names, separated by commas, by which clients may address a server without "
        "`api_key`, beside `localhost` and loopback addresses. Other names get status 403, so that a web "
        "page cannot reach the server under a name of its own.",
    )
    engine: Literal["auto", "native", "llamacpp"] = Field(
        default="auto",
        description="What computes a model: `native` (Stoker's own engine), `llamacpp` (llama.cpp, which "
        "needs the extra `stoker[llamacpp]` and cannot do everything: see engines.md), or `auto`: the native "
        "engine if it knows the model, else llama.cpp if that extra is installed.",
    )
    quantize: Literal["none", "q8", "q4"] = Field(
        default="none",
        description="How a folder of safetensors is served whose weights are floats: `none` (as they are), "
        "`q8` (matrices in 8-bit codes) or `q4` (in 4-bit codes, embeddings and output matrix in 8-bit "
        "ones). Less memory and more speed, for other answers. GGUF files are served in the types they have.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Compute threads of an engine. Unset, as many as there are processor cores that this "
        "process may use (its affinity and its cgroup's quota).",
    )
    isa: Literal["auto", "amx", "avx512bf16", "avx512vnni", "avx2vnni", "avx2", "neon", "portable"] = Field(
        default="auto",
        description="Instruction-set path of the kernels: `auto` (the fastest that the processor has), "
        "`amx`, `avx512bf16`, `avx512vnni`, `avx2vnni`, `avx2`, `neon` or `portable`.",
    )
    precise: Precise = Field(
        default="auto",
        description="Matrices whose activations have 16 bits instead of 8, which costs twice the operations "
        "and brings answers nearer to those of floats: `auto` (`v,output`, which saves most "
        "error for its cost), `none`, or names separated by commas out of `q`, `k`, `v`, `o`, `gate`, `up`, "
        "`down` and `output`, all but the last also of one layer, as in `v,output,down:2`. "
        "`stoker quality` measures a model and says what it would choose.",
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
        "long prompts, less evens out the streams that run beside them, as far as `batching` does not.",
    )
    batching: Literal["latency", "size", "time"] = Field(
        default="latency",
        description="How an engine call is filled, up to `step_tokens`: `latency` (beside running streams "
        "only as much of new prompts as keeps their `itl_target_s`), `size` (whatever waits) or `time` (the "
        "same, and new requests wait up to `batch_wait_s` for others). No answer depends on it. batching.md "
        "has what each is good for.",
    )
    itl_target_s: float = Field(
        default=0.07,
        ge=0.001,
        le=60,
        description="Seconds from one token of a stream to the next that 95 % shall keep. Less evens out the "
        "streams, more computes prompts sooner. Calls that take longer are counted.",
    )
    prefill_share: float = Field(
        default=0.25,
        ge=0.01,
        le=0.9,
        description="With `latency`: least share of an engine call's time for prompts that wait to be "
        "computed, also where running streams alone take longer than `itl_target_s`.",
    )
    prompt_patience_s: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="Seconds that each token of a prompt adds to a request's place in the queue, tokens that "
        "are cached left out, 10 s at most: a short prompt goes before a long one that came at most so much "
        "earlier. With 0 the order is that of arrival.",
    )
    batch_wait_s: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="With `time`: longest that a new request waits for others to fill an engine call "
        "with it.",
    )
    kv_type: Literal["auto", "f16", "bf16", "q8"] = Field(
        default="auto",
        description="How the KV cache holds keys and values: `f16`, `bf16` (the fastest where the "
        "processor multiplies bf16: `isa` `amx` and `avx512bf16`) or `q8` (8-bit codes with a scale and a "
        "minimum for each token and head: about half the memory, less exact). `auto` is `bf16` on those "
        "paths and `f16` on the others. Another type gives other answers.",
    )
    call_steps: int = Field(
        default=MAX_CALL_STEPS,
        ge=1,
        le=MAX_CALL_STEPS,
        description="Most tokens of each sequence in one engine call. A call has several while nobody waits "
        "for its end and it takes about 16 ms at most; a stream's tokens then come in groups, which saves "
        "work beside the engine's. 1 sends each on its own.",
    )
    kv_memory: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Memory for the KV cache of each model, such as `2GiB`. Unset, what every place needs "
        "for a full context, but at most a quarter of the memory that is available beside the weights, which "
        "all models share.",
    )
    kv_host_memory: ByteSize | None = Field(
        default=None,
        ge=0,
        description="Memory of each model for KV blocks that no longer fit `kv_memory`, such as `1GiB`; they "
        "are copied back when their prefix returns. Unset, half of the KV cache's, but at most a quarter of "
        "what is left beside it; 0 keeps none, except for 128 MiB that pass through with "
        "`max_kv_disk_bytes`. It is taken as it is used. Only the native engine has it (kv-cache.md).",
    )
    max_kv_disk_bytes: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Most bytes of KV blocks kept in files in `kv_dir`, of all models together, such as "
        "`20GiB`, so that a conversation goes on where it stopped also after a restart. Those used least "
        "recently are removed. With 0 none is kept or used. The files hold the tokens of the prompts and "
        "answers that they are of.",
    )
    kv_dir: Path | None = Field(
        default=None,
        description="Folder for KV blocks in files. Unset, `kv` below `home` (`~/.cache/stoker/kv`).",
    )
    max_pinned_tokens: int = Field(
        default=16_384,
        ge=0,
        le=2**24,
        description="Most tokens of each model's pinned prefixes together (`POST "
        "/admin/models/{name}/pins`); one whole context is left for requests in any case.",
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

    @field_validator("home", "chat_template", "kv_dir", mode="after")
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
        for name, model in self.models.items():
            if model.max_running is not None and model.max_running > self.step_tokens:
                raise ValueError(
                    f"models.{name}.max_running ({model.max_running}) must be at most step_tokens "
                    f"({self.step_tokens})"
                )
        return self

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
