"""How long drafts are to be: as long as each further token is expected to speed the step up."""

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace

from stoker.core.drafting import DraftCosts


def may_pay(costs: DraftCosts) -> bool:
    """Whether drafts could pay if all guesses were right: not where a row costs its share of a step."""
    return costs.base_s > costs.token_s * costs.n_streams


def expected_step(chances: Sequence[float], lengths: Sequence[int], costs: DraftCosts) -> tuple[float, float]:
    """Return the tokens, and the seconds, that a step with drafts of these lengths is expected to have."""
    n_tokens = float(costs.n_streams)
    for chance, length in zip(chances, lengths, strict=True):
        n_tokens += sum(chance**n for n in range(1, length + 1))
    return n_tokens, costs.base_s + costs.token_s * sum(lengths)


def choose_lengths(chances: Sequence[float], most: Sequence[int], costs: DraftCosts) -> list[int]:
    """Return the length of each sequence's draft; all are 0 if none pays.

    The token of a draft is computed in vain unless all before it are right, so its worth falls as a power of
    the chance. The most valuable ones are taken, whoever's they are, while a token's worth for its time is
    above that of the step as a whole and the step has time; tokens per second are the most then.

    Args:
        chances: Of each sequence's guesses, ``[n]``, from 0 to below 1.
        most: Most tokens of its draft, ``[n]``.
        costs: What the step takes.
    """
    lengths = [0] * len(chances)
    heap = [(-chance, i) for i, chance in enumerate(chances) if chance > 0.0 and most[i] > 0]
    heapify(heap)
    n_tokens, seconds = float(costs.n_streams), costs.base_s
    while heap:
        worth, i = -heap[0][0], heap[0][1]
        if worth * seconds <= n_tokens * costs.token_s or seconds + costs.token_s > costs.most_s:
            break
        n_tokens += worth
        seconds += costs.token_s
        lengths[i] += 1
        if lengths[i] < most[i]:
            heapreplace(heap, (-worth * chances[i], i))
        else:
            heappop(heap)
    if n_tokens * costs.plain_s < costs.margin * costs.n_streams * seconds:
        return [0] * len(chances)
    return lengths
