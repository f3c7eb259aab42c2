"""From a prefix to the block that holds its last 16 tokens.

This is a radix tree at block granularity kept in one dict: an entry's key is (parent, its tokens),
where the parent is the block before it, or the namespace for a first block. Tokens are compared
exactly, so no two prefixes can be confused. (The idea of sharing by a tree of prefixes is SGLang's
RadixAttention; that of block-sized keys is vLLM's.)
"""

from typing import NamedTuple


class Namespace(NamedTuple):
    """Sequences share blocks only within one namespace.

    Attributes:
        root: Names what the engine computes with: weights and KV type.
        cache_salt: The request's own salt.
        adapter: The digest of the adapter that it is computed with, empty for none.
    """

    root: str
    cache_salt: str
    adapter: str = ""


Parent = int | Namespace
"""What precedes a block: another indexed block, or nothing but the namespace."""

Key = tuple[Parent, tuple[int, ...]]


class PrefixIndex:
    """Both directions between keys and blocks; a block has one key at most.

    A block's id is part of its children's keys. So a block may leave the index only after its
    children have left: leaf first.
    """

    __slots__ = ("block_of", "key_of")

    def __init__(self) -> None:
        self.block_of: dict[Key, int] = {}
        self.key_of: dict[int, Key] = {}

    def add(self, key: Key, block: int) -> None:
        """Enter a block whose key is not in the index yet."""
        self.block_of[key] = block
        self.key_of[block] = key

    def remove(self, block: int) -> None:
        """Forget a block that has no children in the index."""
        del self.block_of[self.key_of.pop(block)]
