import socket
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from stoker.worker import frames
from stoker.worker.mailbox import MAX_LETTER_TOKENS, MAX_LETTERS, Letter, Mailbox, PeerChange
from stoker.worker.peer import Peer

MAX_UNREAD_BYTES = 100_000


class Wakes:
    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> None:
        self.n += 1


class Pair:
    """A peer, and the gateway's end of its connection."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.wakes = Wakes()
        self.peer = Peer(ours, self.wakes, max_unread_bytes=MAX_UNREAD_BYTES)

    def unsent(self) -> bool:
        return self.peer.has_unsent

    def close(self) -> None:
        self.peer.close()
        self.theirs.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def is_full(mailbox: Mailbox) -> bool:
    return mailbox.full


def submit(n_tokens: int) -> frames.Submit:
    sampling = frames.Sampling(0.0, 0, 1.0, 0.0, 0, 0, None, 0.0, 0.0, 1.0, ())
    return frames.Submit(7, 0, (1,) * n_tokens, 0, 1, 0, (), sampling, "", 0, None, None)


def test_what_the_kernel_takes_is_sent_at_once_without_waking_anybody(pair: Pair) -> None:
    pair.peer.send(b"tokens")
    assert pair.theirs.recv(100) == b"tokens"
    assert not pair.peer.has_unsent
    assert pair.wakes.n == 0


def test_what_the_kernel_does_not_take_is_kept_in_order(pair: Pair) -> None:
    sent = bytearray()
    while not pair.unsent():
        piece = bytes([len(sent) // 1000 % 256]) * 1000
        pair.peer.send(piece)
        sent += piece
    pair.peer.send(b"last")
    sent += b"last"
    assert pair.wakes.n == 2
    received = bytearray()
    while len(received) < len(sent):
        received += pair.theirs.recv(65536)
        pair.peer.flush()
    assert received == sent
    assert not pair.unsent()
    assert pair.peer.broken is None


def test_a_gateway_that_does_not_read_is_cut_off_at_the_bound(pair: Pair) -> None:
    n_sent = 0
    while pair.peer.broken is None:
        pair.peer.send(bytes(10_000))
        n_sent += 1
        assert n_sent < 1000
    assert "unread" in pair.peer.broken
    assert not pair.peer.has_unsent  # the buffer is let go at once
    pair.peer.send(b"more")
    assert not pair.peer.has_unsent


def test_sending_to_a_gateway_that_left_is_harmless(pair: Pair) -> None:
    pair.theirs.close()
    pair.peer.send(b"tokens")
    assert pair.peer.broken is not None
    assert pair.wakes.n == 1


def test_sending_after_closing_is_harmless(pair: Pair) -> None:
    pair.peer.close()
    pair.peer.send(b"tokens")
    assert pair.theirs.recv(100) == b""


def test_reading_ends_with_the_file(pair: Pair) -> None:
    assert pair.peer.read()  # nothing has come yet
    pair.theirs.send(frames.encode(frames.Abort(7, 1)))
    assert pair.peer.read()
    assert list(pair.peer.frames()) == [frames.Abort(7, 1)]
    pair.theirs.close()
    assert not pair.peer.read()


def test_letters_come_out_in_order_and_all_at_once(pair: Pair) -> None:
    mailbox = Mailbox(Wakes())
    letters = [Letter(pair.peer, frames.Abort(7, number)) for number in range(3)]
    for letter in letters:
        mailbox.put(letter)
    assert mailbox.take(wait=False) == letters
    assert mailbox.take(wait=False) == []


def test_the_mailbox_is_full_by_letters_or_by_tokens_until_it_is_emptied(pair: Pair) -> None:
    wakes = Wakes()
    mailbox = Mailbox(wakes)
    for _ in range(MAX_LETTERS):
        assert not is_full(mailbox)
        mailbox.put(Letter(pair.peer, frames.Abort(7, 0)))
    assert is_full(mailbox)
    mailbox.put(Letter(pair.peer, PeerChange.DISCONNECTED))  # always gets in
    assert len(mailbox.take(wait=True) or ()) == MAX_LETTERS + 1
    assert not is_full(mailbox)
    assert wakes.n == 1
    mailbox.put(Letter(pair.peer, submit(MAX_LETTER_TOKENS)))
    assert is_full(mailbox)
    mailbox.take(wait=True)
    assert not is_full(mailbox)
    assert wakes.n == 2


def test_a_waiting_taker_sleeps_until_there_is_a_letter(pair: Pair) -> None:
    mailbox = Mailbox(Wakes())
    letter = Letter(pair.peer, PeerChange.CONNECTED)
    taken: list[list[Letter] | None] = []
    taker = Thread(target=lambda: taken.append(mailbox.take(wait=True)))
    taker.start()
    time.sleep(0.05)
    assert taken == []
    mailbox.put(letter)
    taker.join(5)
    assert taken == [[letter]]


def test_closing_wakes_the_taker_with_nothing(pair: Pair) -> None:
    mailbox = Mailbox(Wakes())
    taken: list[list[Letter] | None] = []
    taker = Thread(target=lambda: taken.append(mailbox.take(wait=True)))
    taker.start()
    mailbox.close()
    taker.join(5)
    assert taken == [None]
    mailbox.put(Letter(pair.peer, PeerChange.CONNECTED))
    assert mailbox.take(wait=False) is None


def test_a_nudge_or_the_end_of_its_time_wakes_the_taker_without_a_letter() -> None:
    mailbox = Mailbox(Wakes())
    assert mailbox.take(wait=True, timeout_s=0.001) == []
    taken: list[list[Letter] | None] = []
    taker = Thread(target=lambda: taken.append(mailbox.take(wait=True, timeout_s=60)))
    taker.start()
    mailbox.nudge()
    taker.join(5)
    assert taken == [[]]
    mailbox.nudge()
    assert mailbox.take(wait=True) == [], "it is not lost when nobody waits"
