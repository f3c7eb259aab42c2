"""Embeddings on their way: over the socket, and from one engine to the next."""

from array import array
from pathlib import Path

import pytest

from stoker.core.pooling import Pooling
from stoker.core.tokens import FinishReason, TokensEvent
from stoker.testing.engine_thread import EngineThread
from stoker.testing.step_engine import FakeStepEngine, reference_embedding
from stoker.testing.token_streams import collect
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker import conversion
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.quarantine import digest


@pytest.mark.parametrize("pooling", list(Pooling))
async def test_an_embedding_arrives_with_the_end(socket_path: Path, pooling: Pooling) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=4, step_tokens=32)
    request = make_request("mine", n_prompt=200, max_tokens=0, pooling=pooling)
    with EngineThread(socket_path, FakeStepEngine(), config=config):
        engine = await EngineClient.connect(socket_path)
        events = await collect(engine.stream(request))
        assert [event.embedding for event in events] == [reference_embedding(request)]
        assert [event.finish_reason for event in events] == [FinishReason.LENGTH]
        await until(lambda: engine.stats.kv_blocks_used == 0)
        await engine.close()


def test_a_frame_has_an_embedding_s_very_bits() -> None:
    embedding = array("f", [0.1, -0.0, 1e-30])
    frame = conversion.tokens_frame(
        TokensEvent("a", (), finish_reason=FinishReason.LENGTH, embedding=embedding), sequence=1
    )
    event = conversion.tokens_event(
        "a",
        token_ids=[],
        logprobs=[],
        cached_tokens=0,
        finish_reason=frame.finish_reason,
        embedding=frame.embedding,
    )
    assert event.embedding is not None
    assert event.embedding.tobytes() == embedding.tobytes()


def test_pooling_tells_requests_apart_that_engines_die_of() -> None:
    plain = make_request("a", max_tokens=0, prompt_logprobs=0)
    pooled = [make_request("a", max_tokens=0, pooling=pooling) for pooling in Pooling]
    assert len({digest(each) for each in (plain, *pooled)}) == 3
