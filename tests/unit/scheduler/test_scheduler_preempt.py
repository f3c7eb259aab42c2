from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request, make_tokens


def test_the_newest_gives_way_keeps_its_tokens_and_its_place() -> None:
    loop = SchedulerLoop(kv_blocks=5, max_running=3)
    old, new, next_one = (make_request(n, n_prompt=14, max_tokens=40) for n in ("old", "new", "next"))
    loop.submit(old, new)
    while not loop.scheduler.stats().preemptions_total:
        loop.step()
    n_sampled = len(loop.tokens["new"])
    assert 0 < n_sampled < 40
    assert loop.plans[-1].request_ids == ["old"]
    loop.submit(next_one)
    loop.run()
    assert list(loop.finished) == ["old", "new", "next"]
    for request in (old, new, next_one):
        assert tuple(loop.tokens[request.request_id]) == reference_tokens(request)


def test_the_lowest_priority_gives_way_before_the_newest() -> None:
    loop = SchedulerLoop(kv_blocks=5, max_running=3)
    loop.submit(make_request("low", n_prompt=14, max_tokens=40))
    loop.submit(make_request("high", n_prompt=14, max_tokens=40, priority=1))
    while not loop.scheduler.stats().preemptions_total:
        loop.step()
    assert loop.plans[-1].request_ids == ["high"]
    loop.run()
    assert list(loop.finished) == ["high", "low"]


def test_a_sequence_that_is_last_in_order_gives_way_itself() -> None:
    loop = SchedulerLoop(kv_blocks=4, max_running=2)
    # "new" is the first to need a block that is not there.
    old = make_request("old", n_prompt=17, max_tokens=20)
    new = make_request("new", n_prompt=15, max_tokens=30)
    loop.submit(old, new)
    loop.run()
    assert loop.scheduler.stats().preemptions_total >= 1
    assert list(loop.finished) == ["old", "new"]
    assert tuple(loop.tokens["new"]) == reference_tokens(new)


def test_a_waiting_higher_priority_takes_a_running_place() -> None:
    loop = SchedulerLoop(max_running=1)
    low = make_request("low", max_tokens=30)
    loop.submit(low)
    loop.step()
    loop.submit(make_request("same"), make_request("high", priority=1))
    loop.run()
    assert list(loop.finished) == ["high", "low", "same"]
    assert loop.scheduler.stats().preemptions_total == 1
    assert tuple(loop.tokens["low"]) == reference_tokens(low)


def test_a_waiting_higher_priority_takes_blocks() -> None:
    loop = SchedulerLoop(kv_blocks=4, max_running=4)
    loop.submit(make_request("low", n_prompt=30, max_tokens=30))
    loop.step()
    loop.submit(make_request("high", n_prompt=50, max_tokens=2, priority=1))
    loop.run()
    assert list(loop.finished) == ["high", "low"]


def test_arriving_earlier_does_not_take_a_running_place() -> None:
    loop = SchedulerLoop(max_running=1)
    loop.submit(make_request("a", max_tokens=10), make_request("b", max_tokens=10))
    loop.run()
    assert loop.scheduler.stats().preemptions_total == 0
    assert list(loop.finished) == ["a", "b"]


def test_recomputed_tokens_do_not_count_as_cached() -> None:
    loop = SchedulerLoop(kv_blocks=7, max_running=2)
    prompt = make_tokens("p", 33)
    loop.submit(make_request("first", prompt=prompt, max_tokens=2))
    loop.run()
    loop.submit(make_request("old", n_prompt=20, max_tokens=60))
    loop.submit(make_request("new", prompt=prompt, max_tokens=40))
    loop.run()
    stats = loop.scheduler.stats()
    assert stats.preemptions_total >= 1
    assert {e.cached_tokens for e in loop.events if e.request_id == "new"} == {32}
    assert (stats.prompt_tokens_total, stats.cached_tokens_total) == (33 + 20 + 33, 32)
    assert stats.generated_tokens_total == 2 + 60 + 40


def test_many_that_do_not_fit_together_all_end() -> None:
    loop = SchedulerLoop(kv_blocks=6, max_running=8, max_waiting=32, max_step_tokens=40)
    requests = [
        make_request(str(i), n_prompt=1 + 7 * i % 50, max_tokens=40, priority=i % 3) for i in range(24)
    ]
    loop.submit(*requests)
    loop.run()
    assert loop.scheduler.stats().preemptions_total > 0
    for request in requests:
        assert tuple(loop.tokens[request.request_id]) == reference_tokens(request)


def test_admission_leaves_each_running_sequence_a_block_to_grow_into() -> None:
    loop = SchedulerLoop(kv_blocks=4, max_running=4)
    loop.submit(make_request("a", n_prompt=16, max_tokens=20), make_request("b", n_prompt=40, max_tokens=2))
    loop.step()
    assert loop.plans[0].request_ids == ["a"]
    loop.run()
    assert loop.scheduler.stats().preemptions_total == 0
