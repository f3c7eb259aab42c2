import sys

import pytest

from stoker.core.errors import EngineError
from stoker.core.step import StepPlan
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request, mixed_lengths


def lengths(plan: StepPlan | None) -> dict[str, int]:
    assert plan is not None
    return dict(zip(plan.request_ids, map(len, plan.tokens), strict=True))


def test_nothing_to_do() -> None:
    assert SchedulerLoop().schedule() is None


def test_a_prompt_is_computed_in_chunks_and_sampled_after_the_last() -> None:
    loop = SchedulerLoop(max_step_tokens=32)
    request = make_request("a", n_prompt=70, max_tokens=3)
    loop.submit(request)
    loop.run()
    assert [plan.tokens for plan in loop.plans[:3]] == [
        [list(request.prompt[:32])],
        [list(request.prompt[32:64])],
        [list(request.prompt[64:])],
    ]
    assert [plan.samples for plan in loop.plans] == [[False], [False], [True], [True], [True]]
    assert [plan.first_positions for plan in loop.plans] == [[0], [32], [64], [70], [71]]
    assert tuple(loop.tokens["a"]) == reference_tokens(request)


@pytest.mark.parametrize("n_prompt", [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65])
@pytest.mark.parametrize("max_step_tokens", [8, 15, 16, 17, 64])
def test_chunk_borders_do_not_change_the_tokens(n_prompt: int, max_step_tokens: int) -> None:
    loop = SchedulerLoop(max_step_tokens=max_step_tokens)
    request = make_request("a", n_prompt=n_prompt, max_tokens=20)
    other = make_request("b", n_prompt=40, max_tokens=20)
    loop.submit(request, other)
    loop.run()
    assert tuple(loop.tokens["a"]) == reference_tokens(request)
    assert tuple(loop.tokens["b"]) == reference_tokens(other)


def test_decodes_come_first_and_chunks_take_the_rest() -> None:
    loop = SchedulerLoop(max_step_tokens=20, max_running=4)
    loop.submit(make_request("a", n_prompt=5), make_request("b", n_prompt=6))
    loop.step()
    loop.submit(make_request("c", n_prompt=25), make_request("d", n_prompt=30))
    loop.step()
    assert lengths(loop.plans[-1]) == {"a": 1, "b": 1, "c": 18}
    assert lengths(loop.schedule()) == {"a": 1, "b": 1, "c": 7, "d": 11}


def test_decodes_come_first_even_behind_a_prompt_of_higher_priority() -> None:
    loop = SchedulerLoop(max_step_tokens=20, max_running=4)
    loop.submit(make_request("low", n_prompt=5))
    loop.step()
    loop.submit(make_request("high", n_prompt=100, priority=1))
    assert lengths(loop.schedule()) == {"low": 1, "high": 19}


def test_a_plan_never_exceeds_its_tokens_and_wastes_none() -> None:
    loop = SchedulerLoop(kv_blocks=400, max_step_tokens=32, max_running=32, max_waiting=64)
    requests = mixed_lengths(60)
    loop.submit(*requests)
    loop.run()
    assert all(1 <= plan.n_tokens <= 32 for plan in loop.plans)
    # While prompts wait, every step is full.
    last_full = max(i for i, plan in enumerate(loop.plans) if not all(plan.samples))
    assert all(plan.n_tokens == 32 for plan in loop.plans[:last_full])
    assert {r.request_id: tuple(loop.tokens[r.request_id]) for r in requests} == {
        r.request_id: reference_tokens(r) for r in requests
    }


def test_first_come_first_served() -> None:
    loop = SchedulerLoop(max_running=1)
    loop.submit(*(make_request(name) for name in "cab"))
    loop.run()
    assert list(loop.finished) == ["c", "a", "b"]


def test_higher_priorities_first() -> None:
    loop = SchedulerLoop(max_running=1)
    loop.submit(*(make_request(f"{p}{n}", priority=p) for n in "ab" for p in (0, 2, 1)))
    loop.run()
    assert list(loop.finished) == ["2a", "2b", "1a", "1b", "0a", "0b"]


