"""Targets among the frames between gateway and engine, and the files of the engine's KV blocks."""

from stoker.core.errors import StokerError
from stoker.kvcache import Link
from stoker.worker import conversion
from stoker.worker.frames import Fatal, Hello, Step, Submit, Tune, engine_reader, gateway_reader
from stoker.worker.tiers.format import HEADER_BYTES, check

IDENTITY = bytes(32)
BLOCK = Link(b"n" * 32, b"p" * 32, tuple(range(16)))
"""The block that the KV file must hold."""


def frames(data: bytes) -> None:
    """Read a byte stream as either side would, in pieces, and convert what comes out."""
    cut = data[0] if data else 0
    pieces = (data[1 : 1 + cut], data[1 + cut :])
    for read in (_as_engine, _as_gateway):
        try:
            read(pieces)
        except StokerError:
            continue


def kv_file(data: bytes) -> None:
    """Compare a KV file with the block that it should be, whose data are the rest of the file."""
    check(data[:HEADER_BYTES], memoryview(data)[HEADER_BYTES:], IDENTITY, BLOCK)


def _as_engine(pieces: tuple[bytes, bytes]) -> None:
    reader = engine_reader()
    for piece in pieces:
        reader.feed(piece)
        for frame in reader.frames():
            match frame:
                case Submit():
                    conversion.token_request(frame, request_id="1")
                case Tune():
                    conversion.batching_policy(frame)
                case _:
                    pass


def _as_gateway(pieces: tuple[bytes, bytes]) -> None:
    reader = gateway_reader()
    for piece in pieces:
        reader.feed(piece)
        for frame in reader.frames():
            match frame:
                case Hello():
                    conversion.engine_info(frame)
                case Fatal():
                    conversion.stoker_error(frame.failure)
                case Step():
                    _convert_step(frame)
                case _:
                    pass


def _convert_step(step: Step) -> None:
    conversion.engine_stats(step.stats, kv_block_bytes=1)
    for refusal in step.refused:
        conversion.stoker_error(refusal.failure)
    for entry in step.tokens:
        conversion.tokens_event(
            "1",
            token_ids=list(entry.token_ids),
            logprobs=list(entry.logprobs),
            cached_tokens=entry.cached_tokens,
            finish_reason=entry.finish_reason,
        )
