"""A model that guesses next tokens in an engine process; imported only where there is one."""

from collections.abc import Callable
from dataclasses import dataclass

from stoker.core.drafting import Drafter
from stoker.core.protocols import StepEngine
from stoker.speculate.first_of import FirstOf
from stoker.speculate.guesser import Guesser
from stoker.speculate.lookup import PromptLookup
from stoker.speculate.model import ModelDrafter


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessingModel:
    """What guesses for a model.

    Attributes:
        engine: Another model, with as many KV blocks; None for the served one without some layers.
        skipped: Those layers, in order.
        context_length: Most tokens of a sequence.
        vocab_size: Its token ids are below this.
        cost: What a step of it is expected to take beside one of the served model.
    """

    engine: StepEngine | None = None
    skipped: tuple[int, ...] = ()
    context_length: int
    vocab_size: int
    cost: float


def model_drafter(
    guesses: GuessingModel,
    served: StepEngine,
    most: int,
    *,
    step_tokens: int,
    vocab_size: int,
    clock: Callable[[], float],
) -> Drafter:
    """Return who copies from conversations, and has the model guess where there is nothing to copy.

    Args:
        guesses: The model that guesses.
        served: Computes the served model.
        most: Most tokens of a draft.
        step_tokens: Most tokens of a step of either.
        vocab_size: Token ids of the served model are below this.
        clock: Tells the time.
    """
    guesser = Guesser(
        guesses.engine or served,
        longest=guesses.context_length,
        max_step_tokens=step_tokens,
        vocab_size=guesses.vocab_size,
        served_vocab_size=vocab_size,
        skipped=guesses.skipped,
    )
    return FirstOf(PromptLookup(most), ModelDrafter(guesser, most, cost=guesses.cost, clock=clock))
