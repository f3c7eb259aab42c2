"""Every test that asks for `isa` runs on each instruction-set path that this processor has."""

import pytest

from stoker import _native


@pytest.fixture(scope="session", params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)
