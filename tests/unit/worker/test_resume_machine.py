"""Streams over engines that die, hang and come back, in any order and on a clock that the test moves.

The text side is left out; permits (`Admission`), resumption and quarantine are the real ones, over an engine
that is fake in its process alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.core.errors import (
    DeadlineError,
    EngineDiedError,
    NotReadyError,
    QueueFullError,
    QueueTimeoutError,
    RequestQuarantinedError,
    StokerError,
)
from stoker.core.sampling import SamplingParams
from stoker.core.text import Event, Finished, Started, TextDelta, TextRequest, TokensPrompt, Usage
from stoker.core.tokens import FinishReason, TokenRequest, TokensEvent
from stoker.policy.admission import Admission, AdmissionLimits
from stoker.testing.mortal_engine import MortalEngine
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_harmless, make_request
from stoker.worker.resume import ResumingEngine

POISON = 13
N_PLACES = 8
RESUME_S = 30.0
TURNS = 400  # of the event loop, in which whatever can happen without time passing has happened


class MovedLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, which only `move` moves."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        """Return the present reading, in seconds."""
        return self._now

    def move(self, seconds: float) -> None:
        """Let time pass; what is due happens in the next turns."""
        self._now += seconds

    def turn(self, n_turns: int) -> None:
        """Let every task go on for so many turns, in no time."""
        self.run_until_complete(_turns(n_turns))


async def _turns(n_turns: int) -> None:
    for _ in range(n_turns):
        await asyncio.sleep(0)


@dataclass
class _TokensAsText:
    """A `Generator` that gives a request's tokens, each spelt as a number."""

    engine: ResumingEngine
    requests: dict[str, TokenRequest] = field(default_factory=dict)

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        token_request = self.requests[request.request_id]
        n_tokens = 0
        async with aclosing(self.engine.stream(token_request)) as events:
            await anext(events)
            yield Started(len(token_request.prompt))
            async for event in events:
                assert isinstance(event, TokensEvent)
                n_tokens += len(event.token_ids)
                yield TextDelta(0, "".join(f"{token} " for token in event.token_ids))
        yield Finished(0, FinishReason.LENGTH)
        yield Usage(len(token_request.prompt), n_tokens, 0)


@dataclass
class Client:
    """One request, what its reader has got, and how it ended."""

    request: TokenRequest
    poisoned: bool
    submitted_at: float
    reading: asyncio.Task[None]
    received: list[int] = field(default_factory=list)
    started: bool = False
    complete: bool = False
    error: StokerError | None = None

    def check(self) -> None:
        """Nothing that came was wrong, lost or doubled; the end is one of those that are defined."""
        expected = reference_tokens(self.request)
        assert tuple(self.received) == expected[: len(self.received)]
        if self.complete:
            assert tuple(self.received) == expected
            assert not self.poisoned


