"""The paged KV cache's books: blocks, reference counts, prefix sharing, eviction, tiers. Pure Python.

The memory itself belongs to the engine, host memory and files to the worker; here are only ids and names.
"""

from stoker.kvcache.blocks import blocks_for
from stoker.kvcache.cache import KVCache
from stoker.kvcache.chain import Link
from stoker.kvcache.prefix_index import Namespace, Parent
from stoker.kvcache.tiers import Place, TierBooks, TierCounters, Transfer

__all__ = [
    "KVCache",
    "Link",
    "Namespace",
    "Parent",
    "Place",
    "TierBooks",
    "TierCounters",
    "Transfer",
    "blocks_for",
]
