"""Incremental detokenizing against decoding everything at once."""

from hypothesis import example, given
from hypothesis import strategies as st

from stoker.text.detokenize import Detokenizer

PIECES = st.one_of(
    st.text(max_size=4).map(str.encode),
    st.binary(max_size=4),
    st.sampled_from(
        [b"\xf0\x9f", b"\x98\x80", b"\xe2", b"\x82\xac", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90"]
    ),
)


@given(st.lists(PIECES, max_size=20))
@example([b"\xe2", b"\x82", b"\xac"])
@example([b"\xf0", b"\x9f", b"A"])
@example([b"\xf0\x9f\x98"])
def test_any_split_gives_what_one_decode_gives(pieces: list[bytes]) -> None:
    detokenizer = Detokenizer()
    text = "".join([detokenizer.feed(piece) for piece in pieces]) + detokenizer.flush()
    assert text == b"".join(pieces).decode(errors="replace")
    assert detokenizer.held == b""


def test_an_incomplete_character_is_held_until_it_is_complete() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.feed(bytes([byte])) for byte in "a\U0001f600b".encode()] == [
        "a", "", "", "", "\U0001f600", "b",
    ]  # fmt: skip
    assert detokenizer.flush() == ""


def test_a_character_that_never_completes_is_replaced_at_once() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed(b"\xe2\x82") == ""
    assert detokenizer.held == b"\xe2\x82"
    assert detokenizer.feed(b"x") == "\ufffdx"


def test_flush_replaces_what_is_held() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed(b"ok\xf0\x9f\x98") == "ok"
    assert detokenizer.flush() == "\ufffd"
