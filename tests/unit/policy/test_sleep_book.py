"""Who sleeps and who wakes: the rules one by one, then random histories of which every step is checked."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.policy.sleep_book import Change, Rest, SleepBook, SleepReason


def book_of(budget: int | None, sleep_after_s: float = 0.0, **needs: int) -> SleepBook:
    book = SleepBook(budget)
    for name, need in needs.items():
        book.add(name, need_bytes=need, sleep_after_s=sleep_after_s, now_s=0.0)
    return book


def wake(book: SleepBook, name: str, now_s: float) -> list[Change]:
    """Wake a model for one who does not stay; return what had to be begun for it, in order."""
    begun = []
    book.wait(name)
    while book.rest(name) is not Rest.WAKING:
        changes = book.changes(now_s)
        assert changes, f"nobody makes room for {name}"
        begun += changes
        for change in changes:
            if change.reason is not None:
                book.fell_asleep(change.name)
    book.woke(name, now_s)
    book.wait_no_more(name)
    book.check()
    return begun


def test_a_model_sleeps_after_its_time_without_users() -> None:
    book = book_of(None, sleep_after_s=10, a=1)
    wake(book, "a", 5)
    assert book.next_due_s() == 15
    assert book.enter("a")
    assert book.next_due_s() is None
    assert book.changes(100) == [], "a model that is used does not sleep"
    book.leave("a", 100)
    assert book.changes(109) == []
    assert book.changes(110) == [Change("a", SleepReason.IDLE)]
    assert not book.enter("a")


def test_the_least_recently_used_make_room_and_no_more_than_needed() -> None:
    book = book_of(10, a=3, b=3, c=3, d=4)
    for now_s, name in enumerate("abc"):
        wake(book, name, now_s)
    assert book.enter("a")
    book.leave("a", 7)
    assert wake(book, "d", 8) == [Change("b", SleepReason.MEMORY), Change("d")]


def test_nobody_sleeps_in_vain() -> None:
    book = book_of(10, a=5, b=5, c=10)
    wake(book, "a", 0)
    wake(book, "b", 1)
    assert book.enter("b")
    book.wait("c")
    assert book.changes(2) == [], "a alone is too small"
    book.leave("b", 3)
    assert book.changes(3) == [Change("a", SleepReason.MEMORY), Change("b", SleepReason.MEMORY)]
    assert book.changes(3) == [], "both are on their way"


def test_who_does_not_fit_is_not_overtaken() -> None:
    book = book_of(10, a=8, large=8, small=1)
    wake(book, "a", 0)
    assert book.enter("a")
    book.wait("large")
    book.wait("small")
    assert book.changes(1) == []
    book.wait_no_more("large")
    assert book.changes(1) == [Change("small")]


def test_a_model_that_is_wanted_while_it_falls_asleep_is_woken_then() -> None:
    book = book_of(None, a=1)
    wake(book, "a", 0)
    assert book.asked_to_sleep("a") == Change("a", SleepReason.ASKED)
    book.wait("a")
    assert book.changes(1) == []
    book.fell_asleep("a")
    assert book.changes(2) == [Change("a")]


def test_a_used_model_is_not_put_to_sleep_when_asked() -> None:
    book = book_of(None, a=1)
    assert book.asked_to_sleep("a") is None, "it sleeps"
    wake(book, "a", 0)
    book.enter("a")
    assert book.asked_to_sleep("a") is None


def test_a_failed_wake_leaves_the_model_asleep_and_its_memory_free() -> None:
    book = book_of(10, a=10)
    book.wait("a")
    assert book.changes(0) == [Change("a")]
    book.failed_to_wake("a")
    book.wait_no_more("a")
    assert book.held_bytes == 0
    assert book.changes(1) == []
    assert wake(book, "a", 2) == [Change("a")]


NAMES = st.sampled_from("abcd")


class SleepMachine(RuleBasedStateMachine):
    """Users come, wait, leave; engines start, fail and end; models are forgotten and added."""

    @initialize(
        budget=st.none() | st.integers(4, 12), needs=st.lists(st.integers(0, 4), min_size=4, max_size=4)
    )
    def begin(self, budget: int | None, needs: list[int]) -> None:
        self.now_s = 0.0
        self.needs = dict(zip("abcd", needs, strict=True))
        self.sleep_after_s = dict.fromkeys("abcd", 0.0)
        self.book = SleepBook(budget)
        self.uses = dict.fromkeys("abcd", 0)
        self.waits = dict.fromkeys("abcd", 0)
        self.present: set[str] = set()
        for name in "abcd":
            self.add(name, 0.0)

    def add(self, name: str, sleep_after_s: float) -> None:
        self.present.add(name)
        self.sleep_after_s[name] = sleep_after_s
        self.book.add(name, need_bytes=self.needs[name], sleep_after_s=sleep_after_s, now_s=self.now_s)

    def act(self) -> None:
        before = {name: self.book.rest(name) for name in self.present}
        for change in self.book.changes(self.now_s):
            if change.reason is None:
                assert before[change.name] is Rest.ASLEEP
                assert self.waits[change.name], "it is woken for nobody"
            else:
                assert before[change.name] is Rest.AWAKE
                assert self.uses[change.name] == 0, "a model that is used is put to sleep"
                if change.reason is SleepReason.IDLE:
                    assert self.sleep_after_s[change.name] > 0
        assert self.book.changes(self.now_s) == [], "what is begun is begun once"

    @rule(name=NAMES)
    def come(self, name: str) -> None:
        if name in self.present:
            if self.book.enter(name):
                self.uses[name] += 1
            else:
                self.book.wait(name)
                self.waits[name] += 1
            self.act()

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        if self.uses[name]:
            self.uses[name] -= 1
            self.book.leave(name, self.now_s)
            self.act()

    @rule(name=NAMES)
    def give_up(self, name: str) -> None:
        if self.waits[name]:
            self.waits[name] -= 1
            self.book.wait_no_more(name)
            self.act()

    @rule(name=NAMES, fails=st.booleans())
    def end_what_has_begun(self, name: str, *, fails: bool) -> None:
        if name not in self.present:
            return
        rest = self.book.rest(name)
        if rest is Rest.FALLING:
            self.book.fell_asleep(name)
        elif rest is Rest.WAKING:
            if fails:
                self.book.failed_to_wake(name)
            else:
                self.book.woke(name, self.now_s)
            for _ in range(self.waits[name]):
                self.book.wait_no_more(name)
                if not fails:
                    assert self.book.enter(name)
                    self.uses[name] += 1
            self.waits[name] = 0
        self.act()

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        if name in self.present and self.book.asked_to_sleep(name) is not None:
            assert self.uses[name] == 0

    @rule(name=NAMES, sleep_after_s=st.sampled_from([0.0, 1.0, 5.0]))
    def tune(self, name: str, sleep_after_s: float) -> None:
        if name in self.present:
            self.sleep_after_s[name] = sleep_after_s
            self.book.tune(name, sleep_after_s)
            self.act()

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        if name in self.present:
            self.book.remove(name)
            self.present.discard(name)
            self.uses[name] = self.waits[name] = 0
            self.act()

    @rule(name=NAMES, sleep_after_s=st.sampled_from([0.0, 1.0, 5.0]))
    def add_again(self, name: str, sleep_after_s: float) -> None:
        if name not in self.present:
            self.add(name, sleep_after_s)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now_s += seconds
        self.act()

    @precondition(lambda self: any(self.waits.values()))
    @rule()
    def everybody_who_waits_is_served_in_the_end(self) -> None:
        for name in self.present:
            for _ in range(self.uses[name]):
                self.book.leave(name, self.now_s)
            self.uses[name] = 0
        for _ in range(3 * len(self.needs)):
            self.act()
            for name in sorted(self.present):
                self.end_what_has_begun(name, fails=False)
                for _ in range(self.uses[name]):
                    self.book.leave(name, self.now_s)
                self.uses[name] = 0
        assert not any(self.waits.values())

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "book"):
            return
        self.book.check()
        budget = self.book.memory_budget_bytes
        assert budget is None or self.book.held_bytes <= budget
        due_s = self.book.next_due_s()
        assert due_s is None or due_s > self.now_s


TestSleepMachine = SleepMachine.TestCase
