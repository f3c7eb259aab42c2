"""The best of several candidates for a request's choices."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from stoker.core.text import Finished, TextDelta


def best_of(
    events: Iterable[TextDelta | Finished], weights: Sequence[float], n: int
) -> Iterator[TextDelta | Finished]:
    """Yield the events of the `n` heaviest candidates, renumbered from the heaviest to the lightest.

    Args:
        events: Of all candidates, in order.
        weights: One for each candidate; of equal ones the first comes first.
        n: How many to keep.
    """
    ranked = sorted(range(len(weights)), key=lambda candidate: -weights[candidate])
    places = {candidate: place for place, candidate in enumerate(ranked[:n])}
    for event in events:
        if event.choice in places:
            yield replace(event, choice=places[event.choice])
