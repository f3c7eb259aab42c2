"""An answer ends when the model is not sure of its last tokens, wherever its events are cut."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import pytest

from stoker.core.early_exit import EarlyExit, ExitReason, ExitRule
from stoker.core.grammar import Grammar, GrammarKind
from stoker.core.text import Finished, Usage
from stoker.core.tokens import FinishReason, TokenLogprob, TokensEvent
from stoker.testing.local_generator import END, REQUEST, TOKENIZER, play, saying, text_of
from stoker.testing.token_engine import FakeTokenEngine, Step
from stoker.text.choice import ChoiceText
from stoker.text.exit_watch import ExitWatch

# The fake engine's log-probability of a token is minus a hundredth of it: "!" (33) is sure, "z" (122) is not.
RULE = ExitRule(stop_below=0.5, window=2)
ASKING = replace(REQUEST, exit_rule=RULE)


@pytest.mark.parametrize("script", [saying("!!!zz!!"), saying(*"!!!zz!!"), saying("!", "!!z", "z!!")])
async def test_it_ends_with_the_first_window_below(script: list[Step]) -> None:
    engine = FakeTokenEngine(script)
    events = await play(engine, ASKING)
    assert text_of(events) == "!!!z"
    (ended,) = [each for each in events if isinstance(each, Finished)]
    assert ended.reason is FinishReason.STOP
    assert ended.early_exit is not None
    assert ended.early_exit.reason is ExitReason.CONFIDENCE
    assert ended.early_exit.confidence == pytest.approx(exp(-(33 + 122) / 200))
    assert events[-1] == Usage(3, 4, 0)
    assert not engine.running
    assert engine.requests[0].sampling.logprobs == 0


@pytest.mark.parametrize(
    ("pieces", "text"),
    [(["z", "!", "!", END], "z!!"), (["!", "z", END], "!z"), (["z"], "z"), ([END], "")],
)
async def test_an_answer_that_ends_before_says_so(pieces: Sequence[str | int], text: str) -> None:
    rule = ExitRule(stop_below=0.3, window=2)
    events = await play(FakeTokenEngine(saying(*pieces)), replace(ASKING, exit_rule=rule))
    assert text_of(events) == text
    (ended,) = [each for each in events if isinstance(each, Finished)]
    assert ended.early_exit is not None
    assert ended.early_exit.reason is ExitReason.NONE
    assert (ended.early_exit.confidence is None) == (text == "")


async def test_what_is_held_for_a_stop_string_is_told() -> None:
    events = await play(FakeTokenEngine(saying("!zz!")), replace(ASKING, stop=("z?",)))
    assert text_of(events) == "!z"


async def test_each_choice_ends_by_itself() -> None:
    engine = FakeTokenEngine(lambda request: saying("!zz") if request.sampling.choice else saying("!!!", END))
    events = await play(engine, replace(ASKING, n=2))
    told = {each.choice: each.early_exit for each in events if isinstance(each, Finished)}
    assert {choice: each and each.reason for choice, each in told.items()} == {
        0: ExitReason.NONE,
        1: ExitReason.CONFIDENCE,
    }


async def test_without_a_rule_nothing_is_told() -> None:
    events = await play(FakeTokenEngine(saying("zzz", END)))
    assert [each.early_exit for each in events if isinstance(each, Finished)] == [None]


@pytest.mark.parametrize(
    ("token", "reason", "told"),
    [
        (ord("x"), FinishReason.STOP, ExitReason.FORMAT),
        (END, FinishReason.STOP, ExitReason.NONE),
        (ord("x"), FinishReason.LENGTH, ExitReason.NONE),
    ],
)
def test_an_end_without_an_end_token_is_that_of_a_grammar(
    token: int, reason: FinishReason, told: ExitReason
) -> None:
    watch = ExitWatch(ExitRule(stop_below=0.0, window=16))
    choice = ChoiceText(0, TOKENIZER, (), frozenset({END}), watch=watch)
    choice.feed(TokensEvent("r", (token,), (TokenLogprob(-1.0),), finish_reason=reason))
    assert choice.early_exit is not None
    assert choice.early_exit.reason is told
    assert choice.early_exit.confidence == (None if token == END else pytest.approx(exp(-1)))


async def test_tokens_that_a_grammar_forces_need_no_log_probabilities() -> None:
    grammar = Grammar(GrammarKind.REGEX, "ab", "guided_regex", eager=True, fast_forward=True)
    engine = FakeTokenEngine(saying("a", "b", END))
    rule = ExitRule(stop_below=0.0, window=16)
    events = await play(engine, replace(REQUEST, grammar=grammar, exit_rule=rule))
    assert engine.requests[0].sampling.logprobs is None
    assert [each.early_exit for each in events if isinstance(each, Finished)] == [
        EarlyExit(ExitReason.NONE, None)
    ]


async def test_a_stop_string_goes_before_the_rule() -> None:
    events = await play(FakeTokenEngine(saying("!zz!")), replace(ASKING, stop=("zz",), exit_rule=RULE))
    (ended,) = [each for each in events if isinstance(each, Finished)]
    assert ended.early_exit is not None
    assert ended.early_exit.reason is ExitReason.CONFIDENCE
    script = FakeTokenEngine(saying("!!!z!"))
    events = await play(script, replace(ASKING, stop=("!z",), exit_rule=RULE))
    (ended,) = [each for each in events if isinstance(each, Finished)]
    assert (ended.stop_string, ended.early_exit and ended.early_exit.reason) == ("!z", ExitReason.NONE)
