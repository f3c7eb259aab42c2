"""What a soak has shown: whether memory is flat by a stated rule, and counts."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stoker.testing.soak.client import Ending, Outcome
from stoker.testing.soak.run import Seen
from stoker.testing.soak.trend import Trend, medians, trend
from stoker.testing.soak.view import Sample

WARM_UP_SHARE = 0.25
"""Share of the load's time, at its begin, that the gateway's slope leaves out."""

STRETCH_S = 30.0
"""The gateway's samples are reduced to medians over so long."""

GATEWAY_KIB_PER_MINUTE = 128.0
"""The gateway's memory is flat if the upper end of the 95 % interval of its slope is at most this."""

ENGINE_SHARE = 0.02
"""Engines' memory is flat if no later engine's peak exceeds those of the first third by more than this."""

ENGINE_WARM_UP_S = 60.0
"""What the slope of the last engine leaves out: it touches its KV memory for the first time."""

GREATEST_FD_GROWTH = 2
"""Most file descriptors of the gateway that may be left when the load has ended."""

MAX_LISTED = 50
"""Most wrong endings that are told in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is right; None where the load was too short to tell.

    Attributes:
        answers_right: Every request ended as it had to, and nothing was left in flight.
        gateway_flat: By the rule of `GATEWAY_KIB_PER_MINUTE`.
        engines_flat: By the rule of `ENGINE_SHARE`.
        fds_flat: By the rule of `GREATEST_FD_GROWTH`.
    """

    answers_right: bool
    gateway_flat: bool | None
    engines_flat: bool | None
    fds_flat: bool

    @property
    def passed(self) -> bool:
        """Whether nothing is known to be wrong."""
        return False not in {self.answers_right, self.gateway_flat, self.engines_flat, self.fds_flat}


def judge(seen: Seen) -> Verdict:
    """Judge what was seen."""
    slope = gateway_trend(seen)
    peaks = engine_peaks_kib(seen.engines)
    n_first = len(peaks) // 3
    return Verdict(
        answers_right=not seen.wrong and not seen.left_over and bool(seen.of(Ending.COMPLETE)),
        gateway_flat=None if slope is None else slope.high <= GATEWAY_KIB_PER_MINUTE,
        engines_flat=max(peaks) <= max(peaks[:n_first]) * (1 + ENGINE_SHARE) if n_first else None,
        fds_flat=seen.after.fds - seen.before.fds <= GREATEST_FD_GROWTH,
    )


def gateway_trend(seen: Seen) -> Trend | None:
    """Return the slope of the gateway's resident memory after the warm-up, in KiB a minute."""
    begin_s = seen.load_s * WARM_UP_SHARE
    points = [(each.at_s, float(each.rss_kib)) for each in seen.gateway if each.at_s >= begin_s]
    return trend(medians(points, STRETCH_S))


def last_engine_trend(engines: Sequence[Sample]) -> Trend | None:
    """Return the slope of the last engine's resident memory, in KiB a minute."""
    mine = [each for each in engines if each.pid == engines[-1].pid]
    points = [
        (each.at_s, float(each.rss_kib)) for each in mine if each.at_s - mine[0].at_s > ENGINE_WARM_UP_S
    ]
    return trend(medians(points, STRETCH_S / 2))


def engine_peaks_kib(engines: Sequence[Sample]) -> list[int]:
    """Return the highest resident memory of each engine, in order."""
    peaks: dict[int, int] = {}
    for each in engines:
        peaks[each.pid] = max(peaks.get(each.pid, 0), each.rss_kib)
    return list(peaks.values())


def summary(seen: Seen) -> dict[str, Any]:
    """Return counts and figures as JSON."""
    complete = seen.of(Ending.COMPLETE)
    metrics = seen.metrics
    recovered = [fault.recovered_s for fault in seen.faults if fault.recovered_s is not None]
    return {
        "requests": len(seen.outcomes),
        "endings": _counted(outcome.ending.value for outcome in seen.outcomes),
        "complete_by_kind": _counted(outcome.ask.rpartition("-")[0] or outcome.ask for outcome in complete),
        "by_manner": _counted(f"{each.manner.name.lower()}: {each.ending.value}" for each in seen.outcomes),
        "refusals": _counted(f"{each.status} {each.detail}" for each in seen.of(Ending.REFUSED)),
        "tokens_of_complete_answers": sum(outcome.n_tokens for outcome in complete),
        "tokens_generated": int(metrics["stoker_engine_generated_tokens_total"]),
        "prompt_tokens": int(metrics["stoker_engine_prompt_tokens_total"]),
        "prompt_tokens_cached": int(metrics["stoker_engine_cached_tokens_total"]),
        "preemptions": int(metrics["stoker_engine_preemptions_total"]),
        "faults": _counted(fault.kind for fault in seen.faults),
        "sequences_running_at_faults": sum(fault.running for fault in seen.faults),
        "restarts": int(metrics["stoker_engine_restarts_total"]),
        "sequences_resumed": int(metrics["stoker_streams_resumed_total"]),
        "quarantined": int(metrics["stoker_requests_quarantined_total"]),
        "recovery_s": _spread(recovered),
        "longest_request_s": round(max((each.seconds for each in complete), default=0.0), 1),
        "longest_pause_within_an_answer_s": round(
            max((each.longest_pause_s for each in complete), default=0.0), 1
        ),
        "wrong": [_told(outcome) for outcome in seen.wrong[:MAX_LISTED]],
        "n_wrong": len(seen.wrong),
        "left_in_flight": seen.left_over,
    }


def memory(seen: Seen) -> dict[str, Any]:
    """Return figures and series of both processes' memory as JSON; sizes in KiB, slopes in KiB a minute."""
    peaks = engine_peaks_kib(seen.engines)
    slope, last = gateway_trend(seen), last_engine_trend(seen.engines)
    return {
        "rule": {
            "gateway": f"upper end of the 95 % interval of the slope of RSS after the first "
            f"{WARM_UP_SHARE:.0%} of the time at most {GATEWAY_KIB_PER_MINUTE:g} KiB a minute",
            "engines": "no engine's peak RSS exceeds the highest of the first third of engines by more than "
            f"{ENGINE_SHARE:.0%}",
            "fds": f"at most {GREATEST_FD_GROWTH} more of the gateway's after the load than before",
        },
        "gateway_slope": None if slope is None else asdict(slope),
        "last_engine_slope": None if last is None else asdict(last),
        "gateway_rss": _spread([each.rss_kib for each in seen.gateway]),
        "gateway_pss": _spread([each.pss_kib for each in seen.gateway]),
        "engine_peaks": peaks,
        "before": asdict(seen.before),
        "after": asdict(seen.after),
        "gateway_series": _series(seen.gateway),
        "engine_series": _series(seen.engines),
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "least": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "most": round(max(values), 2),
    }


def _series(samples: Sequence[Sample]) -> dict[str, list[float]]:
    names = ("pid", "rss_kib", "pss_kib", "fds", "threads")
    return {
        "at_s": [round(each.at_s, 1) for each in samples],
        **{name: [getattr(each, name) for each in samples] for name in names},
    }


def _told(outcome: Outcome) -> str:
    return (
        f"{outcome.ask} ({outcome.manner.name.lower()}, at {outcome.began_s:.1f} s, "
        f"for {outcome.seconds:.1f} s): {outcome.detail}"
    )
