"""Settings are read again as a whole, or not at all."""

import asyncio
import logging
import re
from functools import partial
from pathlib import Path

import pytest

from stoker.app.reload import Reloader
from stoker.config import Settings, SettingsSource
from stoker.core.errors import SettingsError
from stoker.testing.waiting import until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("port = 81\nmax_choices = 3\nlog_level = 'error'\n")
    return path


@pytest.fixture
def reloader(file: Path) -> Reloader:
    return Reloader(SettingsSource(flags={"log_level": "debug"}, environ={}, config_file=str(file)))


def reload(reloader: Reloader) -> list[Settings]:
    applied: list[Settings] = []
    reloader.reload(applied.append)
    return applied


def test_what_can_change_does_and_the_rest_is_named(
    reloader: Reloader, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("port = 82\nmax_choices = 4\nthreads = 2\nlog_level = 'info'\napi_key = 'hush'\n")
    with caplog.at_level(logging.INFO):
        (settings,) = reload(reloader)
    assert settings is reloader.current
    assert (settings.port, settings.max_choices, settings.threads) == (81, 4, 2)
    assert settings.log_level == "debug", "flags keep their precedence"
    assert "need a restart: port" in caplog.text
    assert "loaded from now on: threads" in caplog.text
    assert "changed: api_key, max_choices, threads" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("max_choices = 'many'", "max_choices in .*valid integer"),
        ("max_choices", "cannot be read"),
        ("nothing = 1", "nothing in .* is not a setting"),
        ("max_running = 600", "step_tokens"),
        ("[models.x]\nmax_running = 0", "models.x.max_running in"),
    ],
)
def test_a_wrong_file_changes_nothing(
    reloader: Reloader, file: Path, caplog: pytest.LogCaptureFixture, content: str, words: str
) -> None:
    before = reloader.current
    file.write_text(content)
    assert reload(reloader) == []
    assert reloader.current is before
    assert "nothing changes" in caplog.text
    assert re.search(words, caplog.text)


def test_settings_that_cannot_be_put_into_effect_change_nothing(
    reloader: Reloader, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def apply(_: Settings) -> None:
        raise SettingsError("too many files")

    before = reloader.current
    file.write_text("max_connections = 1000000")
    reloader.reload(apply)
    assert reloader.current is before
    assert "too many files" in caplog.text


def test_an_open_address_keeps_its_key(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("host = '0.0.0.0'\napi_key = 'k'")
    reloader = Reloader(SettingsSource(flags={}, environ={}, config_file=str(file)))
    file.write_text("host = '127.0.0.1'")
    assert reload(reloader) == []
    assert reloader.current.api_key is not None
    assert "a key is needed" in caplog.text


async def test_a_changed_file_is_noticed_once(reloader: Reloader, file: Path) -> None:
    noticed: list[int] = []
    reload = partial(reloader.reload, lambda settings: noticed.append(settings.max_choices))
    watching = asyncio.create_task(reloader.watch(reload, every_s=0.01))
    await asyncio.sleep(0.1)
    assert noticed == []
    file.write_text("max_choices = 5")
    await until(lambda: noticed)
    assert noticed == [5]
    file.write_text("max_choices = 6")
    reload()
    await asyncio.sleep(0.2)
    assert noticed == [5, 6], "what a signal has had read is not read again"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
