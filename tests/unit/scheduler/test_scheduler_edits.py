"""Which rows of a plan carry logit edits, and what those hold."""

import pytest

from stoker.core.errors import InvalidRequestError
from stoker.core.sampling import SamplingParams
from stoker.core.step import LogitEdits
from stoker.core.tokens import FinishReason
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request

PENALIZED = SamplingParams(seed=3, presence_penalty=0.5, logit_bias=((7, -1.5), (2, 100.0)))


def test_plain_requests_carry_none() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a"), make_request("b", stop_token_ids=frozenset({1})))
    loop.submit(make_request("c", min_tokens=3), make_request("d", sampling=SamplingParams(top_k=3)))
    loop.run()
    assert all(plan.edits == {} for plan in loop.plans)


def test_only_rows_that_sample_carry_edits() -> None:
    loop = SchedulerLoop(max_step_tokens=32)
    penalized = make_request("penalized", n_prompt=70, max_tokens=3, sampling=PENALIZED)
    loop.submit(make_request("plain", n_prompt=1, max_tokens=6), penalized)
    loop.run()
    rows = [[plan.request_ids[row] for row in plan.edits] for plan in loop.plans]
    assert rows == [[], [], ["penalized"], ["penalized"], ["penalized"], []]
    assert tuple(loop.tokens["penalized"]) == reference_tokens(penalized)


def test_a_history_grows_by_what_was_generated() -> None:
    loop = SchedulerLoop()
    request = make_request("a", n_prompt=5, max_tokens=4, sampling=PENALIZED)
    loop.submit(request)
    histories = []
    while (plan := loop.schedule()) is not None:
        (edits,) = plan.edits.values()
        histories.append(edits.history.tolist())
        assert (edits.n_prompt, edits.presence_penalty, edits.repetition_penalty) == (5, 0.5, 1.0)
        assert list(zip(edits.bias_tokens, edits.bias, strict=True)) == [(7, -1.5), (2, 100.0)]
        assert edits.banned.tolist() == []
        loop.commit(plan)
    output = loop.tokens["a"]
    assert histories == [[*request.prompt, *output[:n]] for n in range(4)]


def test_end_tokens_are_banned_until_the_minimum() -> None:
    loop = SchedulerLoop()
    # Every second token ends it, so a free sequence could hardly go on for long.
    ends = frozenset(range(0, 256, 2))
    loop.submit(make_request("a", max_tokens=60, min_tokens=20, stop_token_ids=ends))
    banned = []
    while (plan := loop.schedule()) is not None:
        banned.append(set(plan.edits[0].banned))
        loop.commit(plan)
    output = loop.tokens["a"]
    assert ends.isdisjoint(output[:20])
    assert len(output) > 20
    assert output[-1] in ends
    assert loop.finished["a"] is FinishReason.STOP
    assert banned == [ends] * 20 + [set()] * (len(output) - 20)


@pytest.mark.parametrize("min_tokens", [-1, 9])
def test_a_minimum_out_of_range_is_refused(min_tokens: int) -> None:
    with pytest.raises(InvalidRequestError, match="min_tokens is") as refused:
        SchedulerLoop().submit(make_request("a", max_tokens=8, min_tokens=min_tokens))
    assert refused.value.param == "min_tokens"


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(presence_penalty=-0.5),
        SamplingParams(frequency_penalty=0.5),
        SamplingParams(repetition_penalty=1.1),
        SamplingParams(logit_bias=((1, 0.0),)),
    ],
    ids=str,
)
def test_whatever_asks_for_edits_gets_them(sampling: SamplingParams) -> None:
    assert LogitEdits.of(make_request("a", sampling=sampling)) is not None
