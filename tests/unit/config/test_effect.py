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


def test_a_model_that_guesses_otherwise_leaves_what_the_others_guess_with() -> None:
    with_draft = Settings(speculation="draft-model", draft_model="small")
    for way in ("off", "prompt-lookup", "skip-layers"):
        own = settings_of_model(with_draft, {"speculation": way})
        assert (own.speculation, own.draft_model) == (way, None)
    assert settings_of_model(with_draft, {"speculation": "draft-model"}).draft_model == "small"
    skipping = Settings(speculation="skip-layers", skip_layers="2-3")
    assert settings_of_model(skipping, {"speculation": "off"}).skip_layers == "auto"
    with pytest.raises(SettingsError, match="skip_layers is set"):
        settings_of_model(skipping, {"speculation": "off", "skip_layers": "2"})
