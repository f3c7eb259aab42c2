"""`LocalScorer`: how likely choices are after a prompt, by an engine that knows token ids alone.

Each choice is a sequence of the prompt and the choice that generates nothing, and of which the choice's own
tokens have scores. They share the prompt's KV blocks: it is computed once.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from math import exp, fsum, inf, log1p

from stoker.core.errors import ContextLengthError, EngineError
from stoker.core.protocols import TokenEngine
from stoker.core.refusals import refuse_if_known
from stoker.core.text import ChatPrompt, ChoiceScores, Prompt, ScoringRequest
from stoker.core.tokens import TokenRequest, TokensEvent
from stoker.text.at_a_time import at_a_time, next_sequence_id
from stoker.text.prompt import PromptEncoder
from stoker.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Case:
    """A prompt and the choices after it, as tokens."""

    prompt: list[int]
    choices: list[list[int]]


class LocalScorer:
    """A `Scorer` over a `TokenEngine`.

    Args:
        engine: Computes the prompts.
        prompts: Encodes them.
        tokenizer: Encodes the choices.
        context_length: Most tokens of one sequence.
    """

    def __init__(
        self, engine: TokenEngine, prompts: PromptEncoder, tokenizer: Tokenizer, *, context_length: int
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._context_length = context_length

    async def score(self, request: ScoringRequest, *, places: int) -> list[ChoiceScores]:
        """Return the scores after each prompt, in order; nothing is computed if something is refused.

        Args:
            request: What to score.
            places: Most sequences that the engine is given at a time.

        Raises:
            InvalidRequestError: A prompt or a choice cannot be taken; `param` names it.
            ContextLengthError: A prompt and a choice do not fit the context.
            UnsupportedFieldError: The engine does not score given tokens.
            CapacityError: The engine has no place, or a time limit was over.
            EngineError: The engine failed.
        """
        loop = asyncio.get_running_loop()
        ends_at = None if request.timeout_s is None else loop.time() + request.timeout_s
        cases = await self._encode_all(request)
        refuse_if_known(
            [_sequence(request, cases[0], 0, None)], self._engine, scores_field=request.choices_path
        )

        async def score(pair: tuple[_Case, int]) -> tuple[float, int]:
            timeout_s = None if ends_at is None else max(0.0, ends_at - loop.time())
            return await self._logprob(_sequence(request, *pair, timeout_s))

        n_choices = len(request.choices)
        pairs = [(case, choice) for case in cases for choice in range(n_choices)]
        told = await at_a_time(pairs, places, score)
        return [
            ChoiceScores(
                probabilities(case.choices, [logprob for logprob, _ in of_case]),
                n_tokens=len(case.prompt),
                n_cached=min(of_case[0][1], len(case.prompt)),
                choice_tokens=tuple(map(len, case.choices)),
            )
            for case, of_case in zip(
                cases, (told[at : at + n_choices] for at in range(0, len(told), n_choices)), strict=True
            )
        ]

    async def check(self, request: ScoringRequest) -> None:
        """Raise what `score` would before it needs an engine; what it tokenizes is not kept."""
        await self._encode_all(request)

    async def _encode_all(self, request: ScoringRequest) -> list[_Case]:
        return [
            await self._encode(prompt, path, request)
            for prompt, path in zip(request.prompts, request.paths, strict=True)
        ]

    async def _encode(self, prompt: Prompt, path: str, request: ScoringRequest) -> _Case:
        tokens = await self._prompts.encode_at(prompt, path)
        # What goes on with a text does not begin as texts begin.
        first = isinstance(prompt, ChatPrompt) and not prompt.continue_final_message
        choices = [self._tokenizer.encode_run(text, first=first) for text in request.choices]
        for index, choice in enumerate(choices):
            n_tokens = len(tokens) + len(choice)
            if n_tokens > self._context_length:
                raise ContextLengthError(
                    f"'{path}' has {len(tokens)} tokens and '{request.choices_path}.{index}' has "
                    f"{len(choice)}, {n_tokens} together; the context holds {self._context_length}: shorten "
                    f"them by {n_tokens - self._context_length} tokens.",
                    param=path,
                )
        return _Case(tokens, choices)

    async def _logprob(self, sequence: TokenRequest) -> tuple[float, int]:
        """Return the sum of a choice's log-probabilities, and how much of the prompt was cached."""
        logprobs: list[float] = []
        n_cached = 0
        async with aclosing(self._engine.stream(sequence)) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    logprobs += () if event.prompt_scores is None else event.prompt_scores.logprobs
                    n_cached = event.cached_tokens
        if len(logprobs) != len(sequence.prompt) - sequence.scored_from:
            raise EngineError("the engine ended a choice without its scores")
        return fsum(logprobs), n_cached


def probabilities(choices: Sequence[Sequence[int]], logprobs: Sequence[float]) -> tuple[float, ...]:
    """Return how likely each choice is among all of them.

    Of a choice that begins others, only what is left of its probability counts: that the text goes on
    otherwise.

    Args:
        choices: Their tokens, all different.
        logprobs: Sums of the log-probabilities of those, at most 0.
    """
    weights = [
        logprob + _log_rest([logprobs[other] - logprob for other in _next_longer(choices, index)])
        for index, logprob in enumerate(logprobs)
    ]
    highest = max(weights)
    if highest == -inf:
        return (1.0 / len(weights),) * len(weights)
    shares = [exp(weight - highest) for weight in weights]
    total = fsum(shares)
    return tuple(share / total for share in shares)


def _next_longer(choices: Sequence[Sequence[int]], index: int) -> list[int]:
    """Return those choices that a choice begins, and none in between."""
    begun = [
        other
        for other, each in enumerate(choices)
        if len(each) > len(choices[index]) and each[: len(choices[index])] == choices[index]
    ]
    return [
        other
        for other in begun
        if not any(
            len(choices[each]) < len(choices[other]) and choices[other][: len(choices[each])] == choices[each]
            for each in begun
        )
    ]


def _log_rest(log_parts: Sequence[float]) -> float:
    """Return the logarithm of what is left of 1 without these parts."""
    taken = fsum(map(exp, log_parts))
    return log1p(-taken) if taken < 1.0 else -inf


def _sequence(request: ScoringRequest, case: _Case, choice: int, timeout_s: float | None) -> TokenRequest:
    return TokenRequest(
        request_id=next_sequence_id(request.request_id),
        prompt=(*case.prompt, *case.choices[choice]),
        max_tokens=0,
        prompt_logprobs=0,
        scored_from=len(case.prompt),
        cache_salt=request.cache_salt,
        adapter=request.adapter,
        priority=request.priority,
        queue_timeout_s=request.queue_timeout_s,
        timeout_s=timeout_s,
    )
