"""Names of blocks, and the books of the tiers below the KV cache."""

import pytest

from stoker.core.errors import EngineError
from stoker.kvcache import KVCache, Link, Namespace, Place, TierBooks
from stoker.kvcache.chain import link, root_name

NAMESPACE = Namespace("weights", "salt")
ROOT = root_name(NAMESPACE)


def chain(n: int, *, first: int = 0) -> list[Link]:
    links: list[Link] = []
    for index in range(n):
        links.append(link(links[-1].name if links else ROOT, [first + index] * 16))
    return links


def books(n_slots: int = 4, *, disk: bool = False) -> TierBooks:
    made = TierBooks(n_slots, disk=disk, max_reads=2, max_writes=2)
    made.scanned()
    return made


def test_a_name_is_of_the_namespace_and_of_all_tokens_up_to_it() -> None:
    names = {
        root_name(Namespace(root, salt))
        for root, salt in (
            ("weights", ""),
            ("weights", "a"),
            ("weightsa", ""),
            ("weight", "sa"),
            ("", "weights"),
        )
    }
    assert len(names) == 5
    adapted = {root_name(Namespace(*parts)) for parts in (("weights", "", "a"), ("weights", "a", "a"))}
    assert len(names | adapted) == 7
    one, other = chain(3), chain(3, first=100)
    assert [each.tokens for each in one[1:]] == [(1,) * 16, (2,) * 16]
    assert one[1].parent == one[0].name
    assert {each.name for each in one}.isdisjoint(each.name for each in other)
    assert link(other[0].name, one[1].tokens).name != one[1].name
    assert link(one[0].name, [0] * 15 + [1]) != link(one[0].name, [1] + [0] * 15)


def test_an_evicted_block_is_found_until_its_slot_is_needed() -> None:
    tiers = books(2)
    first, second, third = chain(3)
    tiers.evicted(first, 7)
    tiers.evicted(second, 8)
    assert [tiers.find(each) for each in (first, second, third)] == [Place.HOST, Place.HOST, Place.NOWHERE]
    assert sorted(tiers.saves.values()) == [7, 8]
    tiers.saves.clear()
    tiers.touch([first])
    tiers.evicted(third, 9)
    assert [tiers.find(each) for each in (first, second, third)] == [Place.HOST, Place.NOWHERE, Place.HOST]
    assert (tiers.counters.demoted, tiers.counters.dropped) == (3, 1)
    tiers.check()


def test_a_slot_that_is_given_on_before_it_was_saved_to_is_saved_to_once() -> None:
    tiers = books(1)
    first, second = chain(2)
    tiers.evicted(first, 7)
    tiers.evicted(second, 8)
    assert list(tiers.saves.values()) == [8]
    tiers.check()


def test_what_was_loaded_makes_room_first_and_is_not_saved_again() -> None:
    tiers = books(2)
    first, second, third = chain(3)
    tiers.evicted(first, 7)
    tiers.evicted(second, 8)
    tiers.saves.clear()
    tiers.load(second, 5)
    assert list(tiers.loads) == [5]
    tiers.loads.clear()
    tiers.evicted(second, 5)
    assert not tiers.saves, "its slot still has it"
    tiers.load(second, 6)
    tiers.evicted(third, 9)
    assert tiers.find(second) is Place.NOWHERE
    assert tiers.counters.dropped == 0, "the KV cache has it"


def test_a_name_with_other_tokens_is_not_taken_for_it() -> None:
    tiers = books()
    (first,) = chain(1)
    tiers.evicted(first, 7)
    assert tiers.find(first._replace(tokens=(9,) * 16)) is Place.NOWHERE


def test_writes_are_handed_on_as_far_as_there_is_room_and_their_slots_stay() -> None:
    tiers = books(3, disk=True)
    links = chain(4)
    for block, each in enumerate(links[:3]):
        tiers.evicted(each, block)
    writes = tiers.next_writes()
    assert [write.link for write in writes] == links[:2]
    assert tiers.next_writes() == []
    tiers.evicted(links[3], 3)
    assert tiers.find(links[2]) is Place.NOWHERE, "it alone could make room"
    assert tiers.counters.dropped == 1
    tiers.check()
    tiers.written(links[0].name, done=True)
    assert [write.link for write in tiers.next_writes()] == [links[3]]
    tiers.written(links[1].name, done=False)
    assert (tiers.counters.written, tiers.counters.write_failures, tiers.n_disk) == (1, 1, 1)
    tiers.check()


