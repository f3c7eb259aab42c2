"""`Pins` that only remember, for tests of the administration routes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stoker.core.errors import PinNotFoundError
from stoker.core.protocols import PinnedPrefix
from stoker.core.step import BLOCK_TOKENS


@dataclass(slots=True)
class FixedPins:
    """Pins in name only.

    Attributes:
        pinned: Token ids of each prefix, by its id.
    """

    pinned: dict[str, tuple[int, ...]] = field(default_factory=dict)

    async def pin(self, token_ids: Sequence[int]) -> PinnedPrefix:
        """Remember a prefix."""
        pin_id = f"pin-{len(self.pinned)}"
        self.pinned[pin_id] = tuple(token_ids)
        return self._state(pin_id)

    def all(self) -> list[PinnedPrefix]:
        """Return every prefix."""
        return [self._state(pin_id) for pin_id in self.pinned]

    async def unpin(self, pin_id: str) -> PinnedPrefix:
        """Forget a prefix."""
        if pin_id not in self.pinned:
            raise PinNotFoundError(f"There is no pinned prefix {pin_id!r} of this model.")
        state = self._state(pin_id)
        del self.pinned[pin_id]
        return replace(state, held=False)

    def _state(self, pin_id: str) -> PinnedPrefix:
        n_tokens = len(self.pinned[pin_id])
        n_pinned = n_tokens // BLOCK_TOKENS * BLOCK_TOKENS
        return PinnedPrefix(id=pin_id, created=1.0, n_tokens=n_tokens, n_pinned_tokens=n_pinned, held=True)
