"""Trying again: a bounded number of times, with growing waits."""

from collections.abc import Callable
from time import sleep
from typing import TypeVar

from stoker.models.sources.http import TransientSourceError
from stoker.models.sources.network import Network

MIN_PROGRESS_BYTES = 2**20
"""A try that gets this much further begins a new row of tries."""

_Result = TypeVar("_Result")


def patiently(
    network: Network, attempt: Callable[[], _Result], reached_bytes: Callable[[], int] = lambda: 0
) -> _Result:
    """Call `attempt` until it does not raise `TransientSourceError`.

    Args:
        network: How often, and how long to wait in between.
        attempt: One try.
        reached_bytes: How far the tries have got.

    Raises:
        TransientSourceError: `network.attempts` tries in a row failed without a MiB of progress.
    """
    failures, reached = 0, reached_bytes()
    while True:
        try:
            return attempt()
        except TransientSourceError as error:
            now = reached_bytes()
            if now >= reached + MIN_PROGRESS_BYTES:
                failures, reached = 0, now
            failures += 1
            if failures >= network.attempts:
                raise
            wait_s = max(network.first_wait_s * 2 ** (failures - 1), error.retry_after_s or 0)
            sleep(min(wait_s, network.max_wait_s))
