import inspect
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core import errors
from stoker.core.abilities import Ability
from stoker.core.batching import BatchingPolicy
from stoker.core.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    QueueFullError,
    StokerError,
)
from stoker.core.grammar import Grammar, GrammarKind
from stoker.core.pooling import Pooling
from stoker.core.protocols import EngineInfo
from stoker.core.sampling import SamplingParams
from stoker.core.stats import EngineStats
from stoker.core.tokens import AdapterRef, FinishReason, TokenLogprob, TokenRequest, TokensEvent
from stoker.worker import conversion, frames

REQUEST = TokenRequest(
    request_id="theirs",
    prompt=(1, 2, 3),
    adapter=AdapterRef("/adapters/a", "0f"),
    max_tokens=9,
    n_generated=1,
    min_tokens=4,
    stop_token_ids=frozenset((5, 2)),
    sampling=SamplingParams(
        temperature=0.7,
        top_k=40,
        top_p=0.9,
        min_p=0.05,
        seed=2**64 - 1,
        choice=3,
        logprobs=2,
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        repetition_penalty=1.5,
        logit_bias=((3, -100.0), (1, 0.5)),
    ),
    prompt_logprobs=5,
    pooling=Pooling.LAST,
    cache_salt="tenant",
    priority=-4,
    queue_timeout_s=2.5,
    timeout_s=60.0,
    grammar=Grammar(GrammarKind.REGEX, "a+", "guided_regex", eager=True, fast_forward=True),
)
INFO = EngineInfo(
    model="model",
    fingerprint="fingerprint",
    context_length=4096,
    vocab_size=256,
    kv_blocks=64,
    max_running=8,
    max_waiting=16,
    kv_block_bytes=4096,
)
ERROR_CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, StokerError) and kind.__init__ is Exception.__init__
]


def test_a_request_arrives_as_it_was_sent_but_for_its_id() -> None:
    frame = conversion.submit_frame(REQUEST, incarnation=7, sequence=1)
    assert (frame.incarnation, frame.sequence) == (7, 1)
    arrived = conversion.token_request(frame, request_id="ours")
    assert arrived.request_id == "ours"
    assert arrived == replace(REQUEST, request_id="ours")


def test_tokens_of_several_steps_become_one_event_with_the_latest_state() -> None:
    event = TokensEvent(
        "ours", (4, 5), (TokenLogprob(-1.0, ((4, -1.0),)), TokenLogprob(-2.0)), 16, FinishReason.STOP
    )
    frame = conversion.tokens_frame(event, sequence=3)
    assert frame.sequence == 3
    arrived = conversion.tokens_event(
        "theirs",
        token_ids=list(frame.token_ids),
        logprobs=list(frame.logprobs),
        cached_tokens=frame.cached_tokens,
        finish_reason=frame.finish_reason,
    )
    assert arrived == TokensEvent(
        "theirs", event.token_ids, event.logprobs, event.cached_tokens, FinishReason.STOP
    )
    assert arrived.finish_reason is FinishReason.STOP


def test_info_and_stats_arrive_as_they_were_sent() -> None:
    assert conversion.engine_info(conversion.hello_frame(INFO, incarnation=7)) == INFO
    stats = EngineStats(
        running=1,
        waiting=2,
        kv_blocks_total=3,
        kv_blocks_used=4,
        kv_blocks_cached=5,
        kv_block_bytes=12,
        prompt_tokens_total=6,
        cached_tokens_total=7,
        generated_tokens_total=8,
        drafted_tokens_total=28,
        accepted_tokens_total=29,
        preemptions_total=9,
        steps_total=10,
        step_seconds_total=11.5,
        interval_seconds_total=12.5,
        predicted_seconds_total=12.25,
        streaming_steps_total=13,
        late_steps_total=14,
        step_budget=15,
        step_time_ratio=1.5,
        grammars_compiled_total=16,
        grammar_compile_seconds_total=17.5,
        grammar_mask_seconds_total=18.5,
        forced_tokens_total=30,
        drafting_seconds_total=31.5,
    )
    assert conversion.engine_stats(conversion.stats_frame(stats), kv_block_bytes=12) == stats


def test_a_batching_policy_arrives_as_it_was_sent() -> None:
    policy = BatchingPolicy(
        mode="time", itl_target_s=0.07, prefill_share=0.3, batch_wait_s=0.02, prompt_patience_s=0.002
    )
    frame = conversion.tune_frame(policy, incarnation=7)
    assert frame.incarnation == 7
    assert conversion.batching_policy(frame) == policy


def test_what_an_engine_says_of_itself_arrives() -> None:
    info = EngineInfo(
        model="m",
        fingerprint="f",
        context_length=1,
        vocab_size=2,
        kv_blocks=3,
        max_running=4,
        max_waiting=5,
        engine="some engine",
        lacks=frozenset({Ability.RESUMPTION, Ability.PROMPT_SCORES}),
    )
    sent = frames.encode(conversion.hello_frame(info, incarnation=7))
    reader = frames.gateway_reader()
    reader.feed(sent)
    (hello,) = reader.frames()
    assert isinstance(hello, frames.Hello)
    assert conversion.engine_info(hello) == info


def test_another_protocol_version_is_refused() -> None:
    hello = frames.Hello(7, frames.PROTOCOL_VERSION + 1, "model", "fingerprint", 1, 1, 1, 1, 1, 1)
    with pytest.raises(EngineError, match="install the same version"):
        conversion.engine_info(hello)


@pytest.mark.parametrize("kind", ERROR_CLASSES)
def test_every_plain_error_arrives_as_its_own_class(kind: type[StokerError]) -> None:
    arrived = conversion.stoker_error(conversion.failure(kind("what and why")))
    assert type(arrived) is kind
    assert str(arrived) == "what and why"


def test_errors_with_fields_keep_them() -> None:
    full = conversion.stoker_error(conversion.failure(QueueFullError("full", retry_after_s=2.5)))
    assert isinstance(full, QueueFullError)
    assert full.retry_after_s == 2.5
    invalid = conversion.stoker_error(
        conversion.failure(InvalidRequestError("bad", param="prompt", code="reason"))
    )
    assert type(invalid) is InvalidRequestError
    assert (invalid.param, invalid.code) == ("prompt", "reason")
    context = conversion.stoker_error(conversion.failure(ContextLengthError("long", param="max_tokens")))
    assert type(context) is ContextLengthError
    assert (context.param, context.code) == ("max_tokens", "context_length_exceeded")
    field = conversion.stoker_error(conversion.failure(errors.UnsupportedFieldError("no", param="tools")))
    assert type(field) is errors.UnsupportedFieldError
    assert field.param == "tools"


def test_foreign_errors_become_engine_errors_that_name_them() -> None:
    arrived = conversion.stoker_error(conversion.failure(KeyError("gone")))
    assert type(arrived) is EngineError
    assert str(arrived) == "KeyError: 'gone'"
    assert type(conversion.stoker_error(conversion.failure(MemoryError()))) is errors.OutOfMemoryError


@given(st.text())
def test_an_unknown_class_name_becomes_an_engine_error(kind: str) -> None:
    known = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    if kind not in known:
        assert type(conversion.stoker_error(frames.Failure(kind, "message"))) is EngineError
