"""Fills the settings from flags, the environment and a TOML file, in that order.

`load_settings` is the only place that looks at the environment. Everything else is given the values
it needs.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stoker.config.groups import FILE_ONLY
from stoker.config.settings import Settings, default_folder
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsSource:
    """Where a process has its settings from, so that they can be read again.

    Attributes:
        flags: Settings given on the command line, by field name.
        environ: The process's environment at its start.
        config_file: The file given on the command line, or None.
    """

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    config_file: str | None = None

    @property
    def file(self) -> Path:
        """The settings file; need not exist."""
        return find_config_file(flags=self.flags, environ=self.environ, config_file=self.config_file)[0]

    def load(self) -> Settings:
        """Read the settings, as `load_settings` does."""
        return load_settings(flags=self.flags, environ=self.environ, config_file=self.config_file)


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
    return default_folder() / "config.toml", False


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
        if field in FILE_ONLY:
            raise SettingsError(f"{variable}: {field} can only be set in the settings file")
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
            origin = f"{'.'.join(map(str, problem['loc']))} in {file}"
        problems.append(f"{origin}: {message[0].lower()}{message[1:]}")
    return "; ".join(problems)
