import contextlib
from collections.abc import Sequence
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.abilities import Ability
from stoker.core.batching import BatchingMode
from stoker.core.errors import EngineError
from stoker.core.grammar import GrammarKind
from stoker.core.tokens import FinishReason
from stoker.worker import frames
from stoker.worker.frames import LENGTH_BYTES, MAX_FRAME_BYTES, Frame, FrameReader

STATS = frames.Stats(
    *(1, 2, 30, 3, 4, 5, 12, 13, 14, 15, 1, 6, 7, 8, 28, 27, 9, 11, 16, 17, 18, 19, 20, 21, 10, 22, 23, 24),
    *(1.5, 2.5, 2.25, 3, 1, 512, 1.25, 2, 0.5, 0.25),
)
U64 = st.integers(0, 2**64 - 1)
TO_ENGINE: st.SearchStrategy[frames.ToEngine] = st.one_of(
    st.builds(frames.Abort, U64, U64),
    st.builds(
        frames.Tune,
        U64,
        st.sampled_from(get_args(BatchingMode)),
        st.floats(0.001, 60),
        st.floats(0, 0.9),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    st.builds(
        frames.Submit,
        U64,
        U64,
        st.lists(st.integers(0, 2**31), max_size=40).map(tuple),
        st.integers(0, 2**31),
        st.integers(1, 2**31),
        st.integers(0, 2**31),
        st.lists(st.integers(0, 2**31), max_size=4).map(tuple),
        st.builds(
            frames.Sampling,
            st.floats(0, 2),
            st.integers(0, 100),
            st.floats(0, 1),
            st.floats(0, 1),
            U64,
            st.integers(0, 100),
            st.none() | st.integers(0, 20),
            st.floats(-2, 2),
            st.floats(-2, 2),
            st.floats(0.01, 100),
            st.lists(st.tuples(st.integers(0, 2**31), st.floats(-100, 100)), max_size=4).map(tuple),
        ),
        st.text(max_size=20),
        st.integers(-(2**31), 2**31),
        st.none() | st.floats(0, 1e5),
        st.none() | st.floats(0, 1e5),
        st.none() | st.integers(0, 20),
        st.booleans(),
        st.none() | st.builds(frames.Grammar, st.sampled_from(GrammarKind), st.text(), st.text()),
    ),
)
TO_GATEWAY: tuple[frames.ToGateway, ...] = (
    frames.Hello(
        2**63 - 1,
        1,
        "model",
        "fingerprint",
        8192,
        49152,
        100,
        64,
        256,
        368640,
        "some engine",
        (Ability.RESUMPTION,),
    ),
    frames.Step(7, (), (), (), STATS),
    frames.Step(
        7,
        (1, 2),
        (frames.Refusal(3, frames.Failure("QueueFullError", "full", retry_after_s=2.5)),),
        (
            frames.Tokens(1, (40000,), 16, None, ()),
            frames.Tokens(
                2, (1, 2, 3), 0, FinishReason.STOP, (frames.Logprob(-0.5, ((1, -0.5), (2, -1.5))),)
            ),
        ),
        STATS,
    ),
    frames.Fatal(7, frames.Failure("OutOfMemoryError", "does not fit")),
)


def read_all(reader: FrameReader[Frame], data: bytes) -> list[Frame]:
    reader.feed(data)
    return list(reader.frames())


def read_both_ways(data: bytes) -> list[Sequence[object]]:
    """Return what either side makes of the bytes, where it does not refuse them."""
    received: list[Sequence[object]] = []
    with contextlib.suppress(EngineError):
        received.append([*read_all(frames.engine_reader(), data)])
    with contextlib.suppress(EngineError):
        received.append([*read_all(frames.gateway_reader(), data)])
    return received


@given(st.lists(TO_ENGINE, max_size=6), st.integers(1, 50))
def test_frames_to_the_engine_survive_any_cutting_of_the_stream(
    sent: list[frames.ToEngine], piece_bytes: int
) -> None:
    stream = b"".join(map(frames.encode, sent))
    reader = frames.engine_reader()
    received = []
    for start in range(0, len(stream), piece_bytes):
        received += read_all(reader, stream[start : start + piece_bytes])
    assert received == sent


@pytest.mark.parametrize("frame", TO_GATEWAY, ids=lambda frame: type(frame).__name__)
def test_frames_to_the_gateway_survive(frame: frames.ToGateway) -> None:
    assert read_all(frames.gateway_reader(), frames.encode(frame)) == [frame]


def test_a_frame_starts_with_its_length_in_little_endian() -> None:
    data = frames.encode(frames.Abort(7, 1))
    assert int.from_bytes(data[:LENGTH_BYTES], "little") == len(data) - LENGTH_BYTES
    assert msgspec.msgpack.decode(data[LENGTH_BYTES:]) == [2, 7, 1]


def test_a_reader_that_is_closed_early_goes_on_where_it_stopped() -> None:
    reader = frames.engine_reader()
    reader.feed(b"".join(frames.encode(frames.Abort(7, number)) for number in range(3)))
    first = reader.frames()
    assert next(first) == frames.Abort(7, 0)
    first.close()
    assert list(reader.frames()) == [frames.Abort(7, 1), frames.Abort(7, 2)]


@given(st.binary(max_size=200))
def test_random_bytes_are_waited_for_or_refused_with_a_clean_error(data: bytes) -> None:
    for received in read_both_ways(data):
        assert all(isinstance(frame, msgspec.Struct) for frame in received)


@given(st.binary(max_size=200))
def test_random_bodies_of_the_announced_length_are_refused_or_are_frames(body: bytes) -> None:
    data = len(body).to_bytes(LENGTH_BYTES, "little") + body
    for (frame,) in read_both_ways(data):
        assert isinstance(frame, msgspec.Struct)


@given(st.sampled_from(TO_GATEWAY), st.data())
def test_one_wrong_byte_never_does_worse_than_a_clean_error(
    frame: frames.ToGateway, data: st.DataObject
) -> None:
    damaged = bytearray(frames.encode(frame))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] = data.draw(st.integers(0, 255))
    try:
        received = read_all(frames.gateway_reader(), bytes(damaged))
    except EngineError:
        return
    assert len(received) <= 1 + len(damaged) // LENGTH_BYTES


def test_deep_nesting_is_a_clean_error() -> None:
    body = b"\x91" * 100_000
    with pytest.raises(EngineError, match="protocol version"):
        read_all(frames.engine_reader(), len(body).to_bytes(LENGTH_BYTES, "little") + body)


def test_an_announced_length_over_the_limit_is_refused_before_its_body_arrives() -> None:
    with pytest.raises(EngineError, match=f"limit is {MAX_FRAME_BYTES}"):
        read_all(frames.engine_reader(), (MAX_FRAME_BYTES + 1).to_bytes(LENGTH_BYTES, "little"))


def test_a_frame_over_the_limit_is_not_sent() -> None:
    prompt = (2**31,) * (MAX_FRAME_BYTES // 5 + 1)  # five bytes each
    sampling = frames.Sampling(0.0, 0, 1.0, 0.0, 0, 0, None, 0.0, 0.0, 1.0, ())
    with pytest.raises(EngineError, match="over the limit"):
        frames.encode(frames.Submit(7, 0, prompt, 0, 1, 0, (), sampling, "", 0, None, None))


def test_frames_of_the_other_direction_are_refused() -> None:
    with pytest.raises(EngineError, match="protocol version"):
        read_all(frames.gateway_reader(), frames.encode(frames.Abort(7, 1)))
