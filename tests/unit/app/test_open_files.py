"""A server makes room for its connections among the files that it may open, or says why it cannot."""

import resource

import pytest

from stoker.app import OTHER_FILES, allow_connections
from stoker.core.errors import SettingsError

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to"),
    [
        (1024, 4096, 1000 + OTHER_FILES),
        (1024, NO_LIMIT, 1000 + OTHER_FILES),
        (1024, 1000 + OTHER_FILES, 1000 + OTHER_FILES),
        (4096, 4096, None),
        (NO_LIMIT, NO_LIMIT, None),
    ],
)
def test_the_limit_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised_to: int | None
) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    allow_connections(1000)
    assert limits == ([] if raised_to is None else [(raised_to, hard)])


def test_a_limit_that_cannot_be_raised_far_enough_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))
    with pytest.raises(SettingsError, match=r"max_connections is 1000, .* 128 files .*lower max_connections"):
        allow_connections(1000)
