"""Names of KV blocks beyond the engine's memory: a cryptographic hash chain.

A block's id says nothing once its memory has another content. Its name does: it is the BLAKE2b hash of
the name before it and its 16 tokens, and the first name is the hash of the namespace. So equal names
mean the same model, salt, adapter and tokens from the first on; the tokens are compared beside it all
the same.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from stoker.kvcache.prefix_index import Namespace

NAME_BYTES = 32
"""Length of a name."""


class Link(NamedTuple):
    """One block of a chain.

    Attributes:
        name: Its name.
        parent: The name of what precedes it: a block or a namespace.
        tokens: Its token ids, ``[BLOCK_TOKENS]``.
    """

    name: bytes
    parent: bytes
    tokens: tuple[int, ...]


def root_name(namespace: Namespace) -> bytes:
    """Return the name that the first blocks of a namespace have for a parent."""
    digest = blake2b(digest_size=NAME_BYTES, person=b"stoker-kv-root")
    # Without an adapter the names are those from before there were any: files of blocks stay good.
    parts = (namespace.root, namespace.cache_salt, *filter(None, [namespace.adapter]))
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.digest()


def link(parent: bytes, tokens: Sequence[int]) -> Link:
    """Return the block of these tokens that follows `parent`."""
    content = parent + array("I", tokens).tobytes()
    return Link(blake2b(content, digest_size=NAME_BYTES).digest(), parent, tuple(tokens))
