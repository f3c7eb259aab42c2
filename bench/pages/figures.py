"""Reads results: who counts for a peer, what a case is called, and figures as people read them."""

import re
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]

OURS = "stoker"
TIMES, NOTHING = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
ENGINES = {"llama.cpp": "llama.cpp", "openvino": "OpenVINO GenAI"}
"""Peers without HTTP: how names of their contenders begin, and what they are called."""

SERVERS = {"llama-server": "llama-server", "vLLM CPU": "vLLM CPU (bf16)"}
BESIDE = ("Q4_K_M", "KV")
"""Ends of the names of contenders that are reported beside the others."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A contender's time of a case.

    Attributes:
        contender: Its name in the result.
        seconds: Median, lower and upper quartile.
        ratio: Its time by Stoker's: median, least and greatest over the rounds; None for Stoker.
    """

    contender: str
    seconds: tuple[float, float, float]
    ratio: tuple[float, float, float] | None


def is_beside(contender: str) -> bool:
    """Return whether a contender is no peer on the same terms, but reported beside."""
    return contender.endswith(BESIDE)


def figure(result: Result, case: str, contender: str) -> Figure:
    """Return a contender's figure."""
    ratio = result["ratios"].get(case, {}).get(contender)
    return Figure(contender, tuple(result["summary_s"][case][contender]), tuple(ratio) if ratio else None)


def best(result: Result, case: str, engine: str) -> Figure | None:
    """Return the quickest of an engine's contenders at a case; None if none took part."""
    figures = [
        figure(result, case, name)
        for name in result["summary_s"].get(case, {})
        if name.startswith(engine) and not is_beside(name)
    ]
    return min(figures, key=lambda each: each.seconds[0], default=None)


def engines_of(result: Result) -> list[str]:
    """Return the peers of which there are figures, as keys of `ENGINES`."""
    return [engine for engine in ENGINES if any(best(result, case, engine) for case in result["summary_s"])]


def tokens_of(case: str) -> int | None:
    """Return the length of a prompt, or None for a case of steps."""
    kind, _, size = case.partition(" ")
    return int(size) if kind == "prefill" else None


def spoken(case: str) -> str:
    """Say what a case is."""
    kind, _, size = case.partition(" ")
    if kind == "prefill":
        return f"prefill {int(size):,}"
    n_sequences, context = map(int, size.split("x"))
    return f"decode {n_sequences} {TIMES} {context:,}"


def speed(case: str, seconds: float) -> str:
    """Return a time as people read it: tokens a second of a prompt, milliseconds of a step."""
    n_tokens = tokens_of(case)
    return f"{n_tokens / seconds:,.0f} tok/s" if n_tokens else f"{three_digits(1e3 * seconds)} ms"


def three_digits(value: float) -> str:
    """Return a number to three digits, or whole if it has more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def times(ratio: float) -> str:
    """Return a ratio to two or three digits."""
    return f"{ratio:.1f}{TIMES}" if ratio >= 10 else f"{ratio:.2f}{TIMES}"  # noqa: PLR2004


def where(result: Result, *, in_short: bool = False) -> str:
    """Say what a result was measured on; in short without the processor's instruction sets."""
    processor = str(result["processor"])
    named = re.sub(r" \([^)]*\)$", "", processor) if in_short else processor
    return f"{named}, {result['threads']} threads, commit {result['commit']}, {result['date']}"
