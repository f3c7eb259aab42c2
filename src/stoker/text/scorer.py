"""`LocalScorer`: how likely choices are after a prompt, by an engine that knows token ids alone.

The prompt is a sequence that generates nothing, and after which the choices' first tokens have scores: all of
them out of one row of logits. What choices of several tokens begin with comes behind it, in sequences that
share its KV blocks (`stoker.text.choice_tree`).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from math import exp, fsum, inf, log1p

from stoker.core.errors import ContextLengthError, EngineError, InvalidRequestError
from stoker.core.protocols import TokenEngine
from stoker.core.refusals import refuse_if_known
from stoker.core.text import ChatPrompt, ChoiceScores, ScoringRequest
from stoker.core.tokens import MAX_CANDIDATES, TokenRequest, TokensEvent
from stoker.text.at_a_time import Patience, at_a_time, next_sequence_id
from stoker.text.choice_tree import ChoiceTree, StemRun
from stoker.text.prompt import PromptEncoder
from stoker.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Choices:
    """The choices as tokens."""

    tokens: list[list[int]]
    tree: ChoiceTree


@dataclass(frozen=True, slots=True)
class _Case:
    """A prompt, as tokens, and the choices after it."""

    prompt: list[int]
    choices: _Choices


class LocalScorer:
    """A `Scorer` over a `TokenEngine`.

    Args:
        engine: Computes the prompts.
        prompts: Encodes them.
        tokenizer: Encodes the choices.
        context_length: Most tokens of one sequence.
        patience_s: Returns for how many seconds a sequence waits for a ready engine once others of its
            request have been computed.
    """

    def __init__(
        self,
        engine: TokenEngine,
        prompts: PromptEncoder,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        patience_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._patience_s = patience_s

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
            NotReadyError: No engine is ready, and none was in time once some sequences were computed.
            EngineError: The engine failed.
        """

        async def score(pair: tuple[_Case, StemRun], timeout_s: float | None) -> tuple[list[float], int]:
            return await self._logprobs(_sequence(request, *pair, timeout_s), pair[1].n_candidates)

        patient = Patience(score, timeout_s=request.timeout_s, patience_s=self._patience_s)
        cases = await self._encode_all(request)
        work = [(case, run) for case in cases for run in case.choices.tree.runs]
        refuse_if_known(
            [_sequence(request, *each, None) for each in work[:1]],
            self._engine,
            scores_field=request.choices_path,
        )
        told = iter(await at_a_time(work, places, patient))
        return [_scores(case, [next(told) for _ in case.choices.tree.runs]) for case in cases]

    async def check(self, request: ScoringRequest) -> None:
        """Raise what `score` would before it needs an engine; what it tokenizes is not kept."""
        await self._encode_all(request)

    async def _encode_all(self, request: ScoringRequest) -> list[_Case]:
        # What goes on with a text does not begin as texts begin.
        choices: dict[bool, _Choices] = {}
        cases = []
        for prompt, path in zip(request.prompts, request.paths, strict=True):
            tokens = await self._prompts.encode_at(prompt, path)
            first = isinstance(prompt, ChatPrompt) and not prompt.continue_final_message
            if first not in choices:
                choices[first] = self._encode_choices(request, first=first)
            self._check_fit(tokens, choices[first].tokens, path, request)
            cases.append(_Case(tokens, choices[first]))
            await asyncio.sleep(0)  # there may be thousands
        return cases

    def _encode_choices(self, request: ScoringRequest, *, first: bool) -> _Choices:
        tokens = [self._tokenizer.encode_run(text, first=first) for text in request.choices]
        tree = ChoiceTree(tokens)
        n_most = max((run.n_candidates for run in tree.runs), default=0)
        if n_most > MAX_CANDIDATES:
            raise InvalidRequestError(
                f"Invalid '{request.choices_path}': {n_most:,} of their tokens follow each other; at most "
                f"{MAX_CANDIDATES:,} can be scored together. Shorten them, or send fewer.",
                param=request.choices_path,
                code="invalid_value",
            )
        return _Choices(tokens, tree)

    def _check_fit(
        self, prompt: list[int], choices: list[list[int]], path: str, request: ScoringRequest
    ) -> None:
        for index, choice in enumerate(choices):
            n_tokens = len(prompt) + len(choice)
            if n_tokens > self._context_length:
                raise ContextLengthError(
                    f"'{path}' has {len(prompt)} tokens and '{request.choices_path}.{index}' has "
                    f"{len(choice)}, {n_tokens} together; the context holds {self._context_length}: shorten "
                    f"them by {n_tokens - self._context_length} tokens.",
                    param=path,
                )

    async def _logprobs(self, sequence: TokenRequest, n: int) -> tuple[list[float], int]:
        """Return the `n` log-probabilities of a sequence, and how much of it was cached."""
        logprobs: list[float] = []
        n_cached = 0
        async with aclosing(self._engine.stream(sequence)) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    logprobs += () if event.prompt_scores is None else event.prompt_scores.logprobs
                    n_cached = event.cached_tokens
        if len(logprobs) != n:
            raise EngineError("the engine ended a prompt without the scores of what may follow")
        return logprobs, n_cached


def _scores(case: _Case, told: Sequence[tuple[list[float], int]]) -> ChoiceScores:
    """Return a case's scores, from the log-probabilities and cached tokens of each of its runs."""
    choices = case.choices
    logprobs = choices.tree.logprobs([each for each, _ in told])
    return ChoiceScores(
        probabilities(choices.tokens, logprobs),
        n_tokens=len(case.prompt),
        n_cached=min(told[0][1], len(case.prompt)) if told else 0,
        choice_tokens=tuple(map(len, choices.tokens)),
    )


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


def _sequence(request: ScoringRequest, case: _Case, run: StemRun, timeout_s: float | None) -> TokenRequest:
    return TokenRequest(
        request_id=next_sequence_id(request.request_id),
        prompt=(*case.prompt, *run.tokens),
        max_tokens=0,
        prompt_logprobs=0,
        candidates=run.candidates,
        cache_salt=request.cache_salt,
        adapter=request.adapter,
        priority=request.priority,
        queue_timeout_s=request.queue_timeout_s,
        timeout_s=timeout_s,
    )
