import pytest

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache import KVCache, Namespace, blocks_for
from stoker.testing.workloads import make_tokens

ROOT = Namespace("weights-f16", "")


def fill(cache: KVCache, tokens: tuple[int, ...], namespace: Namespace = ROOT) -> list[int]:
    """Take blocks for `tokens` as a sequence does, compute them all and return the table."""
    hits = cache.match(namespace, tokens)
    table = cache.reserve(hits, blocks_for(len(tokens)) - len(hits))
    assert table is not None
    fresh = table[len(hits) :]
    rest: int | Namespace = table[len(hits) - 1] if hits else namespace
    for i, block in enumerate(fresh, len(hits)):
        block_tokens = tokens[i * BLOCK_TOKENS : (i + 1) * BLOCK_TOKENS]
        if len(block_tokens) == BLOCK_TOKENS:
            rest = table[i] = cache.publish(rest, block_tokens, block)
    return table


@pytest.mark.parametrize(("n_tokens", "n_blocks"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2)])
def test_blocks_for(n_tokens: int, n_blocks: int) -> None:
    assert blocks_for(n_tokens) == n_blocks


@pytest.mark.parametrize(
    ("n_tokens", "n_hits"), [(1, 0), (15, 0), (16, 0), (17, 1), (32, 1), (33, 2), (48, 2), (49, 3), (60, 3)]
)
def test_a_hit_leaves_at_least_the_last_token(n_tokens: int, n_hits: int) -> None:
    cache = KVCache(8)
    table = fill(cache, make_tokens("a", 64))
    assert cache.match(ROOT, make_tokens("a", 64)[:n_tokens]) == table[:n_hits]


def test_a_hit_ends_at_the_first_other_token() -> None:
    cache = KVCache(8)
    tokens = make_tokens("a", 64)
    table = fill(cache, tokens)
    for position in range(64):
        other = (*tokens[:position], tokens[position] + 1, *tokens[position + 1 :], 0)
        assert cache.match(ROOT, other) == table[: position // BLOCK_TOKENS]


def test_equal_blocks_behind_different_prefixes_are_not_shared() -> None:
    cache = KVCache(8)
    same = make_tokens("same", 16)
    first = fill(cache, make_tokens("a", 16) + same)
    second = fill(cache, make_tokens("b", 16) + same)
    assert not set(first) & set(second)
    cache.check([first, second])


def test_a_block_repeated_in_one_sequence_is_two_blocks() -> None:
    cache = KVCache(8)
    tokens = make_tokens("a", 16) * 3
    table = fill(cache, tokens)
    assert len(set(table)) == 3
    assert cache.match(ROOT, (*tokens, 0)) == table


@pytest.mark.parametrize("other", [Namespace("weights-q8", ""), Namespace("weights-f16", "tenant")])
def test_nothing_is_shared_across_namespaces(other: Namespace) -> None:
    cache = KVCache(8)
    tokens = make_tokens("a", 40)
    fill(cache, tokens)
    assert cache.match(other, tokens) == []
    assert len(cache.match(ROOT, tokens)) == 2


def test_an_unpublished_block_is_not_found_and_is_free_when_released() -> None:
    cache = KVCache(4)
    table = cache.reserve([], 2)
    assert table is not None
    assert cache.match(ROOT, make_tokens("a", 40)) == []
    cache.release(table)
    assert (cache.n_available, cache.n_cached) == (4, 0)
    cache.check([])


def test_the_first_to_publish_wins_and_the_second_adopts() -> None:
    cache = KVCache(4)
    tokens = make_tokens("a", 16)
    first, second = cache.allocate(), cache.allocate()
    assert first is not None
    assert second is not None
    assert cache.publish(ROOT, tokens, first) == first
    assert cache.publish(ROOT, tokens, second) == first
    cache.check([[first], [first]])
    assert cache.n_available == 3
    cache.release([first])
    cache.check([[first]])
    cache.release([first])
    assert cache.n_cached == 1


def test_publishing_adopts_a_block_that_had_become_idle() -> None:
    cache = KVCache(4)
    tokens = make_tokens("a", 16)
    cache.release(fill(cache, tokens))
    late = cache.allocate()
    assert late is not None
    adopted = cache.publish(ROOT, tokens, late)
    assert adopted != late
    cache.check([[adopted]])
    assert (cache.n_available, cache.n_cached) == (3, 0)


def test_exchange_swaps_only_for_a_published_block() -> None:
    cache = KVCache(4)
    tokens = make_tokens("a", 16)
    own = cache.allocate()
    assert own is not None
    assert cache.exchange(ROOT, tokens, own) is None
    cache.check([[own]])
    table = fill(cache, tokens)
    assert cache.exchange(ROOT, tokens, own) == table[0]
    cache.check([table, table])


def test_reserve_takes_nothing_when_there_is_not_enough() -> None:
    cache = KVCache(4)
    table = fill(cache, make_tokens("a", 33))
    cache.release(table)
    hits = cache.match(ROOT, make_tokens("a", 40))
    assert len(hits) == 2
    # The two hits are idle: they count as available, and cannot be evicted for the rest.
    assert cache.reserve(hits, 3) is None
    assert cache.reserve(hits, 2, spare=1) is None
    cache.check([])
    taken = cache.reserve(hits, 2)
    assert taken is not None
    assert taken[:2] == hits
    cache.check([taken])
    assert cache.n_available == 0
    assert cache.allocate() is None


def test_eviction_takes_the_least_recently_used_leaf_first() -> None:
    cache = KVCache(6)
    old = fill(cache, make_tokens("old", 48))
    new = fill(cache, make_tokens("new", 48))
    cache.release(old)
    cache.release(new)
    evicted = [cache.allocate() for _ in range(6)]
    assert evicted == [*reversed(old), *reversed(new)]


def test_a_hit_makes_a_prefix_recently_used() -> None:
    cache = KVCache(4)
    first = fill(cache, make_tokens("first", 32))
    second = fill(cache, make_tokens("second", 32))
    cache.release(first)
    cache.release(second)
    again = cache.reserve(cache.match(ROOT, make_tokens("first", 33)), 0)
    assert again == first
    cache.release(again)
    assert [cache.allocate() for _ in range(4)] == [*reversed(second), *reversed(first)]


def test_a_shared_parent_outlives_its_idle_children() -> None:
    cache = KVCache(6)
    stem = make_tokens("stem", 32)
    one = fill(cache, stem + make_tokens("one", 16))
    two = fill(cache, stem + make_tokens("two", 16))
    assert one[:2] == two[:2]
    cache.release(one)
    cache.check([two])
    assert cache.n_cached == 1
    taken = [cache.allocate() for _ in range(3)]
    assert one[2] in taken
    assert cache.allocate() is None
    cache.release(two)
    cache.check([[block] for block in taken if block is not None])
    assert cache.match(ROOT, (*stem, *make_tokens("two", 17))) == two


def test_a_block_is_not_found_once_evicted() -> None:
    cache = KVCache(3)
    tokens = make_tokens("a", 48)
    table = fill(cache, tokens)
    cache.release(table)
    assert cache.allocate() == table[2]
    assert cache.match(ROOT, (*tokens, 0)) == table[:2]
    assert cache.key_of(table[2]) is None


def test_releasing_a_block_too_often_is_an_error() -> None:
    cache = KVCache(2)
    table = cache.reserve([], 1)
    assert table is not None
    cache.release(table)
    with pytest.raises(EngineError, match="released more often"):
        cache.release(table)
