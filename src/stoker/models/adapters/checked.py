"""Adapters as checked arrays that fit their base."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.architectures import FAMILIES
from stoker.models.config import ModelConfig

MAX_RANK = 512
"""Largest rank that the engine computes; `AdapterLimits.max_rank` may be less."""

MAX_ALPHA = 1e6

TARGETS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}
"""PEFT's names of the modules that an adapter may change, and the engine's."""

FUSED = {"qkv_proj": ("q", "k", "v"), "gate_up_proj": ("gate", "up")}
"""PEFT's names of modules whose outputs are those of several matrices, first to last."""

ATTENTION = frozenset("qkvo")
"""Those of attention, by the engine's names."""

POST_NORMED = frozenset({"gemma2", "gemma3"})
"""Architectures that norm what halves of layers give, and for which `adapters` says where bottlenecks are."""

Half = Literal["attention", "feed_forward"]
"""The halves of a layer, by the engine's names."""

Bend = Literal["relu", "silu", "gelu_tanh"]
"""Activations of bottlenecks, by the engine's names."""


class Shaped(Protocol):
    """A stored tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""


_CHUNK_BYTES = 2**20
_LARGEST = 3.38e38  # what rounds to a number of bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLimits:
    """What an adapter may have.

    Attributes:
        max_rank: Largest rank of a module.
        max_file_bytes: Largest file of weights.
    """

    max_rank: int = 64
    max_file_bytes: int = 2**32


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """What is added to one matrix ``W``: ``scale * up @ down``.

    Attributes:
        target: The matrix, by the engine's name.
        layer: Its layer.
        down: ``[rank, inputs]``.
        up: ``[outputs, rank]``; rows of queries and keys have rotary pairs as halves, as PEFT's do and as the
            engine holds its own.
        scale: The factor.
    """

    target: str
    layer: int
    down: NDArray[np.float32]
    up: NDArray[np.float32]
    scale: float


@dataclass(frozen=True, slots=True)
class BottleneckPart:
    """What is added to the residual stream behind a half of a layer.

    That is ``scale * (up bend(down x + bias) + up_bias)``.

    Attributes:
        half: Which half.
        layer: Its layer.
        down: ``[size, width]``.
        bias: ``[size]``.
        up: ``[width, size]``.
        up_bias: ``[width]``.
        scale: The factor.
        bend: The activation.
        of_stream: ``x`` is the residual stream with what the half has added; else what it has added.
    """

    half: Half
    layer: int
    down: NDArray[np.float32]
    bias: NDArray[np.float32]
    up: NDArray[np.float32]
    up_bias: NDArray[np.float32]
    scale: float
    bend: Bend
    of_stream: bool


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """An adapter that fits its base.

    Attributes:
        digest: 32 hex digits that name its contents.
        rank: The largest rank of a part, or size of a bottleneck.
        parts: What it adds to matrices, by layer.
        bottlenecks: What it adds behind halves of layers, by layer.
    """

    digest: str
    rank: int
    parts: tuple[AdapterPart, ...]
    bottlenecks: tuple[BottleneckPart, ...] = ()


def target_shape(config: ModelConfig, target: str) -> tuple[int, int]:
    """Return ``(outputs, inputs)`` of a matrix by the engine's name."""
    queries, kv = config.n_heads * config.head_size, config.n_kv_heads * config.head_size
    return {
        "q": (queries, config.width),
        "k": (kv, config.width),
        "v": (kv, config.width),
        "o": (config.width, queries),
        "gate": (config.ffn_width, config.width),
        "up": (config.ffn_width, config.width),
        "down": (config.width, config.ffn_width),
    }[target]


