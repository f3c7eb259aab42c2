from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request, make_tokens


def test_abort_of_nobody() -> None:
    assert not SchedulerLoop().abort("nobody")


def test_abort_before_it_is_planned() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a"))
    assert loop.abort("a")
    assert not loop.abort("a")
    assert loop.schedule() is None
    assert loop.scheduler.stats().waiting == 0


def test_abort_between_steps_frees_its_blocks_at_once() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a"), make_request("b"))
    loop.step()
    used = loop.scheduler.stats().kv_blocks_used
    assert loop.abort("a")
    assert loop.scheduler.stats().kv_blocks_used == used - 2
    loop.run()
    assert list(loop.finished) == ["b"]


def test_abort_during_its_step_holds_its_blocks_until_the_commit() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", n_prompt=40), make_request("b"))
    plan = loop.schedule()
    assert plan is not None
    used = loop.scheduler.stats().kv_blocks_used
    assert loop.abort("a")
    assert not loop.abort("a")
    assert loop.scheduler.stats().kv_blocks_used == used
    events = loop.commit(plan)
    assert [event.request_id for event in events] == ["b"]
    assert loop.scheduler.stats().kv_blocks_used == used - 3
    loop.run()
    assert list(loop.finished) == ["b"]


def test_abort_during_a_step_of_others() -> None:
    loop = SchedulerLoop(max_step_tokens=32, max_running=2)
    loop.submit(make_request("a", n_prompt=32), make_request("b", n_prompt=32), make_request("c"))
    plan = loop.schedule()
    assert plan is not None
    assert plan.request_ids == ["a"]
    loop.commit(plan)
    plan = loop.schedule()
    assert plan is not None
    assert loop.abort("c")
    loop.commit(plan)
    loop.run()
    assert list(loop.finished) == ["a", "b"]


def test_abort_during_the_step_that_would_end_it() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", max_tokens=1))
    plan = loop.schedule()
    assert plan is not None
    assert loop.abort("a")
    assert loop.commit(plan) == []
    assert loop.schedule() is None
    assert loop.scheduler.stats().kv_blocks_used == 0


def test_abort_after_its_end() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a"))
    loop.run()
    assert not loop.abort("a")


def test_abort_of_a_preempted_sequence() -> None:
    loop = SchedulerLoop(kv_blocks=5, max_running=3)
    loop.submit(
        make_request("old", n_prompt=14, max_tokens=40), make_request("new", n_prompt=14, max_tokens=40)
    )
    while not loop.scheduler.stats().preemptions_total:
        loop.step()
    assert loop.abort("new")
    loop.run()
    assert list(loop.finished) == ["old"]
    assert loop.scheduler.stats().kv_blocks_used == 0


def test_the_id_of_an_aborted_sequence_can_be_used_again_during_its_step() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", n_prompt=30))
    plan = loop.schedule()
    assert plan is not None
    loop.abort("a")
    again = make_request("a", prompt=make_tokens("other", 25))
    loop.submit(again)
    assert loop.commit(plan) == []
    loop.run()
    assert tuple(loop.tokens["a"]) == reference_tokens(again)


def test_aborting_many_waiting_ones_keeps_the_order_of_the_rest() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting=20)
    loop.submit(*(make_request(str(i), priority=i % 2) for i in range(12)))
    for i in range(0, 12, 3):
        loop.abort(str(i))
    loop.run()
    assert list(loop.finished) == ["1", "5", "7", "11", "2", "4", "8", "10"]
