"""An engine's loop with tiers below its KV cache: what one engine leaves, the next one finds."""

import time
from pathlib import Path

import pytest

from stoker.core.errors import OutOfMemoryError
from stoker.core.tokens import TokensEvent
from stoker.kvcache import Transfer
from stoker.testing.engine_thread import EngineThread
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request, make_tokens
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.tiers import mover
from stoker.worker.tiers.disk import DiskThread, ReadEnd, WriteEnd

PREFIX = make_tokens("conversation", 100)


def config_with(folder: Path) -> EngineConfig:
    return EngineConfig(
        model_path=Path("fake"),
        model="fake",
        kv_folder=folder / "kv",
        kv_disk_bytes=10**6,
        context_length=512,
    )


async def ask(client: EngineClient, request_id: str) -> int:
    """Return how many of the prompt's tokens were cached."""
    request = make_request(request_id, prompt=PREFIX, max_tokens=5)
    events = [event async for event in client.stream(request) if isinstance(event, TokensEvent)]
    assert tuple(token for event in events for token in event.token_ids) == reference_tokens(request)
    return events[-1].cached_tokens


def never(_: DiskThread, transfer: Transfer) -> ReadEnd:
    time.sleep(0.5)
    return ReadEnd(transfer.link.name, arrived=False)


async def test_what_an_idle_engine_has_written_a_next_one_restores(tmp_path: Path) -> None:
    for n, cached in enumerate((0, 96)):
        engine = FakeStepEngine(64)
        with EngineThread(tmp_path / f"{n}.sock", engine, config=config_with(tmp_path)):
            client = await EngineClient.connect(tmp_path / f"{n}.sock")
            assert await ask(client, "one") == cached
            # Nothing is computed any more: the thread of the disk alone keeps the loop going.
            await until(lambda client=client: client.stats.kv_disk_blocks == 6)  # type: ignore[misc]
            assert client.stats.disk_restored_tokens_total == cached
            await client.close()
    assert len(list(tmp_path.glob("kv/*/*/*.kv"))) == 6


async def test_an_engine_that_ends_writes_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = DiskThread._write

    def slow(disk: DiskThread, transfer: Transfer) -> WriteEnd:
        time.sleep(0.05)
        return write(disk, transfer)

    monkeypatch.setattr(DiskThread, "_write", slow)
    monkeypatch.setattr(mover, "MAX_QUEUED", 1)
    with EngineThread(tmp_path / "1.sock", FakeStepEngine(64), config=config_with(tmp_path)):
        client = await EngineClient.connect(tmp_path / "1.sock")
        await ask(client, "one")
    assert len(list(tmp_path.glob("kv/*/*/*.kv"))) == 6
    await client.close()


async def test_an_engine_that_waits_for_the_disk_alone_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that answers too late: the loop sleeps until its patience is over, and then computes."""
    with EngineThread(tmp_path / "1.sock", FakeStepEngine(64), config=config_with(tmp_path)):
        client = await EngineClient.connect(tmp_path / "1.sock")
        await ask(client, "one")
        await until(lambda: client.stats.kv_disk_blocks == 6)
        await client.close()
    monkeypatch.setattr("stoker.scheduler.restore.PATIENCE_S", 0.05)
    monkeypatch.setattr(DiskThread, "_read", never)
    with EngineThread(tmp_path / "2.sock", FakeStepEngine(64), config=config_with(tmp_path)):
        client = await EngineClient.connect(tmp_path / "2.sock")
        assert await ask(client, "again") == 0
        await client.close()


def test_memory_that_is_not_to_be_had_is_told() -> None:
    with pytest.raises(OutOfMemoryError, match="set a smaller kv_host_memory"):
        mover._reserve(1 << 60)
