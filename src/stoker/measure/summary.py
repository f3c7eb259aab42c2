"""What a trial's samples come to; pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stoker.measure.sample import Sample
from stoker.measure.slo import Slo
from stoker.measure.statistics import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of requests against a server.

    Attributes:
        number: Of the trial; its requests are drawn from it and the seed.
        rate: Requests a second of an open loop, or None.
        clients: Clients of a closed loop, or None.
        n_planned: Requests that were to be sent.
        n_given_up: Requests that were cut off because the trial had already failed.
        duration_s: From its begin to the end of its last request.
        client_cpu_s: Processor time that the load generator itself took.
        samples: Of the requests that ended.
    """

    number: int
    rate: float | None
    clients: int | None
    n_planned: int
    n_given_up: int
    duration_s: float
    client_cpu_s: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of one trial; times in seconds. Only complete answers count for times and tokens.

    Attributes:
        n_planned: Requests that were to be sent.
        n_complete: Complete answers.
        n_met: Those that met the SLO.
        share_met: `n_met` out of all that were planned: one that failed, was refused or not sent did not.
        errors: How many requests failed in which way.
        duration_s: Of the trial.
        requests_per_s: Complete answers a second.
        goodput_per_s: Those that met the SLO a second.
        output_tokens_per_s: Output tokens a second.
        good_tokens_per_s: Output tokens of answers that met the SLO.
        input_tokens_per_s: Prompt tokens a second, cached or not.
        ttft_s: Times to the first text.
        gap_s: Times between arrivals of text, of all answers together.
        tpot_s: Per answer, time after the first text by output token after the first.
        e2e_s: Whole durations.
        late_s: How much later than planned requests were sent; None in a closed loop.
        prompt_tokens: Lengths of prompts.
        output_tokens: Lengths of answers.
        n_short: Answers of fewer tokens than were asked for.
        cached_tokens: Prompt tokens that the server had cached, as it says; None if it says nothing.
        known_tokens: Prompt tokens that it could have cached: an earlier request of the trial had them.
        tokens_per_arrival: Output tokens by arrivals of text: above 1 where server or network join them.
        counted_by: Who counted output tokens: ``usage``, ``events`` or ``mixed``.
        client_cpu_share: Share of one core that the load generator took.
    """

    n_planned: int
    n_complete: int
    n_met: int
    share_met: float
    errors: dict[str, int]
    duration_s: float
    requests_per_s: float
    goodput_per_s: float
    output_tokens_per_s: float
    good_tokens_per_s: float
    input_tokens_per_s: float
    ttft_s: Spread | None
    gap_s: Spread | None
    tpot_s: Spread | None
    e2e_s: Spread | None
    late_s: Spread | None
    prompt_tokens: Spread | None
    output_tokens: Spread | None
    n_short: int
    cached_tokens: int | None
    known_tokens: int
    tokens_per_arrival: float | None
    counted_by: str
    client_cpu_share: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def summarize(trial: Trial, slo: Slo) -> Summary:
    """Sum a trial up."""
    complete = [sample for sample in trial.samples if sample.error is None]
    met = [sample for sample in complete if slo.met_by(sample)]
    duration_s = max(trial.duration_s, 1e-9)
    errors = Counter(sample.error for sample in trial.samples if sample.error is not None)
    n_unsent = trial.n_planned - len(trial.samples) - trial.n_given_up
    errors.update({"unsent": n_unsent} if n_unsent else {})
    errors.update({"given_up": trial.n_given_up} if trial.n_given_up else {})
    cached = [sample.cached_tokens for sample in complete if sample.cached_tokens is not None]
    n_arrivals = sum(len(sample.gaps_s) + 1 for sample in complete)
    n_tokens = _tokens(complete)
    counters = {sample.counted_by for sample in complete}
    return Summary(
        n_planned=trial.n_planned,
        n_complete=len(complete),
        n_met=len(met),
        share_met=len(met) / trial.n_planned,
        errors=dict(sorted(errors.items())),
        duration_s=trial.duration_s,
        requests_per_s=len(complete) / duration_s,
        goodput_per_s=len(met) / duration_s,
        output_tokens_per_s=n_tokens / duration_s,
        good_tokens_per_s=_tokens(met) / duration_s,
        input_tokens_per_s=sum(sample.prompt_tokens for sample in complete) / duration_s,
        ttft_s=Spread.of([sample.ttft_s for sample in complete if sample.ttft_s is not None]),
        gap_s=Spread.of([gap for sample in complete for gap in sample.gaps_s]),
        tpot_s=Spread.of([s for s in map(_tpot_s, complete) if s is not None]),
        e2e_s=Spread.of([sample.duration_s for sample in complete]),
        late_s=Spread.of([sample.late_s for sample in trial.samples if sample.late_s is not None]),
        prompt_tokens=Spread.of([sample.prompt_tokens for sample in complete]),
        output_tokens=Spread.of([sample.output_tokens for sample in complete]),
        n_short=sum(sample.output_tokens < sample.wanted_tokens for sample in complete),
        cached_tokens=sum(cached) if cached else None,
        known_tokens=sum(sample.known_tokens for sample in complete),
        tokens_per_arrival=n_tokens / n_arrivals if n_arrivals else None,
        counted_by=counters.pop() if len(counters) == 1 else "mixed" if counters else "nobody",
        client_cpu_share=trial.client_cpu_s / duration_s,
    )


def _tokens(samples: Sequence[Sample]) -> int:
    return sum(sample.output_tokens for sample in samples)


def _tpot_s(sample: Sample) -> float | None:
    """Return the mean time of an output token after the first arrival; None for an answer in one piece."""
    if sample.output_tokens < 2 or not sample.gaps_s:  # noqa: PLR2004 - a first one and another
        return None
    return sum(sample.gaps_s) / (sample.output_tokens - 1)
