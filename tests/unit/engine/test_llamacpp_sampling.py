"""What llama.cpp's server is asked for one token."""

from array import array
from typing import Any

import numpy as np
import pytest

from stoker.core.sampling import MAX_SEED, SamplingParams
from stoker.core.step import LogitEdits
from stoker.core.tokens import TokenLogprob
from stoker.engine.llamacpp.sampling import RANDOM_SEED, completion, logprob_of, token_of
from stoker.testing.workloads import make_request

HISTORY = np.array([5, 6, 7, 6], np.int32)


def asked(
    sampling: SamplingParams, *, n_prompt: int = 4, min_tokens: int = 0, stops: frozenset[int] = frozenset()
) -> dict[str, Any]:
    request = make_request(
        "r",
        prompt=HISTORY[:n_prompt].tolist(),
        min_tokens=min_tokens,
        stop_token_ids=stops,
        sampling=sampling,
    )
    edits = LogitEdits.of(request)
    if edits is not None:
        edits.history.extend(HISTORY[n_prompt:].tolist())
    return completion(3, HISTORY, sampling, edits)


def test_a_greedy_token() -> None:
    body = asked(SamplingParams(temperature=0.0))
    assert body["prompt"] is HISTORY
    assert (body["id_slot"], body["n_predict"], body["temperature"]) == (3, 1, 0.0)
    assert list(body["samplers"]) == ["penalties", "temperature"]
    assert body["logit_bias"] == []
    assert body["n_probs"] == 0


def test_samplers_are_in_our_order() -> None:
    body = asked(SamplingParams(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1))
    assert list(body["samplers"]) == ["penalties", "temperature", "top_k", "top_p", "min_p"]
    assert (body["temperature"], body["top_k"], body["top_p"], body["min_p"]) == (0.7, 5, 0.9, 0.1)


def test_what_is_added_to_logits_is_summed_up() -> None:
    sampling = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((6, 2.0), (9, -1.0)))
    body = asked(sampling, n_prompt=1)
    # 6 was generated twice and 7 once; 5 is the prompt's
    assert dict(body["logit_bias"]) == {6: 2.0 - 0.5 - 0.5, 9: -1.0, 7: -0.75}
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.0, 0.0)


def test_the_repetition_penalty_is_llama_cpps_own_over_all_tokens() -> None:
    body = asked(SamplingParams(repetition_penalty=1.3))
    assert (body["repeat_penalty"], body["repeat_last_n"]) == (1.3, len(HISTORY))
    assert body["logit_bias"] == []


def test_end_tokens_are_banned_until_there_are_enough_tokens() -> None:
    stops = frozenset({2, 9})
    sampling = SamplingParams(logit_bias=((9, 3.0),))
    assert dict(asked(sampling, n_prompt=3, min_tokens=2, stops=stops)["logit_bias"]) == {2: False, 9: False}
    assert dict(asked(sampling, n_prompt=2, min_tokens=2, stops=stops)["logit_bias"]) == {9: 3.0}


def test_seeds_are_of_seed_choice_and_position() -> None:
    def seed(seed: int, choice: int, length: int) -> int:
        sampling = SamplingParams(seed=seed, choice=choice)
        return int(completion(0, np.zeros(length, np.int32), sampling, None)["seed"])

    assert seed(1, 2, 3) == seed(1, 2, 3)
    different = [
        seed(1, 2, 3),
        seed(2, 2, 3),
        seed(1, 3, 3),
        seed(1, 2, 4),
        seed(12, 2, 3),
        seed(MAX_SEED, 0, 1),
    ]
    assert len(set(different)) == len(different)
    assert all(0 <= each < RANDOM_SEED for each in different)


@pytest.mark.parametrize(("logprobs", "n_probs"), [(None, 0), (0, 1), (1, 1), (20, 20)])
def test_alternatives_are_asked_for(logprobs: int | None, n_probs: int) -> None:
    assert asked(SamplingParams(logprobs=logprobs))["n_probs"] == n_probs


def test_an_answer_is_read() -> None:
    answer = {
        "tokens": [6],
        "completion_probabilities": [
            {
                "id": 6,
                "logprob": -1.5,
                "top_logprobs": [{"id": 8, "logprob": -0.5}, {"id": 6, "logprob": -1.5}],
            }
        ],
    }
    assert token_of(answer) == 6
    assert logprob_of(answer, 6, 0) == TokenLogprob(-1.5, ())
    assert logprob_of(answer, 6, 2) == TokenLogprob(-1.5, ((8, -0.5), (6, -1.5)))
    assert logprob_of(answer, 8, 1) == TokenLogprob(-0.5, ((8, -0.5),))
    assert logprob_of(answer, 7, 1) is None
    assert logprob_of({"tokens": [6]}, 6, 1) is None


def test_history_is_not_held_on_to() -> None:
    """A view of a growing array would make its next `append` fail."""
    request = make_request("r", prompt=[1], sampling=SamplingParams(presence_penalty=1.0))
    edits = LogitEdits.of(request)
    assert edits is not None
    assert isinstance(edits.history, array)
    edits.history.append(4)
    body = completion(0, HISTORY, request.sampling, edits)
    edits.history.append(5)
    assert body["logit_bias"] == [(4, -1.0)]
