"""Which matrices are multiplied with activations of 16 bits: twice the integer products, next to no error.

A choice is a set of matrices, each all layers' or one layer's. It changes what a model answers, so it is
a matter of settings and of the model alone, the same on every machine, and part of the fingerprint.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from stoker import _native
from stoker.core.errors import SettingsError
from stoker.models.config import ModelConfig

MATRICES = ("q", "k", "v", "o", "gate", "up", "down", "output")
"""Names of matrices; ``output`` gives the logits and may be the embedding's."""

AUTO, NONE = "auto", "none"

DEFAULT = "v,output"
"""What ``auto`` means, for every architecture: what saves most divergence for its cost."""


@dataclass(frozen=True, slots=True)
class Precise:
    """A matrix with activations of 16 bits.

    Attributes:
        name: One of `MATRICES`.
        layer: Its layer; None for all of them, and for ``output``.
    """

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name}:{self.layer}"

    def __lt__(self, other: "Precise") -> bool:
        return self._rank() < other._rank()

    def _rank(self) -> tuple[int, int]:
        return MATRICES.index(self.name), -1 if self.layer is None else self.layer


Choice = frozenset[Precise]


def choose_precise(setting: str, config: ModelConfig) -> Choice:
    """Return what the setting ``precise`` means for a model.

    Raises:
        SettingsError: It names what no model has, or what this one has not.
    """
    text = DEFAULT if setting == AUTO else setting
    if text == NONE:
        return frozenset()
    return frozenset(_parse(part.strip(), config) for part in text.split(","))


def _parse(part: str, config: ModelConfig) -> Precise:
    name, colon, layer = part.partition(":")
    if name not in MATRICES or (colon and name == "output"):
        raise SettingsError(
            f"precise has {part!r}; expected {AUTO}, {NONE}, or matrices separated by commas:"
            f" {', '.join(MATRICES)}, all but the last also of one layer, as in down:2"
        )
    if not colon:
        return Precise(name)
    if not (layer.isascii() and layer.isdecimal() and int(layer) < config.n_layers):
        raise SettingsError(
            f"precise has {part!r}, but the model's layers are 0 to {config.n_layers - 1}; name one of them"
        )
    return Precise(name, int(layer))


def describe(choice: Choice) -> str:
    """Write a choice as the setting has it, in an order that is always the same."""
    return ",".join(map(str, sorted(choice))) or NONE


def short_digest(choice: Choice) -> str:
    """Name a choice in few letters."""
    return f"precise.{sha256(describe(choice).encode()).hexdigest()[:8]}"


def apply_precise(model: _native.Model, config: ModelConfig, choice: Choice) -> None:
    """Have a model multiply these matrices, and no others, with activations of 16 bits.

    Raises:
        MemoryError: There is not enough for the wider activations.
    """
    for native_name, layer, wanted in _bits(config, choice):
        model.set_activation_bits(native_name, layer, 16 if wanted else 8)


def _bits(config: ModelConfig, choice: Choice) -> Iterator[tuple[str, int, bool]]:
    for name in MATRICES:
        if name == "output":
            yield "embedding" if config.tied_embeddings else "output", 0, Precise(name) in choice
            continue
        for layer in range(config.n_layers):
            yield name, layer, bool({Precise(name), Precise(name, layer)} & choice)
