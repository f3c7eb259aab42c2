"""Core types to frames and back: the only place that knows both."""

from array import array
from collections.abc import Callable

from stoker.core import errors
from stoker.core.batching import BatchingPolicy
from stoker.core.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
    StokerError,
    UnsupportedFieldError,
)
from stoker.core.grammar import Grammar
from stoker.core.protocols import EngineInfo
from stoker.core.sampling import SamplingParams
from stoker.core.stats import EngineStats
from stoker.core.tokens import AdapterRef, FinishReason, PromptScores, TokenLogprob, TokenRequest, TokensEvent
from stoker.worker import frames
from stoker.worker.frames import PROTOCOL_VERSION, Failure


def submit_frame(request: TokenRequest, *, incarnation: int, sequence: int) -> frames.Submit:
    """Return the frame that submits `request` as `sequence`."""
    sampling = request.sampling
    return frames.Submit(
        incarnation=incarnation,
        sequence=sequence,
        prompt=request.prompt,
        n_generated=request.n_generated,
        max_tokens=request.max_tokens,
        min_tokens=request.min_tokens,
        stop_token_ids=tuple(sorted(request.stop_token_ids)),
        sampling=frames.Sampling(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
            choice=sampling.choice,
            logprobs=sampling.logprobs,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=sampling.logit_bias,
        ),
        prompt_logprobs=request.prompt_logprobs,
        cache_salt=request.cache_salt,
        priority=request.priority,
        queue_timeout_s=request.queue_timeout_s,
        timeout_s=request.timeout_s,
        hold=request.hold,
        grammar=None if request.grammar is None else _grammar_frame(request.grammar),
        pooling=request.pooling,
        adapter=None if request.adapter is None else (request.adapter.path, request.adapter.digest),
        candidates=request.candidates,
    )


def _grammar_frame(grammar: Grammar) -> frames.Grammar:
    return frames.Grammar(grammar.kind, grammar.source, grammar.field, grammar.eager, grammar.fast_forward)


def token_request(frame: frames.Submit, *, request_id: str) -> TokenRequest:
    """Return the submitted request under the id that it has inside the engine process."""
    sampling = frame.sampling
    grammar = frame.grammar
    return TokenRequest(
        request_id=request_id,
        prompt=frame.prompt,
        n_generated=frame.n_generated,
        max_tokens=frame.max_tokens,
        min_tokens=frame.min_tokens,
        stop_token_ids=frozenset(frame.stop_token_ids),
        sampling=SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
            choice=sampling.choice,
            logprobs=sampling.logprobs,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=sampling.logit_bias,
        ),
        prompt_logprobs=frame.prompt_logprobs,
        cache_salt=frame.cache_salt,
        priority=frame.priority,
        queue_timeout_s=frame.queue_timeout_s,
        timeout_s=frame.timeout_s,
        hold=frame.hold,
        grammar=None
        if grammar is None
        else Grammar(grammar.kind, grammar.source, grammar.field, grammar.eager, grammar.fast_forward),
        pooling=frame.pooling,
        adapter=None if frame.adapter is None else AdapterRef(*frame.adapter),
        candidates=frame.candidates,
    )


def tune_frame(policy: BatchingPolicy, *, incarnation: int) -> frames.Tune:
    """Return the frame that has steps filled by `policy`."""
    return frames.Tune(
        incarnation=incarnation,
        mode=policy.mode,
        itl_target_s=policy.itl_target_s,
        prefill_share=policy.prefill_share,
        batch_wait_s=policy.batch_wait_s,
        prompt_patience_s=policy.prompt_patience_s,
    )


def batching_policy(frame: frames.Tune) -> BatchingPolicy:
    """Return the policy of a frame.

    Raises:
        SettingsError: A value of it is out of range.
    """
    return BatchingPolicy(
        mode=frame.mode,
        itl_target_s=frame.itl_target_s,
        prefill_share=frame.prefill_share,
        batch_wait_s=frame.batch_wait_s,
        prompt_patience_s=frame.prompt_patience_s,
    )


def tokens_frame(event: TokensEvent, *, sequence: int) -> frames.Tokens:
    """Return the part of a step frame that carries `event`."""
    return frames.Tokens(
        sequence=sequence,
        token_ids=event.token_ids,
        cached_tokens=event.cached_tokens,
        finish_reason=event.finish_reason,
        logprobs=tuple([frames.Logprob(logprob.logprob, logprob.top) for logprob in event.logprobs])
        if event.logprobs
        else (),
        prompt_scores=None if event.prompt_scores is None else _scores_frame(event.prompt_scores),
        embedding=None if event.embedding is None else event.embedding.tobytes(),
    )


