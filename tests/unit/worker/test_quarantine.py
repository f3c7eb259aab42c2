"""Who is to blame when engines die."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from stoker.core.errors import RequestQuarantinedError
from stoker.core.grammar import Grammar, GrammarKind
from stoker.core.sampling import SamplingParams
from stoker.core.tokens import AdapterRef
from stoker.testing.workloads import make_request
from stoker.worker.quarantine import REMEMBERED, REMEMBERED_S, STRIKES, Case, Quarantine, digest


class Engines:
    """Engines, one after the other, that die as soon as they have a killer; the others make a token."""

    def __init__(self, *killers: str) -> None:
        self.quarantine = Quarantine()
        self.killers = killers
        self.number = 0
        self.cases: dict[str, Case] = {}
        self.died_with: list[set[str]] = []

    def open(self, *names: str) -> None:
        for name in names:
            self.cases[name] = self.quarantine.open(make_request(name), 0.0)

    def run(self) -> set[str]:
        """Give an engine whatever may run, and return what it had when it died, if it did."""
        for case in self.cases.values():
            if case.engine is None and self.quarantine.may_run(case):
                self.quarantine.submitted(case, self.number)
        had = {name for name, case in self.cases.items() if case.engine == self.number}
        if had & {*self.killers}:
            self.die()
            return had
        for name in had:
            self.quarantine.progressed(self.cases[name])
        self.quarantine.check()
        return set()

    def die(self) -> None:
        self.quarantine.died(self.number, 0.0)
        self.number += 1
        for name in [name for name, case in self.cases.items() if case.guilty]:
            self.quarantine.close(self.cases.pop(name))
        self.quarantine.check()


def test_a_killer_alone_is_found_with_the_second_death() -> None:
    engines = Engines("k")
    engines.open("k")
    assert [engines.run(), engines.run()] == [{"k"}, {"k"}]
    assert engines.cases == {}
    assert engines.quarantine.n_condemned == 1


@pytest.mark.parametrize("position", [0, 3, 7])
def test_a_killer_among_others_is_found_with_the_fourth_death(position: int) -> None:
    engines = Engines("k")
    names = [f"r{number}" for number in range(7)]
    names.insert(position, "k")
    engines.open(*names)
    assert [engines.run(), engines.run()] == [{*names}] * 2
    deaths = 2
    for _ in range(20):
        deaths += bool(engines.run())
    assert deaths == 4
    assert {*engines.cases} == {*names} - {"k"}
    assert all(case.engine == 4 and not case.suspect for case in engines.cases.values())


def test_while_there_is_a_line_nobody_new_joins_its_first() -> None:
    engines = Engines()
    engines.open("a", "b")
    for _ in range(2):
        for case in engines.cases.values():
            engines.quarantine.submitted(case, engines.number)
        engines.die()
    engines.open("new")
    may_run = [engines.quarantine.may_run(case) for case in engines.cases.values()]
    assert may_run == [True, False, False]
    engines.run()
    engines.run()
    assert [case.engine for case in engines.cases.values()] == [2, 2, None]
    engines.run()
    assert [case.engine for case in engines.cases.values()] == [2, 2, 2]


def test_one_who_leaves_lets_the_next_run() -> None:
    engines = Engines()
    engines.open("a", "b")
    for _ in range(2):
        for case in engines.cases.values():
            engines.quarantine.submitted(case, engines.number)
        engines.die()
    assert engines.quarantine.close(engines.cases["a"])
    assert engines.quarantine.may_run(engines.cases["b"])


def test_a_death_that_another_could_have_caused_condemns_nobody() -> None:
    engines = Engines()
    engines.open("suspect")
    for round_ in range(10):
        engines.open(f"new-{round_}")
        for case in engines.cases.values():
            engines.quarantine.submitted(case, engines.number)
        engines.die()
    assert engines.quarantine.n_condemned == 0


def test_tokens_read_late_clear_nobody_but_end_their_time_in_line() -> None:
    engines = Engines()
    engines.open("a")
    engines.run()
    case = engines.cases["a"]
    engines.die()
    assert engines.quarantine.progressed(case), "it stood in line alone"
    assert case.suspect
    assert case.strikes == 0


def test_a_refused_submission_is_no_part_of_a_death() -> None:
    quarantine = Quarantine()
    case = quarantine.open(make_request("a"), 0.0)
    quarantine.submitted(case, 0)
    quarantine.withdrawn(case)
    quarantine.died(0, 0.0)
    assert not case.suspect


def condemn(quarantine: Quarantine, name: str, now: float, first_engine: int) -> None:
    case = quarantine.open(make_request(name), now)
    for engine in range(first_engine, first_engine + STRIKES):
        quarantine.submitted(case, engine)
        quarantine.died(engine, now)
    assert case.guilty
    quarantine.close(case)


def test_the_condemned_are_refused_for_a_while_and_not_without_bound() -> None:
    quarantine = Quarantine()
    for number in range(REMEMBERED + 1):
        condemn(quarantine, f"r{number}", float(number), 2 * number)
    quarantine.open(make_request("r0"), float(REMEMBERED))  # forgotten: one too many
    with pytest.raises(RequestQuarantinedError, match="not long ago"):
        quarantine.open(make_request("r1"), REMEMBERED_S)
    quarantine.open(make_request("r1"), 1 + REMEMBERED_S)
    with pytest.raises(RequestQuarantinedError):
        quarantine.open(make_request("r2"), 1 + REMEMBERED_S)


def test_what_a_request_is_does_not_depend_on_its_seed_and_id() -> None:
    def request(**changes: object) -> bytes:
        sampling = SamplingParams(**{"seed": 1, "top_p": 0.5, **changes})  # type: ignore[arg-type]
        return digest(make_request("a", prompt=(1, 2), sampling=sampling))

    assert request() == request(seed=2) == request(choice=1)
    assert request() != request(top_p=0.6)
    sampling = SamplingParams(seed=1, top_p=0.5)
    assert request() == digest(make_request("b", prompt=(1, 2), sampling=sampling))
    assert request() != digest(make_request("b", prompt=(1, 3), sampling=sampling))
    assert request() != digest(make_request("b", prompt=(1, 2), max_tokens=9, sampling=sampling))


def test_what_a_request_is_depends_on_its_grammar_and_adapter_and_what_is_scored() -> None:
    plain = make_request("a", prompt=(1, 2))
    grammar = Grammar(GrammarKind.REGEX, "a", "guided_regex")
    others = [
        replace(plain, grammar=grammar),
        replace(plain, grammar=replace(grammar, source="b")),
        replace(plain, adapter=AdapterRef("somewhere", "0a")),
        replace(plain, adapter=AdapterRef("somewhere", "0b")),
        replace(plain, candidates=((1,),)),
    ]
    assert len({digest(plain), *map(digest, others)}) == 6
    moved = replace(plain, adapter=AdapterRef("elsewhere", "0a"))
    assert digest(moved) == digest(others[2])


class QuarantineMachine(RuleBasedStateMachine):
    """Requests come, run, make tokens, are refused and leave while engines die, in any order."""

    cases = Bundle("cases")

    def __init__(self) -> None:
        super().__init__()
        self.quarantine = Quarantine()
        self.engine = 0
        self.n_requests = 0
        self.open: set[Case] = set()

    @rule(target=cases)
    def arrive(self) -> Case:
        case = self.quarantine.open(make_request(f"{self.n_requests}"), 0.0)
        self.n_requests += 1
        self.open.add(case)
        return case

    @rule(case=cases)
    def submit(self, case: Case) -> None:
        if case in self.open and case.engine is None and self.quarantine.may_run(case):
            self.quarantine.submitted(case, self.engine)

    @rule(case=cases)
    def progress(self, case: Case) -> None:
        if case in self.open and case.engine == self.engine:
            self.quarantine.progressed(case)
            assert not case.suspect

    @rule(case=cases)
    def refuse(self, case: Case) -> None:
        if case in self.open and case.engine == self.engine:
            self.quarantine.withdrawn(case)

    @rule(case=consumes(cases))
    def leave(self, case: Case) -> None:
        self.open.discard(case)
        self.quarantine.close(case)

    @rule()
    def die(self) -> None:
        held = {case for case in self.open if case.engine == self.engine}
        self.quarantine.died(self.engine, 0.0)
        self.quarantine.died(self.engine, 0.0)
        self.engine += 1
        condemned = {case for case in self.open if case.guilty}
        assert condemned <= held
        assert not condemned or len(held) == 1, "it was not alone"
        for case in held:
            assert case.suspect
        for case in condemned:
            self.leave(case)

    @invariant()
    def somebody_may_run(self) -> None:
        self.quarantine.check()
        assert not self.open or any(self.quarantine.may_run(case) for case in self.open)


TestQuarantineMachine = QuarantineMachine.TestCase
TestQuarantineMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
