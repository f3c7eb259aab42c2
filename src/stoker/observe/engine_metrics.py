"""Engine counters and gauges, read when Prometheus scrapes.

An engine's counters start at 0 whenever its process restarts, Prometheus's must not: what each dead
incarnation had counted is kept and added.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stoker.core.stats import EngineStats

StatsProvider = Callable[[], EngineStats | None]
"""Returns an engine's latest stats, or None while it has no engine process."""

GAUGES: Mapping[str, tuple[str, str]] = {
    "running": ("stoker_engine_running", "Sequences that take part in steps."),
    "waiting": ("stoker_engine_waiting", "Sequences queued behind them."),
    "kv_blocks_total": ("stoker_engine_kv_blocks", "KV blocks in all."),
    "kv_blocks_used": ("stoker_engine_kv_blocks_used", "KV blocks held by running sequences."),
    "kv_blocks_cached": ("stoker_engine_kv_blocks_cached", "Free KV blocks that keep a prefix for later."),
}
"""Field of `EngineStats` to name and help of its gauge."""

COUNTERS: Mapping[str, tuple[str, str]] = {
    "prompt_tokens_total": ("stoker_engine_prompt_tokens_total", "Prompt tokens of admitted sequences."),
    "cached_tokens_total": (
        "stoker_engine_cached_tokens_total",
        "Prompt tokens that came from the prefix cache.",
    ),
    "generated_tokens_total": ("stoker_engine_generated_tokens_total", "Tokens sampled."),
    "preemptions_total": ("stoker_engine_preemptions_total", "Sequences preempted."),
    "steps_total": ("stoker_engine_steps_total", "Engine calls."),
    "step_seconds_total": ("stoker_engine_step_seconds_total", "Time spent in engine calls."),
}
"""Field of `EngineStats` to name and help of its counter."""


class CounterHistory:
    """Sums of one engine's counters over all its incarnations; never decreases."""

    def __init__(self) -> None:
        self._ended = dict.fromkeys(COUNTERS, 0.0)
        self._last = dict.fromkeys(COUNTERS, 0.0)

    def update(self, stats: EngineStats) -> None:
        """Take in the engine's latest counters.

        Counters only grow within an incarnation, so any of them being lower than before means a new
        one. (A restart shows late, as a sum too low by what the old incarnation had counted, only if
        the new one has overtaken the old in every counter between two scrapes.)
        """
        now = {field: float(getattr(stats, field)) for field in COUNTERS}
        if any(now[field] < self._last[field] for field in COUNTERS):
            for field in COUNTERS:
                self._ended[field] += self._last[field]
        self._last = now

    def total(self, field: str) -> float:
        """The counter's value over all incarnations."""
        return self._ended[field] + self._last[field]


class EngineCollector(Collector):
    """Turns the stats of every watched engine into metrics, one ``model`` label each."""

    def __init__(self) -> None:
        self._providers: dict[str, StatsProvider] = {}
        self._histories: dict[str, CounterHistory] = {}

    def watch(self, model: str, provider: StatsProvider) -> None:
        """Report this model's engine from now on."""
        self._providers[model] = provider
        self._histories.setdefault(model, CounterHistory())

    def describe(self) -> list[Metric]:
        """Name nothing ahead: asking engines for stats while registering would be too early."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with one sample per model; without an engine the gauges are 0."""
        stats = {model: provider() for model, provider in self._providers.items()}
        up = GaugeMetricFamily("stoker_engine_up", "1 while the model has an engine.", labels=["model"])
        for model, latest in stats.items():
            up.add_metric([model], float(latest is not None))
            if latest is not None:
                self._histories[model].update(latest)
        yield up
        for field, (name, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for model, latest in stats.items():
                gauge.add_metric([model], float(getattr(latest, field)) if latest is not None else 0.0)
            yield gauge
        for field, (name, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model"])
            for model in stats:
                counter.add_metric([model], self._histories[model].total(field))
            yield counter
