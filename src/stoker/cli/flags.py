"""Settings as command-line flags, generated from `stoker.config.Settings`."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Group, Parameter
from pydantic import ByteSize

from stoker.config import GROUPS, Settings, SettingsSource

_Command = Callable[..., None]

_HEADINGS = {title: Group(title, sort_key=order) for order, title in enumerate(GROUPS, start=10)}

_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        Parameter(
            group=_HEADINGS["Model and folders"],
            metavar="FILE",
            help="The settings file. Unset, it is `STOKER_CONFIG`, `config.toml` in `home`, or "
            "`~/.config/stoker/config.toml`.",
        ),
    ],
)


def with_settings(*fields: str) -> Callable[[_Command], _Command]:
    """Give a command a flag for each of these settings; `model` may also be its first argument.

    The command is called with the merged settings, then its own arguments. A flag's value stays text
    until `load_settings` reads it, so that a wrong one is explained in the same words wherever it
    comes from.
    """
    return _with_source(fields, SettingsSource.load)


def with_source(*fields: str) -> Callable[[_Command], _Command]:
    """Do as `with_settings`, but give the command what it can load its settings from, again and again.

    `model` is a flag only, if the command's own arguments are any number of names.
    """
    return _with_source(fields, lambda source: source)


def _with_source(
    fields: tuple[str, ...], first: Callable[[SettingsSource], object]
) -> Callable[[_Command], _Command]:
    """Make commands whose first argument is made of the source of their settings."""

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            given = signature.bind(*args, **kwargs).arguments
            config_file = given.pop("config", None)
            flags = {field: given.pop(field) for field in fields if field in given}
            source = SettingsSource(
                flags={field: _as_text(value) for field, value in flags.items() if value is not None},
                environ=dict(os.environ),
                config_file=config_file,
            )
            positional = [given.pop(name) for name in positional_only if name in given]
            for name in any_number:
                positional += given.pop(name, ())
            command(first(source), *positional, **given)

        signature = _signature(command, fields)
        positional_only = [
            p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.POSITIONAL_ONLY
        ]
        any_number = [
            p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_POSITIONAL
        ]
        run.__signature__ = signature  # type: ignore[attr-defined] # what cyclopts reads
        run.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
        return run

    return decorate


def fields_of(*groups: str) -> Iterator[str]:
    """Yield the settings of these groups of `stoker.config.GROUPS`."""
    for group in groups:
        yield from GROUPS[group]


def _signature(command: Callable[..., None], fields: tuple[str, ...]) -> inspect.Signature:
    own = list(inspect.signature(command).parameters.values())[1:]
    positional = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    named = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in positional)
    model = []
    if "model" in fields and not named:
        model = [_flag("model", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    flags = [_flag(field, inspect.Parameter.KEYWORD_ONLY) for field in fields if field != "model" or named]
    return inspect.Signature([*model, *positional, *keywords, _CONFIG, *flags])


def _as_text(value: str | bool) -> str:  # noqa: FBT001 - a flag's value as it was parsed
    return value if isinstance(value, str) else str(value).lower()


def _flag(field: str, kind: Any) -> inspect.Parameter:
    info = Settings.model_fields[field]
    parameter = Parameter(
        group=next(_HEADINGS[title] for title, names in GROUPS.items() if field in names),
        metavar=None if info.annotation is bool else _metavar(field, info.annotation),
        help=info.description,
        show_default=False if info.default is None else lambda _: str(info.default),
    )
    kind_of_value = bool if info.annotation is bool else str
    return inspect.Parameter(field, kind, default=None, annotation=Annotated[kind_of_value | None, parameter])


def _metavar(field: str, annotation: Any) -> str:
    """Return the word that stands for a flag's value in help."""
    types = [t for t in get_args(annotation) if t is not type(None)]
    if field.endswith("_s"):
        return "SECONDS"
    if field == "chat_template":
        return "FILE"
    of_type = {ByteSize: "SIZE", int: "N", Path: "FOLDER"}
    return of_type.get(types[0] if types else annotation, field.rsplit("_", maxsplit=1)[-1].upper())
