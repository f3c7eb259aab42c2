"""Asking for permits without taking them."""

from contextlib import aclosing

import pytest

from stoker.core.errors import InvalidRequestError, QueueFullError
from stoker.core.text import TextPrompt, TextRequest
from stoker.policy.admission import Admission
from stoker.testing.generator import ScriptedGenerator, reply

REQUEST = TextRequest(request_id="r", model="m", prompt=TextPrompt("a"), max_tokens=8, n=2)


async def test_what_fits_beside_the_others_passes_and_takes_nothing() -> None:
    admission = Admission(ScriptedGenerator(reply("a")), 5)
    async with aclosing(admission.generate(REQUEST)) as held:
        await anext(held)
        admission.check(3)
        admission.check(3)
        with pytest.raises(QueueFullError, match=r"4 places are needed, 3 of 5 are free\. Try again in"):
            admission.check(4)
        assert admission.in_flight == 2
    admission.check(5)


def test_what_can_never_fit_is_not_worth_trying_again() -> None:
    with pytest.raises(InvalidRequestError, match="6 choices are asked for, but this server takes at most 5"):
        Admission(ScriptedGenerator(reply("a")), 5).check(6)
