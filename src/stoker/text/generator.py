"""`LocalGenerator`: text requests served by an engine that knows token ids alone."""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from stoker.core.errors import EngineError, InvalidRequestError, ModelNotFoundError
from stoker.core.protocols import TokenEngine
from stoker.core.sampling import MAX_SEED, SamplingParams
from stoker.core.text import Event, Finished, Started, TextRequest, Usage
from stoker.core.tokens import Admitted, TokenEvent, TokenRequest, TokensEvent
from stoker.text.choice import ChoiceText
from stoker.text.fanout import FanOut
from stoker.text.prompt import PromptEncoder, output_room
from stoker.text.stops import check_stops
from stoker.text.template import ChatTemplate
from stoker.text.tokenizer import Tokenizer

_serials = itertools.count()
"""Makes sequence ids unique in this process: clients choose, and repeat, their request ids."""


class LocalGenerator:
    """A `Generator` over a `TokenEngine`.

    Args:
        model_name: The name that requests call the model by.
        engine: Computes tokens.
        tokenizer: The model's tokenizer.
        template: The model's chat template, or None when it has no chat format.
        context_length: Most tokens of one prompt and its output together.
    """

    def __init__(
        self,
        model_name: str,
        engine: TokenEngine,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        context_length: int,
    ) -> None:
        self._model_name = model_name
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(tokenizer, template, context_length)
        self._context_length = context_length

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Yield `Started`, then `TextDelta`s and one `Finished` per choice, then `Usage`.

        Closing the generator aborts every choice. A choice whose stop string is found is aborted at
        the engine at once.

        Raises:
            ModelNotFoundError: The request names another model.
            InvalidRequestError: The prompt, the stop strings or `n` cannot be taken.
            ContextLengthError: Prompt and output do not fit the context.
            CapacityError: The engine has no place for the sequences, or a time limit was over.
            EngineError: The engine failed.
        """
        self._check(request)
        now = asyncio.get_running_loop().time
        began_s = now()
        prompt = await self._prompts.encode(request.prompt)
        token_requests = self._token_requests(request, tuple(prompt), now() - began_s)
        choices = [
            ChoiceText(index, self._tokenizer, request.stop, each.stop_token_ids)
            for index, each in enumerate(token_requests)
        ]
        cached: dict[int, int] = {}
        ended: set[int] = set()
        async with aclosing(FanOut([self._engine.stream(each) for each in token_requests])) as fan_out:
            early = await _admit(fan_out, len(choices))
            yield Started(prompt_tokens=len(prompt))
            while (taken := early.popleft() if early else await fan_out.next()) is not None:
                index, event = taken
                choice = choices[index]
                if index in ended:
                    continue  # what the engine computed before it heard of the stop string
                if not isinstance(event, TokensEvent):
                    raise EngineError("The engine ended a sequence without saying why.")
                cached[index] = event.cached_tokens
                delta = choice.feed(event)
                if delta is not None:
                    yield delta
                if choice.finish_reason is not None:
                    if event.finish_reason is None:
                        await fan_out.close(index)
                    ended.add(index)
                    yield Finished(index, choice.finish_reason, choice.stop_string)
        yield Usage(
            prompt_tokens=len(prompt),
            completion_tokens=sum(choice.n_tokens for choice in choices),
            # The prompt counts once, so do the tokens of it that no choice had to compute.
            cached_tokens=min(cached.values()),
        )

    def _check(self, request: TextRequest) -> None:
        if request.model != self._model_name:
            raise ModelNotFoundError(
                f"No model {request.model!r} is served here, expected {self._model_name!r}."
            )
        if request.n < 1:
            raise InvalidRequestError(f"n is {request.n}, expected at least 1.", param="n")
        if request.stop:
            check_stops(request.stop)

    def _token_requests(
        self, request: TextRequest, prompt: tuple[int, ...], spent_s: float
    ) -> list[TokenRequest]:
        max_tokens = output_room(request, len(prompt), self._context_length)
        if request.min_tokens > max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {request.min_tokens}, but at most {max_tokens} tokens are generated.",
                param="min_tokens",
            )
        end_token_ids = frozenset() if request.ignore_eos else self._tokenizer.end_token_ids
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        serial = next(_serials)
        return [
            TokenRequest(
                request_id=f"{request.request_id}.{choice}-{serial}",
                prompt=prompt,
                max_tokens=max_tokens,
                min_tokens=request.min_tokens,
                stop_token_ids=end_token_ids | request.stop_token_ids,
                sampling=SamplingParams(
                    temperature=request.temperature,
                    top_k=request.top_k,
                    top_p=request.top_p,
                    min_p=request.min_p,
                    seed=seed,
                    choice=choice,
                    logprobs=request.logprobs,
                    presence_penalty=request.presence_penalty,
                    frequency_penalty=request.frequency_penalty,
                    repetition_penalty=request.repetition_penalty,
                    logit_bias=request.logit_bias,
                ),
                cache_salt=request.cache_salt,
                priority=request.priority,
                queue_timeout_s=_left(request.queue_timeout_s, spent_s),
                timeout_s=_left(request.timeout_s, spent_s),
            )
            for choice in range(request.n)
        ]


def _left(limit_s: float | None, spent_s: float) -> float | None:
    return None if limit_s is None else max(0.0, limit_s - spent_s)


async def _admit(fan_out: FanOut, n_choices: int) -> deque[tuple[int, TokenEvent | None]]:
    """Wait until the engine has admitted every choice; return what came from those it had.

    Raises:
        StokerError: One was refused.
        EngineError: A stream began with something else.
    """
    early: deque[tuple[int, TokenEvent | None]] = deque()
    admitted: set[int] = set()
    while len(admitted) < n_choices:
        taken = await fan_out.next()
        if taken is None:
            break
        choice, event = taken
        if choice in admitted:
            early.append(taken)
        elif isinstance(event, Admitted):
            admitted.add(choice)
        else:
            raise EngineError("The engine began a sequence without admitting it.")
    return early
