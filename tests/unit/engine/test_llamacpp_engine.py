"""llama.cpp itself as a step engine under our scheduler, beside the native engine on the same weights."""

import signal
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.errors import EngineError, OutOfMemoryError, SettingsError, UnsupportedModelError
from stoker.core.protocols import StepEngine
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.tokens import FinishReason, TokenLogprob, TokenRequest
from stoker.engine.llamacpp.engine import LlamaCppEngine
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.testing.clock import FakeClock
from stoker.testing.gguf_files import TINY_VOCAB_SIZE, TinyLlama, write_tiny_llama
from stoker.testing.llamacpp_engine import running_llamacpp
from stoker.testing.workloads import make_request, make_tokens

pytest.importorskip("xllamacpp", reason="the extra llamacpp is not installed")

CONTEXT = 256
MODEL = TinyLlama(dtype="F32", context_length=CONTEXT)
TOKEN_BYTES = 2 * 2 * MODEL.n_layers * MODEL.n_kv_heads * MODEL.head_size
GREEDY = SamplingParams(temperature=0.0, logprobs=3)
CLOSE = 0.01
"""How far log-probabilities of the same weights lie apart at most. llama.cpp rounds queries, keys and values
to f16, and computes a long run otherwise than a short one."""


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("llamacpp") / "tiny.gguf", dtype="F32", context_length=CONTEXT
    )


@pytest.fixture(scope="module")
def engine(tiny_path: Path) -> Iterator[LlamaCppEngine]:
    kv_bytes = 4 * CONTEXT * TOKEN_BYTES
    with running_llamacpp(tiny_path, context_length=CONTEXT, kv_memory_bytes=kv_bytes) as running:
        yield running


@pytest.fixture(scope="module")
def native(tiny_path: Path) -> Iterator[StepEngine]:
    settings = NativeEngineSettings(
        threads=1,
        kv_type="f16",  # as llama.cpp keeps it
        kv_memory_bytes=2**22,
        context_length=CONTEXT,
        step_tokens=64,
    )
    with open_model(tiny_path) as source:
        loaded = load_engine(source, settings)
    yield loaded
    loaded.close()


@dataclass
class Output:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0


class Loop:
    """The engine process's loop: a scheduler that finds no blocks to share, and an engine."""

    def __init__(
        self, engine: StepEngine, *, step_tokens: int = 64, max_running: int = 8, kv_blocks: int | None = None
    ) -> None:
        limits = SchedulerLimits(context_length=CONTEXT, max_running=max_running, max_step_tokens=step_tokens)
        self.engine = engine
        self.clock = FakeClock()
        self.scheduler = Scheduler(limits, kv_blocks or engine.kv_blocks, engine.fingerprint)
        self.outputs: dict[str, Output] = {}

    def submit(self, *requests: TokenRequest) -> None:
        for request in requests:
            self.outputs[request.request_id] = Output()
            self.scheduler.submit(replace(request, cache_salt=request.request_id), self.clock())

    def step(self) -> bool:
        plan = self.scheduler.schedule(self.clock())
        if plan is None:
            return False
        for event in self.scheduler.commit(plan, self.engine.forward(plan), self.clock.advance(0.01)):
            output = self.outputs[event.request_id]
            output.tokens += event.token_ids
            output.logprobs += event.logprobs
            output.finish_reason = event.finish_reason
            output.cached_tokens = event.cached_tokens
        self.scheduler.check()
        return True

    def run(self, requests: Iterable[TokenRequest]) -> dict[str, Output]:
        self.submit(*requests)
        while self.step():
            pass
        return self.outputs


def request(name: str, n_prompt: int = 20, *, max_tokens: int = 12, **more: Any) -> TokenRequest:
    made = make_request(
        name, prompt=make_tokens(name, n_prompt, TINY_VOCAB_SIZE), max_tokens=max_tokens, sampling=GREEDY
    )
    return replace(made, **more)


def n_alike(mine: Output, other: Output) -> int:
    """Return how many tokens come alike, with log-probabilities that are `CLOSE`."""
    n_tokens = 0
    for token, expected, one, two in zip(
        mine.tokens, other.tokens, mine.logprobs, other.logprobs, strict=False
    ):
        assert [each for _, each in one.top] == pytest.approx([each for _, each in two.top], abs=CLOSE)
        if token != expected:
            break
        assert one.logprob == pytest.approx(two.logprob, abs=CLOSE)
        n_tokens += 1
    return n_tokens


