"""What comes of a request's sequences, in the order in which it is told: the prompt, then the choices."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from stoker.core.errors import EngineError
from stoker.core.text import Finished, TextDelta
from stoker.core.tokens import Admitted, TokenEvent, TokensEvent
from stoker.text.choice import ChoiceText
from stoker.text.echo import PromptEcho
from stoker.text.fanout import FanOut

Taken = deque[tuple[int, TokenEvent | None]]
"""Events with their choices, taken from a `FanOut` and not told yet."""


async def admit(fan_out: FanOut, n_choices: int) -> Taken:
    """Wait until the engine has admitted every choice; return what came from those it had.

    Raises:
        StokerError: One was refused.
        EngineError: A stream began with something else.
    """
    early: Taken = deque()
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


async def say_prompt(
    echo: PromptEcho, fan_out: FanOut, early: Taken, cached: dict[int, int]
) -> AsyncGenerator[TextDelta]:
    """Yield the prompt as its scores come, with the first sequence.

    Args:
        echo: Says it.
        fan_out: The sequences.
        early: What has been taken already; afterwards, what was taken beside the scores.
        cached: Filled in with the prompt tokens that the cache had for each sequence.

    Raises:
        EngineError: The engine goes on before the prompt has its scores.
    """
    for delta in echo.opening():
        yield delta
    kept: Taken = deque()
    while not echo.is_complete():
        taken = early.popleft() if early else await fan_out.next()
        if taken is None:
            raise EngineError("The engine ended every sequence before it had scored the prompt.")
        if taken[0]:
            kept.append(taken)
            continue
        event = _tokens_event(taken[1])
        cached[0] = event.cached_tokens
        for deltas in echo.score(event.prompt_scores or ()):
            for delta in deltas:
                yield delta
            await asyncio.sleep(0)
        if event.token_ids or event.finish_reason is not None:
            if not echo.is_complete():
                raise EngineError("The engine went on before it had scored the prompt.")
            kept.append((0, replace(event, prompt_scores=None)))
    early.extendleft(reversed(kept))


async def say_choices(
    choices: Sequence[ChoiceText], fan_out: FanOut, early: Taken, cached: dict[int, int]
) -> AsyncGenerator[TextDelta | Finished]:
    """Yield the choices' texts and ends.

    Args:
        choices: One for each sequence.
        fan_out: The sequences.
        early: What has been taken already.
        cached: Filled in with the prompt tokens that the cache had for each sequence.

    Raises:
        EngineError: The engine ends a sequence without a reason.
    """
    ended: set[int] = set()
    while (taken := early.popleft() if early else await fan_out.next()) is not None:
        index = taken[0]
        choice = choices[index]
        if index in ended:
            continue  # what the engine computed before it heard of the stop string
        event = _tokens_event(taken[1])
        cached[index] = event.cached_tokens
        delta = choice.feed(event)
        if delta is not None:
            yield delta
        if choice.finish_reason is not None:
            if event.finish_reason is None:
                await fan_out.close(index)
            ended.add(index)
            yield Finished(index, choice.finish_reason, choice.stop_string, choice.early_exit)


def _tokens_event(event: TokenEvent | None) -> TokensEvent:
    if not isinstance(event, TokensEvent):
        raise EngineError("The engine ended a sequence without saying why.")
    return event
