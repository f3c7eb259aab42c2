"""Several decode steps in one call: the bits of as many calls, and an end where there must be one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from stoker import _native
from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import LogitEdits, StepPlan, StepResult
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.workloads import make_request, make_tokens

N_PROMPT = 14  # so that the second step of a call begins another block
SAMPLINGS = (
    SamplingParams(temperature=0.0),
    SamplingParams(seed=4, top_p=0.9, logprobs=3),
    SamplingParams(seed=9, repetition_penalty=1.4, frequency_penalty=0.6, logit_bias=((2, 5.0),), logprobs=0),
)
PROMPTS = [list(make_tokens(f"decode {row}", N_PROMPT, vocab_size=60)) for row in range(len(SAMPLINGS))]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", dtype="Q4_1")


def load(path: Path, isa: str = "auto") -> NativeEngine:
    settings = NativeEngineSettings(
        threads=2, isa=isa, kv_memory_bytes=1 << 20, context_length=40, max_running=3, step_tokens=64
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def edits_of(histories: Sequence[list[int]]) -> dict[int, LogitEdits]:
    edits = {}
    for row, (history, sampling) in enumerate(zip(histories, SAMPLINGS, strict=True)):
        prompt = history[:N_PROMPT]
        of_row = LogitEdits.of(make_request("a", prompt=prompt, sampling=sampling))
        if of_row is not None:
            of_row.history.extend(history[N_PROMPT:])
            edits[row] = of_row
    return edits


def plan_of(histories: list[list[int]], n_computed: int, **more: Any) -> StepPlan:
    """Plan what is not computed of each sequence."""
    n = len(histories)
    return StepPlan(
        request_ids=[str(row) for row in range(n)],
        tokens=[history[n_computed:] for history in histories],
        first_positions=[n_computed] * n,
        block_tables=[[3 * row, 3 * row + 1, 3 * row + 2] for row in range(n)],
        samples=[True] * n,
        sampling=list(SAMPLINGS),
        edits=edits_of(histories),
        **more,
    )


def step_by_step(engine: NativeEngine, n_steps: int) -> StepResult:
    """Take further steps after the prompts, one in a call."""
    histories = [list(prompt) for prompt in PROMPTS]
    whole = StepResult([[] for _ in PROMPTS], [[] for _ in PROMPTS])
    n_computed = 0
    for step in range(n_steps + 1):
        result = engine.forward(plan_of(histories, n_computed))
        n_computed = len(histories[0])
        for row, sampled in enumerate(result.token_ids):
            histories[row] += sampled
            if step:
                whole.token_ids[row] += sampled
                whole.logprobs[row] += result.logprobs[row]
    return whole


def after_prompts(engine: NativeEngine, **more: Any) -> StepPlan:
    """Compute the prompts and plan what comes after their first tokens."""
    first = engine.forward(plan_of(PROMPTS, 0)).token_ids
    histories = [prompt + tokens for prompt, tokens in zip(PROMPTS, first, strict=True)]
    return plan_of(histories, N_PROMPT, **{"n_steps": 4, "stop_token_ids": [frozenset()] * 3} | more)


def test_several_steps_have_the_bits_of_single_ones(path: Path, isa: str) -> None:
    engine = load(path, isa)
    expected = step_by_step(engine, 4)
    assert all(len(set(tokens)) > 1 for tokens in expected.token_ids[1:])
    assert [len(entries) for entries in expected.logprobs] == [0, 4, 4]
    plan = after_prompts(engine)
    histories = [edits.history.tolist() for edits in plan.edits.values()]
    result = engine.forward(plan)
    assert result.token_ids == expected.token_ids
    assert result.logprobs == expected.logprobs
    assert [
        edits.history.tolist() for edits in plan.edits.values()
    ] == histories  # Python's own are not touched


def test_a_call_ends_after_the_step_in_which_any_sequence_ends(path: Path) -> None:
    engine = load(path)
    expected = step_by_step(engine, 4).token_ids
    stop = expected[2][2]
    n_steps = expected[2].index(stop) + 1
    ended = engine.forward(
        after_prompts(engine, stop_token_ids=[frozenset(), frozenset(), frozenset({stop, 63})])
    )
    assert ended.token_ids == [tokens[:n_steps] for tokens in expected]
    others = frozenset(range(64)) - set(expected[0])
    whole = engine.forward(after_prompts(engine, stop_token_ids=[others, frozenset(), frozenset()]))
    assert whole.token_ids == expected


def test_a_call_ends_after_the_step_during_which_the_flag_is_set(path: Path) -> None:
    engine = load(path)
    expected = step_by_step(engine, 4).token_ids
    flag = bytearray(1)
    engine.heed(flag)
    plan = after_prompts(engine)
    assert engine.forward(plan).token_ids == expected
    flag[0] = 1
    assert engine.forward(plan).token_ids == [tokens[:1] for tokens in expected]
    flag[0] = 0
    assert engine.forward(plan).token_ids == expected


def test_another_thread_ends_a_call(path: Path) -> None:
    engine = load(path)
    flag = bytearray(1)
    engine.heed(flag)
    plan = after_prompts(engine)
    setter = Thread(target=flag.__setitem__, args=(0, 1))
    setter.start()
    n_steps = [len(engine.forward(plan).token_ids[0]) for _ in range(3)]
    setter.join()
    assert set(n_steps) <= {1, 2, 3, 4}
    assert len(engine.forward(plan).token_ids[0]) == 1


def test_a_call_that_begins_with_more_than_one_token(path: Path) -> None:
    engine = load(path)
    firsts = engine.forward(plan_of(PROMPTS, 0)).token_ids
    later = step_by_step(engine, 3).token_ids
    runs = plan_of(PROMPTS, 0, n_steps=4, stop_token_ids=[frozenset()] * 3)
    assert engine.forward(runs).token_ids == [
        first + further for first, further in zip(firsts, later, strict=True)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_tables": [[0], [3, 4, 5], [6, 7, 8]]}, "too short for all steps"),
        ({"first_positions": [37, N_PROMPT, N_PROMPT]}, "too short for all steps"),
        ({"samples": [True, False, True]}, "has one token sampled"),
        ({"tokens": [[1] * 31, [1], [1]]}, "too short for all steps"),
        ({"stop_token_ids": [frozenset()]}, "for every sequence"),
        ({"n_steps": 0}, "at least one step"),
    ],
)
def test_calls_of_several_steps_that_break_the_rules(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    engine = load(path)
    right = after_prompts(engine)
    expected = engine.forward(right).token_ids
    with pytest.raises(EngineError, match=message):
        engine.forward(replace(right, edits={}, **changes))
    assert engine.forward(right).token_ids == expected


def test_arrays_of_stop_tokens_must_fit_each_other() -> None:
    for starts in ([], [1, 1], [0, 2], [0, 1, 0]):
        with pytest.raises(ValueError, match="starts of stop tokens"):
            _native.Steps(
                n_steps=1, stop_tokens=np.array([5], np.int32), stop_starts=np.array(starts, np.int32)
            )


def test_the_flag_is_one_byte(path: Path) -> None:
    with pytest.raises(ValueError, match="one byte"):
        load(path).heed(bytearray(2))
