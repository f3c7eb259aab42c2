"""The same request gives the same tokens and log-probabilities, bit for bit, whatever else happens.

Scheduler and native engine run as in the engine process, without the process. The default model runs on
the fastest path, a tiny one on every path.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from stoker import _native
from stoker.core.batching import BatchingPolicy
from stoker.core.drafting import DraftCosts, Drafter, Drafts, DraftSeat
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.tokens import TokenLogprob, TokenRequest
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.speculate.guesser import Guesser
from stoker.speculate.lookup import PromptLookup
from stoker.speculate.model import ModelDrafter
from stoker.testing.cheap_drafts import AtAnyCost
from stoker.testing.clock import FakeClock
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.workloads import make_request, make_tokens

pytestmark = pytest.mark.integration

CONTEXT = 640
STEP_TOKENS = 256
PROMPT_LENGTHS = {
    "default": (15, 16, 17, 63, 65, 510),
    "tiny": (15, 16, 17, 32, 63, 64, 65, 130, 511, 512, 513, 600),
}
"""Around a KV block (16), a tile (64) and a piece (512) of attention; outputs cross them too."""

GREEDY = SamplingParams(temperature=0.0, logprobs=3)
SAMPLED = SamplingParams(temperature=0.9, top_k=50, top_p=0.95, min_p=0.01, seed=2**40 + 7, logprobs=2)
PLAIN = SamplingParams(temperature=1.3, seed=11, choice=3, logprobs=0)
PENALIZED = SamplingParams(
    temperature=0.8,
    seed=5,
    logprobs=1,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    repetition_penalty=1.2,
    logit_bias=((3, 4.0), (9, -100.0)),
)


@dataclass
class Output:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Loop:
    """The engine process's loop around a scheduler of its own, so with nothing cached.

    Attributes:
        outputs: Of each request, by id.
        cached_tokens: Prompt tokens that each request found cached.
        computed_tokens: Tokens that the engine computed for each request.
        call_steps: How many steps each call was allowed.
    """

    def __init__(
        self,
        engine: NativeEngine,
        *,
        step_tokens: int = STEP_TOKENS,
        max_running: int = 32,
        kv_blocks: int | None = None,
        call_steps: int = 1,
        batching: BatchingPolicy | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        limits = SchedulerLimits(
            context_length=CONTEXT,
            max_running=min(max_running, step_tokens),
            max_step_tokens=step_tokens,
            max_call_steps=call_steps,
            max_call_s=1.0,
        )
        self.engine = engine
        self.clock = FakeClock()
        self.drafter = drafter
        self.scheduler = Scheduler(
            limits, kv_blocks or engine.kv_blocks, engine.fingerprint, batching=batching
        )
        self.outputs: dict[str, Output] = {}
        self.cached_tokens: dict[str, int] = {}
        self.computed_tokens: Counter[str] = Counter()
        self.call_steps: list[int] = []

    def submit(self, requests: Iterable[TokenRequest]) -> None:
        for request in requests:
            self.outputs[request.request_id] = Output()
            self.scheduler.submit(request, self.clock())

    def step(self) -> bool:
        plan = self.scheduler.schedule(self.clock())
        if plan is None:
            return False
        if self.drafter is not None:
            self.scheduler.speculate(plan, self.drafter)
        self.call_steps.append(plan.n_steps)
        for request_id, run in zip(plan.request_ids, plan.tokens, strict=True):
            self.computed_tokens[request_id] += len(run)
        for event in self.scheduler.commit(plan, self.engine.forward(plan), self.clock.advance(0.01)):
            output = self.outputs[event.request_id]
            output.tokens += event.token_ids
            output.logprobs += event.logprobs
            self.cached_tokens[event.request_id] = event.cached_tokens
        self.scheduler.check()
        return True

    def run(self, requests: Iterable[TokenRequest] = ()) -> dict[str, Output]:
        """Submit requests, step until everything has ended, and return all outputs so far."""
        self.submit(requests)
        while self.step():
            pass
        return self.outputs


class Clairvoyant:
    """A `Drafter` that knows what comes, and guesses every third token wrong whatever that costs."""

    def __init__(self, texts: Iterable[Sequence[int]], vocab_size: int) -> None:
        self.texts = list(texts)
        self.vocab_size = vocab_size

    def needs_blocks(self, _costs: DraftCosts) -> bool:
        return False

    def draft(self, _plan: StepPlan, seats: Sequence[DraftSeat], _costs: DraftCosts) -> Drafts:
        drafts = {}
        for seat in seats:
            tokens = seat.sequence.tokens
            for text in self.texts:
                coming = text[len(tokens) : len(tokens) + seat.most]
                if coming and list(text[: len(tokens)]) == tokens:
                    drafts[seat.row] = [
                        (token + (i % 3 == 0)) % self.vocab_size
                        for i, token in enumerate(coming, len(tokens))
                    ]
        return Drafts(drafts)


@dataclass(frozen=True)
class Case:
    """A model on a path, the requests to be watched, and what each gives when it runs alone."""

    path: Path
    isa: str
    vocab_size: int
    engine: NativeEngine
    requests: list[TokenRequest]
    alone: dict[str, Output]

    def others(self, n: int, *, max_tokens: int = 12, priority: int = 0) -> list[TokenRequest]:
        lengths = (1, 7, 16, 40, 100, 23, 64, 17)
        return [
            make_request(
                f"other-{priority}-{i}",
                prompt=make_tokens(f"other-{i}", lengths[i % len(lengths)], self.vocab_size),
                max_tokens=max_tokens,
                sampling=SamplingParams(temperature=i % 3 / 2, seed=i, logprobs=i % 4 or None),
                priority=priority,
            )
            for i in range(n)
        ]

    @contextmanager
    def drafter(self, way: str) -> Iterator[Drafter]:
        """Make a drafter of the model itself: without some layers, or loaded again and less precise."""
        guesser = Guesser(
            self.engine,
            longest=CONTEXT,
            max_step_tokens=STEP_TOKENS,
            vocab_size=self.vocab_size,
            skipped=(1,),
        )
        clock = FakeClock()
        if way == "without layers":
            yield AtAnyCost(ModelDrafter(guesser, 15, cost=0.1, clock=clock))
            return
        other = load(self.path, self.isa, 2, precise="none", kv_blocks=self.engine.kv_blocks)
        guesser = Guesser(other, longest=CONTEXT, max_step_tokens=STEP_TOKENS, vocab_size=self.vocab_size)
        yield AtAnyCost(ModelDrafter(guesser, 15, cost=0.1, clock=clock))
        other.close()

    def check(self, outputs: dict[str, Output]) -> None:
        for request in self.requests:
            assert outputs[request.request_id] == self.alone[request.request_id]


def load(
    path: Path, isa: str, threads: int, *, precise: str = "auto", kv_blocks: int | None = None
) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=threads,
        isa=isa,
        precise=precise,
        kv_memory_bytes=256 << 20,
        kv_blocks=kv_blocks,
        context_length=CONTEXT,
        max_running=32,
        step_tokens=STEP_TOKENS,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def watched(prompt_lengths: Sequence[int], vocab_size: int) -> list[TokenRequest]:
    """One request per prompt length, with each kind of sampling in turn."""
    kinds = {"greedy": GREEDY, "penalized": PENALIZED, "sampled": SAMPLED, "plain": PLAIN}
    names = [*kinds] * len(prompt_lengths)
    return [
        make_request(
            f"{name}-{n_prompt}",
            prompt=make_tokens(f"watched-{n_prompt}", n_prompt, vocab_size),
            max_tokens=7,
            sampling=kinds[name],
        )
        for n_prompt, name in zip(prompt_lengths, names, strict=False)
    ]


CASES = ["default-auto", *(f"tiny-{isa}" for isa in _native.available_isas())]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, isa = request.param.split("-")
    if name == "default":
        path: Path = request.getfixturevalue("default_model_path")
    else:
        path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
        write_tiny_llama(path, n_heads=6, n_kv_heads=2, width=96, context_length=CONTEXT)
    with open_model(path) as model:
        vocab_size = model.config.vocab_size
    engine = load(path, isa, threads=2)
    requests = watched(PROMPT_LENGTHS[name], vocab_size)
    alone = {each.request_id: Loop(engine).run([each])[each.request_id] for each in requests}
    return Case(path, isa, vocab_size, engine, requests, alone)


def test_outputs_are_there_and_differ(case: Case) -> None:
    for request in case.requests:
        output = case.alone[request.request_id]
        assert len(output.tokens) == len(output.logprobs) == request.max_tokens
        assert all(len(each.top) == request.sampling.logprobs for each in output.logprobs)
    assert len({tuple(output.tokens) for output in case.alone.values()}) > len(case.requests) // 2


def test_again(case: Case) -> None:
    for request in case.requests[:4]:
        assert Loop(case.engine).run([request])[request.request_id] == case.alone[request.request_id]


def test_among_others_that_arrive_together(case: Case) -> None:
    others = case.others(32 - len(case.requests))
    case.check(Loop(case.engine).run([*others[::2], *case.requests, *others[1::2]]))


def test_one_after_the_other_among_31(case: Case) -> None:
    loop = Loop(case.engine)
    loop.submit(case.others(31, max_tokens=60))
    for request in case.requests:
        loop.step()
        loop.step()
        loop.submit([request])
    case.check(loop.run())


def test_with_the_prompt_cached(case: Case) -> None:
    loop = Loop(case.engine)
    loop.run(case.requests)
    again = [replace(request, request_id=f"again-{request.request_id}") for request in case.requests]
    outputs = loop.run(again)
    for request in case.requests:
        name = f"again-{request.request_id}"
        # The last token is always computed.
        assert loop.cached_tokens[name] == (len(request.prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        assert outputs[name] == case.alone[request.request_id]


def test_with_a_part_of_the_prompt_cached_by_another_request(case: Case) -> None:
    loop = Loop(case.engine)
    for request in case.requests:
        prefix = request.prompt[: len(request.prompt) * 2 // 3]
        tail = make_tokens(f"tail-{request.request_id}", 20, case.vocab_size)
        loop.submit([make_request(f"prefix-{request.request_id}", prompt=prefix + tail)])
    loop.run()
    case.check(loop.run(case.requests))
    assert (
        sum(loop.cached_tokens[request.request_id] > 0 for request in case.requests) >= len(case.requests) - 3
    )


@pytest.mark.parametrize("step_tokens", [13, 15, 16, 17, 63, 65, 100])
def test_prompts_cut_into_chunks(case: Case, step_tokens: int) -> None:
    longest = step_tokens * 9  # more chunks take long and show nothing new
    for request in case.requests:
        if len(request.prompt) <= longest:
            loop = Loop(case.engine, step_tokens=step_tokens)
            assert loop.run([request])[request.request_id] == case.alone[request.request_id]


def test_token_by_token(case: Case) -> None:
    (request,) = (each for each in case.requests if len(each.prompt) == 65)
    loop = Loop(case.engine, step_tokens=1)
    assert loop.run([request])[request.request_id] == case.alone[request.request_id]


@pytest.mark.parametrize("call_steps", [2, 3, 4])
def test_several_steps_in_a_call(case: Case, call_steps: int) -> None:
    for request in case.requests:
        loop = Loop(case.engine, call_steps=call_steps)
        assert loop.run([request])[request.request_id] == case.alone[request.request_id]
        assert max(loop.call_steps) == call_steps


def test_several_steps_in_calls_that_others_join_and_leave(case: Case) -> None:
    loop = Loop(case.engine, call_steps=4)
    loop.submit(case.others(8, max_tokens=40))
    for request in case.requests:
        loop.step()
        loop.step()
        loop.submit([request])
    case.check(loop.run())
    assert {1, 4} <= set(loop.call_steps)


def test_an_end_token_ends_a_call_of_several_steps(case: Case) -> None:
    for request in case.requests:
        whole = case.alone[request.request_id].tokens
        ending = replace(request, stop_token_ids=frozenset({whole[2]}))
        tokens = Loop(case.engine, call_steps=4).run([ending])[request.request_id].tokens
        assert tokens == whole[: whole.index(whole[2]) + 1]


def test_drafts_right_and_wrong(case: Case) -> None:
    texts = [[*each.prompt, *case.alone[each.request_id].tokens] for each in case.requests]
    drafter = Clairvoyant(texts, case.vocab_size)
    for request in case.requests:
        loop = Loop(case.engine, drafter=drafter, call_steps=4)
        assert loop.run([request])[request.request_id] == case.alone[request.request_id]
    loop = Loop(case.engine, drafter=drafter)
    case.check(loop.run([*case.others(32 - len(case.requests)), *case.requests]))
    stats = loop.scheduler.stats()
    assert 0 < stats.accepted_tokens_total < stats.drafted_tokens_total


@pytest.mark.parametrize("call_steps", [1, 4])
def test_drafts_copied_from_what_was_said(case: Case, call_steps: int) -> None:
    requests = [
        make_request(
            f"repeating-{i}",
            prompt=make_tokens(f"repeating-{i}", 20 + 3 * i, case.vocab_size) * 6,
            max_tokens=60,
            sampling=sampling,
        )
        for i, sampling in enumerate((GREEDY, SAMPLED, PENALIZED))
    ]
    expected = {name: output for each in requests for name, output in Loop(case.engine).run([each]).items()}
    loops = [Loop(case.engine, drafter=PromptLookup(15), call_steps=call_steps) for _ in range(4)]
    for request, loop in zip(requests, loops, strict=False):
        assert loop.run([request])[request.request_id] == expected[request.request_id]
    assert loops[3].run(requests) == expected
    stats = loops[0].scheduler.stats()
    assert stats.generated_tokens_total == 60
    if "tiny" not in case.path.name:  # it says the same again, as its prompt does
        assert stats.accepted_tokens_total > 10


@pytest.mark.parametrize("way", ["less precise", "without layers"])
def test_drafts_of_a_model(case: Case, way: str) -> None:
    with case.drafter(way) as drafter:
        for request in case.requests:
            loop = Loop(case.engine, drafter=drafter, call_steps=4)
            assert loop.run([request])[request.request_id] == case.alone[request.request_id]
        loop = Loop(case.engine, drafter=drafter)
        case.check(loop.run([*case.others(8, max_tokens=40), *case.requests]))
        stats = loop.scheduler.stats()
        assert 0 < stats.accepted_tokens_total < stats.drafted_tokens_total


def test_chunks_beside_running_sequences(case: Case) -> None:
    case.check(Loop(case.engine, step_tokens=48).run([*case.others(10), *case.requests]))


def test_chunks_sized_by_their_time_and_served_by_who_is_due(case: Case) -> None:
    batching = BatchingPolicy(mode="latency", itl_target_s=0.008, prefill_share=0.1, prompt_patience_s=0.001)
    loop = Loop(case.engine, batching=batching)
    case.check(loop.run([*case.others(10), *case.requests]))
    assert loop.scheduler.stats().late_steps_total > 0


@pytest.mark.parametrize("n_steps", [1, 4])
def test_after_a_preemption(case: Case, n_steps: int) -> None:
    n_preempted = 0
    for request in case.requests:
        n_total = len(request.prompt) + request.max_tokens
        kv_blocks = -(-n_total // BLOCK_TOKENS) + 1
        loop = Loop(case.engine, kv_blocks=kv_blocks)
        loop.submit([request])
        for _ in range(n_steps):
            loop.step()
        # It needs every block, so what was computed is evicted meanwhile.
        urgent = make_tokens("urgent", kv_blocks * BLOCK_TOKENS - 1, case.vocab_size)
        outputs = loop.run([make_request("urgent", prompt=urgent, max_tokens=1, priority=1)])
        assert outputs[request.request_id] == case.alone[request.request_id]
        n_preempted += loop.scheduler.stats().preemptions_total
        assert loop.computed_tokens[request.request_id] >= n_total
    assert n_preempted == len(case.requests)


def test_after_a_preemption_that_finds_its_blocks_again(case: Case) -> None:
    loop = Loop(case.engine, max_running=len(case.requests))
    loop.submit(case.requests)
    while not all(loop.outputs[request.request_id].tokens for request in case.requests[:-2]):
        loop.step()
    loop.submit(case.others(len(case.requests), priority=1))
    case.check(loop.run())
    assert loop.scheduler.stats().preemptions_total >= len(case.requests) // 2


@pytest.mark.parametrize("threads", [1, 3])
def test_on_another_number_of_threads(case: Case, threads: int) -> None:
    engine = load(case.path, case.isa, threads)
    for request in case.requests:
        assert Loop(engine).run([request])[request.request_id] == case.alone[request.request_id]
    case.check(Loop(engine).run([*case.others(32 - len(case.requests)), *case.requests]))
