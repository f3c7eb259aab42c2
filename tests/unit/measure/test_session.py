"""Load on a scripted server, a good one and bad ones."""

import asyncio
from collections import Counter

import pytest

from stoker.core.errors import SettingsError, StokerError
from stoker.measure.document import document
from stoker.measure.lengths import Lengths
from stoker.measure.load import LoadLimits
from stoker.measure.rate_search import RateSearch
from stoker.measure.session import SearchPlan, Session
from stoker.measure.slo import Slo
from stoker.measure.summary import summarize
from stoker.measure.target import Api, Target
from stoker.measure.workload import Workload
from stoker.testing.openai_server import Asked, OpenAIServer, Reply, openai_server

WORKLOAD = Workload(prompt=Lengths(60, 90), output=Lengths(4, 9))
EASY = Slo(ttft_s=30.0, itl_s=30.0)


def session(
    server: OpenAIServer,
    *,
    api: Api = "chat",
    workload: Workload = WORKLOAD,
    slo: Slo = EASY,
    limits: LoadLimits | None = None,
    key: str | None = None,
) -> tuple[Session, Target]:
    target = Target(server.url, api=api, model="scripted", api_key=key)
    limits = limits or LoadLimits(request_s=20.0, trial_s=60.0)
    return Session(target, workload, slo, limits, lambda _: None), target


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_a_closed_loop_sends_every_request_once(api: Api) -> None:
    async with openai_server() as server:
        measuring, target = session(server, api=api, key="secret")
        await measuring.calibrate()
        n_probes = len(server.asked)
        trial = await measuring.closed_loop(12, 3)
        assert server.most_running == 3
    assert target.options.usage
    assert target.options.ignore_eos
    assert measuring.calibration.tokens_per_word == 1.5
    asked = server.asked[n_probes:]
    assert len(asked) == 12
    assert {each["key"] for each in server.asked} == {"Bearer secret"}
    for sample in trial.samples:
        assert sample.error is None
        assert sample.counted_by == "usage"
        assert sample.output_tokens == sample.wanted_tokens == sample.n_events
        assert 58 <= sample.prompt_tokens <= 92
        assert sample.ttft_s is not None
        assert 0 < sample.ttft_s <= sample.duration_s
    summary = summarize(trial, EASY)
    assert (summary.n_complete, summary.n_met, summary.errors) == (12, 12, {})


async def test_two_servers_get_the_same_requests() -> None:
    bodies = []
    for _ in range(2):
        async with openai_server() as server:
            measuring, _ = session(server)
            await measuring.calibrate()
            await measuring.warm_up(2, 2)
            await measuring.closed_loop(5, 1)
            bodies.append(server.asked)
    assert bodies[0] == bodies[1]


async def test_an_open_loop_waits_for_nobody() -> None:
    async with openai_server(lambda _: Reply(delay_s=0.05)) as server:
        measuring, _ = session(server)
        trial = await measuring.open_loop(20, 200.0)
        assert server.most_running > 5
    assert [sample.index for sample in trial.samples] == list(range(20))
    assert all(sample.late_s is not None and sample.late_s > -0.005 for sample in trial.samples)


async def test_an_open_loop_has_a_bound_on_streams() -> None:
    async with openai_server(lambda _: Reply(delay_s=0.05)) as server:
        limits = LoadLimits(request_s=20.0, trial_s=60.0, max_streams=2)
        measuring, _ = session(server, limits=limits)
        trial = await measuring.open_loop(12, 500.0)
        assert server.most_running == 2
    assert Counter(sample.error for sample in trial.samples)["too_many_streams"] == 10


async def test_coalesced_tokens_are_counted_by_usage() -> None:
    async with openai_server(lambda _: Reply(tokens_per_event=4, cached_tokens=3)) as server:
        measuring, _ = session(server)
        trial = await measuring.closed_loop(3, 1)
    for sample in trial.samples:
        assert sample.output_tokens == sample.wanted_tokens > sample.n_events
        assert sample.cached_tokens == 3


async def test_without_usage_events_are_counted() -> None:
    async with openai_server(lambda _: Reply(usage=False, tokens_per_event=2)) as server:
        measuring, _ = session(server)
        await measuring.calibrate()
        assert measuring.calibration.counted_by == "assumed"
        trial = await measuring.closed_loop(3, 1)
    for sample in trial.samples:
        assert sample.counted_by == "events"
        assert sample.output_tokens == sample.n_events == -(-sample.wanted_tokens // 2)
    assert summarize(trial, EASY).n_short == 3


@pytest.mark.parametrize("unknown", ["ignore_eos", "stream_options"])
async def test_a_field_that_the_server_refuses_is_left_out(unknown: str) -> None:
    async with openai_server(lambda asked: Reply(status=400 if unknown in asked else 200)) as server:
        measuring, target = session(server)
        await measuring.calibrate()
        trial = await measuring.closed_loop(2, 1)
    assert target.options.ignore_eos is (unknown != "ignore_eos")
    assert target.options.usage is (unknown != "stream_options")
    assert [sample.error for sample in trial.samples] == [None, None]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=503), "http_503"),
        (Reply(after=2, raw=b"data: {nonsense\n\n"), "bad_json"),
        (Reply(after=2, raw=b'data: {"error": {"message": "no memory"}}\n\n'), "stream_error"),
        (Reply(after=2), "cut_off"),
        (Reply(after=0), "cut_off"),
        (Reply(n_tokens=0), "no_text"),
        (Reply(text_body="<html>"), "not_a_stream"),
        (Reply(delay_s=60.0), "timeout"),
    ],
)
async def test_a_bad_answer_is_counted_by_its_kind(reply: Reply, kind: str) -> None:
    async with openai_server(lambda _: reply) as server:
        limits = LoadLimits(request_s=0.5 if kind == "timeout" else 20.0, trial_s=60.0)
        measuring, _ = session(server, limits=limits)
        trial = await measuring.closed_loop(3, 3)
        summary = summarize(trial, EASY)
        assert summary.errors == {kind: 3}
        assert (summary.n_complete, summary.share_met) == (0, 0.0)
        assert all(sample.detail for sample in trial.samples)
        with pytest.raises(StokerError, match=kind):
            await measuring.warm_up(1, 1)


