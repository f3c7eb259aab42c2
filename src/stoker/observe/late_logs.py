"""Logs of a process that seldom has a line to write: what formats them is loaded with the first one.

The libraries for it take a quarter of the time in which an engine process is ready.
"""

import logging
from typing import Literal

LogFormat = Literal["console", "json"]


class _LateHandler(logging.Handler):
    """Takes the first record, sets the logs up, and gives it to them."""

    def __init__(self, log_format: LogFormat, level: int, process: str) -> None:
        super().__init__()
        self._arguments = (log_format, level, process)

    def emit(self, record: logging.LogRecord) -> None:
        from stoker.observe.logs import configure_logs  # noqa: PLC0415 - that it is late is the point

        log_format, level, process = self._arguments
        configure_logs(log_format, level=level, process=process)  # which removes this handler
        logging.getLogger().handle(record)


def configure_late_logs(log_format: LogFormat, *, level: int, process: str) -> None:
    """Do as `stoker.observe.logs.configure_logs` when the first line is written."""
    root = logging.getLogger()
    root.handlers[:] = [_LateHandler(log_format, level, process)]
    root.setLevel(level)