class ResumeMachine(RuleBasedStateMachine):
    """Submits, lets steps pass, aborts, kills, hangs, and moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = MovedLoop()
        self.mortal = MortalEngine(poison=POISON, revive_s=None)
        self.engine = ResumingEngine(self.mortal, timeout_s=RESUME_S)
        self.generator = _TokensAsText(self.engine)
        self.admission = Admission(
            self.generator, AdmissionLimits(max_choices=N_PLACES), clock=self.loop.time
        )
        self.clients: list[Client] = []
        self.n_submitted = 0
        self.n_killed = 0
        self.aborted: list[Client] = []

    async def _read(self, text_request: TextRequest, client: Callable[[], Client]) -> None:
        try:
            async with aclosing(self.admission.generate(text_request)) as events:
                async for event in events:
                    me = client()
                    if isinstance(event, Started):
                        assert not me.started
                        me.started = True
                    elif isinstance(event, TextDelta):
                        me.received += map(int, event.text.split())
                    elif isinstance(event, Usage):
                        assert event.completion_tokens == len(me.received)
                        me.complete = True
        except StokerError as error:
            client().error = error

    @rule(
        poisoned=st.sampled_from([False, False, False, False, True]),
        max_tokens=st.sampled_from([1, 3, 10, 60]),
        timeout_s=st.sampled_from([None, None, 5.0, 60.0]),
        queue_timeout_s=st.sampled_from([None, 2.0, 100.0]),
    )
    def submit(
        self, *, poisoned: bool, max_tokens: int, timeout_s: float | None, queue_timeout_s: float | None
    ) -> None:
        """A client asks; no two have the same prompt, so quarantine takes none for another."""
        name = str(self.n_submitted)
        self.n_submitted += 1
        if poisoned:
            harmless = make_request(name, prompt=(POISON, 17, self.n_submitted), max_tokens=max_tokens)
        else:
            harmless = make_harmless(name, POISON, max_tokens=max_tokens)
        request = make_request(
            name,
            prompt=harmless.prompt,
            max_tokens=max_tokens,
            sampling=harmless.sampling if not poisoned else SamplingParams(seed=1),
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
        )
        self.generator.requests[name] = request
        text = TextRequest(
            request_id=name, model="m", prompt=TokensPrompt(request.prompt), max_tokens=max_tokens
        )
        holder: list[Client] = []
        reading = self.loop.create_task(self._read(text, lambda: holder[0]))
        client = Client(request, poisoned, self.loop.time(), reading)
        holder.append(client)
        self.clients.append(client)

    @rule(n_turns=st.integers(1, 30))
    def step(self, n_turns: int) -> None:
        self.loop.turn(n_turns)

    @rule(data=st.data())
    @precondition(lambda self: any(not client.reading.done() for client in self.clients))
    def abort(self, data: st.DataObject) -> None:
        """A client leaves, whatever its request is doing."""
        client = data.draw(st.sampled_from([each for each in self.clients if not each.reading.done()]))
        client.reading.cancel()
        self.aborted.append(client)

    @rule()
    def kill(self) -> None:
        self.loop.run_until_complete(self._kill())

    async def _kill(self) -> None:
        self.n_killed += bool(self.mortal.running)
        self.mortal.die()

    @rule()
    def hang(self) -> None:
        """The engine stands still, until it is killed for it."""
        self.mortal.hangs = True

    @rule()
    @precondition(lambda self: self._dead())
    def revive(self) -> None:
        self.mortal.revive()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0, 70.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.loop.move(seconds)
        self.loop.turn(3)

    @invariant()
    def books_agree(self) -> None:
        self.engine._quarantine.check()
        for client in self.clients:
            client.check()
        n_open = sum(not client.reading.done() for client in self.clients)
        assert self.admission.in_flight <= min(n_open, N_PLACES)

    def teardown(self) -> None:
        """Every request ends, rightly, and nothing is held when all have."""
        try:
            for _ in range(200):
                if all(client.reading.done() for client in self.clients):
                    break
                if self.mortal.hangs:
                    self.loop.run_until_complete(self._kill())
                if self._dead():
                    self.mortal.revive()
                self.loop.turn(TURNS)
                self.loop.move(0.5)  # for those that ask a full engine again
            for client in self.clients:
                assert client.reading.done(), f"{client} never ends"
                self._check_end(client)
            self.loop.turn(3)
            assert self.admission.in_flight == self.admission.prompt_bytes == 0
            assert not self.mortal.running
            assert not self.engine._quarantine._cases
            assert not self.engine._quarantine._line
        finally:
            self.loop.close()

    def _check_end(self, client: Client) -> None:
        client.check()
        if client in self.aborted and client.reading.cancelled():
            return
        client.reading.result()
        if client.error is None:
            assert client.complete
            return
        lived_s = self.loop.time() - client.submitted_at
        match client.error:
            case QueueFullError() | NotReadyError():
                assert not client.started
            case DeadlineError():
                assert client.request.timeout_s is not None
                assert lived_s >= client.request.timeout_s
            case QueueTimeoutError():
                assert client.request.queue_timeout_s is not None
                assert lived_s >= client.request.queue_timeout_s
                assert not client.received
            case RequestQuarantinedError():
                assert client.poisoned or self.n_killed > 1, (
                    "innocents are condemned by kills from outside alone"
                )
            case EngineDiedError():
                assert lived_s >= RESUME_S
            case error:
                raise AssertionError(f"not one of the ends that are defined: {error!r}")

    def _dead(self) -> bool:
        try:
            return not self.engine.info
        except NotReadyError:
            return True


ResumeMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestResume = ResumeMachine.TestCase
