"""The KV cache: sequences take, share and release blocks here."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache.blocks import BlockPool
from stoker.kvcache.chain import Link, link, root_name
from stoker.kvcache.invariants import check_cache, check_links
from stoker.kvcache.prefix_index import Namespace, Parent, PrefixIndex
from stoker.kvcache.tiers import Place, TierBooks


class KVCache:
    """Hands out blocks, shares those with equal prefixes and evicts when none is free.

    A block is in one of three states: *held* (one or more references), *cached* (no reference, kept
    in the prefix index) or *free*. Every operation costs O(1) per block.

    Cached blocks are evicted least recently used first. That order is leaf first by itself: whoever
    holds a block holds its ancestors too, and `release` gives up a table from its end, so a parent
    becomes idle after its children and stands behind them in the order.

    With tiers below it, every published block has a name (`stoker.kvcache.chain`); what is evicted is
    told to the tiers, and `restore` publishes what comes back from there.

    Args:
        n_blocks: Blocks in all.
        tiers: Where evicted blocks go and come back from; None to forget them.
    """

    __slots__ = ("_idle", "_index", "_links", "_pool", "_unwritten", "n_blocks", "tiers")

    def __init__(self, n_blocks: int, tiers: TierBooks | None = None) -> None:
        self.n_blocks = n_blocks
        self.tiers = tiers
        self._pool = BlockPool(n_blocks)
        self._index = PrefixIndex()
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._links: dict[int, Link] = {}  # of every published block, if there are tiers
        self._unwritten: OrderedDict[int, bytes] = OrderedDict()  # names of blocks that the disk is to have

    @property
    def n_available(self) -> int:
        """Blocks that can be taken now: the free ones and those cached for nobody."""
        return len(self._pool.free) + len(self._idle)

    @property
    def n_cached(self) -> int:
        """Blocks held by nobody that keep a prefix for later."""
        return len(self._idle)

    def key_of(self, block: int) -> tuple[Parent, tuple[int, ...]] | None:
        """Return the prefix key under which a block is published, or None."""
        return self._index.key_of.get(block)

    def match(self, namespace: Namespace, tokens: Sequence[int]) -> list[int]:
        """Return the blocks of the longest indexed prefix of `tokens`, without taking them.

        At least the last token is left uncovered: it has to be computed for its logits.
        """
        block_of = self._index.block_of
        hits: list[int] = []
        parent: Parent = namespace
        for start in range(0, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):
            block = block_of.get((parent, tuple(tokens[start : start + BLOCK_TOKENS])))
            if block is None:
                break
            hits.append(block)
            parent = block
        return hits

    def touch_rest(self, namespace: Namespace, hits: Sequence[int], tokens: Sequence[int]) -> None:
        """Let what follows `hits` in host memory outlast the blocks that are about to be evicted.

        Args:
            namespace: The sequence's.
            hits: What `match` returned.
            tokens: What it was given.
        """
        tiers = self.tiers
        if tiers is None or not tiers.n_host:
            return
        found = []
        parent: Parent = hits[-1] if hits else namespace
        before = self._links[parent].name if isinstance(parent, int) else root_name(parent)
        for start in range(len(hits) * BLOCK_TOKENS, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):
            each = link(before, tokens[start : start + BLOCK_TOKENS])
            if tiers.find(each) is not Place.HOST:
                break
            found.append(each)
            before = each.name
        tiers.touch(found)

    def reserve(self, hits: Sequence[int], n_new: int, *, spare: int = 0) -> list[int] | None:
        """Take `hits` (fresh from `match`) and `n_new` blocks more: a sequence's first block table.

        Args:
            hits: Blocks of an indexed prefix, in order.
            n_new: Blocks to allocate behind them.
            spare: Leave at least this many blocks available.

        Returns:
            The block table, or None, with nothing taken, when there are not enough blocks.
        """
        references = self._pool.references
        n_idle_hits = sum(not references[block] for block in hits)
        if self.n_available - n_idle_hits < n_new + spare:
            return None
        for block in hits:
            self._take(block)
        table = list(hits)
        table.extend(self._take_new() for _ in range(n_new))
        return table

    def allocate(self) -> int | None:
        """Take one block, evicting a cached one if none is free; None when every block is held."""
        return self._take_new() if self._pool.free or self._idle else None

    def publish(self, parent: Parent, tokens: Sequence[int], block: int) -> int:
        """Let others share a block whose tokens are all computed.

        If another sequence has published the same prefix meanwhile, the caller gets that block for
        its own, which is freed: the engine computes bitwise the same content for both.

        Args:
            parent: The block before it (itself published), or the namespace for a first block.
            tokens: The block's token ids, ``[BLOCK_TOKENS]``.
            block: A held block that is not published.

        Returns:
            The block to use from now on: `block`, or the one published before.
        """
        key = (parent, tuple(tokens))
        published = self._index.block_of.get(key)
        if published is None:
            self._index.add(key, block)
            if self.tiers is not None:
                self._links[block] = self.link(parent, key[1])
            return block
        self._swap(block, published)
        return published

    def link(self, parent: Parent, tokens: Sequence[int]) -> Link:
        """Return the name of a block that follows `parent`, which is published; only with tiers."""
        return link(self._links[parent].name if isinstance(parent, int) else root_name(parent), tokens)

    @staticmethod
    def link_after(before: Link, tokens: Sequence[int]) -> Link:
        """Return the name of the block that follows another one, published or not."""
        return link(before.name, tokens)

    def restore(self, parent: Parent, link: Link, block: int) -> None:
        """Publish a held block that is filled from host memory before the next step.

        Args:
            parent: As in `publish`.
            link: Its name, not published yet, which the tiers have in host memory.
            block: A held block that is not published.
        """
        if self.tiers is None:
            raise EngineError("a KV cache without tiers was told to restore a block; report this bug")
        self._index.add((parent, link.tokens), block)
        self._links[block] = link
        self.tiers.load(link, block)

    def keep(self, table: Sequence[int]) -> None:
        """Have published blocks written to the disk tier, if there is one, as far as it lacks them."""
        tiers = self.tiers
        if tiers is None or not tiers.writing:
            return
        for block in table:
            name = self._links[block].name
            if tiers.wants(name):
                self._unwritten[block] = name

    def save_unwritten(self, most: int) -> None:
        """Hand some of the blocks that are kept to the tiers; none that has been evicted meanwhile."""
        tiers = self.tiers
        if tiers is None:
            return
        n_left = min(most, tiers.room_for_writes)
        while n_left > 0 and self._unwritten:
            block, name = self._unwritten.popitem(last=False)
            held = self._links.get(block)
            if held is not None and held.name == name and tiers.wants(name):
                n_left -= tiers.keep(held, block)

    @property
    def n_unwritten(self) -> int:
        """Blocks that are to be written to the disk tier and have not been handed to it."""
        return len(self._unwritten)

    def exchange(self, parent: Parent, tokens: Sequence[int], block: int) -> int | None:
        """Swap a held block that is not computed yet for a published one with these tokens.

        Args:
            parent: As in `publish`.
            tokens: The token ids that the block is to hold, ``[BLOCK_TOKENS]``.
            block: A held block that is not published.

        Returns:
            The published block, or None, with nothing changed, if there is none.
        """
        published = self._index.block_of.get((parent, tuple(tokens)))
        if published is not None:
            self._swap(block, published)
        return published

    def release(self, table: Sequence[int]) -> None:
        """Give up one reference to each block of a sequence's table.

        Raises:
            EngineError: A block was released more often than it was taken.
        """
        for block in reversed(table):
            self._drop(block)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Verify every invariant exactly, given the block tables of all holders.

        Raises:
            EngineError: An invariant is broken; the message says which.
        """
        check_cache(self._pool, self._index, self._idle, tables)
        if self.tiers is not None:
            check_links(self._index, self._links)
            self.tiers.check()

    def _swap(self, block: int, published: int) -> None:
        self._take(published)
        self._drop(block)

    def _take(self, block: int) -> None:
        references = self._pool.references
        if not references[block]:
            del self._idle[block]
        references[block] += 1

    def _take_new(self) -> int:
        pool = self._pool
        if pool.free:
            block = pool.free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._index.remove(block)
            if self.tiers is not None:
                self.tiers.evicted(self._links.pop(block), block)
        pool.references[block] = 1
        return block

    def _drop(self, block: int) -> None:
        if not self._pool.drop(block):
            return
        if block in self._index.key_of:
            self._idle[block] = None
        else:
            self._pool.free.append(block)
