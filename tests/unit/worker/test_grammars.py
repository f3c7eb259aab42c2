"""Sequences with grammars in the engine process: compiled beside the loop, held to it, and resumed."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from stoker.core.errors import InvalidRequestError, QueueTimeoutError, UnsupportedFieldError
from stoker.core.grammar import Grammar, GrammarKind
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import AdapterRef, FinishReason, TokenRequest
from stoker.grammar.compiler import GrammarCompiler
from stoker.grammar.limits import GrammarLimits
from stoker.grammar.vocabulary import Vocabulary
from stoker.testing.engine_thread import EngineThread
from stoker.testing.grammars import byte_compiler, json_schema
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_streams import collect, tokens_of
from stoker.testing.tokenizer import byte_tokenizer_spec
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.grammars import Grammars

VOCAB = 259
ENDS = frozenset({258})


def constrained(name: str, grammar: Grammar, *, seed: int = 0, max_tokens: int = 200) -> TokenRequest:
    sampling = SamplingParams(seed=seed)
    request = make_request(name, max_tokens=max_tokens, stop_token_ids=ENDS, sampling=sampling)
    return replace(request, grammar=grammar)


def regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, source, "guided_regex")


@asynccontextmanager
async def serving(
    socket_path: Path,
    *,
    compiler: GrammarCompiler | None = None,
    grammar_timeout_s: float = 20.0,
    engine: FakeStepEngine | None = None,
    max_loras: int = 0,
) -> AsyncIterator[EngineClient]:
    config = EngineConfig(
        model_path=Path("fake"), model="fake", grammar_timeout_s=grammar_timeout_s, max_loras=max_loras
    )
    engine = engine or FakeStepEngine(256, vocab_size=VOCAB)
    with EngineThread(
        socket_path, engine, config=config, vocab_size=VOCAB, grammars=compiler or byte_compiler()
    ):
        client = await EngineClient.connect(socket_path)
        yield client
        await client.close()


async def test_an_answer_is_of_its_grammar_and_ends_with_it(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        events = await collect(engine.stream(constrained("a", regex("[a-f]{4}-[0-9]{2}"))))
        tokens = [token for event in events for token in event.token_ids]
        assert len(tokens) == 7  # no end token was computed
        assert bytes(tokens)[4:5] == b"-"
        assert events[-1].finish_reason is FinishReason.STOP
        assert engine.stats.grammars_compiled_total == 1
        assert engine.stats.grammar_compile_seconds_total > 0
        assert engine.stats.grammar_mask_seconds_total > 0


async def test_one_that_may_go_on_ends_by_an_end_token_or_by_its_length(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        for seed in range(10):
            events = await collect(engine.stream(constrained(f"{seed}", regex("[0-9]+"), seed=seed)))
            tokens = [token for event in events for token in event.token_ids]
            ended = events[-1].finish_reason is FinishReason.STOP
            assert (tokens[-1] in ENDS) == ended
            assert bytes(tokens[:-1] if ended else tokens).isdigit()
        cut = await collect(engine.stream(constrained("cut", regex("[0-9]{50}"), max_tokens=9)))
        assert cut[-1].finish_reason is FinishReason.LENGTH


async def test_the_grammar_wins_over_a_least_length(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        request = replace(constrained("a", regex("ab?")), min_tokens=50, max_tokens=60)
        tokens = await tokens_of(engine, request)
        assert bytes(tokens) == b"ab"


async def test_streams_with_and_without_grammars_run_together(socket_path: Path) -> None:
    plans: list[StepPlan] = []
    fake = FakeStepEngine(512, vocab_size=VOCAB, before_forward=plans.append)
    async with serving(socket_path, engine=fake) as engine:
        grammar = json_schema('{"type":"array","items":{"type":"integer"},"minItems":3,"maxItems":5}')
        held = [constrained(f"held-{seed}", grammar, seed=seed) for seed in range(6)]
        free = [make_request(f"free-{index}", max_tokens=40) for index in range(3)]
        alone = [await tokens_of(engine, request) for request in held]
        together = await asyncio.gather(*(tokens_of(engine, request) for request in [*held, *free]))
        assert list(together[:6]) == alone
        assert list(together[6:]) == [reference_tokens(request, VOCAB) for request in free]
    assert all(plan.n_steps == 1 for plan in plans if any(one.constraint for one in plan.edits.values()))


async def test_one_that_goes_on_in_another_engine_has_the_same_tokens(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        request = constrained(
            "a", json_schema('{"type":"object","additionalProperties":{"type":"null"}}'), seed=3
        )
        whole = await tokens_of(engine, request)
        for cut in (1, 5, len(whole) - 1):
            rest = replace(
                request,
                prompt=(*request.prompt, *whole[:cut]),
                n_generated=cut,
                max_tokens=request.max_tokens - cut,
            )
            assert await tokens_of(engine, rest) == whole[cut:]


FORCING = Grammar(
    GrammarKind.REGEX, "[a-c] and then[!?]( or never( again)?)?", "guided_regex", fast_forward=True
)


async def test_what_has_to_follow_is_taken_without_being_computed_first(socket_path: Path) -> None:
    fake = FakeStepEngine(512, vocab_size=VOCAB)
    async with serving(socket_path, engine=fake) as engine:
        for seed in range(8):
            n_before, forced_before = fake.n_forwards, engine.stats.forced_tokens_total
            events = await collect(engine.stream(constrained(f"{seed}", FORCING, seed=seed)))
            tokens = [token for event in events for token in event.token_ids]
            n_forced = engine.stats.forced_tokens_total - forced_before
            assert bytes(tokens[1:10]) == b" and then"
            assert re.fullmatch(FORCING.source, bytes(token for token in tokens if token < 256).decode())
            assert n_forced >= 9
            assert fake.n_forwards - n_before == len(tokens) - n_forced
            assert events[-1].finish_reason is FinishReason.STOP


async def test_forced_tokens_are_the_same_beside_others_and_in_a_next_engine(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        request = constrained("a", FORCING, seed=1)
        whole = await tokens_of(engine, request)
        beside = [constrained(f"b{seed}", FORCING, seed=seed) for seed in range(5)]
        together = await asyncio.gather(*(tokens_of(engine, each) for each in [request, *beside]))
        assert together[0] == whole
        for cut in (1, 10, 11):
            rest = replace(
                request,
                prompt=(*request.prompt, *whole[:cut]),
                n_generated=cut,
                max_tokens=request.max_tokens - cut,
            )
            events = await collect(engine.stream(rest))
            assert tuple(token for event in events for token in event.token_ids) == whole[cut:]


async def test_log_probabilities_of_forced_tokens_are_refused(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        request = replace(constrained("a", FORCING), sampling=SamplingParams(logprobs=0))
        with pytest.raises(InvalidRequestError, match="without being computed"):
            await collect(engine.stream(request))


async def test_a_wrong_grammar_is_refused_and_others_go_on(socket_path: Path) -> None:
    async with serving(socket_path) as engine:
        with pytest.raises(InvalidRequestError, match="unclosed group") as refused:
            await collect(engine.stream(constrained("a", regex("(("))))
        assert (refused.value.param, refused.value.code) == ("guided_regex", "invalid_grammar")
        assert await tokens_of(engine, constrained("b", regex("ab"))) == tuple(b"ab")


async def test_an_engine_without_grammars_refuses_them(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(vocab_size=VOCAB), vocab_size=VOCAB):
        engine = await EngineClient.connect(socket_path)
        with pytest.raises(UnsupportedFieldError) as refused:
            await collect(engine.stream(constrained("a", regex("a"))))
        assert refused.value.param == "guided_regex"
        await engine.close()


class SlowVocabulary:
    """A vocabulary that takes until it is let go on."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.compiler = GrammarCompiler(self._load)

    def _load(self) -> Vocabulary:
        self.go_on.wait(20)
        return Vocabulary.of(byte_tokenizer_spec(), VOCAB)