async def test_answers_that_are_not_http_are_told() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-server\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        measuring, target = session(OpenAIServer(url=f"http://127.0.0.1:{port}"))
        trial = await measuring.closed_loop(1, 1)
        assert [sample.error for sample in trial.samples] == ["not_http"]
        with pytest.raises(StokerError, match="does not list its models"):
            await target.first_model()
    trial = await measuring.closed_loop(1, 1)
    assert [sample.error for sample in trial.samples] == ["connect"]
    with pytest.raises(StokerError, match="connect"):
        await measuring.calibrate()


async def test_a_refused_client_waits_as_long_as_it_is_told() -> None:
    refused: list[float] = []

    def answer(_: Asked) -> Reply:
        refused.append(asyncio.get_running_loop().time())
        return Reply(status=429, headers={"retry-after": "1"}) if len(refused) == 1 else Reply()

    async with openai_server(answer) as server:
        measuring, _ = session(server)
        trial = await measuring.closed_loop(2, 1)
    assert [sample.error for sample in trial.samples] == ["http_429", None]
    assert trial.samples[0].retry_after_s == 1.0
    assert refused[1] - refused[0] >= 1.0


async def test_a_trial_ends_when_its_time_is_over() -> None:
    async with openai_server(lambda _: Reply(delay_s=0.1)) as server:
        limits = LoadLimits(request_s=20.0, trial_s=0.3)
        measuring, _ = session(
            server, workload=Workload(prompt=Lengths(9, 9), output=Lengths(90, 90)), limits=limits
        )
        trial = await measuring.closed_loop(9, 2)
    summary = summarize(trial, EASY)
    assert summary.errors == {"time_limit": 2, "unsent": 7}
    assert all(sample.ttft_s is not None for sample in trial.samples)


async def test_the_search_asks_at_rates_until_too_many_miss() -> None:
    """A server that bears 3 requests at a time and refuses the others."""
    server_state: list[OpenAIServer] = []
    # A dozen tokens, each 20 ms: about a quarter of a second, so some 4 to 12 requests a second.
    workload = Workload(prompt=Lengths(9, 9), output=Lengths(12, 12))

    def answer(_: Asked) -> Reply:
        return Reply(status=429) if server_state[0].n_running > 3 else Reply(delay_s=0.02)

    async with openai_server(answer) as server:
        server_state.append(server)
        measuring, _ = session(server, workload=workload)
        plan = SearchPlan(start=8.0, trial_s=0.1, tolerance=1.0, max_trials=8, pause_s=0.01)
        search = RateSearch(plan.start, tolerance=plan.tolerance, max_trials=plan.max_trials)
        trials = await measuring.find_rate(plan, search)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert search.refused is not None
    refused = [trial for trial in trials if trial.rate is not None and trial.rate >= search.refused]
    assert all(summarize(trial, EASY).share_met < 0.95 for trial in refused)
    assert all(trial.n_planned == 20 for trial in trials)


async def test_a_search_does_not_wait_for_answers_that_come_too_late() -> None:
    async with openai_server(lambda _: Reply(delay_s=600.0)) as server:
        slo = Slo(ttft_s=0.2, ttft_per_token_s=0.0)
        measuring, _ = session(server, slo=slo, limits=LoadLimits(request_s=500.0, trial_s=500.0))
        plan = SearchPlan(start=100.0, trial_s=0.1, max_trials=1)
        search = RateSearch(plan.start, tolerance=plan.tolerance, max_trials=plan.max_trials)
        (trial,) = await measuring.find_rate(plan, search)
    assert search.refused == 100.0
    assert trial.n_given_up > 1
    assert trial.samples == ()


async def test_a_search_does_not_begin_trials_beyond_its_time() -> None:
    told: list[str] = []
    async with openai_server() as server:
        target = Target(server.url, api="chat", model="scripted", api_key=None)
        measuring = Session(target, WORKLOAD, EASY, LoadLimits(), told.append)
        search = RateSearch(1.0, tolerance=0.1, max_trials=5)
        assert await measuring.find_rate(SearchPlan(limit_s=-1.0), search) == []
    assert search.borne is None
    assert "ends" in told[-1]


async def test_the_document_has_everything_and_no_key() -> None:
    async with openai_server() as server:
        measuring, target = session(server, key="secret")
        trial = await measuring.closed_loop(2, 1)
    result = document(
        target=target,
        workload=WORKLOAD,
        slo=EASY,
        limits=LoadLimits(),
        calibration=measuring.calibration,
        trials=[trial],
        extra={"more": 1},
    )
    assert "secret" not in str(result)
    assert result["more"] == 1
    assert result["workload"]["prompt"] == "60-90"
    assert [sample["index"] for sample in result["trials"][0]["samples"]] == [0, 1]
    assert result["trials"][0]["summary"]["n_complete"] == 2


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://h/?a=b", "http://me:key@h"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        Target(url, api="chat", model="m", api_key=None)


@pytest.mark.parametrize("url", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"])
def test_addresses_with_and_without_v1_are_one(url: str) -> None:
    assert Target(url, api="chat", model="m", api_key=None).url == "http://host:1"
