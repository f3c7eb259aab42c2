"""Settings: one frozen model, filled from flags, the environment and a TOML file, in that order."""

from stoker.config.effect import EFFECTS, Effect, changed, effect_of, reloaded, settings_of_model
from stoker.config.groups import FILE_ONLY, GROUPS
from stoker.config.loading import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    HUB_VARIABLES,
    SettingsSource,
    find_config_file,
    load_settings,
)
from stoker.config.model_settings import ModelSettings
from stoker.config.settings import Settings, is_loopback

__all__ = [
    "CONFIG_VARIABLE",
    "EFFECTS",
    "ENV_PREFIX",
    "FILE_ONLY",
    "GROUPS",
    "HUB_VARIABLES",
    "Effect",
    "ModelSettings",
    "Settings",
    "SettingsSource",
    "changed",
    "effect_of",
    "find_config_file",
    "is_loopback",
    "load_settings",
    "reloaded",
    "settings_of_model",
]
