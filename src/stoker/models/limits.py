"""Sizes of models that Stoker runs; every reader of model files checks its config against them."""

from stoker.core.errors import UnsupportedModelError
from stoker.models.config import ModelConfig

GROUP = 32
"""Weights are grouped by this many elements along their inner dimension."""

MAX_LAYERS = 1024
MAX_WIDTH = 2**16
MAX_FFN_WIDTH = 2**20
MAX_CONTEXT_LENGTH = 2**27
MAX_HEADS = 1024
MAX_HEAD_SIZE = 256
MAX_VOCAB_SIZE = 2**22
MAX_EXPERTS = 1024
MAX_EXPERT_ROWS = 2**24
"""The matrices of all experts of a layer are one, with fewer rows than this (``native/src/shape.cpp``)."""


def check_sizes(label: str, config: ModelConfig) -> None:
    """Refuse sizes that the weights' layout cannot hold.

    Args:
        label: The file's name, for messages.
        config: The model's shape.

    Raises:
        UnsupportedModelError: A size is not a multiple of `GROUP`, or a head, or all experts together, are
            too large.
    """
    for what, size in (("width", config.width), ("feed-forward width", config.ffn_width)):
        if size % GROUP:
            raise UnsupportedModelError(f"{label} has a {what} of {size}; Stoker runs multiples of {GROUP}.")
    check_head_size(label, config.head_size)
    n_experts = 1 if config.experts is None else config.experts.n_experts
    if n_experts * max(config.width, config.ffn_width) >= MAX_EXPERT_ROWS:
        raise UnsupportedModelError(
            f"{label} has {n_experts} experts of a width of {config.width} and an inner width of "
            f"{config.ffn_width}; Stoker runs fewer than {MAX_EXPERT_ROWS} outputs of all experts together."
        )


def check_head_size(label: str, head_size: int) -> None:
    """Refuse heads that attention cannot hold; as `check_sizes`."""
    if head_size % GROUP or not 1 <= head_size <= MAX_HEAD_SIZE:
        raise UnsupportedModelError(
            f"{label} has heads of {head_size} elements; "
            f"Stoker runs multiples of {GROUP} up to {MAX_HEAD_SIZE}."
        )
