"""A server under test: started, waited for, stopped while others are measured, and ended."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from stoker.testing.server_process import clean_environment

_OK = 200
_POLL_S = 0.2


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEntry:
    """What is started.

    Attributes:
        name: In results.
        command: Its command line, in which ``{port}`` stands for the port.
        environment: Further environment variables.
        ready_path: Answers 200 once requests are served.
        ready_s: Longest that this may take.
        version: Of the server.
        note: What a reader must know of it.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/health"
    ready_s: float = 120.0
    version: str = ""
    note: str = ""


class Server:
    """A running one; also a context manager that ends it.

    Args:
        entry: What to start.
        work: Folder for what it prints and keeps.

    Attributes:
        url: Its address.
        home: Folder of its own.
        started_s: How long it took until it was ready.
    """

    def __init__(self, entry: ServerEntry, work: Path) -> None:
        self.entry = entry
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self.home = home = work / f"home-{entry.name.replace(' ', '-')}"
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "log.txt"
        began_s = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in entry.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(home, entry.environment),
                cwd=home,
                start_new_session=True,
            )
        try:
            self._wait_ready(began_s + entry.ready_s)
        except BaseException:
            self.__exit__()
            raise
        self.started_s = time.monotonic() - began_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGCONT)
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._send(signal.SIGKILL)  # what is left of its session, engines of its own among it
        self._process.wait()

    @property
    def pid(self) -> int:
        """Id of its first process."""
        return self._process.pid

    def stop(self) -> None:
        """Let it use no processor."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._send(signal.SIGCONT)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET; status 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def _wait_ready(self, deadline_s: float) -> None:
        while self.get(self.entry.ready_path)[0] != _OK:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                told = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                why = (
                    f"took more than {self.entry.ready_s:.0f} s"
                    if self._process.returncode is None
                    else f"ended with {self._process.returncode}"
                )
                sys.exit(f"{self.entry.name} {why} ({self._log}):\n{told}")
            time.sleep(_POLL_S)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)  # the leader of its session