def test_nobody_waits_when_every_slot_is_being_written() -> None:
    tiers = books(2, disk=True)
    links = chain(3)
    for block, each in enumerate(links[:2]):
        tiers.evicted(each, block)
    tiers.next_writes()
    tiers.evicted(links[2], 2)
    assert not tiers.ask(links[2])
    assert not tiers.keep(links[2], 2)
    assert tiers.counters.dropped == 2
    tiers.check()


def test_a_block_is_read_into_a_slot_and_is_there_when_it_has_arrived() -> None:
    tiers = books(disk=True)
    first, second, third = chain(3)
    tiers.found([each.name for each in (first, second, third)])
    assert tiers.find(first) is Place.DISK
    assert tiers.ask(first)
    assert tiers.ask(second)
    assert not tiers.ask(third), "two at a time"
    assert tiers.find(first) is Place.COMING
    assert (tiers.n_coming, tiers.n_host) == (2, 0)
    tiers.arrived(first.name)
    tiers.missing(second.name, failed=True)
    assert [tiers.find(each) for each in (first, second)] == [Place.HOST, Place.NOWHERE]
    assert tiers.counters.read_failures == 1
    tiers.load(first, 3)
    assert (tiers.counters.disk_tokens, tiers.counters.host_tokens) == (16, 0)
    tiers.check()


def test_before_the_folder_was_looked_at_anything_may_come() -> None:
    tiers = TierBooks(2, disk=True)
    (first,) = chain(1)
    assert tiers.find(first) is Place.COMING
    tiers.scanned()
    assert tiers.find(first) is Place.NOWHERE
    tiers.found([first.name])
    tiers.removed([first.name])
    assert tiers.find(first) is Place.NOWHERE


def test_after_a_failure_nothing_is_to_be_written() -> None:
    tiers = books(disk=True)
    first, second = chain(2)
    tiers.evicted(first, 0)
    tiers.stop_writing()
    tiers.evicted(second, 1)
    assert tiers.next_writes() == []
    assert tiers.room_for_writes == 0
    assert not tiers.wants(b"another")
    assert tiers.find(first) is Place.HOST
    tiers.check()


def test_the_cache_tells_the_tiers_what_it_evicts_and_publishes_what_is_restored() -> None:
    tiers = books()
    cache = KVCache(2, tiers)
    table = cache.reserve([], 2)
    assert table is not None
    links = chain(2)
    cache.publish(NAMESPACE, links[0].tokens, table[0])
    cache.publish(table[0], links[1].tokens, table[1])
    cache.release(table)
    others = cache.reserve([], 2)
    assert others is not None
    assert [tiers.find(each) for each in links] == [Place.HOST, Place.HOST]
    assert cache.link(NAMESPACE, links[0].tokens) == links[0]
    cache.restore(NAMESPACE, links[0], others[0])
    cache.restore(others[0], links[1], others[1])
    assert tiers.loads.keys() == set(others)
    assert cache.match(NAMESPACE, [0] * 16 + [1] * 16 + [2]) == others
    cache.check([others])


def test_without_tiers_nothing_can_be_restored() -> None:
    with pytest.raises(EngineError, match="without tiers"):
        KVCache(2).restore(NAMESPACE, chain(1)[0], 0)


@pytest.mark.parametrize(
    ("attribute", "value"), [("_n_coming", 1), ("_n_writing", 1), ("_free", [0]), ("saves", {3: 1})]
)
def test_a_broken_book_is_noticed(attribute: str, value: object) -> None:
    tiers = books()
    tiers.evicted(chain(1)[0], 1)
    setattr(tiers, attribute, value)
    with pytest.raises(EngineError, match="report this bug"):
        tiers.check()
