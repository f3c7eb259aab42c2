"""Flags are generated from settings."""

import inspect
import os
from collections.abc import Callable

import pytest
from cyclopts import App

from stoker.cli.flags import fields_of, with_settings
from stoker.config import GROUPS, Settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("STOKER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("STOKER_HOME", "/nonexistent")


def calls() -> tuple[Callable[..., None], list[tuple[Settings, str, int]]]:
    taken: list[tuple[Settings, str, int]] = []

    @with_settings(*fields_of("Model and folders", "Server"))
    def command(settings: Settings, word: str = "unsaid", *, number: int = 5) -> None:
        taken.append((settings, word, number))

    return command, taken


def test_every_setting_of_the_groups_is_a_flag() -> None:
    command, _ = calls()
    parameters = list(inspect.signature(command).parameters)
    assert parameters[:2] == ["model", "word"]
    wanted = {*GROUPS["Model and folders"], *GROUPS["Server"], "config", "word", "number"}
    assert set(parameters) == wanted


def test_a_command_gets_settings_and_its_own_arguments() -> None:
    command, taken = calls()
    command("m", "w", port="81", number=6)
    command(None, "w")
    (first, *own), (second, *defaults) = taken
    assert (first.model, first.port, own) == ("m", 81, ["w", 6])
    assert (second.model, second.port, defaults) == (Settings().model, Settings().port, ["w", 5])


def test_a_switch_needs_no_value_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []

    @with_settings(*fields_of("Model sources"))
    def command(settings: Settings) -> None:
        taken.append(settings.offline)

    app = App(name="test")
    app.default(command)
    monkeypatch.setenv("STOKER_OFFLINE", "true")
    for arguments in (["--offline"], ["--no-offline"], []):
        app(arguments, exit_on_error=False, result_action="return_value")
    assert taken == [True, False, True]
