"""What a scheduler counts, and how fast it drains."""

from collections import deque
from dataclasses import dataclass, field
from typing import TypedDict

from stoker.kvcache import TierBooks

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
_WINDOW = 64  # sequences over whose ends the drain rate is measured


@dataclass(slots=True)
class Counters:
    """Totals since the start; they mean what `stoker.core.stats.EngineStats` says."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    drafting_seconds: float = 0.0
    forced_tokens: int = 0
    preemptions: int = 0
    expired: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    interval_seconds: float = 0.0
    predicted_seconds: float = 0.0
    streaming_steps: int = 0
    late_steps: int = 0


@dataclass(slots=True)
class DrainRate:
    """Estimates when a full queue will have drained, from the latest ends of sequences.

    Time is the time spent in steps: a server that idled for an hour has not become slow.
    """

    _ends: deque[float] = field(default_factory=lambda: deque([0.0], maxlen=_WINDOW + 1))

    def record(self, step_seconds: float) -> None:
        """Note that a sequence ended when `step_seconds` had been spent in steps."""
        self._ends.append(step_seconds)

    def retry_after_s(self, n_waiting: int, step_seconds: float) -> float:
        """Return how long `n_waiting` sequences take to leave at the measured rate, in 1..60 s."""
        n_ended = max(1, len(self._ends) - 1)
        estimate = n_waiting * (step_seconds - self._ends[0]) / n_ended
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, estimate))


class TierStats(TypedDict, total=False):
    """Those fields of `stoker.core.stats.EngineStats` that tell of the tiers."""

    kv_host_blocks_total: int
    kv_host_blocks_used: int
    kv_disk_blocks: int
    kv_disk_writing: int
    host_restored_tokens_total: int
    disk_restored_tokens_total: int
    kv_demoted_blocks_total: int
    kv_dropped_blocks_total: int
    kv_disk_writes_total: int
    kv_disk_failures_total: int


def tier_stats(tiers: TierBooks | None) -> TierStats:
    """Return counters and gauges of the tiers; none without them."""
    if tiers is None:
        return {}
    counters = tiers.counters
    return {
        "kv_host_blocks_total": tiers.n_slots,
        "kv_host_blocks_used": tiers.n_host,
        "kv_disk_blocks": tiers.n_disk,
        "kv_disk_writing": int(tiers.writing),
        "host_restored_tokens_total": counters.host_tokens,
        "disk_restored_tokens_total": counters.disk_tokens,
        "kv_demoted_blocks_total": counters.demoted,
        "kv_dropped_blocks_total": counters.dropped,
        "kv_disk_writes_total": counters.written,
        "kv_disk_failures_total": counters.write_failures + counters.read_failures,
    }
