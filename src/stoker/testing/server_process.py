"""A real `stoker serve` in a process of its own, for end-to-end tests and benchmarks."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from stoker.config import HUB_VARIABLES

_ADDRESS = re.compile(r"http://\S+:\d+")
_SAMPLE = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_POLL_S = 0.02


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with no setting but the home folder and `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("STOKER_") and name not in HUB_VARIABLES
    }
    return {**kept, "STOKER_HOME": str(home), **(extra or {})}


def seed_model_store(home: Path, stored_model: Path, *, packs: Path | None = None) -> None:
    """Put a stored model's folder, by hard links where possible, into the store of another home.

    Args:
        home: The other home.
        stored_model: The model's file in its store.
        packs: Folder of packs that several homes share; None if this one's are its own.
    """
    if packs is not None:
        (home / "packs").symlink_to(packs)
    target = home / "models" / stored_model.parent.name
    if target.exists():
        return
    target.mkdir(parents=True)
    for file in stored_model.parent.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:  # another file system
            shutil.copy2(file, target / file.name)


def metric_totals(page: str) -> dict[str, float]:
    """Return every metric of a page of `/metrics` by name, its labelled samples summed."""
    totals: dict[str, float] = {}
    for name, value in _SAMPLE.findall(page):
        totals[name] = totals.get(name, 0.0) + float(value)
    return totals


class ServerProcess:
    """Starts `stoker serve` on a free port; also a context manager that ends it.

    Args:
        home: Its `STOKER_HOME`; what it prints goes to ``stdout.txt`` and ``stderr.txt`` there.
        arguments: Further arguments of `stoker serve`.
        environment: Further environment variables.
    """

    def __init__(self, home: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._stdout = home / "stdout.txt"
        self._stderr = home / "stderr.txt"
        command = [sys.executable, "-m", "stoker", "serve", "--port", "0", *arguments]
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=clean_environment(home, environment),
                cwd=home,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return self._stdout.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has logged."""
        return self._stderr.read_text(encoding="utf-8")

    @property
    def url(self) -> str:
        """Address of the server, known once it has printed its start line."""
        found = _ADDRESS.search(self.stdout)
        if found is None:
            raise RuntimeError(f"the server has not started:\n{self.stdout}\n{self.stderr}")
        return found[0]

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until ``/readyz`` says yes.

        Raises:
            RuntimeError: The server ended, or took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.stderr}")
            if _ADDRESS.search(self.stdout) and self.get("/readyz")[0] == httpx2.codes.OK:
                return
            time.sleep(_POLL_S)
        raise RuntimeError(f"the server was not ready in {timeout_s} s:\n{self.stdout}\n{self.stderr}")

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Return status and body of a GET; status 0 when nobody answers."""
        try:
            answer = httpx2.get(self.url + path, headers=headers, timeout=10)
        except httpx2.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    def metrics(self) -> dict[str, float]:
        """Return every metric by name, its labelled samples summed."""
        return metric_totals(self.get("/metrics")[1])

    def wait_metric(self, name: str, value: float, timeout_s: float = 10.0) -> None:
        """Wait until a metric has this value.

        Raises:
            RuntimeError: It had another one for too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while (now := self.metrics().get(name)) != value:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{name} is {now}, not {value}, after {timeout_s} s")
            time.sleep(_POLL_S)

    def children(self) -> list[int]:
        """Return the ids of the server's child processes: its engines."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]

    def stop(self, timeout_s: float = 40.0) -> int:
        """End the server as an operator would and return its exit status; kill it if that takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
