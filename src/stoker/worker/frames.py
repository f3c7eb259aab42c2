"""The messages between gateway and engine process, and their bytes.

A frame is a 4-byte little-endian length, then a msgpack array ``[tag, incarnation, fields...]``. Every
frame names the engine's incarnation, drawn at random when the process starts, so that nothing meant
for a dead engine reaches its successor. Sequences have numbers, counted up by the gateway on each
connection and never reused; numbers of ended sequences are ignored wherever they appear.

::

    gateway                          engine
       |  <------------- Hello ----------  ready: would produce a token now
       |  ------------- Submit --------->
       |  <-- Step(admitted or refused) -  before the next engine call
       |  <-- Step(tokens, stats) -------  after each engine call
       |  <-- Step(refused) -------------  a time limit of an admitted sequence is over
       |  ------------- Abort ---------->  takes effect at the next engine call
       |  ------------- Tune ----------->  likewise
       |  <------------- Pulse ----------  now and then during a long engine call
       |  <------------- Fatal ----------  the engine ends, and why
"""

from collections.abc import Generator
from typing import Generic, TypeVar

import msgspec

from stoker.core.abilities import Ability
from stoker.core.batching import BatchingMode
from stoker.core.errors import EngineError
from stoker.core.grammar import GrammarKind
from stoker.core.pooling import Pooling
from stoker.core.tokens import FinishReason

PROTOCOL_VERSION = 7
"""Both sides must speak the same version; they are installed together."""

LENGTH_BYTES = 4
"""Size of the length in front of each frame."""

MAX_FRAME_BYTES = 16 * 2**20
"""Longer frames are refused by whoever would send or receive them."""


