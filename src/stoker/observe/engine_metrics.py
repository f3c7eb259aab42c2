"""Engine counters and gauges, read when Prometheus scrapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stoker.core.stats import EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What is known of a model's engine.

    Attributes:
        ready: Whether a request would get its first token now.
        restarts: How often an engine process was started after the first one.
        resumed: How often a sequence whose engine died was taken by a next one.
        quarantined: Sequences condemned for the deaths of engines.
        stats: Gauges of the engine process, zeros without one, and counters over all of them.
    """

    ready: bool
    restarts: int
    resumed: int
    quarantined: int
    stats: EngineStats


EngineReporter = Callable[[], EngineReport]
"""Reports on an engine; called at every scrape."""

GAUGES: Mapping[str, tuple[str, str]] = {
    "running": ("stoker_engine_running", "Sequences that take part in steps."),
    "waiting": ("stoker_engine_waiting", "Sequences queued behind them."),
    "waiting_tokens": ("stoker_engine_waiting_tokens", "Tokens of the sequences that wait."),
    "kv_blocks_total": ("stoker_engine_kv_blocks", "KV blocks in all."),
    "kv_blocks_used": ("stoker_engine_kv_blocks_used", "KV blocks held by running sequences."),
    "kv_blocks_cached": ("stoker_engine_kv_blocks_cached", "Free KV blocks that keep a prefix for later."),
    "kv_blocks_pinned": (
        "stoker_engine_kv_blocks_pinned",
        "KV blocks held by pinned prefixes, shared ones counted for each.",
    ),
    "kv_bytes_total": ("stoker_engine_kv_bytes", "Memory of all KV blocks."),
    "kv_bytes_used": ("stoker_engine_kv_bytes_used", "Memory of the KV blocks held by running sequences."),
    "step_budget": ("stoker_engine_step_budget_tokens", "Most tokens that the latest call might have had."),
    "step_time_ratio": (
        "stoker_engine_step_time_ratio",
        "95 % quantile of measured to predicted time that sizes calls.",
    ),
    "kv_bytes_cached": ("stoker_engine_kv_bytes_cached", "Memory of the free KV blocks that keep a prefix."),
    "kv_bytes_pinned": ("stoker_engine_kv_bytes_pinned", "Memory of the KV blocks held by pinned prefixes."),
    "kv_host_blocks_total": ("stoker_kv_host_blocks", "KV blocks that fit the host tier."),
    "kv_host_blocks_used": ("stoker_kv_host_blocks_used", "KV blocks in the host tier."),
    "kv_host_bytes_total": ("stoker_kv_host_bytes", "Memory of the host tier."),
    "kv_host_bytes_used": ("stoker_kv_host_bytes_used", "Memory of the KV blocks in the host tier."),
    "kv_disk_blocks": ("stoker_kv_disk_blocks", "KV blocks of the model known to be on disk."),
    "kv_disk_bytes": ("stoker_kv_disk_bytes", "Size of the KV blocks of the model known to be on disk."),
    "adapters_resident": ("stoker_engine_adapters_resident", "Adapters that the engine has in memory."),
    "kv_disk_writing": (
        "stoker_kv_disk_writing",
        "1 while KV blocks are written to the disk; 0 without a disk tier, and for a while after a failure.",
    ),
}
"""Field or property of `EngineStats` to name and help of its gauge."""

