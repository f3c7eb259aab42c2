"""The tiers below the KV cache: host memory, files, and the thread between them.

`stoker.kvcache.tiers` has the books. Here are the memory and who copies (`mover`), the thread that alone
touches the disk (`disk`), the folder (`folder`) and the format of its files (`format`).
"""

from stoker.worker.tiers.folder import KVFolder
from stoker.worker.tiers.mover import BlockMover, blocks_per_step, make_books

__all__ = ["BlockMover", "KVFolder", "blocks_per_step", "make_books"]
