"""What an engine lacks is refused by name, in its own process and before it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.abilities import Ability
from stoker.core.errors import UnsupportedFieldError
from stoker.core.grammar import Grammar, GrammarKind
from stoker.core.protocols import EngineInfo
from stoker.core.refusals import refuse_lacking
from stoker.core.sampling import SamplingParams
from stoker.core.text import TextRequest
from stoker.core.tokens import AdapterRef
from stoker.testing.engine_thread import EngineThread
from stoker.testing.local_generator import REQUEST, generator, play
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_engine import FakeTokenEngine
from stoker.testing.token_streams import collect
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.client import EngineClient

PLAIN = EngineInfo(
    model="m",
    fingerprint="f",
    context_length=4096,
    vocab_size=512,
    kv_blocks=256,
    max_running=4,
    max_waiting=4,
    engine="the poor engine",
)
PENALIZED = SamplingParams(repetition_penalty=1.5)

GRAMMAR = Grammar(GrammarKind.REGEX, "a+", "guided_regex")

NEEDS: list[tuple[Ability, str, dict[str, Any]]] = [
    (Ability.PROMPT_SCORES, "echo", {"prompt_logprobs": 0}),
    (Ability.GRAMMARS, "guided_regex", {"grammar": GRAMMAR}),
    (Ability.SALTED_PREFIXES, "cache_salt", {"cache_salt": "s"}),
    (Ability.ADAPTERS, "model", {"adapter": AdapterRef("/adapter", "0f")}),
    (
        Ability.PENALTY_BEFORE_BIAS,
        "repetition_penalty",
        {"sampling": replace(PENALIZED, presence_penalty=-0.5)},
    ),
    (
        Ability.PENALTY_BEFORE_BIAS,
        "repetition_penalty",
        {"sampling": replace(PENALIZED, frequency_penalty=0.5)},
    ),
    (
        Ability.PENALTY_BEFORE_BIAS,
        "repetition_penalty",
        {"sampling": replace(PENALIZED, logit_bias=((1, 1.0),))},
    ),
]


@pytest.mark.parametrize(("ability", "field", "needs"), NEEDS)
def test_who_lacks_it_refuses_it_and_nobody_else(ability: Ability, field: str, needs: dict[str, Any]) -> None:
    request = replace(make_request("r"), **needs)
    refuse_lacking(request, replace(PLAIN, lacks=frozenset(Ability) - {ability}))
    with pytest.raises(UnsupportedFieldError) as refused:
        refuse_lacking(request, replace(PLAIN, lacks=frozenset({ability})))
    assert refused.value.param == field
    for words in (
        "guided_" if ability is Ability.GRAMMARS else f"'{field}'",
        "'m'",
        "the poor engine",
        ability.value,
    ):
        assert words in str(refused.value)


def test_what_can_be_done_is_not_refused() -> None:
    lacking = replace(PLAIN, lacks=frozenset(Ability))
    for sampling in (
        PENALIZED,
        SamplingParams(presence_penalty=0.5, frequency_penalty=0.5, logit_bias=((1, 1.0),)),
    ):
        refuse_lacking(make_request("r", sampling=sampling, min_tokens=3), lacking)


async def test_the_engine_process_refuses(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(), lacks=frozenset({Ability.PROMPT_SCORES})):
        engine = await EngineClient.connect(socket_path)
        assert engine.info.lacks == {Ability.PROMPT_SCORES, Ability.ADAPTERS}
        with pytest.raises(UnsupportedFieldError, match="'echo' with 'logprobs'") as refused:
            await collect(engine.stream(make_request("r", prompt_logprobs=1)))
        assert refused.value.param == "echo"
        await engine.close()


@pytest.mark.parametrize("shares", [True, False])
async def test_blocks_are_shared_only_where_they_can_be(socket_path: Path, *, shares: bool) -> None:
    lacks = frozenset() if shares else frozenset({Ability.SHARED_BLOCKS})
    with EngineThread(socket_path, FakeStepEngine(), lacks=lacks):
        engine = await EngineClient.connect(socket_path)
        for name in ("first", "second"):
            request = make_request(name, prompt=[5] * 40)
            events = await collect(engine.stream(request))
            assert tuple(token for event in events for token in event.token_ids) == reference_tokens(request)
        await until(lambda: engine.stats.kv_blocks_used == 0)
        assert engine.stats.cached_tokens_total == (32 if shares else 0)
        await engine.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"echo": True, "logprobs": 1},
        {"echo": True, "logprobs": 0, "max_tokens": 0},
        {"repetition_penalty": 1.2, "presence_penalty": 0.1},
        {"n": 2, "cache_salt": "s"},
        {"grammar": GRAMMAR},
    ],
)
async def test_the_text_side_refuses_before_the_engine_is_asked(changes: dict[str, Any]) -> None:
    engine = FakeTokenEngine(info=replace(PLAIN, lacks=frozenset(Ability)))
    request: TextRequest = replace(REQUEST, **changes)
    with pytest.raises(UnsupportedFieldError, match="the poor engine"):
        await play(engine, request)
    assert engine.requests == []
    able = FakeTokenEngine()
    assert [event async for event in generator(able).generate(request)]
