"""A job of several requests is let in whole or not at all; bytes of prompts are bounded as places are."""

from contextlib import aclosing
from dataclasses import replace

import pytest

from stoker.core.errors import InvalidRequestError, QueueFullError
from stoker.core.text import ChatPrompt, Message, Prompt, TextPrompt, TextRequest, TokensPrompt
from stoker.policy.admission import Admission, AdmissionLimits
from stoker.policy.prompt_memory import TOKEN_BYTES, prompt_bytes
from stoker.testing.generator import ScriptedGenerator, reply

REQUEST = TextRequest(request_id="r", model="m", prompt=TextPrompt("a"), max_tokens=8, n=2)
JOB = [replace(REQUEST, request_id=f"job.{index}") for index in range(2)]
OTHER = replace(REQUEST, request_id="other")


def admission(places: int, max_prompt_bytes: int = 2**30) -> Admission:
    limits = AdmissionLimits(max_choices=places, max_prompt_bytes=max_prompt_bytes, context_length=100)
    return Admission(ScriptedGenerator(reply("a")), limits)


async def begin_and_end(admitting: Admission, request: TextRequest) -> None:
    async with aclosing(admitting.generate(request)) as events:
        await anext(events)


async def test_a_job_holds_its_places_before_its_requests_begin_and_each_gives_back_its_own() -> None:
    admitting = admission(5)
    with admitting.reserve(JOB):
        assert admitting.in_flight == 4
        with pytest.raises(QueueFullError, match=r"2 places are needed, 1 of 5 are free\. Try again in"):
            await begin_and_end(admitting, OTHER)
        async with aclosing(admitting.generate(JOB[0])) as events:
            await anext(events)
            assert admitting.in_flight == 4, "its places were there already"
        assert admitting.in_flight == 2
        await begin_and_end(admitting, OTHER)
        assert admitting.in_flight == 2
    assert admitting.in_flight == 0
    assert admitting.prompt_bytes == 0


def test_a_job_that_does_not_fit_whole_takes_nothing() -> None:
    admitting = admission(5)
    with admitting.reserve([OTHER]), pytest.raises(QueueFullError, match="4 places are needed, 3 of 5"):
        admitting.reserve(JOB).__enter__()
    assert admitting.in_flight == 0
    with admitting.reserve(JOB):
        assert admitting.in_flight == 4


def test_a_failure_within_a_reservation_gives_everything_back() -> None:
    admitting = admission(4)
    with pytest.raises(ValueError, match="the end"), admitting.reserve(JOB):
        raise ValueError("the end")
    assert admitting.in_flight == 0


def test_what_can_never_fit_is_not_worth_trying_again() -> None:
    with (
        pytest.raises(InvalidRequestError, match="4 choices are asked for, but this server takes at most 3"),
        admission(3).reserve(JOB),
    ):
        pass


def test_prompts_over_the_memory_limit_are_refused_unless_alone() -> None:
    admitting = admission(100, max_prompt_bytes=10_000)
    large = replace(REQUEST, prompt=TextPrompt("x" * 20_000))
    with admitting.reserve([large]):
        assert admitting.prompt_bytes > 20_000, "alone, it is let in"
        with pytest.raises(QueueFullError, match=r"may take 10000 bytes of memory, \d+ are taken"):
            admitting.reserve([OTHER]).__enter__()
        assert admitting.in_flight == 2
    with admitting.reserve([OTHER]):
        with pytest.raises(QueueFullError, match="bytes of memory"):
            admitting.reserve([large]).__enter__()
        with admitting.reserve([replace(OTHER, request_id="small")]):
            assert admitting.in_flight == 4
    assert admitting.prompt_bytes == 0


@pytest.mark.parametrize(
    ("prompt", "n_text", "n_tokens"),
    [
        (TextPrompt("ab"), 2, 8),
        (TextPrompt("x" * 1000), 1000, 100),
        (TextPrompt("日" * 1000), 2000, 100),
        (ChatPrompt((Message("user", "ab"), Message("user", "c"))), 3, 12),
        (TokensPrompt((1,) * 50), 0, 50),
    ],
)
def test_a_prompt_counts_its_text_and_the_tokens_that_it_may_become(
    prompt: Prompt, n_text: int, n_tokens: int
) -> None:
    n_bytes = prompt_bytes(prompt, context_length=100)
    n_objects = len(prompt.messages) if isinstance(prompt, ChatPrompt) else 1
    assert n_text + n_tokens * TOKEN_BYTES <= n_bytes <= n_text + n_tokens * TOKEN_BYTES + 100 * n_objects
