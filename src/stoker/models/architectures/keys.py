"""A file's keys of its architecture: read within bounds, and none left over that may matter."""

from collections.abc import Mapping
from math import isfinite

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.gguf import Metadata

_NEUTRAL: dict[str, tuple[int | float | bool | str, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (0, 1),
    "attention.scale": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "router_logit_softcapping": (0,),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
    "use_parallel_residual": (False,),
}
"""Keys that change the computation, with the values that mean "not used"."""

_WITHOUT_EFFECT = frozenset(
    {
        "attention.layer_norm_epsilon",  # of a norm that no family here has
        "rope.scaling.finetuned",  # how the model came about; refused where it means more
        "tensor_data_layout",  # of the checkpoint that was converted
    }
)


class ArchitectureKeys:
    """Access to the keys ``<architecture>.<suffix>``, by suffix.

    Every getter raises `CorruptFileError` for a value of another type or out of bounds, and for a key
    that is missing when no default was given.

    Args:
        label: The file's name, for messages.
        metadata: The file's metadata.
        architecture: The architecture's name.
    """

    def __init__(self, label: str, metadata: Metadata, architecture: str) -> None:
        self.label = label
        self.architecture = architecture
        self.metadata = metadata
        self._read: set[str] = set()

    def __contains__(self, suffix: str) -> bool:
        return self.name(suffix) in self.metadata

    def name(self, suffix: str) -> str:
        """The whole key."""
        return f"{self.architecture}.{suffix}"

    def integer(self, suffix: str, most: int, default: int | None = None, *, least: int = 1) -> int:
        """An integer from `least` to `most`."""
        value = self.metadata.integer(self._reading(suffix), default)
        if not least <= value <= most:
            raise self._out_of_bounds(suffix, value, f"{least} to {most}")
        return value

    def number(
        self, suffix: str, default: float | None = None, *, least: float = 1e-12, most: float = 1e9
    ) -> float:
        """A number from `least` to `most`; by default, a positive one."""
        value = self.metadata.number(self._reading(suffix), default)
        if not isfinite(value):
            raise self._out_of_bounds(suffix, value, "a finite number")
        if not least <= value <= most:
            raise self._out_of_bounds(suffix, value, f"{least:g} to {most:g}")
        return value

    def text(self, suffix: str, default: str) -> str:
        """A string."""
        return self.metadata.text(self._reading(suffix), default)

    def flag(self, suffix: str, *, default: bool) -> bool:
        """A boolean."""
        return self.metadata.flag(self._reading(suffix), default=default)

    def flags(self, suffix: str) -> tuple[bool, ...] | None:
        """An array of booleans, or None when the key is missing or not an array."""
        return self.metadata.flags(self._reading(suffix)) if self.is_array(suffix) else None

    def is_array(self, suffix: str) -> bool:
        """Whether the key holds an array."""
        return self.metadata.is_array(self.name(suffix))

    def refuse_others(self, must_be: Mapping[str, bool]) -> None:
        """Refuse every key that was not read and may matter.

        Args:
            must_be: Values that keys must have if they are there, beside those of every architecture.

        Raises:
            UnsupportedModelError: There is one; its name and value are in the message.
        """
        prefix = f"{self.architecture}."
        for name in self.metadata.names():
            suffix = name.removeprefix(prefix)
            if suffix == name or suffix in self._read:
                continue
            if suffix in _WITHOUT_EFFECT and suffix not in must_be:
                continue
            neutral = (must_be[suffix],) if suffix in must_be else _NEUTRAL.get(suffix, ())
            if self.metadata.get(name) in neutral:
                continue
            runs = " or ".join(["absent", *map(repr, neutral)])
            raise UnsupportedModelError(
                f"{self.label} sets {name[:80]} to {self.metadata.shown_value(name)}, which Stoker does not "
                f"compute (it runs models where this is {runs})."
            )

    def _reading(self, suffix: str) -> str:
        self._read.add(suffix)
        return self.name(suffix)

    def _out_of_bounds(self, suffix: str, value: float, expected: str) -> CorruptFileError:
        return CorruptFileError(f"{self.label}: {self.name(suffix)} is {value}, expected {expected}.")
