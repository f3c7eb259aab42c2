from dataclasses import replace

import pytest

from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS
from stoker.core.tokens import AdapterRef
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request, make_tokens, shared_prefix


@pytest.mark.parametrize(
    ("n_prompt", "n_cached"), [(15, 0), (16, 0), (17, 16), (32, 16), (33, 32), (48, 32), (49, 48)]
)
def test_an_equal_prompt_is_served_from_the_cache_but_for_its_last_token(
    n_prompt: int, n_cached: int
) -> None:
    loop = SchedulerLoop()
    prompt = make_tokens("p", n_prompt)
    first, second = (make_request(name, prompt=prompt, max_tokens=4) for name in ("first", "second"))
    loop.submit(first)
    loop.run()
    n_plans = len(loop.plans)
    loop.submit(second)
    loop.run()
    assert loop.plans[n_plans].first_positions == [n_cached]
    assert loop.tokens["first"] == loop.tokens["second"] == list(reference_tokens(first))
    assert {e.cached_tokens for e in loop.events if e.request_id == "first"} == {0}
    assert {e.cached_tokens for e in loop.events if e.request_id == "second"} == {n_cached}
    stats = loop.scheduler.stats()
    assert (stats.prompt_tokens_total, stats.cached_tokens_total) == (2 * n_prompt, n_cached)


def test_generated_tokens_are_shared_too() -> None:
    loop = SchedulerLoop()
    first = make_request("turn 1", n_prompt=20, max_tokens=30)
    loop.submit(first)
    loop.run()
    answer = tuple(loop.tokens["turn 1"])
    loop.submit(make_request("turn 2", prompt=first.prompt + answer + make_tokens("reply", 10)))
    loop.run()
    # 20 + 30 tokens, of which the last was sampled and never computed: 3 full blocks.
    assert loop.events[-1].cached_tokens == 48


@pytest.mark.parametrize("salts", [("", "b"), ("a", "b"), ("a", "")])
def test_nothing_is_shared_across_salts(salts: tuple[str, str]) -> None:
    loop = SchedulerLoop()
    prompt = make_tokens("p", 64)
    for i, salt in enumerate(salts):
        loop.submit(make_request(str(i), prompt=prompt, cache_salt=salt))
        loop.run()
    assert {event.cached_tokens for event in loop.events} == {0}


def test_nothing_is_shared_across_adapters_and_plans_name_them() -> None:
    loop = SchedulerLoop()
    prompt = make_tokens("p", 64)
    for name, digest in (("plain", ""), ("a", "0a"), ("b", "0b"), ("again", "0a")):
        adapter = AdapterRef("/somewhere", digest) if digest else None
        loop.submit(replace(make_request(name, prompt=prompt), adapter=adapter))
        assert loop.scheduler.adapters_in_use() == ({digest} if digest else set())
        n_plans = len(loop.plans)
        loop.run()
        assert all(plan.adapters == ({0: digest} if digest else {}) for plan in loop.plans[n_plans:])
        assert loop.scheduler.adapters_in_use() == set()
    assert {event.cached_tokens for event in loop.events if event.request_id != "again"} == {0}
    assert {event.cached_tokens for event in loop.events if event.request_id == "again"} == {48}


def test_blocks_are_not_shared_before_they_are_computed() -> None:
    loop = SchedulerLoop(max_step_tokens=100)
    prompt = make_tokens("p", 48)
    loop.submit(make_request("a", prompt=prompt))
    plan = loop.schedule()
    assert plan is not None
    loop.submit(make_request("b", prompt=prompt))
    loop.abort("a")
    loop.commit(plan)
    loop.run()
    assert loop.events[-1].cached_tokens == 0
    assert tuple(loop.tokens["b"]) == reference_tokens(make_request("b", prompt=prompt))


def test_equal_prompts_computed_at_once_end_up_in_the_same_blocks() -> None:
    loop = SchedulerLoop(max_step_tokens=200)
    prompt = make_tokens("p", 50)
    # Prompts that are scored are computed whole, each for itself.
    loop.submit(*(make_request(name, prompt=prompt, prompt_logprobs=0) for name in "ab"))
    loop.step()
    assert loop.engine.n_tokens == 100
    # Three full blocks shared, and one partial block each.
    assert loop.scheduler.stats().kv_blocks_used == 5
    plan = loop.schedule()
    assert plan is not None
    assert plan.block_tables[0][:3] == plan.block_tables[1][:3]
    loop.commit(plan)
    loop.run()
    assert loop.tokens["a"] == loop.tokens["b"]


