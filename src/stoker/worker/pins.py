"""Pinned prefixes: sequences that hold their prompts' blocks, in whatever engine there is."""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from stoker.core.errors import (
    CapacityError,
    ConflictError,
    EngineDiedError,
    PinNotFoundError,
)
from stoker.core.protocols import PinnedPrefix
from stoker.core.refusals import refuse_lacking
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS
from stoker.core.tokens import TokenRequest, TokensEvent
from stoker.worker.resume import ReplacedEngine

MAX_PINS = 64
"""Most pinned prefixes of a model."""

MAX_DEATHS = 2
"""So many engines may die in a row while they compute a prefix; then it is given up."""

QUEUE_TIMEOUT_S = 60.0
"""A prefix waits for its turn as long as a request does by default."""

RETRY_S = 1.0
"""Pause before a prefix asks again an engine that had no place for it."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Pin:
    id: str
    token_ids: tuple[int, ...]
    created: float
    first_held: asyncio.Future[None]
    held: bool = False
    task: asyncio.Task[None] | None = field(default=None)

    def state(self) -> PinnedPrefix:
        return PinnedPrefix(
            id=self.id,
            created=self.created,
            n_tokens=len(self.token_ids),
            n_pinned_tokens=len(self.token_ids) // BLOCK_TOKENS * BLOCK_TOKENS,
            held=self.held,
        )


class PinnedPrefixes:
    """`Pins` over the engines of one model; used on one event loop.

    A pin is a sequence that does not end (`TokenRequest.hold`): closing its stream unpins it, and when its
    engine dies it is submitted to the next one. They live as long as this process does.

    Args:
        engine: Whose prefixes they are.
    """

    def __init__(self, engine: ReplacedEngine) -> None:
        self._engine = engine
        self._pins: dict[str, _Pin] = {}

    async def pin(self, token_ids: Sequence[int]) -> PinnedPrefix:
        """Compute a prefix, if need be, and keep it from then on; see `Pins.pin`."""
        pin = self._same(tuple(token_ids))
        if pin is None:
            request = _request("pin", tuple(token_ids))
            refuse_lacking(request, self._engine.info)
            if len(self._pins) >= MAX_PINS:
                raise ConflictError(f"{MAX_PINS} prefixes are pinned, which is the most. Unpin one first.")
            held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            pin = _Pin(f"pin-{secrets.token_hex(8)}", request.prompt, time.time(), held)
            self._pins[pin.id] = pin
            pin.task = asyncio.create_task(self._keep(pin), name=pin.id)
        await asyncio.shield(pin.first_held)
        return pin.state()

    def all(self) -> list[PinnedPrefix]:
        """Return every pinned prefix, the oldest first."""
        return [pin.state() for pin in self._pins.values()]

    async def unpin(self, pin_id: str) -> PinnedPrefix:
        """Let a prefix be evicted like any other; see `Pins.unpin`."""
        pin = self._pins.get(pin_id)
        if pin is None:
            raise PinNotFoundError(f"There is no pinned prefix {pin_id[:100]!r} of this model.")
        await self._end(pin)
        return pin.state()

    async def close(self) -> None:
        """Unpin everything."""
        for pin in list(self._pins.values()):
            await self._end(pin)

    def _same(self, token_ids: tuple[int, ...]) -> _Pin | None:
        return next((pin for pin in self._pins.values() if pin.token_ids == token_ids), None)

    async def _end(self, pin: _Pin) -> None:
        self._pins.pop(pin.id, None)
        if pin.task is not None:
            pin.task.cancel()
            await asyncio.wait((pin.task,))
        if not pin.first_held.done():
            pin.first_held.set_exception(ConflictError("The prefix was unpinned before it was computed."))
            pin.first_held.exception()  # perhaps nobody waits for it any more
        pin.held = False

    async def _keep(self, pin: _Pin) -> None:
        """Hold a prefix in one engine after the other, until that is ended or cannot be."""
        try:
            await self._hold_on(pin)
        except Exception as error:  # noqa: BLE001 - whoever asked for it is told, or else the log
            self._pins.pop(pin.id, None)
            pin.held = False
            if pin.first_held.done():
                _log.error("the prefix %s is pinned no more: %s", pin.id, error)
            else:
                pin.first_held.set_exception(error)
                pin.first_held.exception()

    async def _hold_on(self, pin: _Pin) -> None:
        n_deaths = 0
        while True:
            if pin.first_held.done():
                await self._engine.wait_ready()
            try:
                await self._hold(pin)
            except EngineDiedError:
                n_deaths = 0 if pin.held else n_deaths + 1
                if n_deaths == MAX_DEATHS or not pin.first_held.done():
                    raise
            except CapacityError:
                if not pin.first_held.done():
                    raise
                await asyncio.sleep(RETRY_S)
            finally:
                pin.held = False

    async def _hold(self, pin: _Pin) -> None:
        async with aclosing(self._engine.stream(_request(pin.id, pin.token_ids))) as events:
            async for event in events:
                if isinstance(event, TokensEvent) and event.token_ids:
                    pin.held = True
                    if not pin.first_held.done():
                        pin.first_held.set_result(None)


def _request(request_id: str, token_ids: tuple[int, ...]) -> TokenRequest:
    return TokenRequest(
        request_id=request_id,
        prompt=token_ids,
        max_tokens=1,
        sampling=SamplingParams(temperature=0.0),
        queue_timeout_s=QUEUE_TIMEOUT_S,
        hold=True,
    )