COUNTERS: Mapping[str, tuple[str, str]] = {
    "prompt_tokens_total": ("stoker_engine_prompt_tokens_total", "Prompt tokens of admitted sequences."),
    "cached_tokens_total": (
        "stoker_engine_cached_tokens_total",
        "Prompt tokens that came from the prefix cache.",
    ),
    "generated_tokens_total": ("stoker_engine_generated_tokens_total", "Tokens sampled."),
    "drafted_tokens_total": (
        "stoker_engine_drafted_tokens_total",
        "Tokens of drafts that were computed.",
    ),
    "accepted_tokens_total": (
        "stoker_engine_accepted_tokens_total",
        "Tokens of drafts that were right; their share of the drafted ones is the acceptance rate.",
    ),
    "drafting_seconds_total": (
        "stoker_engine_drafting_seconds_total",
        "Time spent on making drafts, before the engine calls that compute them.",
    ),
    "preemptions_total": ("stoker_engine_preemptions_total", "Sequences preempted."),
    "expired_total": (
        "stoker_engine_expired_total",
        "Sequences given up because a time limit of theirs was over.",
    ),
    "host_restored_tokens_total": (
        "stoker_kv_host_restored_tokens_total",
        "Tokens whose KV came back from the host tier.",
    ),
    "disk_restored_tokens_total": (
        "stoker_kv_disk_restored_tokens_total",
        "Tokens whose KV came back from the disk tier.",
    ),
    "kv_demoted_blocks_total": ("stoker_kv_demoted_blocks_total", "KV blocks evicted to the host tier."),
    "kv_dropped_blocks_total": (
        "stoker_kv_dropped_blocks_total",
        "KV blocks that the host tier had no room for, or gave up while nothing else was known to have them.",
    ),
    "kv_disk_writes_total": ("stoker_kv_disk_writes_total", "KV blocks written to the disk."),
    "kv_disk_failures_total": (
        "stoker_kv_disk_failures_total",
        "KV blocks that could not be written to the disk, or were there and not usable.",
    ),
    "adapter_loads_total": ("stoker_engine_adapter_loads_total", "Adapters read from their folders."),
    "adapter_evictions_total": (
        "stoker_engine_adapter_evictions_total",
        "Adapters that made room for others.",
    ),
    "steps_total": ("stoker_engine_steps_total", "Steps computed; an engine call has up to four."),
    "step_seconds_total": ("stoker_engine_step_seconds_total", "Time spent in engine calls."),
    "interval_seconds_total": (
        "stoker_engine_interval_seconds_total",
        "Time from engine call to engine call, as streams wait for tokens, less the copying of KV blocks.",
    ),
    "predicted_seconds_total": (
        "stoker_engine_predicted_seconds_total",
        "What was predicted of the time from engine call to engine call.",
    ),
    "streaming_steps_total": (
        "stoker_engine_streaming_steps_total",
        "Engine calls in which a stream had a token computed.",
    ),
    "late_steps_total": (
        "stoker_engine_late_steps_total",
        "Engine calls in which a stream waited longer than itl_target_s.",
    ),
    "grammars_compiled_total": ("stoker_grammars_compiled_total", "Grammars compiled."),
    "grammar_compile_seconds_total": (
        "stoker_grammar_compile_seconds_total",
        "Time for compiling grammars, beside the steps.",
    ),
    "grammar_mask_seconds_total": (
        "stoker_grammar_mask_seconds_total",
        "Time between steps for finding which tokens a grammar allows.",
    ),
    "forced_tokens_total": (
        "stoker_forced_tokens_total",
        "Generated tokens that a grammar left no choice about, taken without a step each.",
    ),
}
"""Field of `EngineStats` to name and help of its counter."""


class EngineCollector(Collector):
    """Turns the reports on every watched engine into metrics, one ``model`` label each."""

    def __init__(self) -> None:
        self._reporters: dict[str, EngineReporter] = {}

    def watch(self, model: str, reporter: EngineReporter) -> None:
        """Report this model's engine from now on."""
        self._reporters[model] = reporter

    def forget(self, model: str) -> None:
        """Report this model's engine no more."""
        self._reporters.pop(model, None)

    def describe(self) -> list[Metric]:
        """Name nothing ahead: asking engines for stats while registering would be too early."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with one sample per model."""
        reports = {model: reporter() for model, reporter in self._reporters.items()}
        up = GaugeMetricFamily("stoker_engine_up", "1 while the engine is ready.", labels=["model"])
        restarts = CounterMetricFamily(
            "stoker_engine_restarts_total", "Engine processes started after the first one.", labels=["model"]
        )
        resumed = CounterMetricFamily(
            "stoker_streams_resumed_total",
            "Sequences that went on in a next engine after theirs died.",
            labels=["model"],
        )
        quarantined = CounterMetricFamily(
            "stoker_requests_quarantined_total", "Sequences that engines died of.", labels=["model"]
        )
        for model, report in reports.items():
            up.add_metric([model], float(report.ready))
            restarts.add_metric([model], float(report.restarts))
            resumed.add_metric([model], float(report.resumed))
            quarantined.add_metric([model], float(report.quarantined))
        yield from (up, restarts, resumed, quarantined)
        for field, (name, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for model, report in reports.items():
                gauge.add_metric([model], float(getattr(report.stats, field)))
            yield gauge
        for field, (name, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model"])
            for model, report in reports.items():
                counter.add_metric([model], float(getattr(report.stats, field)))
            yield counter
