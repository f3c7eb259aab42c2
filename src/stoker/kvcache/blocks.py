"""KV blocks: who holds them, and which are free."""

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS


def blocks_for(n_tokens: int) -> int:
    """Return how many blocks hold `n_tokens` tokens."""
    return -(-n_tokens // BLOCK_TOKENS)


class BlockPool:
    """Reference counts of every block, and a stack of those that hold nothing.

    A block without references is either free or kept for its prefix; that is for the owner of the
    pool to decide when `drop` says that the last reference is gone.

    Args:
        n_blocks: Blocks in all; ids are ``0..n_blocks - 1``.
    """

    __slots__ = ("free", "references")

    def __init__(self, n_blocks: int) -> None:
        self.references = [0] * n_blocks
        # The most recently freed block is taken first: its memory is the likeliest to be in a CPU cache.
        self.free = list(range(n_blocks - 1, -1, -1))

    def drop(self, block: int) -> bool:
        """Give up one reference; True if it was the last.

        Raises:
            EngineError: Nobody holds the block.
        """
        references = self.references[block] - 1
        if references < 0:
            raise EngineError(f"KV block {block} was released more often than it was taken; report this bug")
        self.references[block] = references
        return references == 0
