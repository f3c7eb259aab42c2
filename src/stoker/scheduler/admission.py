"""Which requests are accepted, and when a waiting sequence starts to run."""

from dataclasses import dataclass

from stoker.core.errors import ContextLengthError, InvalidRequestError
from stoker.core.step import BLOCK_TOKENS
from stoker.core.tokens import TokenRequest
from stoker.kvcache import KVCache, blocks_for
from stoker.scheduler.counters import Counters
from stoker.scheduler.limits import SchedulerLimits
from stoker.scheduler.preempt import preempt_last
from stoker.scheduler.queue import SequenceQueue
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.waiting import TimeLimits, WaitingQueue


def validate_request(request: TokenRequest, limits: SchedulerLimits, n_blocks: int) -> None:
    """Refuse a request that could never end.

    Raises:
        ContextLengthError: Prompt and output exceed the context.
        InvalidRequestError: It is malformed, or needs more KV blocks than exist.
    """
    if not request.prompt:
        raise InvalidRequestError("the prompt has no tokens; send at least one", param="prompt")
    least = 1 if request.prompt_logprobs is None and request.pooling is None else 0
    if request.max_tokens < least:
        raise InvalidRequestError(
            f"max_tokens is {request.max_tokens}; it must be at least {least}", param="max_tokens"
        )
    if request.pooling is not None and (
        request.max_tokens or request.prompt_logprobs is not None or request.hold or request.n_generated
    ):
        raise InvalidRequestError("a prompt that is pooled is neither continued nor scored", param="pooling")
    if request.candidates:
        _check_candidates(request)
    if not 0 <= request.min_tokens <= request.n_generated + request.max_tokens:
        raise InvalidRequestError(
            f"min_tokens is {request.min_tokens}; it must be within 0 and max_tokens={request.max_tokens}",
            param="min_tokens",
        )
    n_prompt = len(request.prompt)
    n_total = n_prompt + request.max_tokens
    if n_total > limits.context_length:
        raise ContextLengthError(
            f"the prompt's {n_prompt} tokens and max_tokens={request.max_tokens} exceed the context of "
            f"{limits.context_length} tokens by {n_total - limits.context_length}; shorten either",
            param="max_tokens" if n_prompt < limits.context_length else "prompt",
        )
    # The last token sampled is never computed, so it needs no room.
    n_needed = blocks_for(max(n_prompt, n_total - 1))
    if n_needed > n_blocks:
        raise InvalidRequestError(
            f"the prompt's {n_prompt} tokens and max_tokens={request.max_tokens} need {n_needed} KV blocks "
            f"and the engine has {n_blocks}; shorten either, or give the KV cache more memory",
            param="max_tokens",
            code="kv_cache_exceeded",
        )


def _check_candidates(request: TokenRequest) -> None:
    alone = not (request.max_tokens or request.hold or request.n_generated or request.pooling is not None)
    if not (alone and request.prompt_logprobs == 0):
        raise InvalidRequestError(
            "a prompt whose candidates are scored is neither continued nor scored otherwise",
            param="candidates",
        )
    if len(request.candidates) > len(request.prompt) or not all(request.candidates):
        raise InvalidRequestError(
            f"there are candidates after {len(request.candidates)} tokens of {len(request.prompt)}; each of "
            "the prompt's last tokens must have one at least",
            param="candidates",
        )


@dataclass(slots=True)
class Admission:
    """Moves sequences from the front of the waiting queue to the running ones.

    The front alone is looked at: nobody overtakes it. It starts when it has

    * a running place,
    * a token in this step (before that, others may still publish blocks that it can share),
    * blocks for all its tokens, beside one for each running sequence to grow into. Less would
      admit it only to be preempted soon.

    Running sequences of a lower priority are preempted to make room for it.
    """

    limits: SchedulerLimits
    cache: KVCache
    running: SequenceQueue
    waiting: WaitingQueue
    time_limits: TimeLimits
    counters: Counters

    def admit_waiting(self, n_step_tokens: int) -> None:
        """Admit as many as can start now.

        Args:
            n_step_tokens: Most tokens that the step will have.
        """
        while (sequence := self.waiting.first()) is not None:
            if not (self._has_place(sequence) and self._has_token(sequence, n_step_tokens)):
                return
            if not self._take_blocks(sequence):
                return
            if len(self.running) == self.limits.max_running:
                self._preempt_last()
            self.waiting.remove(sequence)
            self.running.add(sequence)

    def _has_place(self, sequence: SequenceState) -> bool:
        running = self.running.items
        return len(running) < self.limits.max_running or running[-1].yields_to(sequence)

    def _has_token(self, sequence: SequenceState, n_step_tokens: int) -> bool:
        """Whether the step has tokens left after every decode, and every prefill before this one."""
        order = sequence.order
        claimed = 0
        # If every place is taken, the last sequence is about to give way to this one.
        for other in self.running.items[: self.limits.max_running - 1]:
            if other.waits_since is not None:  # it waits for the disk, not for tokens
                continue
            n_pending = len(other.tokens) - other.n_computed
            if n_pending == 1 or other.order < order:
                claimed += n_pending
        return claimed < n_step_tokens

    def _take_blocks(self, sequence: SequenceState) -> bool:
        cache = self.cache
        running = self.running.items
        hits = cache.match(sequence.namespace, sequence.tokens[: sequence.n_shareable + 1])
        n_new = blocks_for(len(sequence.tokens)) - len(hits)
        cache.touch_rest(sequence.namespace, hits, sequence.tokens[: sequence.n_shareable + 1])
        table = cache.reserve(hits, n_new, spare=len(running))
        while table is None:
            if not (running and running[-1].yields_to(sequence)):
                return False
            self._preempt_last()
            table = cache.reserve(hits, n_new, spare=len(running))
        sequence.table = table
        sequence.n_published = len(hits)
        sequence.n_computed = len(hits) * BLOCK_TOKENS
        if sequence.n_cached is None:
            self.time_limits.begun(sequence)
            sequence.n_cached = sequence.n_computed
            self.counters.prompt_tokens += sequence.n_prompt
            self.counters.cached_tokens += sequence.n_cached
        return True

    def _preempt_last(self) -> None:
        preempt_last(self.running, self.waiting, self.cache)
        self.counters.preemptions += 1
