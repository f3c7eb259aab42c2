"""Learns what a server understands and how it counts, by three small requests."""

import random
from itertools import product

from stoker.core.errors import StokerError
from stoker.measure.answer import AnswerReader, Fault
from stoker.measure.calibration import ANSWER_TOKENS, LONG_WORDS, SHORT_WORDS, Calibration
from stoker.measure.target import Options, Target
from stoker.measure.words import words_of

_REFUSALS = {"http_400", "http_422"}


async def calibrate(target: Target, timeout_s: float, known: Calibration | None) -> Calibration:
    """Set the target's options to what it takes, and return how it counts.

    Args:
        target: The server.
        timeout_s: Longest that an answer may take.
        known: What it is known to count, which is not measured then.

    Raises:
        StokerError: It does not answer.
    """
    text = words_of(random.Random("calibration"), 2 * LONG_WORDS).split()  # noqa: S311
    short, long = " ".join(text[:SHORT_WORDS]), " ".join(text[SHORT_WORDS : SHORT_WORDS + LONG_WORDS])
    shared = " ".join(text[-SHORT_WORDS:])
    first = await _first_answer(target, short, timeout_s)
    if known is not None:
        return known
    if first is None:
        return Calibration()
    counts = [await _prompt_tokens(target, *prompt, timeout_s) for prompt in (("", long), (shared, short))]
    return Calibration.of_counts(short=first, long=counts[0] or 0, shared=counts[1] or 0)


async def _first_answer(target: Target, text: str, timeout_s: float) -> int | None:
    """Find the options that the server takes, the most of them first."""
    refusal = ""
    for usage, ignore_eos in product((True, False), repeat=2):
        target.options = Options(usage=usage, ignore_eos=ignore_eos)
        try:
            return await _prompt_tokens(target, "", text, timeout_s)
        except _RefusedError as error:
            refusal = refusal or str(error)
    raise StokerError(refusal)


class _RefusedError(StokerError):
    """The server refuses the request as it is."""


async def _prompt_tokens(target: Target, shared: str, text: str, timeout_s: float) -> int | None:
    reader = AnswerReader()
    try:
        await target.stream(target.request(shared, text, ANSWER_TOKENS), reader, timeout_s)
    except Fault as fault:
        kind = _RefusedError if fault.kind in _REFUSALS else StokerError
        raise kind(f"{target.url} does not answer a first request for {target.model}: {fault}") from fault
    return reader.count("prompt_tokens")
