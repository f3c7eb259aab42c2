"""What a folder says of how its weights were quantized: ``quantization_config``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stoker.core.errors import UnsupportedModelError
from stoker.models.huggingface.config_values import Values
from stoker.models.huggingface.families import Json
from stoker.models.huggingface.safetensors import shown

METHODS = ("gptq", "awq", "mxfp4")
"""The methods that Stoker reads."""

_MAX_GROUP = 2**20
_ALIASES = {"bits": "w_bit", "group_size": "q_group_size"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a folder's quantized matrices are stored.

    Attributes:
        method: One of `METHODS`.
        bits: Bits of a code.
        group_size: Inputs that share a scale; None for all.
        zero_offset: Added to a stored zero point: GPTQ's first format stores it less one.
    """

    method: Literal["gptq", "awq", "mxfp4"]
    bits: int
    group_size: int | None
    zero_offset: int = 0


def read_quantization(label: str, config: Mapping[str, Json] | None) -> Quantization | None:
    """Read ``quantization_config``; None when the weights are floats.

    Raises:
        CorruptFileError: Values make no sense.
        UnsupportedModelError: A method, or a kind of it, that Stoker does not read.
    """
    if not config:
        return None
    values = Values(f"{label}, quantization_config", config, {})
    match method := values.get("quant_method"):
        case "mxfp4":
            return Quantization(method="mxfp4", bits=4, group_size=32)
        case "gptq":
            return _gptq(values)
        case "awq":
            return _awq(values)
        case _:
            raise UnsupportedModelError(
                f"{values.label} has the quant_method {shown(str(method))}; Stoker reads "
                f"{', '.join(METHODS)}, and weights that are not quantized."
            )


def _gptq(values: Values) -> Quantization:
    format_ = values.get("checkpoint_format") or "gptq"
    if format_ not in ("gptq", "gptq_v2"):
        raise UnsupportedModelError(
            f"{values.label} has the checkpoint_format {shown(str(format_))}; Stoker reads gptq and gptq_v2."
        )
    if values.get("dynamic"):
        raise UnsupportedModelError(
            f"{values.label} has other settings for single layers (dynamic); Stoker reads files where all "
            "layers are quantized alike."
        )
    return Quantization(
        method="gptq",
        bits=_bits(values, 4, 8),
        group_size=_group_size(values),
        zero_offset=1 if format_ == "gptq" else 0,
    )


def _awq(values: Values) -> Quantization:
    version = str(values.get("version") or "gemm").lower()
    if version != "gemm":
        raise UnsupportedModelError(
            f"{values.label} has the version {shown(version)}; Stoker reads AWQ files of the version gemm."
        )
    if values.get("zero_point") is False:
        raise UnsupportedModelError(f"{values.label} has no zero points; Stoker reads AWQ files with them.")
    return Quantization(method="awq", bits=_bits(values, 4), group_size=_group_size(values))


def _bits(values: Values, *known: int) -> int:
    bits = values.integer(_spelling(values, "bits"), 64)
    if bits not in known:
        raise UnsupportedModelError(
            f"{values.label} has codes of {bits} bits; Stoker reads {' and '.join(map(str, known))}."
        )
    return bits


def _group_size(values: Values) -> int | None:
    key = _spelling(values, "group_size")
    return None if values.get(key) in (-1, None) else values.integer(key, _MAX_GROUP)


def _spelling(values: Values, key: str) -> str:
    return key if key in values.given else _ALIASES[key]
