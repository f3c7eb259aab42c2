"""docs/metrics.md lists every metric, its type and its labels."""

import re
from pathlib import Path

import pytest

from stoker.core.stats import EngineStats
from stoker.observe.engine_metrics import EngineReport
from stoker.observe.metrics import Metrics
from stoker.observe.record import RequestRecord

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")

ABILITIES = {
    "embeddings.md": {"stoker_embeddings_total", "stoker_embedded_tokens_total"},
    "lora.md": {
        "stoker_engine_adapters_resident",
        "stoker_engine_adapter_loads_total",
        "stoker_engine_adapter_evictions_total",
    },
    "sleep.md": {
        "stoker_model_asleep",
        "stoker_model_sleeps_total",
        "stoker_model_wakes_total",
        "stoker_model_wake_seconds",
        "stoker_model_wake_wait_seconds",
    },
    "early-exit.md": {"stoker_early_exits_total"},
    "speculation.md": {
        "stoker_engine_drafted_tokens_total",
        "stoker_engine_accepted_tokens_total",
        "stoker_engine_drafting_seconds_total",
    },
    "structured-output.md": {
        "stoker_grammars_compiled_total",
        "stoker_grammar_compile_seconds_total",
        "stoker_grammar_mask_seconds_total",
        "stoker_forced_tokens_total",
    },
}
"""What the page of an ability must name of its metrics."""

Row = tuple[str, frozenset[str]]
"""Type and labels."""


def documented() -> dict[str, Row]:
    rows = re.findall(r"^\| `(stoker_\w+)` \| (\w+) \| ([^|]*)\| \S", PAGE, re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows), "a metric is listed twice"
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def named_in(page: Path) -> set[str]:
    return set(re.findall(r"`(stoker_\w+)", page.read_text(encoding="utf-8")))


def registered() -> dict[str, Row]:
    """Every metric of a gateway that has answered one request and refused another."""
    metrics = Metrics(version="1")
    metrics.watch_engine(
        "m", lambda: EngineReport(ready=True, restarts=0, resumed=2, quarantined=1, stats=EngineStats())
    )
    metrics.watch_choices("m", lambda: 1)
    metrics.watch_bodies(lambda: 1)
    metrics.watch_memory("m", prompt_bytes=lambda: 1, unread_tokens=lambda: 1)
    metrics.watch_sleep("m", lambda: True)
    metrics.model_slept("m", "idle")
    metrics.model_woke("m", 0.5)
    metrics.model_waited_for("m", 0.5)
    metrics.embedded("m", n_inputs=1, n_tokens=2)
    record = RequestRecord(request_id="r", method="POST", started_s=0.0, model="m", completion_tokens=1)
    record.early_exits.append("choice")
    timer = metrics.token_timer(record, model="m", n_choices=1)
    timer.tick(0)
    timer.tick(0)
    refused = RequestRecord(request_id="r", method="POST", started_s=0.0, error="queue_full")
    for each in (record, refused):
        metrics.request_began()
        metrics.request_ended(each)
    found: dict[str, Row] = {}
    for family in metrics.registry.collect():
        assert family.samples, f"{family.name} has no sample here: give it one"
        name = family.name + "_total" if family.type == "counter" else family.name
        labels = frozenset().union(*(sample.labels for sample in family.samples)) - {"le"}
        found[name] = (family.type, labels)
    return found


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    assert documented() == registered()


def test_pages_name_no_metric_that_there_is_not() -> None:
    known = registered().keys()
    unknown = {page.name: names for page in DOCS.glob("**/*.md") if (names := named_in(page) - known)}
    assert unknown == {}


@pytest.mark.parametrize("page", ABILITIES)
def test_the_page_of_an_ability_names_its_metrics(page: str) -> None:
    assert ABILITIES[page] <= named_in(DOCS / page)
    assert ABILITIES[page] <= registered().keys()
