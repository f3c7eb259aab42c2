"""Some seconds of what `bench/soak.py` does for twenty minutes."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from stoker.testing.server_process import ServerProcess
from stoker.testing.soak.asks import KINDS
from stoker.testing.soak.client import Ending
from stoker.testing.soak.faults import FaultPlan
from stoker.testing.soak.run import SoakPlan, soak
from stoker.testing.soak.verdict import judge

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"


def test_answers_are_right_to_the_bit_while_engines_are_killed_at_random(home: Path) -> None:
    plan = SoakPlan(
        model=MODEL,
        faults=FaultPlan({"kill": 0.7, "segv": 0.3}, mean_s=2.0, least_s=1.0, seed=3),
        duration_s=10.0,
        seed=3,
        n_asks=len(KINDS),
        concurrency=8,
        burst_every_s=6.0,
        patience_s=90.0,
        sample_every_s=0.5,
    )
    with ServerProcess(home, "--kv-memory", "400MiB") as server:
        server.wait_ready()
        seen = asyncio.run(soak(server, plan))
        assert "Traceback" not in server.stderr
    assert seen.wrong == []
    assert seen.left_over == {}
    assert judge(seen).passed
    endings = Counter(outcome.ending for outcome in seen.outcomes)
    # A busy machine does less in the same time, but not nothing.
    assert endings[Ending.COMPLETE] >= 4
    assert len(seen.faults) >= 2
    assert seen.metrics["stoker_engine_restarts_total"] >= 2
    assert seen.metrics["stoker_streams_resumed_total"] >= 2
    assert seen.metrics["stoker_requests_quarantined_total"] == 0
