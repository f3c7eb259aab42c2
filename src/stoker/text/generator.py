"""`LocalGenerator`: text requests served by an engine that knows token ids alone."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from stoker.core.early_exit import EarlyExit
from stoker.core.errors import InvalidRequestError, ModelNotFoundError
from stoker.core.pooling import Pooling
from stoker.core.protocols import TokenEngine
from stoker.core.refusals import refuse_if_known
from stoker.core.text import (
    SCORING_PLACES,
    ChatPrompt,
    ChoiceScores,
    Event,
    Finished,
    ScoringRequest,
    Started,
    TextDelta,
    TextRequest,
    Usage,
)
from stoker.core.tokens import FinishReason, TokenRequest
from stoker.text.best import best_of
from stoker.text.choice import ChoiceText
from stoker.text.choices import admit, say_choices, say_prompt
from stoker.text.chosen import check_room, chosen, told_of
from stoker.text.codec import LocalCodec
from stoker.text.echo import PromptEcho
from stoker.text.embedder import LocalEmbedder
from stoker.text.exit_watch import ExitWatch
from stoker.text.fanout import FanOut
from stoker.text.prompt import PromptEncoder, output_room, prompt_field
from stoker.text.scorer import LocalScorer
from stoker.text.sequences import token_requests
from stoker.text.stops import check_stops
from stoker.text.template import ChatTemplate
from stoker.text.tokenizer import Tokenizer


class LocalGenerator:
    """A `Generator` over a `TokenEngine`.

    Args:
        model_name: The name that requests call the model by.
        engine: Computes tokens.
        tokenizer: The model's tokenizer.
        template: The model's chat template, or None when it has no chat format.
        context_length: Most tokens of one prompt and its output together.
        pooling: What embeddings are made of.
        width: Elements of an embedding; None if it is not known.
        patience_s: Returns for how many seconds embeddings and scores that have begun wait for a next engine.

    Attributes:
        codec: Text to token ids and back, as this generator does it.
        embedder: Makes embeddings of prompts.
        scorer: Tells how likely choices are after prompts.
    """

    def __init__(
        self,
        model_name: str,
        engine: TokenEngine,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        context_length: int,
        *,
        pooling: Pooling = Pooling.MEAN,
        width: int | None = None,
        patience_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._model_name = model_name
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(tokenizer, template, context_length)
        self._context_length = context_length
        self.codec = LocalCodec(self._prompts, tokenizer)
        self.embedder = LocalEmbedder(
            engine,
            self._prompts,
            pooling=pooling,
            context_length=context_length,
            width=width,
            patience_s=patience_s,
        )
        self.scorer = LocalScorer(
            engine, self._prompts, tokenizer, context_length=context_length, patience_s=patience_s
        )

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Yield `Started`, then `TextDelta`s and one `Finished` per choice, then `Usage`.

        Closing the generator aborts every choice. A choice whose stop string is found is aborted at
        the engine at once.

        Raises:
            ModelNotFoundError: The request names another model.
            InvalidRequestError: The prompt, the stop strings, `n` or `best_of` cannot be taken.
            ContextLengthError: Prompt and output do not fit the context.
            UnsupportedFieldError: The engine cannot do something that the request needs.
            CapacityError: The engine has no place for the sequences, or a time limit was over.
            EngineError: The engine failed.
        """
        self._check(request)
        unsure = None
        if request.choices:
            began_s = asyncio.get_running_loop().time()
            scores = await self._score(request)
            events = chosen(request, scores)
            for event in events:
                yield event
            if events:
                return
            unsure = told_of(request, scores)
            if request.timeout_s is not None:
                spent_s = asyncio.get_running_loop().time() - began_s
                request = replace(request, timeout_s=max(0.0, request.timeout_s - spent_s))
        async with aclosing(self._generate(request, unsure)) as answer:
            async for event in answer:
                yield event

    async def _score(self, request: TextRequest) -> ChoiceScores:
        (scores,) = await self.scorer.score(_scoring(request), places=SCORING_PLACES)
        # Whether a request is refused must not depend on how sure the model is.
        room = output_room(request, scores.n_tokens, self._context_length)
        check_room(scores, room)
        return scores

    async def _generate(self, request: TextRequest, unsure: EarlyExit | None) -> AsyncGenerator[Event]:
        """Generate an answer; `unsure` is told at its end if choices were scored before."""
        now = asyncio.get_running_loop().time
        began_s = now()
        prompt = await self._prompts.encode(request.prompt)
        sequences = self._sequences(request, prompt, spent_s=now() - began_s)
        refuse_if_known(sequences, self._engine)
        echo = self._echo(request, prompt) if request.echo else None
        if echo is not None and request.max_tokens == 0:
            async with aclosing(self._prompt_alone(request, prompt, echo, sequences)) as events:
                async for event in events:
                    yield event
            return
        choices = [
            ChoiceText(
                index,
                self._tokenizer,
                request.stop,
                each.stop_token_ids,
                report=request.logprobs is not None,
                report_end=request.echo,
                held=b"" if echo is None else echo.held,
                # A grammar says itself how an answer begins.
                answers=isinstance(request.prompt, ChatPrompt) and request.grammar is None,
                watch=None if request.exit_rule is None else ExitWatch(request.exit_rule),
            )
            for index, each in enumerate(sequences)
        ]
        cached: dict[int, int] = {}
        candidates: list[TextDelta | Finished] = []
        async with aclosing(FanOut([self._engine.stream(each) for each in sequences])) as fan_out:
            early = await admit(fan_out, len(choices))
            yield Started(prompt_tokens=len(prompt))
            if echo is not None:
                async with aclosing(say_prompt(echo, fan_out, early, cached)) as deltas:
                    async for delta in deltas:
                        yield delta
            async with aclosing(say_choices(choices, fan_out, early, cached)) as news:
                async for each in news:
                    if request.best_of is None:
                        if unsure is not None and isinstance(each, Finished):
                            each = replace(each, early_exit=unsure)  # noqa: PLW2901 - the event that is told
                        yield each
                    else:
                        candidates.append(each)
        weights = [choice.logprob / max(1, choice.n_tokens) for choice in choices]
        for each in best_of(candidates, weights, request.n):
            yield each
        yield Usage(
            prompt_tokens=len(prompt),
            completion_tokens=sum(choice.n_tokens for choice in choices),
            # The prompt counts once, so do the tokens of it that no choice had to compute.
            cached_tokens=min(cached.values()),
        )

    async def check(self, request: TextRequest) -> None:
        """Raise what `generate` would before it needs an engine; what it tokenizes is not kept."""
        self._check(request)
        if request.choices:
            await self.scorer.check(_scoring(request))
        self._sequences(request, await self._prompts.encode(request.prompt), spent_s=0.0)

    def _sequences(self, request: TextRequest, prompt: list[int], *, spent_s: float) -> list[TokenRequest]:
        return token_requests(
            request,
            prompt,
            max_tokens=output_room(request, len(prompt), self._context_length),
            end_token_ids=self._tokenizer.end_token_ids,
            spent_s=spent_s,
        )

    def _echo(self, request: TextRequest, prompt: list[int]) -> PromptEcho:
        return PromptEcho(
            request.prompt,
            prompt,
            len(self._prompts.beginning(request.prompt)),
            self._tokenizer,
            n_choices=request.n,
            scored=request.logprobs is not None,
        )

    async def _prompt_alone(
        self, request: TextRequest, prompt: list[int], echo: PromptEcho, sequences: list[TokenRequest]
    ) -> AsyncGenerator[Event]:
        """Answer a request for the prompt alone; `sequences` is the one that scores it, or none."""
        cached: dict[int, int] = {}
        async with aclosing(FanOut([self._engine.stream(each) for each in sequences])) as fan_out:
            early = await admit(fan_out, len(sequences))
            yield Started(prompt_tokens=len(prompt))
            async with aclosing(say_prompt(echo, fan_out, early, cached)) as deltas:
                async for delta in deltas:
                    yield delta
        for delta in echo.closing():
            yield delta
        for choice in range(request.n):
            yield Finished(choice, FinishReason.LENGTH)
        yield Usage(prompt_tokens=len(prompt), completion_tokens=0, cached_tokens=cached.get(0, 0))

    def _check(self, request: TextRequest) -> None:
        if request.model != self._model_name:
            raise ModelNotFoundError(
                f"No model {request.model!r} is served here, expected {self._model_name!r}."
            )
        if request.n < 1:
            raise InvalidRequestError(f"n is {request.n}, expected at least 1.", param="n")
        if request.n_sequences < request.n:
            raise InvalidRequestError(
                f"best_of is {request.best_of}, expected at least n, which is {request.n}.", param="best_of"
            )
        if request.stop:
            check_stops(request.stop)


def _scoring(request: TextRequest) -> ScoringRequest:
    """Return what is asked of the scorer for a request with choices."""
    return ScoringRequest(
        request_id=request.request_id,
        prompts=(request.prompt,),
        paths=(prompt_field(request.prompt),),
        choices=request.choices,
        choices_path="choices",
        adapter=request.adapter,
        priority=request.priority,
        cache_salt=request.cache_salt,
        queue_timeout_s=request.queue_timeout_s,
        timeout_s=request.timeout_s,
    )
