"""No sampling value that a gateway may submit can make an engine call fail."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.core.errors import InvalidRequestError
from stoker.core.protocols import StepEngine
from stoker.core.sampling import (
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_CHOICE,
    MAX_LOGPROBS,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MIN_REPETITION_PENALTY,
    SamplingParams,
)
from stoker.core.step import LogitEdits, StepPlan
from stoker.testing.engine_thread import gated_engine
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.step_engine import reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.checks import check_request
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.native import load_native

VOCAB_SIZE = 300

WRONG: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", MAX_TEMPERATURE * 1.01),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("top_k", -1),
    ("top_k", MAX_TOP_K + 1),
    ("top_p", -0.1),
    ("top_p", 1.1),
    ("top_p", float("nan")),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("min_p", float("nan")),
    ("seed", -1),
    ("seed", MAX_SEED + 1),
    ("choice", -1),
    ("choice", MAX_CHOICE + 1),
    ("logprobs", -1),
    ("logprobs", MAX_LOGPROBS + 1),
    ("presence_penalty", -MAX_PENALTY - 0.1),
    ("presence_penalty", float("nan")),
    ("frequency_penalty", MAX_PENALTY + 0.1),
    ("frequency_penalty", float("inf")),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", MAX_REPETITION_PENALTY + 1),
    ("repetition_penalty", float("nan")),
    ("logit_bias", ((1, -MAX_BIAS - 1),)),
    ("logit_bias", ((1, 0.0), (2, float("nan")))),
    ("logit_bias", ((-1, 0.0),)),
    ("logit_bias", ((2**31, 0.0),)),
    ("logit_bias", tuple((token % 10, 0.0) for token in range(MAX_BIASED_TOKENS + 1))),
]


@pytest.fixture(scope="module")
def native_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepEngine]:
    path = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", vocab_size=VOCAB_SIZE)
    config = EngineConfig(model_path=path, model="tiny", max_running=2, n_threads=1, kv_memory_bytes=2**20)
    engine = load_native(config).engine
    yield engine
    engine.close()


def compute(engine: StepEngine, sampling: SamplingParams, **more: Any) -> int:
    edits = LogitEdits.of(make_request("a", prompt=[1, 2, 3], sampling=sampling, **more))
    plan = StepPlan(["a"], [[1, 2, 3]], [0], [[0]], [True], [sampling], {} if edits is None else {0: edits})
    return engine.forward(plan).token_ids[0][0]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    request = make_request("wrong", sampling=SamplingParams(**{field: value}))
    with pytest.raises(InvalidRequestError, match=f"^{field} (is|has) ") as refused:
        check_request(request, vocab_size=VOCAB_SIZE)
    assert refused.value.param == field


@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0, MAX_TEMPERATURE),
        top_k=st.integers(0, MAX_TOP_K),
        top_p=st.floats(0, 1),
        min_p=st.floats(0, 1),
        seed=st.integers(0, MAX_SEED),
        choice=st.integers(0, MAX_CHOICE),
        logprobs=st.none() | st.integers(0, MAX_LOGPROBS),
        presence_penalty=st.floats(-MAX_PENALTY, MAX_PENALTY),
        frequency_penalty=st.floats(-MAX_PENALTY, MAX_PENALTY),
        repetition_penalty=st.floats(MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY),
        logit_bias=st.dictionaries(
            st.integers(0, VOCAB_SIZE - 1), st.floats(-MAX_BIAS, MAX_BIAS), max_size=20
        ).map(lambda biases: tuple(biases.items())),
    )
)
@example(
    SamplingParams(
        temperature=MAX_TEMPERATURE, top_k=MAX_TOP_K, seed=MAX_SEED, choice=MAX_CHOICE, logprobs=MAX_LOGPROBS
    )
)
@example(SamplingParams(temperature=5e-324, top_k=1, top_p=0.0, min_p=1.0))
def test_the_native_engine_computes_whatever_is_accepted(
    native_engine: StepEngine, sampling: SamplingParams
) -> None:
    check_request(make_request("extreme", sampling=sampling), vocab_size=VOCAB_SIZE)
    assert 0 <= compute(native_engine, sampling) < VOCAB_SIZE


@pytest.mark.parametrize("ids", [{-1}, {VOCAB_SIZE}, {5, 2**40}, set(range(257))])
def test_stop_tokens_that_are_none_are_refused(ids: set[int]) -> None:
    with pytest.raises(InvalidRequestError, match=r"^stop_token_ids has ") as refused:
        check_request(make_request("wrong", stop_token_ids=frozenset(ids)), vocab_size=VOCAB_SIZE)
    assert refused.value.param == "stop_token_ids"


def test_every_token_may_be_banned(native_engine: StepEngine) -> None:
    for temperature in (0.0, 1.0):
        everything = frozenset(range(VOCAB_SIZE))
        sampling = SamplingParams(temperature=temperature)
        assert compute(native_engine, sampling, min_tokens=1, stop_token_ids=everything) == 0


def test_more_candidates_than_an_engine_can_count_are_all_of_them(native_engine: StepEngine) -> None:
    whole = SamplingParams(top_k=MAX_TOP_K, seed=3)
    assert compute(native_engine, replace(whole, top_k=2**63)) == compute(native_engine, whole)


async def test_a_refused_sequence_does_not_touch_the_others(socket_path: Path) -> None:
    request = make_request("running", max_tokens=50)
    with gated_engine(socket_path) as gate:
        engine = await EngineClient.connect(socket_path)
        running = asyncio.create_task(tokens_of(engine, request))
        await until(gate.reached.is_set)
        wrong = [
            asyncio.create_task(
                tokens_of(engine, make_request(f"{field}-{value}", sampling=SamplingParams(**{field: value})))
            )
            for field, value in WRONG
        ]
        gate.open()
        refusals = await asyncio.gather(*wrong, return_exceptions=True)
        assert {type(refusal) for refusal in refusals} == {InvalidRequestError}
        assert await running == reference_tokens(request)
        await engine.close()
