from stoker.core.stats import COUNTERS as COUNTED
from stoker.core.stats import EngineStats, add_counters
from stoker.observe.engine_metrics import COUNTERS, EngineReport
from stoker.observe.metrics import Metrics
from stoker.observe.record import RequestRecord

EARLIER = EngineStats(
    running=3,
    kv_blocks_total=10,
    kv_blocks_used=4,
    kv_blocks_cached=5,
    kv_block_bytes=1000,
    generated_tokens_total=100,
    step_seconds_total=1.5,
)
LATER = EngineStats(running=1, kv_blocks_total=12, generated_tokens_total=5, steps_total=2)


def test_counters_are_summed_and_gauges_kept() -> None:
    assert add_counters(LATER, EARLIER) == EngineStats(
        running=1, kv_blocks_total=12, generated_tokens_total=105, steps_total=2, step_seconds_total=1.5
    )
    assert set(COUNTED) == set(COUNTERS)


def test_each_models_engine_is_reported() -> None:
    metrics = Metrics(version="1")
    reports = {
        "a": EngineReport(ready=True, restarts=0, resumed=2, quarantined=1, stats=LATER),
        "b": EngineReport(ready=False, restarts=4, resumed=2, quarantined=1, stats=EARLIER),
    }
    metrics.watch_engine("a", lambda: reports["a"])
    metrics.watch_engine("b", lambda: reports["b"])
    page = metrics.render().decode()
    for line in (
        'stoker_engine_up{model="a"} 1.0',
        'stoker_engine_up{model="b"} 0.0',
        'stoker_engine_restarts_total{model="a"} 0.0',
        'stoker_engine_restarts_total{model="b"} 4.0',
        'stoker_streams_resumed_total{model="a"} 2.0',
        'stoker_requests_quarantined_total{model="a"} 1.0',
        'stoker_engine_running{model="a"} 1.0',
        'stoker_engine_kv_bytes{model="b"} 10000.0',
        'stoker_engine_kv_bytes_used{model="b"} 4000.0',
        'stoker_engine_kv_bytes_cached{model="b"} 5000.0',
        'stoker_engine_generated_tokens_total{model="b"} 100.0',
    ):
        assert line in page.splitlines()


def test_a_model_that_is_served_no_more_leaves_no_series() -> None:
    metrics = Metrics(version="1")
    record = RequestRecord(request_id="r", method="POST", started_s=0.0, model="gone", completion_tokens=1)

    def serve() -> None:
        metrics.watch_engine(
            "gone",
            lambda: EngineReport(ready=True, restarts=0, resumed=0, quarantined=0, stats=EngineStats()),
        )
        metrics.watch_choices("gone", lambda: 1)
        metrics.token_timer(record, model="gone", n_choices=1).tick(0)
        metrics.request_began()
        metrics.request_ended(record)

    serve()
    assert b'"gone"' in metrics.render()
    metrics.forget("gone")
    metrics.request_began()
    metrics.request_ended(record)  # its client read the last bytes late
    assert b'"gone"' not in metrics.render()
    serve()
    assert b'stoker_request_tokens_count{kind="generated",model="gone"} 1.0' in metrics.render()