def test_sequences_join_and_leave_between_steps() -> None:
    loop = SchedulerLoop(max_running=2)
    loop.submit(make_request("long", max_tokens=30), make_request("short", max_tokens=2))
    loop.submit(make_request("next", max_tokens=2))
    loop.step()
    loop.step()
    assert list(loop.finished) == ["short"]
    plan = loop.schedule()
    assert plan is not None
    assert plan.request_ids == ["long", "next"]


def test_a_sequence_waits_until_the_step_has_a_token_for_it() -> None:
    loop = SchedulerLoop(max_step_tokens=16)
    loop.submit(make_request("a", n_prompt=40), make_request("b", n_prompt=4))
    loop.step()
    stats = loop.scheduler.stats()
    assert (stats.running, stats.waiting) == (1, 1)


def test_decodes_count_against_the_step_whatever_their_priority() -> None:
    loop = SchedulerLoop(max_step_tokens=20)
    loop.submit(*(make_request(f"low {i}", n_prompt=2, max_tokens=20) for i in range(3)))
    loop.step()
    loop.submit(make_request("high", n_prompt=17, priority=2), make_request("middle", priority=1))
    assert lengths(loop.schedule()) == {"low 0": 1, "low 1": 1, "low 2": 1, "high": 17}
    assert loop.scheduler.stats().waiting == 1


def test_decodes_that_fill_the_step_give_way_to_a_higher_priority() -> None:
    loop = SchedulerLoop(max_step_tokens=4, max_running=4)
    loop.submit(*(make_request(f"low {i}", n_prompt=1, max_tokens=20) for i in range(4)))
    loop.step()
    loop.submit(make_request("high", priority=1))
    assert lengths(loop.schedule()) == {"low 0": 1, "low 1": 1, "low 2": 1, "high": 1}


def test_one_step_is_in_flight_at_a_time() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a"))
    plan = loop.schedule()
    with pytest.raises(EngineError, match="a step is in flight"):
        loop.schedule()
    assert plan is not None
    loop.commit(plan)


def test_a_plan_stays_as_it_was_until_it_is_committed() -> None:
    loop = SchedulerLoop(kv_blocks=8, max_running=4)
    loop.submit(make_request("a", n_prompt=30), make_request("b", n_prompt=16))
    loop.step()
    plan = loop.schedule()
    assert plan is not None
    tables = [list(table) for table in plan.block_tables]
    loop.abort("a")
    loop.submit(make_request("a", n_prompt=60), make_request("c", n_prompt=10, priority=3))
    assert plan.block_tables == tables
    assert plan.request_ids == ["a", "b"]
    loop.commit(plan)
    loop.run()
    assert set(loop.finished) == {"a", "b", "c"}


def count_calls_of_a_step(n_waiting: int, max_running: int, kv_blocks: int) -> int:
    loop = SchedulerLoop(kv_blocks=kv_blocks, max_running=max_running, max_waiting=n_waiting)
    loop.submit(*(make_request(f"running {i}", n_prompt=8) for i in range(4)))
    loop.step()
    loop.submit(*(make_request(f"waiting {i}") for i in range(n_waiting)))
    calls: list[str] = []
    sys.setprofile(lambda _frame, event, _argument: calls.append(event))
    plan = loop.scheduler.schedule(0.0)
    sys.setprofile(None)
    assert plan is not None
    assert len(plan.request_ids) == 4
    assert loop.scheduler.stats().waiting == n_waiting
    return len(calls)


@pytest.mark.parametrize(("max_running", "kv_blocks"), [(4, 64), (8, 8)], ids=["no place", "no blocks"])
def test_a_long_queue_makes_no_step_slower(max_running: int, kv_blocks: int) -> None:
    few, many = (count_calls_of_a_step(n, max_running, kv_blocks) for n in (1, 200))
    assert few == many