def assert_alike(mine: Output, other: Output) -> None:
    """Greedy tokens are the same up to where two were equally likely."""
    n_tokens = n_alike(mine, other)
    if n_tokens < len(other.tokens):
        assert mine.logprobs[n_tokens].logprob == pytest.approx(other.logprobs[n_tokens].logprob, abs=CLOSE)
    else:
        assert mine.tokens == other.tokens
        assert mine.finish_reason == other.finish_reason


SAMPLINGS = {
    "greedy": GREEDY,
    "presence": replace(GREEDY, presence_penalty=1.5),
    "frequency": replace(GREEDY, frequency_penalty=0.7),
    "repetition": replace(GREEDY, repetition_penalty=1.4),
    "negative presence": replace(GREEDY, presence_penalty=-1.0, frequency_penalty=0.3),
    "bias": replace(GREEDY, logit_bias=((9, 4.0), (200, 3.0), (7, -100.0))),
    "bias and penalties": replace(
        GREEDY, presence_penalty=0.8, frequency_penalty=0.2, logit_bias=((9, 5.0), (11, 4.5))
    ),
    "one candidate": SamplingParams(temperature=1.0, top_k=1, seed=3, logprobs=1),
    "tiny nucleus": SamplingParams(temperature=0.8, top_p=1e-6, seed=3, logprobs=1),
    "highest minimum": SamplingParams(temperature=0.8, min_p=1.0, seed=3, logprobs=1),
}
"""Samplings that leave no chance."""


@pytest.mark.parametrize("name", SAMPLINGS)
def test_tokens_are_those_of_the_native_engine(engine: LlamaCppEngine, native: StepEngine, name: str) -> None:
    asked = [request(f"{name}-{n}", n, max_tokens=24, sampling=SAMPLINGS[name]) for n in (1, 15, 16, 17, 70)]
    mine, other = Loop(engine).run(asked), Loop(native).run(asked)
    whole = [n_alike(mine[each.request_id], other[each.request_id]) == 24 for each in asked]
    assert whole.count(True) >= len(asked) - 1  # two tokens may be equally likely now and then


def test_penalties_change_tokens(engine: LlamaCppEngine) -> None:
    plain = Loop(engine).run([request("p", max_tokens=24)])["p"].tokens
    for name in ("presence", "frequency", "repetition", "bias"):
        assert Loop(engine).run([request("p", max_tokens=24, sampling=SAMPLINGS[name])])["p"].tokens != plain


def test_stop_tokens_and_minimum_lengths(engine: LlamaCppEngine, native: StepEngine) -> None:
    plain = Loop(engine).run([request("s", max_tokens=10)])["s"].tokens
    stops = frozenset({plain[3]})
    stopped = [
        request("s", max_tokens=10, stop_token_ids=stops),
        request("t", max_tokens=10, prompt=request("s").prompt, stop_token_ids=stops, min_tokens=6),
    ]
    mine, other = Loop(engine).run(stopped), Loop(native).run(stopped)
    assert mine["s"].finish_reason is FinishReason.STOP
    assert mine["s"].tokens == plain[: plain.index(plain[3]) + 1]
    assert len(mine["t"].tokens) >= 6
    assert plain[3] not in mine["t"].tokens[:5]
    for each in stopped:
        assert_alike(mine[each.request_id], other[each.request_id])


def test_the_models_own_end_token_does_not_stop_it(engine: LlamaCppEngine) -> None:
    """llama.cpp ends a completion there; whether a request ends there is the request's to say."""
    eos = 2
    forced = request("e", max_tokens=6, sampling=replace(GREEDY, logit_bias=((eos, 100.0),)))
    output = Loop(engine).run([forced])["e"]
    assert output.tokens == [eos] * 6
    assert output.finish_reason is FinishReason.LENGTH


def test_ids_of_tokens_inside_a_character_are_told(engine: LlamaCppEngine) -> None:
    """llama.cpp's own streams leave them out."""
    lone_byte = len("abc") + 0xF0  # the vocabulary's special tokens come before its bytes
    forced = request("u", max_tokens=5, sampling=replace(GREEDY, logit_bias=((lone_byte, 100.0),)))
    assert Loop(engine).run([forced])["u"].tokens == [lone_byte] * 5


