"""One choice's text, stop strings and log-probabilities, against the same worked out from the whole."""

from codecs import getincrementaldecoder

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.core.text import TextDelta
from stoker.core.tokens import FinishReason, TokenLogprob, TokensEvent
from stoker.testing.tokenizer import byte_tokenizer_spec
from stoker.text import Tokenizer
from stoker.text.choice import ChoiceText
from stoker.text.stops import StopMatcher

TOKENIZER = Tokenizer(byte_tokenizer_spec(merges=("a b", "ab ab")))
AB, ABAB, END = 259, 260, 258

TOKENS = st.one_of(
    st.sampled_from([AB, ABAB, 97, 98, 257, *"\u20ac\U0001f600".encode()]), st.integers(0, 255)
)
EVENTS = st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=8)
STOPS = st.lists(
    st.sampled_from(["b", "ba", "aba", "bb", "\u20ac", "\ufffd", "a\u20ac"]), max_size=3, unique=True
)


def play(
    events: list[list[int]], stops: list[str], *, logprobs: bool, reason: FinishReason = FinishReason.LENGTH
) -> tuple[ChoiceText, list[TextDelta]]:
    choice = ChoiceText(0, TOKENIZER, stops, TOKENIZER.end_token_ids)
    deltas = []
    for index, ids in enumerate(events):
        event = TokensEvent(
            "r",
            tuple(ids),
            logprobs=tuple(TokenLogprob(-float(each)) for each in ids) if logprobs else (),
            finish_reason=reason if index + 1 == len(events) else None,
        )
        delta = choice.feed(event)
        if delta is not None:
            deltas.append(delta)
        if choice.finish_reason is not None:
            break
    return choice, deltas


def n_tokens_until_stop(tokens: list[int], stops: list[str]) -> int:
    """Find the shortest run of tokens whose complete characters hold a stop string."""
    for count in range(1, len(tokens)):
        data = b"".join(map(TOKENIZER.text_bytes, tokens[:count]))
        complete = getincrementaldecoder("utf-8")(errors="replace").decode(data)
        if any(stop in complete for stop in stops):
            return count
    return len(tokens)


@given(EVENTS, STOPS, st.sampled_from([None, 0]))
@example([[AB], [AB]], ["ba"], 0)
@example([[0xE2, 0x82], [0xAC, 97]], ["\u20aca"], None)
@example([[97, 0xE2]], ["\ufffd"], None)
def test_the_text_is_that_of_all_bytes_up_to_the_first_stop_string(
    events: list[list[int]], stops: list[str], n_logprobs: int | None
) -> None:
    choice, deltas = play(events, stops, logprobs=n_logprobs is not None)
    tokens = [token for event in events for token in event]
    whole = b"".join(map(TOKENIZER.text_bytes, tokens)).decode(errors="replace")
    expected, matched = whole, None
    if stops:
        matcher = StopMatcher(stops)
        expected = matcher.feed(whole) + matcher.flush()
        matched = matcher.matched
    assert "".join(delta.text for delta in deltas) == expected
    assert choice.stop_string == matched
    assert choice.finish_reason is (FinishReason.LENGTH if matched is None else FinishReason.STOP)
    assert choice.n_tokens == (len(tokens) if matched is None else n_tokens_until_stop(tokens, stops))


@given(EVENTS, STOPS)
@example([[AB], [AB]], ["ba"])
def test_logprobs_come_with_their_text(events: list[list[int]], stops: list[str]) -> None:
    choice, deltas = play(events, stops, logprobs=True)
    tokens = [token for event in events for token in event][: choice.n_tokens]
    reported = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry.raw for entry in reported] == [
        TOKENIZER.token_bytes(each) for each in tokens[: len(reported)]
    ]
    assert [entry.logprob for entry in reported] == [-float(each) for each in tokens[: len(reported)]]
    if choice.stop_string is None:
        assert len(reported) == len(tokens)
    seen, n_entries = "", 0
    for delta in deltas:
        seen += delta.text
        n_entries += len(delta.logprobs)
        text = b"".join(map(TOKENIZER.text_bytes, tokens[: max(0, n_entries - 1)])).decode(errors="ignore")
        assert len(text) <= len(seen)


@given(EVENTS, STOPS)
def test_logprobs_change_nothing_else(events: list[list[int]], stops: list[str]) -> None:
    (one, plain), (other, detailed) = (play(events, stops, logprobs=each) for each in (False, True))
    assert "".join(each.text for each in plain) == "".join(each.text for each in detailed)
    assert (one.n_tokens, one.finish_reason) == (other.n_tokens, other.finish_reason)


def test_a_token_s_logprob_waits_for_its_text() -> None:
    _, deltas = play([[0xE2], [0x82], [0xAC], [98], [99]], ["bb"], logprobs=True)
    assert [(delta.text, len(delta.logprobs)) for delta in deltas] == [("\u20ac", 3), ("bc", 2)]


def test_a_token_that_a_stop_string_cuts_is_reported_and_those_inside_are_not() -> None:
    choice, deltas = play([[97], [ABAB], [98], [97]], ["bab"], logprobs=True)
    assert "".join(delta.text for delta in deltas) == "aa"
    assert [entry.text for delta in deltas for entry in delta.logprobs] == ["a", "abab"]
    assert choice.n_tokens == 2


