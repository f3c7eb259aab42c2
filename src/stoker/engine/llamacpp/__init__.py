"""llama.cpp as a `StepEngine`, by the optional ``xllamacpp`` wheel.

This package can be imported without the wheel; `loader.load_engine` imports it, in the engine process alone.
"""

from importlib.util import find_spec

from stoker.core.abilities import Ability

EXTRA = "pip install 'stoker[llamacpp]'"
"""What makes it available."""

LACKS = frozenset(Ability)
"""What it cannot do."""


def is_installed() -> bool:
    """Tell whether the wheel is there, without loading it."""
    return find_spec("xllamacpp") is not None


__all__ = ["EXTRA", "LACKS", "is_installed"]
