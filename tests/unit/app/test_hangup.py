"""SIGHUP before and while a server runs, by real signals to a process of its own."""

import os
import pty
import signal
import subprocess
import sys

EARLY = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests themselves run under
if len(sys.argv) > 1:
    os.open(sys.argv[1], os.O_RDWR)  # the first terminal that a session's leader opens is the session's
{before}
from stoker.app.hangup import Hangups
hangups = Hangups()
print("up", flush=True)
"""
LATE = """
import asyncio
os.kill(os.getpid(), signal.SIGHUP)

async def serve():
    said = []
    hangups.serve(lambda: said.append("reload"), lambda: said.append("end"))
    at_once = list(said)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.2)
    print(at_once, said)

asyncio.run(serve())
"""
WAIT = """
until_s = time.monotonic() + 30
while not hangups._came_early and time.monotonic() < until_s:
    time.sleep(0.01)
sys.exit(0 if hangups._came_early else 1)
"""


def test_what_came_early_is_acted_on_once_when_the_server_is_up() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EARLY.format(before="") + LATE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # without a terminal
        timeout=60,
        check=True,
    )
    assert ended.stdout == "up\n['reload'] ['reload', 'reload']\n"


def ended_with_its_terminal_gone(script: str) -> int:
    """Run a script on a terminal of its own, close that once it is up, and return its exit status."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script, os.ttyname(its)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.close(its)
        os.close(ours)  # the kernel sends SIGHUP
        return process.wait(60)


def test_who_loses_the_terminal_before_the_server_is_up_ends() -> None:
    assert ended_with_its_terminal_gone(EARLY.format(before="") + WAIT) == -signal.SIGHUP


def test_under_nohup_the_terminal_may_go() -> None:
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert ended_with_its_terminal_gone(EARLY.format(before=nohup) + WAIT) == 0
