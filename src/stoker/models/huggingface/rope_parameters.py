"""Rotary embeddings as a ``config.json`` describes them.

`transformers` 5 writes ``rope_parameters``, one object or one for each type of layers; earlier versions
``rope_theta`` with ``rope_scaling``. What the numbers do is in `stoker.models.rope`.
"""

from collections.abc import Callable, Mapping

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import Rotary
from stoker.models.huggingface.config_values import Values
from stoker.models.huggingface.families import Family, Json
from stoker.models.huggingface.safetensors import shown
from stoker.models.limits import MAX_CONTEXT_LENGTH
from stoker.models.rope import (
    divided_frequencies,
    linear_frequencies,
    llama3_frequencies,
    longrope_magnitude,
    rope_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)

_SPELLINGS = {"su": "longrope"}
"""Older names."""

_COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_ORIGINAL = "original_max_position_embeddings"
_FULL, _SLIDING = "full_attention", "sliding_attention"


def read_rotaries(values: Values, family: Family, head_size: int) -> tuple[Rotary, ...]:
    """Return the rotary embedding of a family's layers, and if it has one, that of layers with a window.

    Raises:
        CorruptFileError: Numbers are missing or make no sense.
        UnsupportedModelError: A kind of scaling, or one of its keys, that is not computed.
    """
    stated, older = values.get("rope_parameters"), values.get("rope_scaling")
    parts = _object(values, "rope_parameters", stated)
    theta = values.get("rope_theta")
    if family.local_theta is None:
        whole = {"rope_theta": theta} | (parts or _object(values, "rope_scaling", older))
        return (_rotary(values, family, whole, head_size),)
    if parts and not {_FULL, _SLIDING} & parts.keys():
        raise CorruptFileError(f"{values.label}: rope_parameters has neither {_FULL} nor {_SLIDING}.")
    local_theta: Json = values.get("rope_local_base_freq")
    full = _object(values, _FULL, parts.get(_FULL)) or _object(values, "rope_scaling", older)
    local = _object(values, _SLIDING, parts.get(_SLIDING))
    return (
        _rotary(values, family, {"rope_theta": theta} | full, head_size),
        _rotary(values, family, {"rope_theta": local_theta} | local, head_size),
    )


def _object(values: Values, key: str, found: Json) -> dict[str, Json]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise values.wrong(key, "an object")
    return found


def _rotary(values: Values, family: Family, stated: Mapping[str, Json], head_size: int) -> Rotary:
    """Compute what one object says; keys that stand beside it in older files are added."""
    given = dict(stated)
    if given.get("partial_rotary_factor") is None and values.get("partial_rotary_factor") is not None:
        given["partial_rotary_factor"] = values.get("partial_rotary_factor")
    outside = values.given.get(_ORIGINAL)
    if outside is not None or given.get(_ORIGINAL) is None:
        given[_ORIGINAL] = outside or values.get(_ORIGINAL) or values.get("max_position_embeddings")
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str):
        raise CorruptFileError(f"{values.label}: rope_type is {shown(str(kind))}, expected a name.")
    kind = _SPELLINGS.get(kind, "longrope" if (family.model_type, kind) == ("phi3", "yarn") else kind)
    if kind not in _KINDS:
        raise UnsupportedModelError(
            f"{values.label} scales its rotary embedding by {shown(kind)}; Stoker computes "
            f"{', '.join(_KINDS)}."
        )
    keys, compute = _KINDS[kind]
    rope = Values(f"{values.label}, {kind} rotary embedding", given, {"partial_rotary_factor": 1.0})
    unknown = sorted(key for key, value in given.items() if key not in {*_COMMON, *keys, _ORIGINAL} and value)
    if unknown:
        raise UnsupportedModelError(
            f"{rope.label} has keys that Stoker does not know: {', '.join(map(shown, unknown[:8]))}."
        )
    n_dimensions = int(head_size * min(1.0, rope.number("partial_rotary_factor")))
    if n_dimensions < 2 or n_dimensions % 2:  # noqa: PLR2004 - pairs
        raise rope.wrong("partial_rotary_factor", f"one that turns an even part of {head_size} elements")
    try:
        return compute(rope, n_dimensions, values.integer("max_position_embeddings", MAX_CONTEXT_LENGTH))
    except ArithmeticError as error:
        raise CorruptFileError(f"{rope.label}: its numbers make no frequencies ({error}).") from error