def _scores_frame(scores: PromptScores) -> frames.Scores:
    return frames.Scores(
        scores.n_top,
        scores.logprobs.tobytes(),
        scores.top_tokens.tobytes(),
        scores.top_logprobs.tobytes(),
    )


def prompt_scores(frame: frames.Scores) -> PromptScores:
    """Return the prompt scores of a step frame."""
    return PromptScores(
        frame.n_top,
        array("f", frame.logprobs),
        array("i", frame.top_tokens),
        array("f", frame.top_logprobs),
    )


def tokens_event(
    request_id: str,
    *,
    token_ids: list[int],
    logprobs: list[frames.Logprob],
    cached_tokens: int,
    finish_reason: FinishReason | None,
    scores: PromptScores | None = None,
    embedding: bytes | None = None,
) -> TokensEvent:
    """Return one event of the tokens and prompt scores that have arrived for a sequence."""
    return TokensEvent(
        request_id,
        tuple(token_ids),
        tuple([TokenLogprob(entry.logprob, entry.top) for entry in logprobs]) if logprobs else (),
        cached_tokens,
        finish_reason,
        scores,
        None if embedding is None else array("f", embedding),
    )


def hello_frame(info: EngineInfo, *, incarnation: int) -> frames.Hello:
    """Return the frame with which an engine says that it is ready."""
    return frames.Hello(
        incarnation=incarnation,
        protocol_version=PROTOCOL_VERSION,
        model=info.model,
        fingerprint=info.fingerprint,
        context_length=info.context_length,
        vocab_size=info.vocab_size,
        kv_blocks=info.kv_blocks,
        max_running=info.max_running,
        max_waiting=info.max_waiting,
        kv_block_bytes=info.kv_block_bytes,
        engine=info.engine,
        lacks=tuple(sorted(info.lacks)),
    )


def engine_info(frame: frames.Hello) -> EngineInfo:
    """Return what the engine said of itself.

    Raises:
        EngineError: The engine speaks another version of the protocol.
    """
    if frame.protocol_version != PROTOCOL_VERSION:
        raise EngineError(
            f"the engine process speaks protocol version {frame.protocol_version}, this gateway"
            f" {PROTOCOL_VERSION}: install the same version of stoker for both"
        )
    return EngineInfo(
        model=frame.model,
        fingerprint=frame.fingerprint,
        context_length=frame.context_length,
        vocab_size=frame.vocab_size,
        kv_blocks=frame.kv_blocks,
        max_running=frame.max_running,
        max_waiting=frame.max_waiting,
        kv_block_bytes=frame.kv_block_bytes,
        engine=frame.engine,
        lacks=frozenset(frame.lacks),
    )


def stats_frame(stats: EngineStats) -> frames.Stats:
    """Return the part of a step frame that carries `stats`."""
    return frames.Stats(
        running=stats.running,
        waiting=stats.waiting,
        waiting_tokens=stats.waiting_tokens,
        kv_blocks_total=stats.kv_blocks_total,
        kv_blocks_used=stats.kv_blocks_used,
        kv_blocks_cached=stats.kv_blocks_cached,
        kv_blocks_pinned=stats.kv_blocks_pinned,
        kv_host_blocks_total=stats.kv_host_blocks_total,
        kv_host_blocks_used=stats.kv_host_blocks_used,
        kv_disk_blocks=stats.kv_disk_blocks,
        kv_disk_writing=stats.kv_disk_writing,
        adapters_resident=stats.adapters_resident,
        prompt_tokens_total=stats.prompt_tokens_total,
        cached_tokens_total=stats.cached_tokens_total,
        generated_tokens_total=stats.generated_tokens_total,
        drafted_tokens_total=stats.drafted_tokens_total,
        accepted_tokens_total=stats.accepted_tokens_total,
        preemptions_total=stats.preemptions_total,
        expired_total=stats.expired_total,
        host_restored_tokens_total=stats.host_restored_tokens_total,
        disk_restored_tokens_total=stats.disk_restored_tokens_total,
        kv_demoted_blocks_total=stats.kv_demoted_blocks_total,
        kv_dropped_blocks_total=stats.kv_dropped_blocks_total,
        kv_disk_writes_total=stats.kv_disk_writes_total,
        kv_disk_failures_total=stats.kv_disk_failures_total,
        adapter_loads_total=stats.adapter_loads_total,
        adapter_evictions_total=stats.adapter_evictions_total,
        steps_total=stats.steps_total,
        step_seconds_total=stats.step_seconds_total,
        interval_seconds_total=stats.interval_seconds_total,
        predicted_seconds_total=stats.predicted_seconds_total,
        streaming_steps_total=stats.streaming_steps_total,
        late_steps_total=stats.late_steps_total,
        step_budget=stats.step_budget,
        step_time_ratio=stats.step_time_ratio,
        grammars_compiled_total=stats.grammars_compiled_total,
        grammar_compile_seconds_total=stats.grammar_compile_seconds_total,
        grammar_mask_seconds_total=stats.grammar_mask_seconds_total,
        forced_tokens_total=stats.forced_tokens_total,
        drafting_seconds_total=stats.drafting_seconds_total,
    )