def test_an_end_token_counts_but_is_neither_text_nor_logprob() -> None:
    choice, deltas = play([[97], [98, END]], [], logprobs=True, reason=FinishReason.STOP)
    assert "".join(delta.text for delta in deltas) == "ab"
    assert [entry.text for delta in deltas for entry in delta.logprobs] == ["a", "b"]
    assert (choice.n_tokens, choice.finish_reason) == (3, FinishReason.STOP)


def test_an_end_token_that_was_ignored_is_reported() -> None:
    _, deltas = play([[97], [END], [98]], [], logprobs=True)
    assert [entry.text for delta in deltas for entry in delta.logprobs] == ["a", "<|im_end|>", "b"]
    assert "".join(delta.text for delta in deltas) == "ab"


def test_tokens_after_the_stop_string_in_the_same_event_do_not_count() -> None:
    choice, deltas = play([[97, 98, 99, 99]], ["b"], logprobs=False)
    assert (choice.n_tokens, choice.stop_string, deltas) == (2, "b", [TextDelta(0, "a")])


def test_nothing_to_say_is_no_delta() -> None:
    assert play([[0xE2], [0x82]], [], logprobs=False)[1] == [TextDelta(0, "\ufffd")]
    assert play([[END]], [], logprobs=False, reason=FinishReason.STOP)[1] == []


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
"""A man, a woman and a girl in one emoji: three code points held together by two zero-width joiners."""

UNICODE_CASES = {
    # what is generated, stop strings, what is shown
    "an emoji, in whose bytes every cut falls": ("hi \U0001f600 you", ["\U0001f600"], "hi "),
    "from the middle of a sequence": (f"a{FAMILY}b", ["\u200d\U0001f469"], "a\U0001f468"),
    "a joiner alone": (f"a{FAMILY}b", ["\u200d"], "a\U0001f468"),
    "a sequence that begins alike": (
        f"{FAMILY}x",
        ["\U0001f468\u200d\U0001f467"],
        f"{FAMILY}x",
    ),
    "characters with equal first bytes": ("\u20ab\u20ac", ["\u20ac"], "\u20ab"),
    "a combining mark": ("cafe\u0301s", ["\u0301"], "cafe"),
    "of both kinds": ("x\u20ac\nUser: y", ["\u20ac\nUser:"], "x"),
    "a flag, of two letters": ("\U0001f1ea\U0001f1f8!", ["\U0001f1f8"], "\U0001f1ea"),
}


@pytest.mark.parametrize(("text", "stops", "shown"), UNICODE_CASES.values(), ids=UNICODE_CASES)
@pytest.mark.parametrize("tokens_per_event", [1, 2, 3, 100])
@pytest.mark.parametrize("logprobs", [False, True])
def test_stop_strings_inside_and_across_characters(
    text: str, stops: list[str], shown: str, tokens_per_event: int, *, logprobs: bool
) -> None:
    ids = list(text.encode())  # a token a byte: no character is whole in one
    events = [ids[at : at + tokens_per_event] for at in range(0, len(ids), tokens_per_event)]
    choice, deltas = play(events, stops, logprobs=logprobs)
    assert "".join(delta.text for delta in deltas) == shown
    assert choice.stop_string == (stops[0] if shown != text else None)
    assert "\ufffd" not in shown


def test_a_stop_string_begins_inside_one_token_and_ends_inside_another() -> None:
    choice, deltas = play([[ABAB], [ABAB], [97]], ["babab"], logprobs=True)
    assert "".join(delta.text for delta in deltas) == "a"
    assert (choice.n_tokens, choice.stop_string) == (2, "babab")
    # The first token's beginning is shown, so it is reported; of the second nothing is.
    assert [entry.text for delta in deltas for entry in delta.logprobs] == ["abab"]


@pytest.mark.parametrize("end", [256, 257, END])
def test_any_of_several_end_tokens_ends_the_choice(end: int) -> None:
    choice = ChoiceText(0, TOKENIZER, [], frozenset({256, 257, END}))
    delta = choice.feed(TokensEvent("r", (97, end), finish_reason=FinishReason.STOP))
    assert delta == TextDelta(0, "a")
    assert (choice.finish_reason, choice.n_tokens) == (FinishReason.STOP, 2)


def test_the_end_token_is_reported_if_every_token_is_to_be() -> None:
    choice = ChoiceText(0, TOKENIZER, ["x"], frozenset({END}), report_end=True)
    event = TokensEvent("r", (97, END), (TokenLogprob(-1.0), TokenLogprob(-2.0)), 0, FinishReason.STOP)
    delta = choice.feed(event)
    assert delta is not None
    assert [(entry.text, entry.logprob, entry.added) for entry in delta.logprobs] == [
        ("a", -1.0, None),
        ("<|im_end|>", -2.0, b""),
    ]
    assert choice.logprob == -3.0


def test_logprobs_that_only_weigh_a_choice_are_not_reported() -> None:
    choice = ChoiceText(0, TOKENIZER, ["b"], frozenset({END}), report=False)
    event = TokensEvent("r", (97, 98, 99), (TokenLogprob(-1.0), TokenLogprob(-2.0), TokenLogprob(-4.0)))
    assert choice.feed(event) == TextDelta(0, "a")
    # What was generated after the stop string does not count.
    assert (choice.n_tokens, choice.logprob) == (2, -3.0)
