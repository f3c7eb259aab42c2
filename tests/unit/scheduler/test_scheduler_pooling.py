"""Embeddings: the same bytes however their prompt is computed, and whatever else runs."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import EngineError, InvalidRequestError
from stoker.core.pooling import Pooling
from stoker.core.tokens import FinishReason, TokenRequest
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_embedding, reference_tokens
from stoker.testing.workloads import make_request, make_tokens

BOTH = pytest.mark.parametrize("pooling", list(Pooling))


def embeddings(loop: SchedulerLoop) -> dict[str, "array[float]"]:
    return {event.request_id: event.embedding for event in loop.events if event.embedding is not None}


def embedded(*requests: TokenRequest, loop: SchedulerLoop) -> None:
    wanted = {r.request_id: reference_embedding(r) for r in requests if r.pooling is not None}
    assert embeddings(loop) == wanted


@BOTH
@pytest.mark.parametrize("max_step_tokens", [1, 7, 16, 100])
@pytest.mark.parametrize("n_prompt", [1, 2, 15, 16, 17, 60])
def test_an_embedding_does_not_depend_on_chunks(
    n_prompt: int, max_step_tokens: int, pooling: Pooling
) -> None:
    loop = SchedulerLoop(max_running=1, max_step_tokens=max_step_tokens)
    request = make_request("a", n_prompt=n_prompt, max_tokens=0, pooling=pooling)
    loop.submit(request)
    loop.run()
    embedded(request, loop=loop)
    assert loop.finished == {"a": FinishReason.LENGTH}
    assert loop.scheduler.stats().kv_blocks_used == 0
    assert loop.scheduler.stats().generated_tokens_total == 0


@BOTH
def test_an_embedding_has_length_1(pooling: Pooling) -> None:
    embedding = reference_embedding(make_request("a", n_prompt=20, max_tokens=0, pooling=pooling))
    assert sum(value * value for value in embedding) == pytest.approx(1.0, abs=1e-6)


def test_a_cached_prefix_serves_the_last_token_and_not_the_mean() -> None:
    prompt = make_tokens("p", 100)
    for pooling, n_cached in ((Pooling.LAST, 96), (Pooling.MEAN, 0)):
        loop = SchedulerLoop(max_step_tokens=200)
        plain = make_request("plain", prompt=prompt, max_tokens=1)
        pooled = make_request("pooled", prompt=prompt, max_tokens=0, pooling=pooling)
        for request in (plain, pooled):
            loop.submit(request)
            loop.run()
        embedded(pooled, loop=loop)
        assert loop.events[-1].cached_tokens == n_cached


def test_a_generation_finds_the_prefix_of_an_embedding() -> None:
    loop = SchedulerLoop(max_step_tokens=200)
    prompt = make_tokens("p", 100)
    pooled = make_request("pooled", prompt=prompt, max_tokens=0, pooling=Pooling.MEAN)
    plain = make_request("plain", prompt=prompt, max_tokens=1)
    for request in (pooled, plain):
        loop.submit(request)
        loop.run()
    embedded(pooled, loop=loop)
    assert loop.events[-1].cached_tokens == 96


@BOTH
def test_preemption_adds_no_token_twice(pooling: Pooling) -> None:
    loop = SchedulerLoop(max_step_tokens=20, max_running=1)
    pooled = make_request("pooled", n_prompt=100, max_tokens=0, pooling=pooling)
    loop.submit(pooled)
    for _ in range(3):
        loop.step()
    loop.submit(make_request("urgent", n_prompt=20, max_tokens=2, priority=1))
    loop.run()
    assert loop.scheduler.stats().preemptions_total == 1
    embedded(pooled, loop=loop)
    # 60 tokens were computed and pooled: the three full blocks of them were found again.
    assert loop.engine.n_tokens == 100 + 60 - 48 + 21


@given(
    specs=st.lists(
        st.tuples(
            st.sampled_from(["x", "y"]),
            st.integers(1, 90),
            st.sampled_from([None, *Pooling]),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=8,
    ),
    kv_blocks=st.integers(8, 30),
    max_running=st.integers(1, 4),
    spare=st.integers(0, 40),
    max_call_steps=st.integers(1, 4),
)
def test_company_changes_no_bit(
    specs: list[tuple[str, int, Pooling | None, int]],
    kv_blocks: int,
    max_running: int,
    spare: int,
    max_call_steps: int,
) -> None:
    loop = SchedulerLoop(
        kv_blocks=kv_blocks,
        max_running=max_running,
        max_step_tokens=max_running + spare,
        max_call_steps=max_call_steps,
    )
    requests = [
        make_request(
            f"r{index}",
            prompt=make_tokens(text, n_prompt),
            max_tokens=0 if pooling else 9,
            pooling=pooling,
            priority=priority,
        )
        for index, (text, n_prompt, pooling, priority) in enumerate(specs)
    ]
    for request in requests:
        loop.submit(request)
        loop.step()
    loop.run()
    embedded(*requests, loop=loop)
    for request in requests:
        if request.pooling is None:
            assert tuple(loop.tokens[request.request_id]) == reference_tokens(request)


def test_what_is_pooled_is_not_continued() -> None:
    loop = SchedulerLoop(context_length=50)
    with pytest.raises(InvalidRequestError, match="neither continued nor scored"):
        loop.submit(make_request("a", max_tokens=1, pooling=Pooling.MEAN))
    with pytest.raises(InvalidRequestError, match="exceed the context"):
        loop.submit(make_request("b", n_prompt=51, max_tokens=0, pooling=Pooling.MEAN))


def test_a_result_without_the_sums_is_refused() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", max_tokens=0, pooling=Pooling.LAST))
    plan = loop.schedule()
    assert plan is not None
    result = loop.engine.forward(plan)
    result.sums.clear()
    with pytest.raises(EngineError, match="pools"):
        loop.scheduler.commit(plan, result, 0.0)
