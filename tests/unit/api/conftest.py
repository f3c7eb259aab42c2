"""An API over a scripted generator."""

import pytest

from stoker.testing.scripted_api import ScriptedApi, scripted_api


@pytest.fixture
def api() -> ScriptedApi:
    return scripted_api()
