"""How much memory a sequence's keys and values take, out of a file's metadata."""

from stoker.core.step import BLOCK_TOKENS
from stoker.models.gguf import Metadata

_F16_BYTES = 2


def kv_block_bytes(architecture: str, metadata: Metadata) -> int:
    """Return the memory of one KV block of `BLOCK_TOKENS` tokens over all layers; at least 1.

    llama.cpp runs architectures that say nothing of heads, since they keep a state of one size whatever
    the length. Files that give numbers layer by layer are taken by the layer that needs most.

    Raises:
        CorruptFileError: A number has another type.
    """

    def largest(suffix: str, default: int) -> int:
        key = f"{architecture}.{suffix}"
        if key in metadata and not isinstance(metadata.get(key), int | float | str | bool):
            return max(metadata.integers(key), default=0)
        return metadata.integer(key, default)

    n_layers, width = largest("block_count", 0), largest("embedding_length", 0)
    n_heads = largest("attention.head_count", 0)
    n_kv_heads = largest("attention.head_count_kv", n_heads)
    head_size = width // n_heads if n_heads > 0 else 0
    row = largest("attention.key_length", head_size) + largest("attention.value_length", head_size)
    return max(1, n_layers * n_kv_heads * row * BLOCK_TOKENS * _F16_BYTES)


def most_kv_bytes(block_bytes: int, *, context_length: int, max_running: int) -> int:
    """Return the memory of a whole context in every slot: llama.cpp has no use for more, and would touch it.

    A file that says nothing of heads has blocks of 1 byte, of which any size would make far too many.
    """
    return -(-context_length // BLOCK_TOKENS) * max_running * block_bytes