@pytest.mark.parametrize("step_tokens", [8, 16, 33, 64])
def test_chunks_do_not_change_tokens(engine: LlamaCppEngine, step_tokens: int) -> None:
    asked = [request(f"c{n}", n) for n in (5, 40, 100, 150)]
    expected = {each.request_id: Loop(engine).run([each])[each.request_id] for each in asked}
    together = Loop(engine, step_tokens=step_tokens, max_running=4).run(asked)
    for each in asked:
        assert_alike(together[each.request_id], expected[each.request_id])


def test_preemption_does_not_change_tokens(engine: LlamaCppEngine) -> None:
    asked = [request(f"v{n}", 60, max_tokens=40) for n in range(5)]
    expected = {each.request_id: Loop(engine).run([each])[each.request_id] for each in asked}
    tight = Loop(engine, kv_blocks=CONTEXT // BLOCK_TOKENS)
    outputs = tight.run(asked)
    assert tight.scheduler.stats().preemptions_total > 0
    for each in asked:
        assert_alike(outputs[each.request_id], expected[each.request_id])


def test_any_number_of_sequences_goes_through_a_full_cache(tiny_path: Path, engine: LlamaCppEngine) -> None:
    asked = [request(f"f{n}", 30 + 7 * (n % 9), max_tokens=20) for n in range(24)]
    expected = {each.request_id: Loop(engine).run([each])[each.request_id] for each in asked}
    with running_llamacpp(
        tiny_path, context_length=CONTEXT, kv_memory_bytes=CONTEXT * TOKEN_BYTES, max_running=4
    ) as small:
        assert small.kv_blocks == CONTEXT // BLOCK_TOKENS
        outputs = Loop(small, max_running=4).run(asked)
    for each in asked:
        assert_alike(outputs[each.request_id], expected[each.request_id])


def test_a_whole_context_is_used(engine: LlamaCppEngine, native: StepEngine) -> None:
    whole = request("whole", 200, max_tokens=CONTEXT - 200)
    mine, other = Loop(engine).run([whole])["whole"], Loop(native).run([whole])["whole"]
    assert len(mine.tokens) == CONTEXT - 200
    assert_alike(mine, other)


def test_what_begins_like_an_ended_sequence_is_not_computed_again(engine: LlamaCppEngine) -> None:
    first = request("turn-1", 100)
    loop = Loop(engine, step_tokens=32)
    loop.run([first])
    assert loop.outputs["turn-1"].cached_tokens == 0
    n_steps = loop.scheduler.stats().steps_total
    answer = loop.outputs["turn-1"].tokens
    second = request("turn-2", prompt=(*first.prompt, *answer, *make_tokens("more", 9, TINY_VOCAB_SIZE)))
    alone = Loop(engine)
    loop.run([second])
    # the last token of an answer is not computed
    assert loop.outputs["turn-2"].cached_tokens == 100 + len(answer) - 1
    assert loop.scheduler.stats().cached_tokens_total == 100 + len(answer) - 1
    assert loop.scheduler.stats().steps_total > n_steps
    assert_alike(loop.outputs["turn-2"], alone.run([replace(second, request_id="again")])["again"])


def test_an_aborted_sequence_leaves_its_slot_to_others(engine: LlamaCppEngine) -> None:
    loop = Loop(engine, max_running=2)
    loop.submit(*(request(f"a{n}", max_tokens=200) for n in range(3)))
    for _ in range(5):
        loop.step()
    assert loop.scheduler.stats().waiting == 1
    assert loop.scheduler.abort("a0")
    loop.step()
    assert loop.scheduler.stats().waiting == 0
    assert loop.outputs["a2"].tokens
    assert loop.scheduler.abort("a1")
    assert loop.scheduler.abort("a2")
    assert not loop.step()
    assert loop.scheduler.stats().kv_blocks_used == 0


def test_seeds_decide(engine: LlamaCppEngine) -> None:
    def sampled(name: str, **sampling: Any) -> list[int]:
        params = replace(SamplingParams(temperature=1.0), **sampling)
        asked = request(name, prompt=request("seed").prompt, sampling=params)
        return Loop(engine).run([asked])[name].tokens

    assert sampled("a", seed=1) == sampled("b", seed=1)
    assert len({tuple(sampled("a", seed=1, choice=n)) for n in range(4)}) == 4
    assert sampled("a", seed=1) != sampled("a", seed=2)


def test_sampling_follows_the_distribution(engine: LlamaCppEngine) -> None:
    """A token of probability 0.6 comes up in 60 of 100 draws, give or take."""
    prompt = request("d").prompt
    greedy = Loop(engine).run([request("d", max_tokens=1, sampling=replace(GREEDY, logprobs=2))])["d"]
    (best, _), (second, _) = greedy.logprobs[0].top
    gap = greedy.logprobs[0].top[0][1] - greedy.logprobs[0].top[1][1]
    # biased so that the two are all there is, at odds of 3 to 2
    bias = ((best, 50.0), (second, 50.0 + gap - 0.405465))
    drawn = [
        request(f"d{n}", prompt=prompt, max_tokens=1, sampling=SamplingParams(seed=n, logit_bias=bias))
        for n in range(100)
    ]
    outputs = Loop(engine, max_running=8)
    tokens = [outputs.run(drawn[i : i + 8]) for i in range(0, 100, 8)][-1]
    counts = [output.tokens[0] for output in tokens.values()]
    assert set(counts) == {best, second}
    assert 42 <= counts.count(best) <= 78


def test_a_plan_that_blocks_do_not_hold_is_refused(engine: LlamaCppEngine) -> None:
    def plan(tokens: list[int], first: int, table: list[int]) -> StepPlan:
        return StepPlan(["x"], [tokens], [first], [table], [True], [GREEDY])

    for wrong in (plan([], 0, [0]), plan([1] * 17, 0, [0]), plan([1], 16, [0]), plan([1], 0, [10**6])):
        with pytest.raises(EngineError, match="do not hold"):
            engine.forward(wrong)


def test_what_llama_cpp_refuses_is_an_error(engine: LlamaCppEngine) -> None:
    beyond = StepPlan(["x"], [[10**6]], [0], [[0]], [True], [GREEDY])
    with pytest.raises(EngineError, match=r"llama\.cpp refused a step: .*token"):
        engine.forward(beyond)


def test_the_socket_answers_nobody_else(engine: LlamaCppEngine) -> None:
    path = engine._client._socket_path  # type: ignore[attr-defined]  # the client's own
    assert path.parent.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.sendall(
            b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
        )
        assert b" 401 " in stranger.recv(4096).split(b"\r\n")[0]


def test_progress_grows_with_work_alone(engine: LlamaCppEngine) -> None:
    before = engine.progress
    Loop(engine).run([request(f"w{n}", 100, max_tokens=60) for n in range(4)])
    assert engine.progress > before


def test_signal_handlers_are_kept_and_the_socket_removed(tiny_path: Path) -> None:
    with running_llamacpp(tiny_path, context_length=64, kv_memory_bytes=64 * TOKEN_BYTES) as running:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        caught = next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigCgt")
        )
        assert not int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1
        path = running._client._socket_path  # type: ignore[attr-defined]  # the client's own
        assert path.exists()
        running.close()
        assert not path.exists()
        with pytest.raises(EngineError, match="closed"):
            Loop(running).run([request("late")])


def test_memory_that_no_slot_can_use_is_not_taken(tiny_path: Path) -> None:
    with running_llamacpp(tiny_path, context_length=CONTEXT, kv_memory_bytes=2**50, max_running=2) as running:
        assert running.kv_blocks == 2 * CONTEXT // BLOCK_TOKENS


def test_what_it_cannot_load_is_refused(tmp_path: Path, tiny_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_path.read_bytes()[:-5000])
    enough = CONTEXT * TOKEN_BYTES
    with (
        pytest.raises(UnsupportedModelError, match=r"llama\.cpp .* does not load"),
        running_llamacpp(damaged, context_length=CONTEXT, kv_memory_bytes=enough),
    ):
        pass
    with (
        pytest.raises(SettingsError, match="at most 256 sequences"),
        running_llamacpp(tiny_path, context_length=CONTEXT, kv_memory_bytes=enough, max_running=257),
    ):
        pass
    with (
        pytest.raises(OutOfMemoryError, match="one context of 256 tokens"),
        running_llamacpp(tiny_path, context_length=CONTEXT, kv_memory_bytes=enough // 2),
    ):
        pass
