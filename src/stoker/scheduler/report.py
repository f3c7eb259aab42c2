"""What a scheduler tells of itself."""

from stoker.core.stats import EngineStats
from stoker.kvcache import KVCache
from stoker.scheduler.counters import Counters, tier_stats
from stoker.scheduler.held import HeldSequences
from stoker.scheduler.pace import Pace
from stoker.scheduler.queue import SequenceQueue
from stoker.scheduler.waiting import WaitingQueue


def report(
    *,
    running: SequenceQueue,
    waiting: WaitingQueue,
    held: HeldSequences,
    cache: KVCache,
    counters: Counters,
    pace: Pace,
) -> EngineStats:
    """Return counters and gauges as of now."""
    return EngineStats(
        running=len(running),
        waiting=len(waiting),
        waiting_tokens=waiting.n_tokens,
        kv_blocks_total=cache.n_blocks,
        kv_blocks_used=cache.n_blocks - cache.n_available,
        kv_blocks_cached=cache.n_cached,
        kv_blocks_pinned=held.n_blocks,
        **tier_stats(cache.tiers),
        prompt_tokens_total=counters.prompt_tokens,
        cached_tokens_total=counters.cached_tokens,
        generated_tokens_total=counters.generated_tokens,
        drafted_tokens_total=counters.drafted_tokens,
        accepted_tokens_total=counters.accepted_tokens,
        drafting_seconds_total=counters.drafting_seconds,
        forced_tokens_total=counters.forced_tokens,
        preemptions_total=counters.preemptions,
        expired_total=counters.expired,
        steps_total=counters.steps,
        step_seconds_total=counters.step_seconds,
        interval_seconds_total=counters.interval_seconds,
        predicted_seconds_total=counters.predicted_seconds,
        streaming_steps_total=counters.streaming_steps,
        late_steps_total=counters.late_steps,
        step_budget=pace.n_budget,
        step_time_ratio=pace.ratio,
    )
