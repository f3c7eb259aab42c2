"""When a changed setting takes effect in a server that runs."""

from collections.abc import Mapping
from enum import Enum

from pydantic import ValidationError

from stoker.config.groups import GROUPS
from stoker.config.settings import GUESSES_WITH, Settings
from stoker.core.errors import SettingsError


class Effect(Enum):
    """When the change of a setting is felt; the value is what the documentation says."""

    RELOAD = "at a reload"
    LOAD = "for models loaded after a reload"
    RESTART = "after a restart"


EFFECTS: Mapping[Effect, tuple[str, ...]] = {
    Effect.RELOAD: (
        "api_key",
        "allowed_hosts",
        "max_models",
        "sleep_after_s",
        "wake_timeout_s",
        "max_choices",
        "max_scored_choices",
        "max_grammar_bytes",
        "max_schema_depth",
        "max_inputs",
        "max_body_bytes",
        "max_bodies_bytes",
        "max_prompt_bytes",
        "max_connections",
        "max_header_bytes",
        "header_timeout_s",
        "body_timeout_s",
        "write_timeout_s",
        "keep_alive_timeout_s",
        "shutdown_timeout_s",
        "max_waiting",
        "batching",
        "itl_target_s",
        "prefill_share",
        "prompt_patience_s",
        "batch_wait_s",
        "engine_timeout_s",
        "resume_timeout_s",
        "queue_timeout_s",
        "request_timeout_s",
        "log_level",
    ),
    Effect.LOAD: (
        "models",
        "max_packs_bytes",
        "offline",
        "hf_endpoint",
        "hf_token",
        "allow_http",
        "max_waiting_tokens",
        "engine",
        "quantize",
        "threads",
        "isa",
        "precise",
        "kv_type",
        "max_running",
        "step_tokens",
        "call_steps",
        "speculation",
        "draft_model",
        "skip_layers",
        "draft_tokens",
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
        "grammar_timeout_s",
        "max_grammar_symbols",
        "max_grammar_states",
        "max_grammar_compile_work",
        "max_grammar_step_work",
        "max_grammar_step_items",
        "max_grammar_row_items",
        "pooling",
    ),
    Effect.RESTART: ("home", "model", "memory_budget", "host", "port", "log_format"),
}
"""Every setting under the time at which its change is felt."""


def effect_of(setting: str) -> Effect:
    """Return when a change of this setting is felt."""
    return next(effect for effect, names in EFFECTS.items() if setting in names)


def changed(old: Settings, new: Settings) -> list[str]:
    """Return the names of the settings that differ, in the order in which settings are shown."""
    names = [name for group in GROUPS.values() for name in group]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def reloaded(running: Settings, read: Settings) -> Settings:
    """Return the settings of a server that has read new ones: what needs a restart stays as it is.

    Raises:
        SettingsError: What stays and what is new contradict each other.
    """
    kept = {name: getattr(running, name) for name in EFFECTS[Effect.RESTART]}
    return _validated({name: getattr(read, name) for name in Settings.model_fields} | kept)


def settings_of_model(settings: Settings, overrides: Mapping[str, object]) -> Settings:
    """Return the settings for all with those of one model in their place.

    Raises:
        SettingsError: Together they contradict each other.
    """
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    own = {name: value for name, value in overrides.items() if name in Settings.model_fields}
    if "speculation" in own:  # a model that guesses otherwise than all has no use for what they guess with
        for name, way in GUESSES_WITH.items():
            if own["speculation"] != way:
                values[name] = Settings.model_fields[name].default
    return _validated(values | own)


def _validated(values: Mapping[str, object]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise SettingsError(first["msg"].removeprefix("Value error, ")) from None
