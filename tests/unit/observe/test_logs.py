"""One format for all processes and libraries."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stoker.observe.late_logs import LogFormat, configure_late_logs
from stoker.observe.logs import configure_logs, log_request
from stoker.observe.record import RequestRecord


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(log_format: LogFormat, process: str | None) -> list[str]:
    stream = io.StringIO()
    configure_logs(log_format, stream=stream, process=process)
    logging.getLogger("stoker.worker.server").warning("a gateway is %s", "cut off")
    structlog.get_logger().info("request", status=200)
    return stream.getvalue().splitlines()


def test_json_lines_name_their_process() -> None:
    foreign, own = map(json.loads, logged("json", "engine"))
    assert (foreign["event"], foreign["level"], foreign["process"]) == (
        "a gateway is cut off",
        "warning",
        "engine",
    )
    assert (own["event"], own["status"], own["process"]) == ("request", 200, "engine")


def test_console_lines_do_so_too() -> None:
    foreign, own = logged("console", "engine")
    assert "a gateway is cut off" in foreign
    assert "process=engine" in foreign
    assert "process=engine" in own


def test_the_only_process_has_no_name() -> None:
    assert all("process" not in line for line in logged("json", None))


def test_the_first_late_line_sets_the_logs_up(capsys: pytest.CaptureFixture[str]) -> None:
    configure_late_logs("json", level=logging.WARNING, process="engine")
    log = logging.getLogger("stoker.models.packs")
    log.info("not severe enough")
    assert capsys.readouterr().err == ""
    log.warning("a pack is %s", "damaged")
    log.error("and another")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["process"]) == ("a pack is damaged", "warning", "engine")
    assert (second["event"], second["process"]) == ("and another", "engine")


@pytest.mark.parametrize("wake_s", [None, 0.25])
def test_the_line_of_a_request_says_how_long_it_waited_for_its_model(wake_s: float | None) -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream)
    log_request(
        RequestRecord(request_id="r", method="POST", started_s=0.0, status=200, model="m", wake_s=wake_s)
    )
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line.get("wake_ms") == (None if wake_s is None else 250.0)
