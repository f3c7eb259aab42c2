"""Scores of prompt tokens: each comes once, in order, and is the same however the prompt is computed."""

from dataclasses import replace
from typing import Any

import pytest

from stoker.core.errors import EngineError, InvalidRequestError
from stoker.core.tokens import FinishReason, TokenRequest
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_scores, reference_tokens
from stoker.testing.timed_machine import work_of
from stoker.testing.workloads import make_request, make_tokens


def check_scores(loop: SchedulerLoop, request: TokenRequest) -> None:
    assert loop.scores[request.request_id] == reference_scores(request)
    assert tuple(loop.tokens.get(request.request_id, ())) == reference_tokens(request)


@pytest.mark.parametrize("max_step_tokens", [1, 7, 16, 100])
@pytest.mark.parametrize("n_prompt", [2, 15, 16, 17, 18, 60])
@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_scores_do_not_depend_on_chunks(n_prompt: int, max_step_tokens: int, max_tokens: int) -> None:
    loop = SchedulerLoop(max_running=1, max_step_tokens=max_step_tokens)
    request = make_request("a", n_prompt=n_prompt, max_tokens=max_tokens, prompt_logprobs=3)
    loop.submit(request)
    loop.run()
    check_scores(loop, request)
    assert loop.finished == {"a": FinishReason.LENGTH}
    assert loop.scheduler.stats().generated_tokens_total == max_tokens


def test_scores_come_with_the_step_that_computes_them() -> None:
    loop = SchedulerLoop(max_step_tokens=20, max_running=1)
    loop.submit(make_request("a", n_prompt=50, max_tokens=1, prompt_logprobs=0))
    loop.run()
    # The token after a chunk is scored with it; after the prompt's last token one is sampled.
    assert [len(e.prompt_scores or ()) for e in loop.events] == [20, 20, 9]
    assert [len(e.token_ids) for e in loop.events] == [0, 0, 1]


def test_a_prompt_of_one_token_has_no_scores() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", n_prompt=1, max_tokens=0, prompt_logprobs=2))
    loop.run()
    (event,) = loop.events
    assert (event.token_ids, event.prompt_scores) == ((), None)
    assert event.finish_reason is FinishReason.LENGTH
    assert loop.scheduler.stats().kv_blocks_used == 0


def test_a_cached_prompt_is_computed_again_for_its_scores_and_kept() -> None:
    loop = SchedulerLoop(max_step_tokens=200)
    prompt = make_tokens("p", 100)
    plain = make_request("plain", prompt=prompt, max_tokens=1)
    scored = make_request("scored", prompt=prompt, max_tokens=2, prompt_logprobs=1)
    for request in (plain, scored, replace(plain, request_id="again")):
        loop.submit(request)
        loop.run()
    check_scores(loop, scored)
    cached = {event.request_id: event.cached_tokens for event in loop.events}
    assert cached == {"plain": 0, "scored": 0, "again": 96}


def test_a_scored_prompt_is_shared_by_those_beside_it() -> None:
    loop = SchedulerLoop(max_step_tokens=400)
    prompt = make_tokens("p", 100)
    scored = make_request("scored", prompt=prompt, max_tokens=1, prompt_logprobs=1)
    others = [make_request(name, prompt=prompt, max_tokens=1) for name in "ab"]
    loop.submit(scored, *others)
    loop.run()
    check_scores(loop, scored)
    assert loop.engine.n_tokens == 100 + 2 * 4


def test_preemption_neither_loses_nor_doubles_scores() -> None:
    loop = SchedulerLoop(kv_blocks=10, max_step_tokens=24, max_running=2)
    first = make_request("first", n_prompt=16, max_tokens=120)
    second = make_request("second", n_prompt=120, max_tokens=20, prompt_logprobs=2)
    loop.submit(first, second)
    loop.run()
    assert loop.scheduler.stats().preemptions_total > 0
    check_scores(loop, second)
    assert tuple(loop.tokens["first"]) == reference_tokens(first)


def test_a_prompt_that_is_preempted_on_the_way_goes_on_with_its_scores() -> None:
    loop = SchedulerLoop(max_step_tokens=20, max_running=1)
    scored = make_request("scored", n_prompt=100, max_tokens=1, prompt_logprobs=2)
    loop.submit(scored)
    for _ in range(3):
        loop.step()
    loop.submit(make_request("urgent", n_prompt=20, max_tokens=2, priority=1))
    loop.run()
    assert loop.scheduler.stats().preemptions_total == 1
    check_scores(loop, scored)
    # 60 tokens were computed and 61 scored: the three full blocks of them were found again.
    assert loop.engine.n_tokens == 100 + 60 - 48 + 21


def test_only_scored_requests_may_generate_nothing() -> None:
    loop = SchedulerLoop(context_length=50)
    with pytest.raises(InvalidRequestError, match="at least 1"):
        loop.submit(make_request("a", max_tokens=0))
    whole = make_request("b", n_prompt=50, max_tokens=0, prompt_logprobs=0)
    loop.submit(whole)
    loop.run()
    check_scores(loop, whole)
    with pytest.raises(InvalidRequestError, match="exceed the context"):
        loop.submit(make_request("c", n_prompt=51, max_tokens=0, prompt_logprobs=0))


