"""What an engine process is told when it starts."""

import json
from pathlib import Path
from typing import Literal

import msgspec

from stoker.core.batching import BatchingPolicy
from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.errors import SettingsError
from stoker.core.step import MAX_CALL_STEPS
from stoker.grammar.limits import GrammarLimits
from stoker.models.huggingface.files import Quantize
from stoker.observe.late_logs import LogFormat

EngineKind = Literal["native", "llamacpp"]
"""What an engine process computes with."""

Speculation = Literal["off", "prompt-lookup", "draft-model", "skip-layers"]
"""How an engine process guesses next tokens."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one engine process; one line of JSON on its standard input.

    Attributes:
        model_path: The model file, or the folder.
        quantize: How matrices of floats in a folder are served.
        model: Name that the model is served under.
        engine: What computes.
        socket_path: Unix socket to listen on; its folder belongs to this user alone. The supervisor
            fills it in.
        parent_pid: The process to die with; None to live on without it. The supervisor fills it in.
        max_running: Most sequences computed in one step.
        max_waiting: Most sequences queued behind them.
        max_waiting_tokens: Most tokens of those together.
        step_tokens: Most tokens computed in one step.
        call_steps: Most decode steps in one engine call, if the engine can take several.
        speculation: How next tokens are guessed, if the engine can verify guesses.
        draft_path: The draft model's file or folder, if `speculation` is ``draft-model``.
        skip_layers: What is left out, as the setting has it, if that is ``skip-layers``.
        draft_tokens: Most tokens guessed of a sequence in one step.
        batching: How steps are filled within that.
        context_length: Most tokens of one sequence; None for the model's own context.
        n_threads: Compute threads; None for as many as this process may use.
        isa: Instruction-set path of the native engine: ``auto``, ``amx``, ``avx512bf16``,
            ``avx512vnni``, ``avx2vnni``, ``avx2``, ``neon`` or ``portable``.
        precise: Matrices of the native engine whose activations have 16 bits, as the setting has them.
        kv_type: How the native engine's KV cache holds keys and values: ``auto``, ``f16``, ``bf16`` or
            ``q8``.
        kv_memory_bytes: Memory of the KV cache; None for a share of what is available.
        kv_sharers: Engines that this share is divided among, this one included.
        kv_host_bytes: Memory for evicted KV blocks; None for half of the KV cache's, 0 for none.
        kv_folder: Where KV blocks are kept in files.
        kv_disk_bytes: Most bytes of all files there; 0 to keep none.
        max_pinned_tokens: Most tokens of pinned prefixes.
        grammar_timeout_s: Longest that compiling a grammar may take.
        grammar_limits: What grammars may take beside time.
        max_loras: Most adapters in memory; 0 for none.
        max_lora_rank: Largest rank of one.
        max_lora_bytes: Largest file of weights of one.
        packs_dir: Where repacked weights are kept; None to keep none.
        max_packs_bytes: Most bytes of all packs there.
        log_format: Format of the log lines.
    """

    model_path: Path
    quantize: Quantize = "none"
    model: str
    engine: EngineKind = "native"
    socket_path: Path = Path()
    parent_pid: int | None = None
    max_running: int = 64
    max_waiting: int = 256
    max_waiting_tokens: int = 2_000_000
    step_tokens: int = 512
    call_steps: int = MAX_CALL_STEPS
    speculation: Speculation = "prompt-lookup"
    draft_path: Path | None = None
    skip_layers: str = "auto"
    draft_tokens: int = MAX_DRAFT_TOKENS
    batching: BatchingPolicy = BatchingPolicy()
    context_length: int | None = None
    n_threads: int | None = None
    isa: str = "auto"
    precise: str = "auto"
    kv_type: str = "auto"
    kv_memory_bytes: int | None = None
    kv_sharers: int = 1
    kv_host_bytes: int | None = None
    kv_folder: Path | None = None
    kv_disk_bytes: int = 0
    max_pinned_tokens: int = 0
    grammar_timeout_s: float = 2.0
    grammar_limits: GrammarLimits = GrammarLimits()
    max_loras: int = 0
    max_lora_rank: int = 64
    max_lora_bytes: int = 2**30
    packs_dir: Path | None = None
    max_packs_bytes: int = 0
    log_format: LogFormat = "console"

    def to_line(self) -> bytes:
        """Return the line that `from_line` reads: ASCII, also for paths that are not Unicode."""
        return json.dumps(msgspec.to_builtins(self, enc_hook=_plain)).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> "EngineConfig":
        """Read what `to_line` wrote.

        Raises:
            SettingsError: The line is not a configuration.
        """
        try:
            return msgspec.convert(json.loads(line), EngineConfig, dec_hook=lambda kind, plain: kind(plain))
        except (ValueError, TypeError) as error:
            raise SettingsError(
                f"an engine process reads its configuration from standard input as one line of JSON: {error}"
            ) from error


def _plain(setting: object) -> str | int:
    """Return a path, or a settings library's kind of integer, as JSON has it."""
    return int(setting) if isinstance(setting, int) else str(setting)
