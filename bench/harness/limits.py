"""What the processor allows, measured in every round beside the contenders."""

import subprocess
from pathlib import Path
from typing import TypedDict

SOURCE = Path(__file__).with_suffix(".cpp")
SECONDS = 0.4


class Limits(TypedDict):
    """Operations on 8-bit integers a second, and bytes read a second, by all threads together."""

    int8_ops_per_s: float
    read_bytes_per_s: float


class LimitsProbe:
    """Measures them with a program that is compiled for the processor at hand.

    Args:
        work: Folder for the program.
        threads: Threads that it runs.
    """

    def __init__(self, work: Path, threads: int) -> None:
        self._threads = threads
        self._program = work / "limits"
        flags = ["-O3", "-march=native", "-std=c++20", "-pthread"]
        subprocess.run(["g++", *flags, str(SOURCE), "-o", str(self._program)], check=True)  # noqa: S607

    def measure(self) -> Limits:
        """Measure both."""
        command = [str(self._program), str(self._threads), str(SECONDS)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        operations, read = map(float, out.stdout.split())
        return {"int8_ops_per_s": operations, "read_bytes_per_s": read}