def test_a_prefill_skips_what_another_has_computed_meanwhile() -> None:
    loop = SchedulerLoop(max_step_tokens=200)
    prompt = make_tokens("p", 180)
    requests = [make_request(name, prompt=prompt, max_tokens=4) for name in "abcd"]
    loop.submit(*requests)
    loop.run()
    first, second = loop.plans[:2]
    # "b" was admitted and waited for what "a" computed; "c" and "d" waited for a token in the step.
    assert (first.request_ids, [len(run) for run in first.tokens]) == (["a"], [180])
    assert (second.request_ids, second.first_positions) == (["a", "b", "c", "d"], [180, 176, 176, 176])
    assert all(tuple(loop.tokens[r.request_id]) == reference_tokens(r) for r in requests)
    # What was skipped after the admission is not what the cache held at the admission.
    cached = {event.request_id: event.cached_tokens for event in loop.events}
    assert cached == {"a": 0, "b": 0, "c": 176, "d": 176}


@pytest.mark.parametrize("max_step_tokens", [64, 512, 8192])
@pytest.mark.parametrize("n_prompt", [1000, 1008])
def test_a_prompt_of_many_choices_is_computed_once(n_prompt: int, max_step_tokens: int) -> None:
    loop = SchedulerLoop(kv_blocks=1024, max_running=8, context_length=2048, max_step_tokens=max_step_tokens)
    prompt = make_tokens("p", n_prompt)
    requests = [
        make_request(str(choice), prompt=prompt, max_tokens=1, sampling=SamplingParams(choice=choice))
        for choice in range(8)
    ]
    loop.submit(*requests)
    loop.run()
    assert all(tuple(loop.tokens[r.request_id]) == reference_tokens(r) for r in requests)
    # One token each was sampled and none of them computed; what is not of a full block is done anew.
    assert loop.engine.n_tokens <= n_prompt + 8 * BLOCK_TOKENS


def test_choices_hold_the_prompt_s_full_blocks_in_common() -> None:
    loop = SchedulerLoop(kv_blocks=512, max_running=8, context_length=2048, max_step_tokens=8192)
    prompt = make_tokens("p", 1000)
    loop.submit(*(make_request(str(choice), prompt=prompt, max_tokens=4) for choice in range(8)))
    loop.step()
    loop.step()
    # 62 full blocks in common, and one each for the prompt's last 8 tokens.
    assert loop.scheduler.stats().kv_blocks_used == 62 + 8


def test_those_that_wait_for_a_prompt_compute_it_when_it_is_given_up() -> None:
    loop = SchedulerLoop(max_step_tokens=200)
    prompt = make_tokens("p", 100)
    first, second = (make_request(name, prompt=prompt, max_tokens=4) for name in ("first", "second"))
    loop.submit(first, second)
    plan = loop.schedule()
    assert plan is not None
    assert plan.request_ids == ["first"]
    loop.abort("first")
    loop.commit(plan)
    loop.run()
    assert tuple(loop.tokens["second"]) == reference_tokens(second)
    assert loop.engine.n_tokens == 100 + 100 + 3


def test_a_prompt_that_parts_from_another_waits_for_the_common_part_alone() -> None:
    loop = SchedulerLoop(max_step_tokens=200)
    requests = shared_prefix(2, n_prefix=40, n_tail=50, max_tokens=1)
    loop.submit(*requests)
    loop.run()
    # Two of the prefix's two and a half blocks are shared.
    assert [len(plan.tokens[-1]) for plan in loop.plans] == [90, 58]
    assert all(tuple(loop.tokens[r.request_id]) == reference_tokens(r) for r in requests)


def test_a_shared_prefix_needs_its_blocks_once() -> None:
    loop = SchedulerLoop(kv_blocks=24, max_running=8, max_step_tokens=256)
    requests = shared_prefix(8, n_prefix=160, n_tail=10, max_tokens=4)
    loop.submit(*requests)
    loop.run()
    stats = loop.scheduler.stats()
    # 8 x 11 blocks would not fit 24.
    assert stats.preemptions_total == 0
    assert max(len(plan.request_ids) for plan in loop.plans) > 2
    assert all(tuple(loop.tokens[r.request_id]) == reference_tokens(r) for r in requests)


def test_when_idle_every_block_is_free_or_cached() -> None:
    loop = SchedulerLoop(kv_blocks=40)
    loop.submit(*shared_prefix(10, n_prefix=40, n_tail=9))
    loop.run()
    stats = loop.scheduler.stats()
    assert stats.kv_blocks_used == 0
    assert 0 < stats.kv_blocks_cached <= 40
