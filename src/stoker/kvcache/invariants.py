"""What must hold of the KV cache between any two operations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache.blocks import BlockPool
from stoker.kvcache.chain import Link, link, root_name
from stoker.kvcache.prefix_index import PrefixIndex


def check_cache(
    pool: BlockPool, index: PrefixIndex, idle: Iterable[int], tables: Iterable[Sequence[int]]
) -> None:
    """Verify counts, states, index and eviction order against the holders' tables.

    Args:
        pool: References and free blocks.
        index: The published blocks.
        idle: Cached blocks, next to be evicted first.
        tables: Block tables of everybody who holds blocks.

    Raises:
        EngineError: An invariant is broken.
    """
    eviction_order = list(idle)
    _check_counts(pool, tables)
    _check_states(pool, index, eviction_order)
    _check_index(pool, index)
    _check_leaf_first(index, eviction_order)


def check_links(index: PrefixIndex, links: Mapping[int, Link]) -> None:
    """Verify that every published block, and no other, has the name of its prefix.

    Raises:
        EngineError: An invariant is broken.
    """
    if links.keys() != index.key_of.keys():
        raise _broken("the blocks that have names are not those that are published")
    for block, (parent, tokens) in index.key_of.items():
        before = links[parent].name if isinstance(parent, int) else root_name(parent)
        if links[block] != link(before, tokens):
            raise _broken(f"block {block} has the name of another prefix")


def _broken(what: str) -> EngineError:
    return EngineError(f"KV cache: {what}; report this bug")


def _check_counts(pool: BlockPool, tables: Iterable[Sequence[int]]) -> None:
    held: Counter[int] = Counter()
    for table in tables:
        if len(set(table)) != len(table):
            raise _broken(f"a table names a block twice: {table}")
        held.update(table)
    for block, references in enumerate(pool.references):
        if references != held[block]:
            raise _broken(f"block {block} counts {references} references and has {held[block]}")


def _check_states(pool: BlockPool, index: PrefixIndex, eviction_order: list[int]) -> None:
    held = {block for block, references in enumerate(pool.references) if references}
    states = [*held, *pool.free, *eviction_order]
    if sorted(states) != list(range(len(pool.references))):
        raise _broken("a block is not exactly one of held, cached and free")
    if not index.key_of.keys().isdisjoint(pool.free):
        raise _broken("a free block is published")
    if not index.key_of.keys() >= set(eviction_order):
        raise _broken("a cached block is not published")


def _check_index(pool: BlockPool, index: PrefixIndex) -> None:
    if len(index.block_of) != len(index.key_of):
        raise _broken("the index's two directions differ in size")
    for block, key in index.key_of.items():
        parent, tokens = key
        if index.block_of.get(key) != block:
            raise _broken(f"block {block} is not found under its own key")
        if len(tokens) != BLOCK_TOKENS:
            raise _broken(f"block {block} is published but not full")
        if isinstance(parent, int):
            if parent not in index.key_of:
                raise _broken(f"block {block} stayed in the index when its parent {parent} left")
            if pool.references[block] and not pool.references[parent]:
                raise _broken(f"block {block} is held but its parent {parent} is not")
        if _depth(index, block) > len(index.key_of):
            raise _broken(f"block {block} is its own ancestor")


def _depth(index: PrefixIndex, block: int) -> int:
    """Return the number of blocks from the namespace to `block`; more than there are if it is a loop."""
    depth = 1
    parent = index.key_of[block][0]
    while isinstance(parent, int) and parent in index.key_of and depth <= len(index.key_of):
        depth += 1
        parent = index.key_of[parent][0]
    return depth


def _check_leaf_first(index: PrefixIndex, eviction_order: list[int]) -> None:
    place = {block: i for i, block in enumerate(eviction_order)}
    for block, i in place.items():
        parent = index.key_of[block][0]
        if isinstance(parent, int) and place.get(parent, i + 1) < i:
            raise _broken(f"block {parent} would be evicted before its child {block}")
