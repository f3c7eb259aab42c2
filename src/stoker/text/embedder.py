"""`LocalEmbedder`: embeddings by an engine that knows token ids alone."""

from collections.abc import Callable
from contextlib import aclosing

from stoker.core.errors import ContextLengthError, EngineError
from stoker.core.pooling import Pooling
from stoker.core.protocols import TokenEngine
from stoker.core.refusals import refuse_if_known
from stoker.core.text import Embedding, EmbeddingRequest, Prompt
from stoker.core.tokens import TokenRequest, TokensEvent
from stoker.text.at_a_time import Patience, at_a_time, next_sequence_id
from stoker.text.prompt import PromptEncoder


class LocalEmbedder:
    """An `Embedder` over a `TokenEngine`.

    Args:
        engine: Computes the prompts.
        prompts: Encodes them.
        pooling: What an embedding is made of.
        context_length: Most tokens of one sequence.
        width: Elements of an embedding; None if it is not known.
        patience_s: Returns for how many seconds an input waits for a ready engine once others of its request
            have been computed; what has been is not thrown away because an engine died.

    Attributes:
        width: As given.
    """

    def __init__(
        self,
        engine: TokenEngine,
        prompts: PromptEncoder,
        *,
        pooling: Pooling,
        context_length: int,
        width: int | None,
        patience_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._pooling = pooling
        self._context_length = context_length
        self._patience_s = patience_s
        self.width = width

    async def embed(self, request: EmbeddingRequest, *, places: int) -> list[Embedding]:
        """Return an embedding for each input, in order; nothing is computed if one of them is refused.

        Args:
            request: What to embed.
            places: Most sequences that the engine is given at a time.

        Raises:
            InvalidRequestError: An input cannot be taken; `param` names it.
            ContextLengthError: An input does not fit the context.
            UnsupportedFieldError: The engine makes no embeddings.
            CapacityError: The engine has no place, or a time limit was over.
            NotReadyError: No engine is ready, and none was in time once some inputs were computed.
            EngineError: The engine failed.
        """

        async def embed(prompt: tuple[int, ...], timeout_s: float | None) -> Embedding:
            return await self._embed(_sequence(request, prompt, self._pooling, timeout_s))

        work = Patience(embed, timeout_s=request.timeout_s, patience_s=self._patience_s)
        refuse_if_known([_sequence(request, (0,), self._pooling, None)], self._engine)
        prompts = await self._encode_all(request)
        return await at_a_time(prompts, places, work)

    async def check(self, request: EmbeddingRequest) -> None:
        """Raise what `embed` would before it needs an engine; what it tokenizes is not kept."""
        await self._encode_all(request)

    async def _encode_all(self, request: EmbeddingRequest) -> list[tuple[int, ...]]:
        return [
            await self._encode(prompt, path)
            for prompt, path in zip(request.inputs, request.paths, strict=True)
        ]

    async def _encode(self, prompt: Prompt, path: str) -> tuple[int, ...]:
        token_ids = await self._prompts.encode_at(prompt, path)
        if len(token_ids) >= self._context_length:
            raise ContextLengthError(
                f"'{path}' has {len(token_ids)} tokens, and an input may have at most "
                f"{self._context_length - 1}: shorten it by "
                f"{len(token_ids) + 1 - self._context_length} tokens, or embed it in pieces.",
                param=path,
            )
        return tuple(token_ids)

    async def _embed(self, sequence: TokenRequest) -> Embedding:
        async with aclosing(self._engine.stream(sequence)) as events:
            async for event in events:
                if isinstance(event, TokensEvent) and event.embedding is not None:
                    return Embedding(event.embedding, len(sequence.prompt), event.cached_tokens)
        raise EngineError("the engine ended a prompt without its embedding")


def _sequence(
    request: EmbeddingRequest, prompt: tuple[int, ...], pooling: Pooling, timeout_s: float | None
) -> TokenRequest:
    return TokenRequest(
        request_id=next_sequence_id(request.request_id),
        prompt=prompt,
        max_tokens=0,
        pooling=pooling,
        adapter=request.adapter,
        priority=request.priority,
        queue_timeout_s=request.queue_timeout_s,
        timeout_s=timeout_s,
    )
