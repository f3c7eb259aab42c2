"""Every target on its corpus, and on changed copies of it: the same ones in every run."""

import random
from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError
from stoker.testing.fuzz import TARGETS, run
from stoker.worker import conversion, frames

CORPUS = Path(__file__).parent / "corpus"
MAX_CORPUS_BYTES = 200_000
N_CHANGED = 1000
EXTREMES = (b"\0" * 4, b"\xff" * 4, b"\xff" * 7 + b"\x7f", b"\0\0\0\x80", b"{", b"[", b'"')


def inputs(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def changed(random_: random.Random, data: bytes, other: bytes) -> bytes:
    """A copy with a few bytes flipped, removed, repeated, made extreme, or taken from another input."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randint(0, len(out))
        length = random_.randint(1, 32)
        match random_.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << random_.randrange(8)
            case 1:
                del out[at : at + length]
            case 2:
                out[at:at] = out[at : at + length] * random_.randint(1, 20)
            case 3:
                extreme = random_.choice(EXTREMES)
                out[at : at + len(extreme)] = extreme
            case _:
                start = random_.randint(0, len(other))
                out[at:at] = other[start : start + length]
    return bytes(out)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_corpus_and_changes_of_it(target: str) -> None:
    found = inputs(target)
    assert found
    for data in found:
        run(TARGETS[target], data)
    random_ = random.Random(target)
    for _ in range(N_CHANGED):
        run(TARGETS[target], changed(random_, random_.choice(found), random_.choice(found)))


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 100], ids=["empty", "zero", "ones"])
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_next_to_nothing(target: str, data: bytes) -> None:
    run(TARGETS[target], data)


def test_every_target_has_a_corpus_and_all_are_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < MAX_CORPUS_BYTES


def test_a_fault_is_not_taken_for_a_refusal() -> None:
    def fault(_: bytes) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run(fault, b"")


def test_the_frames_begin_from_whole_ones_of_this_protocol() -> None:
    """Or all changed copies would be refused at their first frame."""
    for side, reader, kinds in (
        ("engine", frames.engine_reader(), [frames.Submit, frames.Abort, frames.Tune]),
        ("gateway", frames.gateway_reader(), [frames.Hello, frames.Step, frames.Fatal]),
    ):
        reader.feed((CORPUS / "frames" / side).read_bytes()[1:])
        read = list(reader.frames())
        assert [type(frame) for frame in read] == kinds
        assert all(
            conversion.engine_info(frame).model == "m" for frame in read if isinstance(frame, frames.Hello)
        )


def test_the_kv_files_begin_from_a_whole_one() -> None:
    (whole,) = inputs("kv_file")
    TARGETS["kv_file"](whole)
    with pytest.raises(CorruptFileError):
        TARGETS["kv_file"](whole[:-1])
