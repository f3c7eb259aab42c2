"""Every request of a run, made before the first is sent; pure.

A request depends on the seed, the trial's number and its own number alone, so every server that counts tokens
alike gets the same requests, and no trial finds its prompts in a prefix cache that an earlier one filled.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import SettingsError
from stoker.measure.calibration import Calibration
from stoker.measure.lengths import Lengths
from stoker.measure.words import words_of

MAX_REQUESTS = 100_000
MAX_PROMPTS_BYTES = 1 << 30
"""Most bytes of all prompts of one trial; they are kept in memory."""

MIN_OWN_WORDS = 16
"""Least that follows a shared part: fewer would now and then be the same in two requests."""

_BYTES_PER_WORD = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What requests look like.

    Attributes:
        prompt: Tokens of a prompt, its shared part included.
        output: Tokens of an answer.
        shared_share: Share of the requests that begin with a shared part, from 0 to 1.
        shared_tokens: Tokens of a shared part. A prompt is longer by `MIN_OWN_WORDS` at least.
        n_shared: How many different shared parts there are.
        seed: Of all random numbers.
    """

    prompt: Lengths
    output: Lengths
    shared_share: float = 0.0
    shared_tokens: int = 0
    n_shared: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request.

    Attributes:
        index: Its number in the trial.
        due_s: When it is sent, from the trial's start; None if it is sent when a client is free.
        shared: Text of its shared part; empty without one.
        text: The rest of its prompt.
        prompt_tokens: Tokens that its prompt should have.
        known_tokens: Those of them that an earlier request of the trial has brought already.
        output_tokens: Tokens to ask for.
    """

    index: int
    due_s: float | None
    shared: str
    text: str
    prompt_tokens: int
    known_tokens: int
    output_tokens: int


def plan_requests(
    workload: Workload, calibration: Calibration, n_requests: int, *, trial: int, rate: float | None
) -> list[PlannedRequest]:
    """Return the requests of a trial in the order in which they are sent.

    Args:
        workload: What they look like.
        calibration: How long texts are.
        n_requests: How many.
        trial: Number of the trial.
        rate: Requests a second, whose arrivals are a Poisson process; None to send as clients become free.

    Raises:
        SettingsError: They are too many, or too long for the memory.
    """
    if not 1 <= n_requests <= MAX_REQUESTS:
        raise SettingsError(f"{n_requests:,} requests: 1 to {MAX_REQUESTS:,} are possible")
    size_bytes = (
        n_requests * calibration.words(max(workload.prompt.high, workload.shared_tokens)) * _BYTES_PER_WORD
    )
    if size_bytes > MAX_PROMPTS_BYTES:
        raise SettingsError(
            f"{n_requests:,} prompts of {workload.prompt} tokens are up to {size_bytes / 1e6:,.0f} MB, over "
            f"the limit of {MAX_PROMPTS_BYTES / 1e6:,.0f} MB: ask for fewer or shorter ones"
        )
    seed = f"{workload.seed}/{trial}"
    shared = [
        words_of(random.Random(f"{seed}/shared/{i}"), calibration.words(workload.shared_tokens))  # noqa: S311
        for i in range(workload.n_shared if workload.shared_share > 0 else 0)
    ]
    seen: set[int] = set()
    arrivals = _arrivals(random.Random(f"{seed}/arrivals"), rate)  # noqa: S311
    return [
        _request(
            workload,
            calibration,
            random.Random(f"{seed}/{index}"),  # noqa: S311
            index=index,
            shared=shared,
            seen=seen,
            due_s=next(arrivals),
        )
        for index in range(n_requests)
    ]


def _arrivals(numbers: random.Random, rate: float | None) -> Iterator[float | None]:
    """Yield times of arrival; those of another rate are the same ones, stretched."""
    now = 0.0
    while True:
        yield None if rate is None else now / rate
        now -= math.log(1.0 - numbers.random())


def _request(
    workload: Workload,
    calibration: Calibration,
    numbers: random.Random,
    *,
    index: int,
    shared: list[str],
    seen: set[int],
    due_s: float | None,
) -> PlannedRequest:
    prompt_tokens = workload.prompt.draw(numbers)
    output_tokens = workload.output.draw(numbers)
    is_shared = numbers.random() < workload.shared_share
    which = int(numbers.random() * workload.n_shared)
    if is_shared:
        left = prompt_tokens - workload.shared_tokens - calibration.overhead_shared
        own = max(MIN_OWN_WORDS, calibration.words(max(1, left)))
        n_words = calibration.words(workload.shared_tokens) + own
        prompt_tokens = round(n_words * calibration.tokens_per_word) + calibration.overhead_shared
    else:
        own = calibration.words(max(1, prompt_tokens - calibration.overhead))
        prompt_tokens = round(own * calibration.tokens_per_word) + calibration.overhead
    known = is_shared and which in seen
    if is_shared:
        seen.add(which)
    return PlannedRequest(
        index=index,
        due_s=due_s,
        shared=shared[which] if is_shared else "",
        text=words_of(numbers, own),
        prompt_tokens=prompt_tokens,
        known_tokens=workload.shared_tokens if known else 0,
        output_tokens=output_tokens,
    )
