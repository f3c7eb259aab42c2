"""Each setting says when a change of it is felt."""

import pytest

from stoker.config import EFFECTS, Effect, Settings, changed, effect_of, reloaded, settings_of_model
from stoker.core.errors import SettingsError


def test_every_setting_says_when_it_takes_effect() -> None:
    named = [name for names in EFFECTS.values() for name in names]
    assert sorted(named) == sorted(Settings.model_fields)
    assert effect_of("port") is Effect.RESTART


def test_what_needs_a_restart_stays() -> None:
    running, read = Settings(port=1, max_choices=1), Settings(port=2, max_choices=2)
    assert changed(running, read) == ["port", "max_choices"]
    assert changed(running, reloaded(running, read)) == ["max_choices"]


def test_a_models_own_settings_are_checked_with_the_others() -> None:
    assert settings_of_model(Settings(), {"max_running": 7}).max_running == 7
    assert settings_of_model(Settings(), {"engine": "llamacpp"}).engine == "llamacpp"
    assert settings_of_model(Settings(engine="llamacpp"), {}).engine == "llamacpp"
    with pytest.raises(SettingsError, match=r"step_tokens \(512\)"):
        settings_of_model(Settings(), {"max_running": 600})