async def test_steps_go_on_while_a_grammar_is_compiled(socket_path: Path) -> None:
    slow = SlowVocabulary()
    async with serving(socket_path, compiler=slow.compiler) as engine:
        waiting = asyncio.create_task(tokens_of(engine, constrained("slow", regex("ab"))))
        free = make_request("free", max_tokens=30)
        assert await tokens_of(engine, free) == reference_tokens(free, VOCAB)
        assert not waiting.done()
        slow.go_on.set()
        assert await waiting == tuple(b"ab")


async def test_a_grammar_that_takes_too_long_is_refused(socket_path: Path) -> None:
    slow = SlowVocabulary()
    async with serving(socket_path, compiler=slow.compiler, grammar_timeout_s=0.1) as engine:
        with pytest.raises(InvalidRequestError, match=r"longer than 0\.1 s") as refused:
            await collect(engine.stream(constrained("slow", regex("ab"))))
        assert refused.value.code == "grammar_too_complex"
        slow.go_on.set()
        await until(lambda: slow.compiler.n_compiled == 1)
        assert await tokens_of(engine, constrained("again", regex("ab"))) == tuple(b"ab")


async def test_one_that_leaves_while_its_grammar_is_compiled_is_forgotten(socket_path: Path) -> None:
    slow = SlowVocabulary()
    async with serving(socket_path, compiler=slow.compiler) as engine:
        other = await EngineClient.connect(socket_path)
        for client in (engine, other):
            leaving = asyncio.create_task(tokens_of(client, constrained("leaving", regex("ab"))))
            await asyncio.sleep(0.05)
            leaving.cancel()
        gone = asyncio.create_task(tokens_of(other, constrained("gone", regex("ab"))))
        await asyncio.sleep(0.05)
        await other.close()
        with pytest.raises(Exception, match="hung up"):
            await gone
        slow.go_on.set()
        assert await tokens_of(engine, constrained("stays", regex("cd"))) == tuple(b"cd")
        assert engine.stats.generated_tokens_total == 2