def engine_stats(frame: frames.Stats, *, kv_block_bytes: int) -> EngineStats:
    """Return the counters and gauges of a step frame.

    Args:
        frame: The frame's part.
        kv_block_bytes: What the engine said at first of the size of its KV blocks.
    """
    return EngineStats(
        kv_block_bytes=kv_block_bytes,
        running=frame.running,
        waiting=frame.waiting,
        waiting_tokens=frame.waiting_tokens,
        kv_blocks_total=frame.kv_blocks_total,
        kv_blocks_used=frame.kv_blocks_used,
        kv_blocks_cached=frame.kv_blocks_cached,
        kv_blocks_pinned=frame.kv_blocks_pinned,
        kv_host_blocks_total=frame.kv_host_blocks_total,
        kv_host_blocks_used=frame.kv_host_blocks_used,
        kv_disk_blocks=frame.kv_disk_blocks,
        kv_disk_writing=frame.kv_disk_writing,
        adapters_resident=frame.adapters_resident,
        prompt_tokens_total=frame.prompt_tokens_total,
        cached_tokens_total=frame.cached_tokens_total,
        generated_tokens_total=frame.generated_tokens_total,
        drafted_tokens_total=frame.drafted_tokens_total,
        accepted_tokens_total=frame.accepted_tokens_total,
        preemptions_total=frame.preemptions_total,
        expired_total=frame.expired_total,
        host_restored_tokens_total=frame.host_restored_tokens_total,
        disk_restored_tokens_total=frame.disk_restored_tokens_total,
        kv_demoted_blocks_total=frame.kv_demoted_blocks_total,
        kv_dropped_blocks_total=frame.kv_dropped_blocks_total,
        kv_disk_writes_total=frame.kv_disk_writes_total,
        kv_disk_failures_total=frame.kv_disk_failures_total,
        adapter_loads_total=frame.adapter_loads_total,
        adapter_evictions_total=frame.adapter_evictions_total,
        steps_total=frame.steps_total,
        step_seconds_total=frame.step_seconds_total,
        interval_seconds_total=frame.interval_seconds_total,
        predicted_seconds_total=frame.predicted_seconds_total,
        streaming_steps_total=frame.streaming_steps_total,
        late_steps_total=frame.late_steps_total,
        step_budget=frame.step_budget,
        step_time_ratio=frame.step_time_ratio,
        grammars_compiled_total=frame.grammars_compiled_total,
        grammar_compile_seconds_total=frame.grammar_compile_seconds_total,
        grammar_mask_seconds_total=frame.grammar_mask_seconds_total,
        forced_tokens_total=frame.forced_tokens_total,
        drafting_seconds_total=frame.drafting_seconds_total,
    )


_PLAIN_ERRORS: dict[str, Callable[[str], StokerError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, StokerError) and kind.__init__ is Exception.__init__
}
"""The classes whose only argument is the message."""


def failure(error: BaseException) -> Failure:
    """Return `error` as it travels; what is not a `StokerError` becomes an `EngineError`."""
    match error:
        case QueueFullError() | QueueTimeoutError():
            return Failure(type(error).__name__, str(error), retry_after_s=error.retry_after_s)
        case InvalidRequestError():
            return Failure(type(error).__name__, str(error), param=error.param, code=error.code)
        case StokerError():
            return Failure(type(error).__name__, str(error))
        case MemoryError():
            return Failure("OutOfMemoryError", f"the engine process ran out of memory: {error}")
        case _:
            return Failure("EngineError", f"{type(error).__name__}: {error}")


def stoker_error(frame: Failure) -> StokerError:
    """Return the error that `failure` wrote; an unknown class becomes an `EngineError`."""
    match frame.kind:
        case "QueueFullError":
            return QueueFullError(frame.message, retry_after_s=frame.retry_after_s)
        case "QueueTimeoutError":
            return QueueTimeoutError(frame.message, retry_after_s=frame.retry_after_s)
        case "InvalidRequestError":
            return InvalidRequestError(frame.message, param=frame.param, code=frame.code)
        case "ContextLengthError":
            return ContextLengthError(frame.message, param=frame.param)
        case "UnsupportedFieldError":
            return UnsupportedFieldError(frame.message, param=frame.param or "")
        case kind:
            return _PLAIN_ERRORS.get(kind, EngineError)(frame.message)