class Sampling(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`stoker.core.sampling.SamplingParams` on the wire."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    choice: int
    logprobs: int | None
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: tuple[tuple[int, float], ...]


class Grammar(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`stoker.core.grammar.Grammar` on the wire."""

    kind: GrammarKind
    source: str
    field: str
    eager: bool = False
    fast_forward: bool = False


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Gateway to engine: continue this sequence; `adapter` is path and digest."""

    incarnation: int
    sequence: int
    prompt: tuple[int, ...]
    n_generated: int
    max_tokens: int
    min_tokens: int
    stop_token_ids: tuple[int, ...]
    sampling: Sampling
    cache_salt: str
    priority: int
    queue_timeout_s: float | None
    timeout_s: float | None
    prompt_logprobs: int | None = None
    hold: bool = False
    grammar: Grammar | None = None
    pooling: Pooling | None = None
    adapter: tuple[str, str] | None = None
    candidates: tuple[tuple[int, ...], ...] = ()


class Abort(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Gateway to engine: nobody waits for this sequence any more."""

    incarnation: int
    sequence: int


class Tune(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Gateway to engine: fill steps by this policy, `stoker.scheduler.BatchingPolicy`, from now on."""

    incarnation: int
    mode: BatchingMode
    itl_target_s: float
    prefill_share: float
    batch_wait_s: float
    prompt_patience_s: float


class Hello(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Engine to gateway, first: the engine is ready; the fields are those of `EngineInfo`."""

    incarnation: int
    protocol_version: int
    model: str
    fingerprint: str
    context_length: int
    vocab_size: int
    kv_blocks: int
    max_running: int
    max_waiting: int
    kv_block_bytes: int
    engine: str = ""
    lacks: tuple[Ability, ...] = ()


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An error: `kind` is the name of a class in `stoker.core.errors`."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float = 0.0


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A submitted sequence that the engine does not take, or does not go on with."""

    sequence: int
    failure: Failure


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """`stoker.core.tokens.TokenLogprob` on the wire."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class Scores(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`stoker.core.tokens.PromptScores` on the wire: its arrays as they are in memory.

    Both sides run on the same machine.
    """

    n_top: int
    logprobs: bytes
    top_tokens: bytes
    top_logprobs: bytes


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """News of one sequence; `finish_reason` is None until it ends, `embedding` is an array as in memory."""

    sequence: int
    token_ids: tuple[int, ...]
    cached_tokens: int
    finish_reason: FinishReason | None
    logprobs: tuple[Logprob, ...]
    prompt_scores: Scores | None = None
    embedding: bytes | None = None


class Stats(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`stoker.core.stats.EngineStats` on the wire."""

    running: int
    waiting: int
    waiting_tokens: int
    kv_blocks_total: int
    kv_blocks_used: int
    kv_blocks_cached: int
    kv_blocks_pinned: int
    kv_host_blocks_total: int
    kv_host_blocks_used: int
    kv_disk_blocks: int
    kv_disk_writing: int
    adapters_resident: int
    prompt_tokens_total: int
    cached_tokens_total: int
    generated_tokens_total: int
    drafted_tokens_total: int
    accepted_tokens_total: int
    preemptions_total: int
    expired_total: int
    host_restored_tokens_total: int
    disk_restored_tokens_total: int
    kv_demoted_blocks_total: int
    kv_dropped_blocks_total: int
    kv_disk_writes_total: int
    kv_disk_failures_total: int
    adapter_loads_total: int
    adapter_evictions_total: int
    steps_total: int
    step_seconds_total: float
    interval_seconds_total: float
    predicted_seconds_total: float
    streaming_steps_total: int
    late_steps_total: int
    step_budget: int
    step_time_ratio: float
    grammars_compiled_total: int
    grammar_compile_seconds_total: float
    grammar_mask_seconds_total: float
    forced_tokens_total: int = 0
    drafting_seconds_total: float = 0.0


class Step(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Engine to gateway: what one engine call, or the mail read before it, changed."""

    incarnation: int
    admitted: tuple[int, ...]
    refused: tuple[Refusal, ...]
    tokens: tuple[Tokens, ...]
    stats: Stats


class Fatal(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Engine to gateway, last: the engine cannot go on."""

    incarnation: int
    failure: Failure


class Pulse(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Engine to gateway: the engine call that you wait for goes on."""

    incarnation: int


ToEngine = Submit | Abort | Tune
ToGateway = Hello | Step | Pulse | Fatal

Frame = TypeVar("Frame")

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_to_gateway: msgspec.msgpack.Decoder[ToGateway] = msgspec.msgpack.Decoder(ToGateway)


def encode(frame: ToEngine | ToGateway) -> bytes:
    """Return the frame's bytes, its length in front.

    Raises:
        EngineError: The frame is longer than `MAX_FRAME_BYTES`.
    """
    buffer = bytearray(LENGTH_BYTES)
    _encoder.encode_into(frame, buffer, LENGTH_BYTES)
    size_bytes = len(buffer) - LENGTH_BYTES
    if size_bytes > MAX_FRAME_BYTES:
        raise EngineError(f"a frame of {size_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")
    buffer[:LENGTH_BYTES] = size_bytes.to_bytes(LENGTH_BYTES, "little")
    return bytes(buffer)


class FrameReader(Generic[Frame]):
    """Cuts a byte stream into frames; keeps at most one incomplete frame.

    Args:
        decoder: Decodes the frames that may arrive.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[Frame]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append what was read from the peer."""
        self._buffer += data

    def frames(self) -> Generator[Frame]:
        """Yield every complete frame; closing it early keeps the rest for the next call.

        Raises:
            EngineError: The bytes are not frames of this protocol; the stream cannot be read on.
        """
        buffer = self._buffer
        start = 0
        try:
            while len(buffer) - start >= LENGTH_BYTES:
                size_bytes = int.from_bytes(buffer[start : start + LENGTH_BYTES], "little")
                if size_bytes > MAX_FRAME_BYTES:
                    raise EngineError(
                        f"a frame of {size_bytes} bytes was announced; the limit is {MAX_FRAME_BYTES}"
                    )
                end = start + LENGTH_BYTES + size_bytes
                if end > len(buffer):
                    return
                body = buffer[start + LENGTH_BYTES : end]
                start = end
                yield self._decode(body)
        finally:
            del buffer[:start]

    def _decode(self, body: bytearray) -> Frame:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"a frame is not of protocol version {PROTOCOL_VERSION}: {error}") from error


def engine_reader() -> FrameReader[ToEngine]:
    """Return a reader of the frames that an engine receives."""
    return FrameReader(_to_engine)


def gateway_reader() -> FrameReader[ToGateway]:
    """Return a reader of the frames that a gateway receives."""
    return FrameReader(_to_gateway)
