"""Counters and gauges that an engine reports with every step."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """State of one engine after a step; the counters, which are in `COUNTERS`, begin at 0.

    Attributes:
        running: Sequences that hold KV blocks and take part in steps.
        waiting: Sequences queued behind them, preempted ones included.
        waiting_tokens: Tokens of those.
        kv_blocks_total: KV blocks in all.
        kv_blocks_used: Blocks held by running sequences.
        kv_blocks_cached: Blocks held by nobody that keep a prefix for later.
        kv_block_bytes: Memory of a block; 0 if the engine does not tell.
        kv_blocks_pinned: Blocks that pinned prefixes hold, those that several share counted for each.
        kv_host_blocks_total: Blocks that fit the host tier.
        kv_host_blocks_used: Blocks that are there.
        kv_disk_blocks: Blocks of this model known to be on disk.
        kv_disk_writing: 1 while blocks are written to the disk, 0 without a disk tier or after a failure.
        adapters_resident: Adapters that the engine has in memory.
        prompt_tokens_total: Prompt tokens of admitted sequences.
        cached_tokens_total: Those of them that came from the prefix cache.
        generated_tokens_total: Tokens sampled, or forced by a grammar.
        drafted_tokens_total: Tokens of drafts that were computed.
        accepted_tokens_total: Those of them that were right.
        drafting_seconds_total: Time that making them took.
        preemptions_total: Sequences that gave up their blocks to be recomputed later.
        expired_total: Sequences that were given up because a time limit of theirs was over.
        host_restored_tokens_total: Tokens whose KV came back from the host tier.
        disk_restored_tokens_total: Tokens whose KV came back from the disk tier.
        kv_demoted_blocks_total: Blocks that were evicted to the host tier.
        kv_dropped_blocks_total: Blocks whose copy in the host tier was given up while no other was known,
            or that found no room there.
        kv_disk_writes_total: Blocks written to the disk.
        kv_disk_failures_total: Blocks that could not be written, or were there and not usable.
        adapter_loads_total: Adapters read from their folders.
        adapter_evictions_total: Adapters that made room for others.
        steps_total: Steps computed; an engine call takes one or a few.
        step_seconds_total: Time spent in engine calls.
        interval_seconds_total: Time from the end of a call, or from when one was planned after idling, to
            the end of the next, less what blocks were copied in it: what a stream waits for its tokens.
        predicted_seconds_total: What was predicted of that.
        streaming_steps_total: Steps in which a stream had a token computed.
        late_steps_total: Calls of such steps that took longer than the target.
        step_budget: Most tokens that the latest call might have had.
        step_time_ratio: 95 % quantile of measured to predicted time that sizes calls.
        grammars_compiled_total: Grammars compiled, those that failed included.
        grammar_compile_seconds_total: Time that compiling took, beside the steps.
        grammar_mask_seconds_total: Time between steps for finding which tokens may come next.
        forced_tokens_total: Those of the tokens generated that a grammar left no choice about, taken without
            being sampled.
    """

    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    kv_blocks_cached: int = 0
    kv_block_bytes: int = 0
    kv_blocks_pinned: int = 0
    kv_host_blocks_total: int = 0
    kv_host_blocks_used: int = 0
    kv_disk_blocks: int = 0
    kv_disk_writing: int = 0
    adapters_resident: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generated_tokens_total: int = 0
    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0
    preemptions_total: int = 0
    expired_total: int = 0
    host_restored_tokens_total: int = 0
    disk_restored_tokens_total: int = 0
    kv_demoted_blocks_total: int = 0
    kv_dropped_blocks_total: int = 0
    kv_disk_writes_total: int = 0
    kv_disk_failures_total: int = 0
    adapter_loads_total: int = 0
    adapter_evictions_total: int = 0
    steps_total: int = 0
    step_seconds_total: float = 0.0
    interval_seconds_total: float = 0.0
    predicted_seconds_total: float = 0.0
    streaming_steps_total: int = 0
    late_steps_total: int = 0
    step_budget: int = 0
    step_time_ratio: float = 0.0
    grammars_compiled_total: int = 0
    grammar_compile_seconds_total: float = 0.0
    grammar_mask_seconds_total: float = 0.0
    forced_tokens_total: int = 0
    drafting_seconds_total: float = 0.0

    @property
    def kv_bytes_total(self) -> int:
        """Memory of all KV blocks, reserved but taken only as they are first written."""
        return self.kv_blocks_total * self.kv_block_bytes

    @property
    def kv_bytes_used(self) -> int:
        """Memory of the blocks that running sequences hold."""
        return self.kv_blocks_used * self.kv_block_bytes

    @property
    def kv_bytes_cached(self) -> int:
        """Memory of the blocks that keep a prefix for later."""
        return self.kv_blocks_cached * self.kv_block_bytes

    @property
    def kv_bytes_pinned(self) -> int:
        """Memory of the blocks that pinned prefixes hold."""
        return self.kv_blocks_pinned * self.kv_block_bytes

    @property
    def kv_host_bytes_total(self) -> int:
        """Memory of the host tier, reserved but taken only as it is first written."""
        return self.kv_host_blocks_total * self.kv_block_bytes

    @property
    def kv_host_bytes_used(self) -> int:
        """Memory of the blocks that are there."""
        return self.kv_host_blocks_used * self.kv_block_bytes

    @property
    def kv_disk_bytes(self) -> int:
        """Size of this model's blocks known to be on disk."""
        return self.kv_disk_blocks * self.kv_block_bytes


COUNTERS = (
    "prompt_tokens_total",
    "cached_tokens_total",
    "generated_tokens_total",
    "drafted_tokens_total",
    "accepted_tokens_total",
    "drafting_seconds_total",
    "preemptions_total",
    "expired_total",
    "host_restored_tokens_total",
    "disk_restored_tokens_total",
    "kv_demoted_blocks_total",
    "kv_dropped_blocks_total",
    "kv_disk_writes_total",
    "kv_disk_failures_total",
    "adapter_loads_total",
    "adapter_evictions_total",
    "steps_total",
    "step_seconds_total",
    "interval_seconds_total",
    "predicted_seconds_total",
    "streaming_steps_total",
    "late_steps_total",
    "grammars_compiled_total",
    "grammar_compile_seconds_total",
    "grammar_mask_seconds_total",
    "forced_tokens_total",
)
"""The fields of `EngineStats` that only grow; the others are gauges."""


def add_counters(stats: EngineStats, earlier: EngineStats) -> EngineStats:
    """Return `stats` with an earlier engine's counters added to its own; its gauges are kept."""
    sums = {name: getattr(stats, name) + getattr(earlier, name) for name in COUNTERS}
    return replace(stats, **sums)
