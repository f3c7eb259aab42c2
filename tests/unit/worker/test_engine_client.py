"""Client, server and loop over a real socket, with an engine that checks every plan."""

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from stoker.core.errors import (
    ContextLengthError,
    EngineDiedError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
)
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan
from stoker.core.tokens import Admitted, FinishReason, TokenEvent, TokenRequest, TokensEvent
from stoker.testing.engine_thread import INCARNATION, EngineThread
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.workloads import make_request, mixed_lengths, shared_prefix
from stoker.worker import client as client_module
from stoker.worker import frames
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig

ENDLESS = 4000


class Gate:
    """Holds the engine before each step until it is let through."""

    def __init__(self, *, is_open: bool) -> None:
        self._open = threading.Event()
        self.reached = threading.Event()
        if is_open:
            self._open.set()

    def __call__(self, plan: StepPlan) -> None:
        if plan.request_ids != ["warm-up"]:
            self.reached.set()
            self._open.wait(20)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        yield Path(folder) / "engine.sock"


@contextmanager
def gated_engine(socket_path: Path, config: EngineConfig | None = None) -> Iterator[Gate]:
    gate = Gate(is_open=False)
    with EngineThread(socket_path, FakeStepEngine(512, before_forward=gate), config=config):
        try:
            yield gate
        finally:
            gate.open()


async def collect(stream: AsyncGenerator[TokenEvent]) -> list[TokensEvent]:
    """Read a stream to its end; it must begin with its admission."""
    events = [event async for event in stream]
    assert isinstance(events[0], Admitted)
    tokens = [event for event in events[1:] if isinstance(event, TokensEvent)]
    assert len(tokens) == len(events) - 1
    assert [event.finish_reason is not None for event in tokens] == [False] * (len(tokens) - 1) + [True]
    return tokens


async def tokens_of(engine: EngineClient, request: TokenRequest) -> tuple[int, ...]:
    return tuple(token for event in await collect(engine.stream(request)) for token in event.token_ids)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.002)
    pytest.fail("this did not come true within 10 s")


async def test_64_concurrent_streams_get_exactly_their_tokens(socket_path: Path) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=16, step_tokens=64)
    sampled = [
        make_request(f"sampled-{seed}", sampling=SamplingParams(seed=seed, logprobs=2), max_tokens=20)
        for seed in range(16)
    ]
    requests = mixed_lengths(32) + shared_prefix(16) + sampled
    with EngineThread(socket_path, FakeStepEngine(128), config=config):
        engine = await EngineClient.connect(socket_path)
        received = await asyncio.gather(*(tokens_of(engine, request) for request in requests))
        assert received == [reference_tokens(request) for request in requests]
        await until(lambda: engine.stats.kv_blocks_used == 0)
        assert engine.stats.running == engine.stats.waiting == 0
        assert engine.stats.generated_tokens_total == sum(map(len, received))
        await engine.close()


async def test_events_carry_ids_logprobs_and_the_reason_of_the_end(socket_path: Path) -> None:
    request = make_request("mine", max_tokens=30, sampling=SamplingParams(seed=5, logprobs=3))
    stop = reference_tokens(request)[10]
    n_expected = reference_tokens(request).index(stop) + 1
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        events = await collect(engine.stream(request))
        assert events[-1].finish_reason is FinishReason.LENGTH
        assert {event.request_id for event in events} == {"mine"}
        for event in events:
            assert [len(entry.top) for entry in event.logprobs] == [3] * len(event.token_ids)
        stopping = make_request(
            "mine", max_tokens=30, sampling=request.sampling, stop_token_ids=frozenset((stop,))
        )
        events = await collect(engine.stream(stopping))
        assert events[-1].finish_reason is FinishReason.STOP
        assert sum(len(event.token_ids) for event in events) == n_expected
        assert events[-1].cached_tokens == 16  # the first block of the prompt, from the run before
        await engine.close()


