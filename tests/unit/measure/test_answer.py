"""Streams of events, whole, cut at any byte, and broken."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.measure.answer import MAX_EVENT_BYTES, AnswerReader, Fault


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}]})


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
STREAM = (
    event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    + text_event("a")
    + b": a comment\r\n\r\n"
    + text_event("b")
    + event({"choices": [{"delta": {"reasoning_content": "c"}}]}).replace(b"\n", b"\r\n")
    + event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None})
    + event({"choices": [], "usage": USAGE})
    + b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_reads_alike_however_it_is_cut(cuts: list[int]) -> None:
    reader = AnswerReader()
    edges = [0, *sorted(cuts), len(STREAM)]
    for now, (begin, end) in enumerate(pairwise(edges)):
        reader.feed(STREAM[begin:end], float(now))
    reader.end()
    assert reader.n_events == 3
    assert 1 <= len(reader.arrivals_s) <= 3
    assert reader.arrivals_s == sorted(reader.arrivals_s)
    assert (reader.count("prompt_tokens"), reader.count("completion_tokens")) == (9, 3)
    assert reader.cached_tokens == 4


def test_text_of_one_piece_is_one_arrival() -> None:
    reader = AnswerReader()
    reader.feed(text_event("a") + text_event("b"), 1.0)
    reader.feed(text_event("c"), 2.0)
    assert reader.arrivals_s == [1.0, 2.0]
    assert reader.n_events == 3


def test_a_completion_s_text_counts() -> None:
    reader = AnswerReader()
    reader.feed(event({"choices": [{"text": "a"}]}) + event({"choices": [{"text": ""}]}), 1.0)
    assert reader.n_events == 1


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b"data: {\n\n", "bad_json"),
        (b"data: 7\n\n", "bad_json"),
        (event({"choices": [7]}), "bad_json"),
        (event({"error": {"message": "out of memory"}}), "stream_error"),
        (b"data: " + b"x" * (MAX_EVENT_BYTES + 1), "too_large"),
    ],
)
def test_a_broken_stream_is_a_fault(stream: bytes, kind: str) -> None:
    with pytest.raises(Fault) as found:
        AnswerReader().feed(stream, 0.0)
    assert found.value.kind == kind


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b"", "cut_off"),
        (text_event("a"), "cut_off"),
        (text_event("a") + b"data: [DONE]", "cut_off"),
        (b"data: [DONE]\n\n", "no_text"),
    ],
)
def test_an_incomplete_answer_is_a_fault(stream: bytes, kind: str) -> None:
    reader = AnswerReader()
    reader.feed(stream, 0.0)
    with pytest.raises(Fault) as found:
        reader.end()
    assert found.value.kind == kind


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": "9"}, {"prompt_tokens": -1}, {"prompt_tokens": True}]
)
def test_counts_that_are_none_are_not_taken(usage: dict[str, object]) -> None:
    reader = AnswerReader()
    reader.feed(event({"choices": [], "usage": {**usage, "prompt_tokens_details": 3}}), 0.0)
    assert reader.count("prompt_tokens") is None
    assert reader.cached_tokens is None