def modules_of(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return PEFT's names of what an adapter may change in a base, and the engine's of its matrices."""
    single: dict[str, tuple[str, ...]] = {module: (target,) for module, target in TARGETS.items()}
    return single | FUSED if FAMILIES[config.architecture].fused else single


def parts_of(
    label: str, config: ModelConfig, targets: tuple[str, ...], whole: AdapterPart
) -> tuple[AdapterPart, ...]:
    """Cut what is added to a fused matrix into what is added to each of its matrices, and check these.

    All have the same ``down``; rows of ``up`` are those of the first matrix to those of the last.

    Args:
        label: The module's name, for messages.
        config: The base's shape.
        targets: The matrices, by the engine's names; one where the matrix is not fused.
        whole: What is added to all of them; its own target is not looked at.

    Raises:
        UnsupportedModelError: It is for another base, or for experts.
        CorruptFileError: A number is not finite.
    """
    widths = [target_shape(config, target)[0] for target in targets]
    if len(targets) > 1 and len(whole.up) != sum(widths):
        raise UnsupportedModelError(
            f"{label} has {len(whole.up)} outputs, but the base's {', '.join(targets)} have {sum(widths)} "
            "together; the adapter was made for another model."
        )
    starts = np.cumsum(widths)[:-1]
    parts = tuple(
        replace(whole, target=target, up=rows)
        for target, rows in zip(targets, np.split(whole.up, starts), strict=True)
    )
    for part in parts:
        check_part(label, config, part)
    return parts


def check_once(label: str, parts: tuple[AdapterPart, ...]) -> None:
    """Refuse an adapter that changes a matrix both by itself and as rows of a fused one.

    Raises:
        CorruptFileError: It does.
    """
    seen = set()
    for part in parts:
        if (part.target, part.layer) in seen:
            raise CorruptFileError(
                f"{label} changes {part.target} of layer {part.layer} twice, by itself and in a fused matrix."
            )
        seen.add((part.target, part.layer))


def check_part(label: str, config: ModelConfig, part: AdapterPart) -> None:
    """Refuse a part that does not fit the base, or that has a number which is none.

    Args:
        label: The module's name, for messages.
        config: The base's shape.
        part: What it shall become.

    Raises:
        UnsupportedModelError: It is for another base, or for experts.
        CorruptFileError: A number is not finite.
    """
    if part.layer >= config.n_layers:
        raise UnsupportedModelError(
            f"{label}: the base has {config.n_layers} layers; the adapter was made for another model."
        )
    if config.experts is not None and part.target in ("gate", "up", "down"):
        raise UnsupportedModelError(
            f"{label}: the base is a mixture of experts, whose networks cannot be adapted. Train an adapter "
            "of q_proj, k_proj, v_proj and o_proj."
        )
    outputs, inputs = target_shape(config, part.target)
    if part.up.shape[0] != outputs or part.down.shape[1] != inputs:
        raise UnsupportedModelError(
            f"{label} maps {part.down.shape[1]} inputs to {part.up.shape[0]} outputs, but the base's matrix "
            f"maps {inputs} to {outputs}; the adapter was made for another model."
        )
    _check_numbers(label, {"lora_A": part.down, "lora_B": part.up})


def check_bottlenecks(label: str, config: ModelConfig, parts: tuple[BottleneckPart, ...]) -> None:
    """Refuse bottlenecks that do not fit the base, or that have a number which is none.

    Raises:
        UnsupportedModelError: They are for another base, or for an architecture that cannot have them.
        CorruptFileError: A number is not finite.
    """
    if config.residual_scale != 1 or (config.post_norms and config.architecture not in POST_NORMED):
        raise UnsupportedModelError(
            f"{label}: bottleneck adapters are computed for Gemma and for models whose layers add what their "
            f"halves give to the residual stream as it is; {config.architecture} changes it."
        )
    if config.post_norms and any(part.of_stream for part in parts):
        raise UnsupportedModelError(
            f"{label}: original_ln_before is on, which Stoker does not compute for {config.architecture}, "
            "whose layers norm what their halves give. Adapters of DoubleSeqBnConfig are computed."
        )
    for part in parts:
        name = f"{label}: {part.half} of layer {part.layer}"
        if part.layer >= config.n_layers or part.down.shape[1] != config.width:
            raise UnsupportedModelError(
                f"{name} is for a width of {part.down.shape[1]}; the base has {config.n_layers} layers of "
                f"width {config.width}. The adapter was made for another model."
            )
        arrays = {"down": part.down, "its bias": part.bias, "up": part.up, "the bias of up": part.up_bias}
        _check_numbers(name, arrays)


def _check_numbers(label: str, arrays: dict[str, NDArray[np.float32]]) -> None:
    for name, values in arrays.items():
        if not np.all(np.abs(values) <= _LARGEST):  # nor is NaN
            raise CorruptFileError(f"{label}.{name} has a number that is not finite, or too large for bf16.")


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def check_sides(label: str, sides: Mapping[str, Shaped], names: tuple[str, str]) -> None:
    """Check that a low-rank pair is whole, and of matrices.

    Args:
        label: Names it in errors.
        sides: Its tensors.
        names: What its two are called.

    Raises:
        CorruptFileError: It is not.
    """
    missing = set(names) - sides.keys()
    if missing:
        raise CorruptFileError(f"{label} has no lora_{missing.pop()}; both are needed.")
    for side, tensor in sides.items():
        if len(tensor.shape) != 2:  # noqa: PLR2004
            raise CorruptFileError(
                f"{label}.lora_{side} has the shape {list(tensor.shape)}, expected two dimensions."
            )


def hash_file(digest: _Hash, path: Path, most: int, missing: str) -> None:
    """Put a file's length and its bytes into a digest.

    Args:
        digest: Takes them.
        path: The file.
        most: Its largest size.
        missing: What to say if there is none.

    Raises:
        CorruptFileError: It is missing, cannot be read or is too large.
    """
    try:
        if not path.is_file():  # a named pipe would wait for a writer
            raise CorruptFileError(missing)
        size = path.stat().st_size
        if size > most:
            raise CorruptFileError(f"{path} has {size} bytes, more than the {most} that an adapter may have.")
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror}.") from error