async def test_info_says_what_the_engine_is(socket_path: Path) -> None:
    config = EngineConfig(
        model_path=Path("fake"), model="served", max_running=3, max_waiting=5, context_length=512
    )
    with EngineThread(socket_path, FakeStepEngine(64), config=config):
        engine = await EngineClient.connect(socket_path)
        info = engine.info
        assert (info.model, info.fingerprint, info.vocab_size) == ("served", "fake-256", 256)
        assert (info.context_length, info.kv_blocks, info.max_running, info.max_waiting) == (512, 64, 3, 5)
        assert engine.incarnation == INCARNATION
        await engine.close()


async def test_the_context_is_never_longer_than_the_kv_cache(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(8)):
        engine = await EngineClient.connect(socket_path)
        assert engine.info.context_length == 128
        assert len(await tokens_of(engine, make_request("whole", n_prompt=100, max_tokens=28))) == 28
        await engine.close()


def test_the_socket_is_for_this_user_alone(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        assert socket_path.stat().st_mode & 0o777 == 0o600


async def test_closing_a_stream_frees_its_blocks_at_the_next_step(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        engine = await EngineClient.connect(socket_path)
        async with aclosing(engine.stream(make_request("left", max_tokens=ENDLESS))) as stream:
            async for event in stream:
                if isinstance(event, TokensEvent):
                    break
            assert engine.stats.running == 1
        await until(lambda: engine.stats.running == 0 and engine.stats.kv_blocks_used == 0)
        await engine.close()


async def test_cancelling_the_reader_aborts(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        engine = await EngineClient.connect(socket_path)
        reader = asyncio.create_task(tokens_of(engine, make_request("cancelled", max_tokens=ENDLESS)))
        await until(lambda: engine.stats.running == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: engine.stats.running == 0 and engine.stats.kv_blocks_used == 0)
        await engine.close()


async def test_an_abort_takes_effect_at_the_next_engine_call(socket_path: Path) -> None:
    plans: list[list[str]] = []
    gate = Gate(is_open=False)

    def record(plan: StepPlan) -> None:
        plans.append(list(plan.request_ids))
        gate(plan)

    with EngineThread(socket_path, FakeStepEngine(512, before_forward=record)):
        engine = await EngineClient.connect(socket_path)
        stays = asyncio.create_task(tokens_of(engine, make_request("stays", max_tokens=3)))
        leaves = asyncio.create_task(tokens_of(engine, make_request("leaves", max_tokens=3)))
        await until(gate.reached.is_set)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        await asyncio.sleep(0.1)  # the abort arrives during the step
        n_before = len(plans)
        gate.open()
        assert len(await stays) == 3
        assert {request_id for plan in plans[n_before:] for request_id in plan} == {"1.0"}
        await engine.close()


async def test_a_stream_that_is_never_read_sends_nothing(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        await engine.stream(make_request("unread")).aclose()
        assert len(await tokens_of(engine, make_request("read"))) == 8
        assert engine.stats.prompt_tokens_total == 20
        await engine.close()


async def test_a_full_queue_is_refused_while_a_step_is_waited_for(socket_path: Path) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=1, max_waiting=1)
    with gated_engine(socket_path, config) as gate:
        engine = await EngineClient.connect(socket_path)
        running = asyncio.create_task(tokens_of(engine, make_request("running")))
        await until(gate.reached.is_set)
        waiting = asyncio.create_task(tokens_of(engine, make_request("waiting")))
        await asyncio.sleep(0)
        third = asyncio.create_task(tokens_of(engine, make_request("refused")))
        await asyncio.sleep(0.1)
        gate.open()
        with pytest.raises(QueueFullError, match="all 2 places") as refused:
            await third
        assert refused.value.retry_after_s >= 1
        assert len(await running) == len(await waiting) == 8
        assert len(await tokens_of(engine, make_request("later"))) == 8
        await engine.close()


async def test_what_the_engine_cannot_take_is_refused_by_its_own_error(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        engine = await EngineClient.connect(socket_path)
        with pytest.raises(ContextLengthError, match="by 20"):
            await tokens_of(engine, make_request("long", n_prompt=20, max_tokens=4096))
        with pytest.raises(InvalidRequestError, match=r"token id 256; this model's are 0 to 255"):
            await tokens_of(engine, make_request("foreign", prompt=(1, 256)))
        with pytest.raises(InvalidRequestError, match="token id -1"):
            await tokens_of(engine, make_request("negative", prompt=(1, -1)))
        with pytest.raises(InvalidRequestError, match="at least one"):
            await tokens_of(engine, make_request("empty", prompt=()))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await tokens_of(engine, make_request("huge", prompt=(2**64,)))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await tokens_of(engine, make_request("surrogate", cache_salt="\ud800"))
        assert len(await tokens_of(engine, make_request("fine"))) == 8
        await engine.close()


async def test_a_reader_that_falls_behind_gets_everything_in_few_events(socket_path: Path) -> None:
    request = make_request("slow", max_tokens=200)
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(request)
        assert isinstance(await anext(stream), Admitted)
        await until(lambda: engine.stats.generated_tokens_total == 200)
        events = [event async for event in stream if isinstance(event, TokensEvent)]
        assert len(events) == 1
        assert events[0].token_ids == reference_tokens(request)
        assert events[0].finish_reason is FinishReason.LENGTH
        await engine.close()


async def test_two_gateways_may_use_the_same_ids(socket_path: Path) -> None:
    requests = [make_request("same", prompt=(number, 2, 3), max_tokens=50) for number in range(2)]
    with EngineThread(socket_path, FakeStepEngine(512)):
        engines = [await EngineClient.connect(socket_path) for _ in range(2)]
        received = await asyncio.gather(*map(tokens_of, engines, requests))
        assert received == [reference_tokens(request) for request in requests]
        for engine in engines:
            await engine.close()


async def test_the_end_of_file_aborts_one_gateways_requests_and_no_others(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        leaves, stays = [await EngineClient.connect(socket_path) for _ in range(2)]
        abandoned = [
            asyncio.create_task(tokens_of(leaves, make_request(f"left-{number}", max_tokens=ENDLESS)))
            for number in range(3)
        ]
        request = make_request("stays", max_tokens=300)
        kept = asyncio.create_task(tokens_of(stays, request))
        await until(lambda: stays.stats.running == 4)
        await leaves.close()
        for task in abandoned:
            with pytest.raises(EngineDiedError):
                await task
        assert await kept == reference_tokens(request)
        await until(lambda: stays.stats.running == 0 and stays.stats.kv_blocks_used == 0)
        await stays.close()


async def test_a_gateway_without_requests_hears_of_the_others_load(socket_path: Path) -> None:
    with gated_engine(socket_path) as gate:
        works, watches = [await EngineClient.connect(socket_path) for _ in range(2)]
        work = asyncio.create_task(tokens_of(works, make_request("work")))
        await until(gate.reached.is_set)
        gate.open()
        await work
        await until(lambda: watches.stats.generated_tokens_total == 8)
        assert watches.stats.running == 0
        await works.close()
        await watches.close()


async def test_a_gateway_that_does_not_read_is_cut_off_and_its_requests_aborted(socket_path: Path) -> None:
    unread = EngineThread(socket_path, FakeStepEngine(2048), max_unread_bytes=20_000)
    with unread, socket.socket(socket.AF_UNIX) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(str(socket_path))
        sampling = frames.Sampling(1.0, 0, 1.0, 0.0, 0, 0, 20)
        for number in range(8):
            submit = frames.Submit(INCARNATION, number, (number + 1,), 3900, (), sampling, "", 0)
            deaf.sendall(frames.encode(submit))
        watches = await EngineClient.connect(socket_path)
        await until(lambda: watches.stats.running == 8)
        await until(lambda: watches.stats.running == 0)
        assert watches.stats.generated_tokens_total < 8 * 3900
        assert watches.stats.kv_blocks_used == 0
        assert len(await tokens_of(watches, make_request("served"))) == 8
        await watches.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x03\x00\x00\x00\xc1\xc1\xc1",
        frames.encode(frames.Abort(INCARNATION + 1, 0)),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["length", "msgpack", "incarnation", "http"],
)
async def test_whoever_does_not_speak_the_protocol_is_cut_off_alone(
    data: bytes, socket_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        reader, writer = await asyncio.open_unix_connection(socket_path)
        writer.write(data)
        async with asyncio.timeout(5):
            await reader.read()  # Hello, then the end of file
        writer.close()
        assert len(await tokens_of(engine, make_request("served"))) == 8
        assert "a gateway is cut off" in caplog.text
        await engine.close()


async def test_aborts_of_unknown_and_ended_sequences_are_harmless(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        _, writer = await asyncio.open_unix_connection(socket_path)
        for number in range(10_000):  # more than the mailbox holds
            writer.write(frames.encode(frames.Abort(INCARNATION, number)))
        engine = await EngineClient.connect(socket_path)
        assert len(await tokens_of(engine, make_request("served"))) == 8
        writer.close()
        await engine.close()


async def test_more_frames_than_the_mailbox_holds_wait_in_the_socket(socket_path: Path) -> None:
    with gated_engine(socket_path) as gate:
        engine = await EngineClient.connect(socket_path)
        request = make_request("running", max_tokens=3)
        running = asyncio.create_task(tokens_of(engine, request))
        await until(gate.reached.is_set)
        _, writer = await asyncio.open_unix_connection(socket_path)
        for number in range(20_000):
            writer.write(frames.encode(frames.Abort(INCARNATION, number)))
        await asyncio.sleep(0.2)
        last = make_request("last", max_tokens=3)
        waiting = asyncio.create_task(tokens_of(engine, last))
        gate.open()
        assert await running == reference_tokens(request)
        assert await waiting == reference_tokens(last)
        writer.close()
        await engine.close()


async def test_submissions_are_refused_while_the_engine_does_not_read(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_UNSENT_BYTES", 1000)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(socket_path))
    server.listen()
    connecting = asyncio.create_task(EngineClient.connect(socket_path))
    await asyncio.sleep(0.05)
    connection, _ = server.accept()
    connection.sendall(
        frames.encode(frames.Hello(INCARNATION, frames.PROTOCOL_VERSION, "m", "f", 2**20, 256, 1, 1, 1))
    )
    engine = await connecting
    taken = []
    for number in range(100):
        waiting = asyncio.ensure_future(anext(engine.stream(make_request(f"{number}", n_prompt=10_000))))
        await asyncio.sleep(0)
        if waiting.done():
            with pytest.raises(QueueFullError, match="does not keep up"):
                waiting.result()
            break
        taken.append(waiting)
    else:
        pytest.fail("the gateway went on buffering")
    await engine.close()
    for waiting in taken:
        with pytest.raises(EngineDiedError):
            await waiting
    connection.close()
    server.close()


async def test_a_gone_engine_fails_running_streams_and_takes_no_new_ones(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(make_request("running", max_tokens=ENDLESS))
        await anext(stream)
    with pytest.raises(EngineDiedError):
        async for _ in stream:
            pass
    assert isinstance(await engine.wait_closed(), EngineDiedError)
    assert not engine.connected
    with pytest.raises(NotReadyError):
        await anext(engine.stream(make_request("new")))


async def test_an_idle_engine_uses_no_processor(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        await tokens_of(engine, make_request("before"))
        await asyncio.sleep(0.2)
        before = time.process_time()
        await asyncio.sleep(1.0)
        assert time.process_time() - before < 0.02
        await engine.close()
