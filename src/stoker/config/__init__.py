"""Settings: one frozen model, filled from flags, the environment and a TOML file, in that order."""

from stoker.config.loading import CONFIG_VARIABLE, ENV_PREFIX, find_config_file, load_settings
from stoker.config.settings import GROUPS, Settings, is_loopback

__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "GROUPS",
    "Settings",
    "find_config_file",
    "is_loopback",
    "load_settings",
]
