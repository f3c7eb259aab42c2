"""`KVCache.check` is what other tests rely on, so each fault that it looks for is made here."""

from collections.abc import Callable

import pytest

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache import KVCache, Namespace, Parent
from stoker.testing.workloads import make_tokens

ROOT = Namespace("root", "")
STEM, LEAF, HELD, UNPUBLISHED, FREE = range(5)


def make_cache() -> KVCache:
    """Return a cache with a cached stem and leaf, one block held, one unpublished and one free."""
    cache = KVCache(5)
    assert [cache.allocate() for _ in range(4)] == [STEM, LEAF, HELD, UNPUBLISHED]
    cache.publish(ROOT, make_tokens("stem", 16), STEM)
    cache.publish(STEM, make_tokens("leaf", 16), LEAF)
    cache.publish(ROOT, make_tokens("held", 16), HELD)
    cache.release([STEM, LEAF])
    cache.check(TABLES)
    return cache


TABLES = [[HELD, UNPUBLISHED]]


def rekey(cache: KVCache, block: int, parent: Parent, n_tokens: int = BLOCK_TOKENS) -> None:
    cache._index.remove(block)
    cache._index.add((parent, make_tokens("rekeyed", n_tokens)), block)


def count_too_many(cache: KVCache) -> None:
    cache._pool.references[HELD] += 1


def free_a_held_block(cache: KVCache) -> None:
    cache._pool.free.append(UNPUBLISHED)


def free_a_block_twice(cache: KVCache) -> None:
    cache._pool.free.append(FREE)


def lose_a_block(cache: KVCache) -> None:
    cache._pool.free.clear()


def free_a_published_block(cache: KVCache) -> None:
    del cache._idle[LEAF]
    cache._pool.free.append(LEAF)


def cache_an_unpublished_block(cache: KVCache) -> None:
    cache._idle[FREE] = None
    cache._pool.free.clear()


def forget_a_key(cache: KVCache) -> None:
    del cache._index.block_of[cache._index.key_of[HELD]]


def swap_two_keys(cache: KVCache) -> None:
    keys = cache._index.key_of
    keys[STEM], keys[HELD] = keys[HELD], keys[STEM]


def publish_half_a_block(cache: KVCache) -> None:
    rekey(cache, HELD, ROOT, n_tokens=8)


def evict_a_parent(cache: KVCache) -> None:
    del cache._idle[STEM]
    cache._index.remove(STEM)
    cache._pool.free.append(STEM)


def hold_a_child_alone(cache: KVCache) -> None:
    rekey(cache, HELD, LEAF)


def make_a_loop(cache: KVCache) -> None:
    rekey(cache, STEM, LEAF)


def put_the_parent_first(cache: KVCache) -> None:
    cache._idle.move_to_end(LEAF)


FAULTS: list[tuple[Callable[[KVCache], None], str]] = [
    (count_too_many, "counts 2 references and has 1"),
    (free_a_held_block, "not exactly one of"),
    (free_a_block_twice, "not exactly one of"),
    (lose_a_block, "not exactly one of"),
    (free_a_published_block, "a free block is published"),
    (cache_an_unpublished_block, "a cached block is not published"),
    (forget_a_key, "differ in size"),
    (swap_two_keys, "not found under its own key"),
    (publish_half_a_block, "published but not full"),
    (evict_a_parent, "stayed in the index when its parent"),
    (hold_a_child_alone, "held but its parent"),
    (make_a_loop, "its own ancestor"),
    (put_the_parent_first, "evicted before its child"),
]


@pytest.mark.parametrize(("break_it", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_check_finds(break_it: Callable[[KVCache], None], message: str) -> None:
    cache = make_cache()
    break_it(cache)
    with pytest.raises(EngineError, match=message):
        cache.check(TABLES)


def test_check_finds_a_table_that_names_a_block_twice() -> None:
    with pytest.raises(EngineError, match="names a block twice"):
        make_cache().check([[HELD, UNPUBLISHED, HELD]])


def test_check_finds_a_leak() -> None:
    with pytest.raises(EngineError, match="counts 1 references and has 0"):
        make_cache().check([[HELD]])
