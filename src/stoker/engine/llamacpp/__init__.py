"""llama.cpp as a `StepEngine`, by the optional ``xllamacpp`` wheel.

This package can be imported without the wheel; `loader.load_engine` imports it.
"""

from stoker.core.abilities import Ability

LACKS = frozenset(Ability)
"""What it cannot do."""

__all__ = ["LACKS"]