def test_a_result_without_the_scores_is_refused() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", max_tokens=1, prompt_logprobs=0))
    plan = loop.schedule()
    assert plan is not None
    result = loop.engine.forward(plan)
    result.scores.clear()
    with pytest.raises(EngineError, match="scores"):
        loop.scheduler.commit(plan, result, 0.0)


@pytest.mark.parametrize("max_step_tokens", [1, 7, 16, 100])
@pytest.mark.parametrize("n_prompt", [1, 2, 16, 17, 60])
@pytest.mark.parametrize("n_after", [1, 2, 20, 60])
def test_candidates_may_begin_anywhere(n_after: int, n_prompt: int, max_step_tokens: int) -> None:
    loop = SchedulerLoop(max_running=1, max_step_tokens=max_step_tokens)
    candidates = [make_tokens(f"after {at}", 1 + at % 3) for at in range(min(n_after, n_prompt))]
    request = make_request("a", n_prompt=n_prompt, max_tokens=0, prompt_logprobs=0, candidates=candidates)
    loop.submit(request)
    loop.run()
    assert loop.scores["a"] == reference_scores(request)
    assert len(loop.scores["a"]) == sum(map(len, candidates))
    assert loop.finished == {"a": FinishReason.LENGTH}
    assert loop.scheduler.stats().generated_tokens_total == 0


def test_candidates_after_a_cached_prompt_cost_a_block_at_most() -> None:
    loop = SchedulerLoop(max_step_tokens=400)
    for n_prompt, n_computed in ((97, 1), (96, 16), (112, 16)):
        prompt = make_tokens("p", n_prompt)
        loop.submit(make_request("first", prompt=prompt, max_tokens=1))
        loop.run()
        before = loop.engine.n_tokens
        scored = make_request(
            "scored", prompt=prompt, max_tokens=0, prompt_logprobs=0, candidates=[range(200)]
        )
        loop.submit(scored)
        loop.run()
        assert loop.engine.n_tokens - before == n_computed
        assert loop.scores.pop("scored") == reference_scores(scored)


def test_scores_of_candidates_need_a_row_of_logits_for_each_stem() -> None:
    loop = SchedulerLoop(max_step_tokens=400)
    loop.submit(make_request("a", n_prompt=50, max_tokens=0, prompt_logprobs=0, candidates=[[1, 2], [3, 4]]))
    loop.run()
    (plan,) = loop.plans
    assert list(plan.scoring[0].rows) == [48, 48, 49, 49]
    assert plan.scoring[0].targets == [1, 2, 3, 4]
    assert work_of(plan).outputs == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_logprobs": None},
        {"prompt_logprobs": 1},
        {"max_tokens": 1},
        {"hold": True},
        {"candidates": ((),)},
        {"candidates": ((1,),) * 21},
        {"candidates": ((1,), ())},
    ],
)
def test_candidates_stand_alone(changes: dict[str, Any]) -> None:
    loop = SchedulerLoop()
    request = make_request("a", n_prompt=20, max_tokens=0, prompt_logprobs=0, candidates=[[1, 2]])
    with pytest.raises(InvalidRequestError) as refused:
        loop.submit(replace(request, **changes))
    assert refused.value.param in {"candidates", "max_tokens"}


def test_choices_share_what_goes_before_their_scores() -> None:
    loop = SchedulerLoop(max_step_tokens=400)
    prompt = make_tokens("p", 100)
    choices = [
        make_request(
            name,
            prompt=(*prompt, *make_tokens(name, 3)),
            max_tokens=0,
            prompt_logprobs=0,
            candidates=[[at], [at, 7], [8]],
        )
        for at, name in enumerate("abcd")
    ]
    loop.submit(*choices)
    loop.run()
    for each in choices:
        assert loop.scores[each.request_id] == reference_scores(each)
    # All but the last seven tokens, which fill no block, are computed once.
    assert loop.engine.n_tokens == 103 + 3 * 7
    last = replace(choices[0], request_id="again")
    loop.submit(last)
    loop.run()
    assert loop.engine.n_tokens == 103 + 4 * 7
    assert loop.scores["again"] == loop.scores["a"]


def test_preemption_neither_loses_nor_doubles_scores_of_an_end() -> None:
    loop = SchedulerLoop(max_step_tokens=20, max_running=1)
    candidates = [make_tokens(f"after {at}", 1 + at % 3) for at in range(70)]
    scored = make_request("scored", n_prompt=100, max_tokens=0, prompt_logprobs=0, candidates=candidates)
    loop.submit(scored)
    for _ in range(3):
        loop.step()
    loop.submit(make_request("urgent", n_prompt=20, max_tokens=2, priority=1))
    loop.run()
    assert loop.scheduler.stats().preemptions_total == 1
    assert loop.scores["scored"] == reference_scores(scored)