def _default(rope: Values, n_dimensions: int, _context: int) -> Rotary:
    return Rotary(frequencies=rope_frequencies(rope.number("rope_theta"), n_dimensions))


def _linear(rope: Values, n_dimensions: int, _context: int) -> Rotary:
    frequencies = rope_frequencies(rope.number("rope_theta"), n_dimensions)
    return Rotary(frequencies=linear_frequencies(frequencies, rope.number("factor")))


def _llama3(rope: Values, n_dimensions: int, _context: int) -> Rotary:
    frequencies = llama3_frequencies(
        rope_frequencies(rope.number("rope_theta"), n_dimensions),
        factor=rope.number("factor"),
        low=rope.number("low_freq_factor"),
        high=rope.number("high_freq_factor"),
        original_context=rope.integer(_ORIGINAL, MAX_CONTEXT_LENGTH),
    )
    return Rotary(frequencies=frequencies)


def _yarn(rope: Values, n_dimensions: int, context: int) -> Rotary:
    original = rope.integer(_ORIGINAL, MAX_CONTEXT_LENGTH)
    factor = rope.optional_number("factor") or context / original
    base = rope.number("rope_theta")
    if base <= 1:
        raise rope.wrong("rope_theta", "a number above 1")
    magnitude = rope.optional_number("attention_factor")
    if magnitude is None:
        multiplier, for_all = rope.get("mscale"), rope.get("mscale_all_dim")
        magnitude = yarn_magnitude(factor)
        if multiplier and for_all:
            magnitude = yarn_magnitude(factor, rope.number("mscale")) / yarn_magnitude(
                factor, rope.number("mscale_all_dim")
            )
    return Rotary(
        frequencies=yarn_frequencies(
            base,
            n_dimensions,
            factor=factor,
            original_context=original,
            beta_fast=rope.optional_number("beta_fast") or 32.0,
            beta_slow=rope.optional_number("beta_slow") or 1.0,
            truncate="truncate" not in rope.given or rope.flag("truncate"),
        ),
        magnitude=magnitude,
    )


def _longrope(rope: Values, n_dimensions: int, context: int) -> Rotary:
    original = rope.integer(_ORIGINAL, MAX_CONTEXT_LENGTH, smallest=2)
    magnitude = rope.optional_number("attention_factor")
    if magnitude is None:
        magnitude = longrope_magnitude(rope.optional_number("factor") or context / original, original)
    frequencies = rope_frequencies(rope.number("rope_theta"), n_dimensions)
    return Rotary(
        frequencies=divided_frequencies(frequencies, rope.numbers("short_factor", n_dimensions // 2)),
        long_frequencies=divided_frequencies(frequencies, rope.numbers("long_factor", n_dimensions // 2)),
        original_context=original,
        magnitude=magnitude,
    )


_KINDS: Mapping[str, tuple[frozenset[str], Callable[[Values, int, int], Rotary]]] = {
    "default": (frozenset(), _default),
    "linear": (frozenset({"factor"}), _linear),
    "llama3": (frozenset({"factor", "low_freq_factor", "high_freq_factor"}), _llama3),
    "yarn": (
        frozenset(
            {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
        ),
        _yarn,
    ),
    "longrope": (frozenset({"factor", "attention_factor", "short_factor", "long_factor"}), _longrope),
}
"""The keys that each kind of scaling has, and what computes it."""