def test_what_nobody_waits_for_is_not_compiled() -> None:
    slow = SlowVocabulary()
    ready = Event()
    grammars = Grammars(slow.compiler, 10.0, ready.set)
    for name, at in (("first", 5.0), ("aborted", 5.0), ("late", 0.0), ("last", 5.0)):
        grammars.prepare(constrained(name, regex(f"{name}")), at)
    assert grammars.forget("aborted")
    assert [each.request.request_id for each in grammars.take_ready(10.0)] == ["late"]
    slow.go_on.set()
    ended: set[str] = set()
    while len(ended) < 2:
        assert ready.wait(20)
        ready.clear()
        ended |= {each.request.request_id for each in grammars.take_ready(10.0)}
    grammars.close()
    assert ended == {"first", "last"}
    assert slow.compiler.n_compiled == 2


async def test_time_for_compiling_counts(socket_path: Path) -> None:
    slow = SlowVocabulary()
    async with serving(socket_path, compiler=slow.compiler) as engine:
        request = replace(constrained("late", regex("ab")), queue_timeout_s=0.05)
        asking = asyncio.create_task(tokens_of(engine, request))
        await asyncio.sleep(0.2)
        slow.go_on.set()
        with pytest.raises(QueueTimeoutError):
            await asking


BRANCHING = "|".join(f"(.{{0,{i}}}[ab]){{9}}" for i in range(1, 20))


async def test_streams_go_on_while_grammars_explode(socket_path: Path) -> None:
    limits = GrammarLimits(step_work=1000)
    compiler = GrammarCompiler(lambda: Vocabulary.of(byte_tokenizer_spec(), VOCAB), limits)
    async with serving(socket_path, compiler=compiler) as engine:
        free = make_request("free", max_tokens=400)
        stream = asyncio.create_task(tokens_of(engine, free))
        other = await EngineClient.connect(socket_path)
        codes = []
        for index, source in enumerate((BRANCHING, f"({BRANCHING}){{2}}")):
            with pytest.raises(InvalidRequestError, match="max_grammar_step_work") as refused:
                await collect(other.stream(constrained(f"{index}", regex(source))))
            codes.append(refused.value.code)
        assert codes == ["grammar_too_complex"] * 2
        assert await stream == reference_tokens(free, VOCAB)
        await other.close()


class Derailed(FakeStepEngine):
    """An engine that chooses what is not allowed."""

    def forward(self, plan: StepPlan) -> StepResult:
        result = super().forward(plan)
        for row in plan.edits:
            result.token_ids[row] = [ord("!")]
        return result


async def test_an_answer_that_is_lost_ends_with_an_error_and_nothing_else_does(socket_path: Path) -> None:
    async with serving(socket_path, engine=Derailed(256, vocab_size=VOCAB)) as engine:
        free = make_request("free", max_tokens=30)
        others = asyncio.create_task(tokens_of(engine, free))
        async with aclosing(engine.stream(constrained("a", regex("ab")))) as events:
            with pytest.raises(InvalidRequestError, match="cannot be held to 'guided_regex'") as refused:
                async for _ in events:
                    pass
        assert refused.value.code == "grammar_too_complex"
        assert await others == reference_tokens(free, VOCAB)
        await until(lambda: engine.stats.kv_blocks_used == 0)


class AdaptableEngine(FakeStepEngine):
    """Takes adapters, which change nothing."""

    def __init__(self) -> None:
        super().__init__(256, vocab_size=VOCAB)
        self.held: list[str] = []

    def read_adapter(self, adapter: AdapterRef) -> object:
        return adapter.digest

    def place_adapter(self, digest: str, ready: object) -> None:
        assert ready == digest
        self.held.append(digest)

    def drop_adapter(self, digest: str) -> None:
        self.held.remove(digest)


async def test_a_sequence_waits_for_its_grammar_and_then_for_its_adapter(socket_path: Path) -> None:
    fake = AdaptableEngine()
    async with serving(socket_path, engine=fake, max_loras=1) as engine:
        plain = constrained("plain", regex("[a-f]{9}"))
        expected = await tokens_of(engine, plain)
        for name, digest in (("first", "0a"), ("second", "0b"), ("third", "0a")):
            adapted = replace(plain, request_id=name, adapter=AdapterRef("somewhere", digest))
            assert await tokens_of(engine, adapted) == expected
            assert fake.held == [digest]
