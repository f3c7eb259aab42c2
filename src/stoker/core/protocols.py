"""The protocols between the layers. Each is small; an optional ability is another protocol."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stoker.core.abilities import Ability
from stoker.core.step import StepPlan, StepResult
from stoker.core.text import (
    ChoiceScores,
    Embedding,
    EmbeddingRequest,
    Event,
    Prompt,
    ScoringRequest,
    TextRequest,
)
from stoker.core.tokens import AdapterRef, TokenEvent, TokenRequest


class Clock(Protocol):
    """Monotonic time, passed in so that tests decide it."""

    def __call__(self) -> float:
        """Return seconds since an arbitrary start; never decreases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine says of itself when it is ready.

    Attributes:
        model: The served model's name.
        fingerprint: Names weights, KV type and instruction-set path; the same fingerprint, request
            and seed give the same tokens.
        context_length: Most tokens (prompt and output) of one sequence.
        vocab_size: Token ids are below this.
        kv_blocks: KV blocks in all, of `BLOCK_TOKENS` tokens each.
        max_running: Most sequences computed in one step.
        max_waiting: Most sequences queued behind them.
        kv_block_bytes: Memory of a KV block; 0 if it does not tell.
        engine: What computes, by a name for people.
        lacks: What it cannot do.
    """

    model: str
    fingerprint: str
    context_length: int
    vocab_size: int
    kv_blocks: int
    max_running: int
    max_waiting: int
    kv_block_bytes: int = 0
    engine: str = "the native engine"
    lacks: frozenset[Ability] = frozenset()


class StepEngine(Protocol):
    """Computes one step at a time, synchronously; owned by one thread."""

    @property
    def kv_blocks(self) -> int:
        """KV blocks in all; block ids in a plan are below this."""

    @property
    def fingerprint(self) -> str:
        """Names weights, KV type and instruction-set path."""

    def forward(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens into the KV cache and sample where the plan says so.

        Raises:
            EngineError: The plan is not one this engine can compute.
        """

    def close(self) -> None:
        """Free threads and memory."""


@runtime_checkable
class Progressing(Protocol):
    """A step engine that can tell a long step from one that hangs."""

    @property
    def progress(self) -> int:
        """A number that grows while a step is computed; any thread may read it, at any time."""


@runtime_checkable
class MovableBlocks(Protocol):
    """A step engine whose KV blocks can be copied out and back; by the thread that owns it, between steps.

    What is copied is opaque: `kv_block_bytes` bytes for each block, which give the same tokens in every
    engine of the same fingerprint.
    """

    @property
    def kv_block_bytes(self) -> int:
        """Bytes of a block."""

    def save_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks to the slots of `kv_block_bytes` each in `memory`.

        Raises:
            EngineError: There is no such block or slot.
        """

    def load_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks back from the slots where they are; raises as `save_blocks`."""


@runtime_checkable
class MultiStep(Protocol):
    """A step engine that takes plans of several steps, and can be told not to go on."""

    def heed(self, flag: bytearray) -> None:
        """End every call after the step during which ``flag[0]`` is not 0, which any thread may set.

        Called once, before the first such plan.
        """


@runtime_checkable
class Verifying(Protocol):
    """A step engine that takes plans with drafts."""

    @property
    def max_draft_tokens(self) -> int:
        """Most tokens of a draft behind a run."""


@runtime_checkable
class Adaptable(Protocol):
    """A step engine that computes sequences with adapters, those that it has been given."""

    def read_adapter(self, adapter: AdapterRef) -> object:
        """Read an adapter and make it ready; for any thread, also while a step is computed.

        Raises:
            ModelError: It is missing, damaged, has changed, or does not fit this model.
        """

    def place_adapter(self, digest: str, ready: object) -> None:
        """Take what `read_adapter` has returned; between steps, by the thread that owns the engine.

        Raises:
            EngineError: There is no room for one more.
        """

    def drop_adapter(self, digest: str) -> None:
        """Let go of an adapter that no plan names any more; between steps likewise."""


class TokenEngine(Protocol):
    """Token ids in, token events out."""

    @property
    def info(self) -> EngineInfo:
        """What the engine said of itself.

        Raises:
            NotReadyError: No engine is ready.
        """

    def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Yield `Admitted`, then `TokensEvent`s, the last with a finish reason.

        Closing the generator before its end aborts the sequence and frees its KV blocks at the next
        engine call.

        Raises:
            QueueFullError: Every running and waiting place is taken.
            NotReadyError: No engine is ready.
            EngineDiedError: The engine ended under the sequence.
        """


class Generator(Protocol):
    """Messages or prompt in, text events out. Policies are wrappers over this protocol."""

    def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Yield `Started`, then `TextDelta`s and one `Finished` per choice, then `Usage`.

        Everything that can be refused is refused before `Started`. Closing the generator aborts.

        Raises:
            StokerError: See `stoker.core.errors` for the tree.
        """


class Embedder(Protocol):
    """Inputs in, a vector for each out; no token is generated."""

    @property
    def width(self) -> int | None:
        """Elements of an embedding; None if it is not known."""

    async def embed(self, request: EmbeddingRequest, *, places: int) -> list[Embedding]:
        """Return an embedding for each input, in order; nothing is computed if one of them is refused.

        Args:
            request: What to embed.
            places: Most sequences that the engine is given at a time.

        Raises:
            StokerError: See `stoker.core.errors` for the tree.
        """


class Scorer(Protocol):
    """Prompts and choices in, how likely each choice is after each prompt out; no token is generated."""

    async def score(self, request: ScoringRequest, *, places: int) -> list[ChoiceScores]:
        """Return the scores after each prompt, in order; nothing is computed if something is refused.

        Args:
            request: What to score.
            places: Most sequences that the engine is given at a time.

        Raises:
            StokerError: See `stoker.core.errors` for the tree.
        """


class TextCodec(Protocol):
    """Text to token ids and back, as a model's generator does it; no engine takes part."""

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids; none for an empty text that nothing goes before.

        Raises:
            InvalidRequestError: The model cannot take the prompt.
            ContextLengthError: The prompt is certain to exceed the context.
        """

    def spellings(self, token_ids: list[int]) -> list[str]:
        """Return tokens that `tokenize` gave as the vocabulary spells them."""

    async def detokenize(self, token_ids: list[int]) -> str:
        """Return the text of tokens, control tokens spelt out.

        Raises:
            InvalidRequestError: A token id is outside the vocabulary.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedPrefix:
    """A prefix whose KV blocks are never evicted.

    Attributes:
        id: Its name.
        created: When it was pinned, in seconds since 1970.
        n_tokens: Tokens that were given.
        n_pinned_tokens: Those of them that are pinned: whole KV blocks.
        held: Whether the engine has them now; not while it computes them anew after a restart.
    """

    id: str
    created: float
    n_tokens: int
    n_pinned_tokens: int
    held: bool


class Pins(Protocol):
    """The pinned prefixes of one model."""

    async def pin(self, token_ids: Sequence[int]) -> PinnedPrefix:
        """Compute a prefix, if need be, and keep it from then on; the same one is pinned once.

        Raises:
            InvalidRequestError: It is too short or too long, or too much is pinned.
            ConflictError: As many prefixes are pinned as there may be.
            CapacityError: The engine cannot compute it now.
            EngineDiedError: Engines died while they computed it.
        """

    def all(self) -> list[PinnedPrefix]:
        """Return every pinned prefix, the oldest first."""

    async def unpin(self, pin_id: str) -> PinnedPrefix:
        """Let a prefix be evicted like any other.

        Raises:
            PinNotFoundError: There is none of this name.
        """
