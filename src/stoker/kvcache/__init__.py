"""The paged KV cache's books: blocks, reference counts, prefix sharing and eviction. Pure Python.

The memory itself belongs to the engine; here are only block ids.
"""

from stoker.kvcache.blocks import blocks_for
from stoker.kvcache.cache import KVCache
from stoker.kvcache.prefix_index import Namespace, Parent

__all__ = ["KVCache", "Namespace", "Parent", "blocks_for"]
