"""How settings are grouped where they are shown."""

from collections.abc import Mapping

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
        "lora_dir",
        "max_loras",
        "max_lora_rank",
        "max_lora_bytes",
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
