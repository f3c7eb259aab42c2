"""The service level that a request is judged by; pure."""

from dataclasses import dataclass

from stoker.measure.sample import Sample
from stoker.measure.statistics import HIGH, percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a good answer is: complete, begun soon and steady.

    Attributes:
        ttft_s: Longest time to the first text of a prompt of no tokens.
        ttft_per_token_s: What each prompt token adds to that, if no earlier request of the trial has brought
            it. Whether the server had it cached is not asked, so all servers are judged alike.
        itl_s: Highest p95 of the times between arrivals of one answer's text.
    """

    ttft_s: float = 0.5
    ttft_per_token_s: float = 0.001
    itl_s: float = 0.08

    def met_by(self, sample: Sample) -> bool:
        """Return whether an answer was a good one."""
        if sample.error is not None or sample.ttft_s is None:
            return False
        if sample.ttft_s > self.longest_ttft_s(sample.prompt_tokens, sample.known_tokens):
            return False
        return not sample.gaps_s or percentile(sorted(sample.gaps_s), HIGH) <= self.itl_s

    def longest_ttft_s(self, prompt_tokens: int, known_tokens: int) -> float:
        """Return the longest time to the first text of a prompt."""
        return self.ttft_s + self.ttft_per_token_s * max(0, prompt_tokens - known_tokens)
