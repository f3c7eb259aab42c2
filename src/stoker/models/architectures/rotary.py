"""Rotary embeddings as a GGUF file states them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from struct import unpack

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.architectures.families import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, Family
from stoker.models.architectures.keys import ArchitectureKeys
from stoker.models.config import Rotary
from stoker.models.gguf import GgufFile
from stoker.models.limits import MAX_CONTEXT_LENGTH
from stoker.models.rope import (
    Frequencies,
    divided_frequencies,
    linear_frequencies,
    rope_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)

_DEFAULT_BASE = 10_000.0
_MIN_BASE, _MAX_BASE = 2.0, 1e12
_MIN_FACTOR, _MAX_FACTOR = 1e-3, 1e6
_MAX_TURNS = 1e6
_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class _Yarn:
    """What YaRN is told beside the base."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    magnitude: float


def read_rotaries(
    keys: ArchitectureKeys, family: Family, file: GgufFile, n_dimensions: int, context_length: int
) -> tuple[Rotary, Rotary]:
    """Read the rotary embedding of layers that see everything, and that of those with a window.

    Args:
        keys: The file's keys.
        family: The architecture.
        file: The file, for tensors of frequency factors.
        n_dimensions: Elements of a head that turn.
        context_length: Most positions that the model was made for.

    Raises:
        CorruptFileError: Keys or tensors are malformed or contradict each other.
        UnsupportedModelError: A way to stretch it that Stoker does not compute.
    """
    base = keys.number("rope.freq_base", _DEFAULT_BASE, least=_MIN_BASE, most=_MAX_BASE)
    scaling, factor = _read_scaling(keys)
    magnitude = keys.number("rope.scaling.attn_factor", 1.0)
    original = keys.integer("rope.scaling.original_context_length", MAX_CONTEXT_LENGTH, context_length)
    yarn = _read_yarn(keys, family, factor, original) if scaling == "yarn" else None
    factors = _read_factors(keys.label, family, file, n_dimensions)
    if factors and yarn:
        raise UnsupportedModelError(
            f"{keys.label} has {next(iter(factors))} beside {keys.name('rope.scaling.type')} 'yarn'; "
            "Stoker computes one of the two."
        )
    if scaling == "longrope" and LONG_FACTORS not in factors:
        raise CorruptFileError(
            f"{keys.label}: {keys.name('rope.scaling.type')} is 'longrope', but there is no {LONG_FACTORS}."
        )

    def stretched(base: float, *, scaled: bool, by: str | None = None) -> Frequencies:
        if scaled and yarn is not None:
            return yarn_frequencies(
                base,
                n_dimensions,
                factor=yarn.factor,
                original_context=yarn.original_context,
                beta_fast=yarn.beta_fast,
                beta_slow=yarn.beta_slow,
                truncate=yarn.truncate,
            )
        frequencies = rope_frequencies(base, n_dimensions)
        if scaled and by is not None:
            frequencies = divided_frequencies(frequencies, factors[by])
        return linear_frequencies(frequencies, factor) if scaled and factor != 1 else frequencies

    def rotary(base: float, *, scaled: bool) -> Rotary:
        long = LONG_FACTORS in factors and scaled
        by = SHORT_FACTORS if long else ROPE_FACTORS if ROPE_FACTORS in factors else None
        return Rotary(
            frequencies=stretched(base, scaled=scaled, by=by),
            long_frequencies=stretched(base, scaled=scaled, by=LONG_FACTORS) if long else None,
            original_context=original if long else 0,
            magnitude=(magnitude * (yarn.magnitude if yarn else 1.0)) if scaled else 1.0,
        )

    windows = family.windows
    local_base, local_scaled = base, True
    if windows is not None:
        local_base = keys.number("rope.freq_base_swa", windows.base or base, least=_MIN_BASE, most=_MAX_BASE)
        local_scaled = windows.scaled
    return rotary(base, scaled=True), rotary(local_base, scaled=local_scaled)


def _read_scaling(keys: ArchitectureKeys) -> tuple[str, float]:
    """Return how frequencies are stretched, and by which factor; a factor alone means ``linear``."""
    scaling = keys.text("rope.scaling.type", "linear")
    if scaling not in _SCALINGS:
        raise UnsupportedModelError(
            f"{keys.label} sets {keys.name('rope.scaling.type')} to {scaling[:80]!r}; "
            f"Stoker computes {', '.join(_SCALINGS)}."
        )
    old = keys.number("rope.scale_linear", 0.0, least=0.0, most=_MAX_FACTOR)
    factor = keys.number("rope.scaling.factor", old, least=0.0, most=_MAX_FACTOR)
    if scaling in ("none", "longrope") or factor == 0:
        return scaling, 1.0
    if factor < _MIN_FACTOR:
        raise CorruptFileError(
            f"{keys.label}: {keys.name('rope.scaling.factor')} is {factor}, expected at least {_MIN_FACTOR}."
        )
    return scaling, factor


def _read_yarn(keys: ArchitectureKeys, family: Family, factor: float, original: int) -> _Yarn:
    fast = keys.number("rope.scaling.yarn_beta_fast", 32.0, most=_MAX_TURNS)
    slow = keys.number("rope.scaling.yarn_beta_slow", 1.0, most=_MAX_TURNS)
    if slow >= fast:
        raise CorruptFileError(
            f"{keys.label}: {keys.name('rope.scaling.yarn_beta_fast')} is {fast}, expected more than "
            f"{keys.name('rope.scaling.yarn_beta_slow')}, which is {slow}."
        )
    multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0, least=0.0, most=100.0)
    magnitude = yarn_magnitude(factor) / yarn_magnitude(factor, multiplier)
    return _Yarn(factor, original, fast, slow, family.yarn_truncate, magnitude)


def _read_factors(
    label: str, family: Family, file: GgufFile, n_dimensions: int
) -> Mapping[str, tuple[float, ...]]:
    """Read the tensors of frequency factors that the file has."""
    factors = {}
    for name in sorted(family.rope_tensors & file.tensors.keys()):
        info = file.tensors[name]
        if info.shape != (n_dimensions // 2,) or info.type.name != "F32":
            raise CorruptFileError(
                f"{label}: {name} is {info.type.name} of the shape {info.shape}, "
                f"expected F32 of the shape {(n_dimensions // 2,)}."
            )
        values = unpack(f"<{n_dimensions // 2}f", file.view(info.start, info.size_bytes))
        if not all(isfinite(value) and _MIN_FACTOR <= value <= _MAX_FACTOR for value in values):
            raise CorruptFileError(
                f"{label}: {name} has a factor outside of {_MIN_FACTOR:g} to {_MAX_FACTOR:g}."
            )
        factors[name] = values
    if (LONG_FACTORS in factors) != (SHORT_FACTORS in factors):
        raise CorruptFileError(f"{label} has one of {LONG_FACTORS} and {SHORT_FACTORS}, expected both.")
    if ROPE_FACTORS in factors and LONG_FACTORS in factors:
        raise CorruptFileError(f"{label} has both {ROPE_FACTORS} and {LONG_FACTORS}, expected one.")
    return factors
