"""What waking costs: ``python bench/wake.py --out FILE``.

One server with the default model. Each round times a request to the awake model, puts it to sleep, times the
same request again, which wakes it, and notes what memory server and engine have (PSS) in both states. The
text must be the same. In every second round the pack is dropped from the page cache before the wake
(``cold``).
"""

import argparse
import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

from harness.machine import heading
from harness.memory import resident_bytes
from harness.page_cache import drop_from_cache, models_and_packs
from harness.results import write

from stoker.config import Settings
from stoker.models.library import open_library
from stoker.testing.server_process import ServerProcess, seed_model_store

MODEL = Settings().model
CASES = ("awake", "asleep", "asleep, cold")


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, its part of shared pages included."""
    return resident_bytes(pid)["pss"]


class Client:
    """Asks one server, over one connection.

    Args:
        server: The server.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._port = int(server.url.rpartition(":")[2])

    def first_token_s(self) -> tuple[float, str]:
        """Return the time to the first token of a short prompt, and the whole text."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        body = {"model": MODEL, "prompt": "Once upon a", "max_tokens": 8, "stream": True, "temperature": 0}
        began_s = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        line = answer.readline()
        took_s = time.perf_counter() - began_s
        if answer.status != http.client.OK:
            raise RuntimeError(f"no token came: {line!r}")
        text, events = "", line + answer.read()
        for event in events.decode().splitlines():
            if event.startswith("data: {"):
                text += "".join(choice["text"] for choice in json.loads(event[6:])["choices"])
        connection.close()
        return took_s, text

    def sleep(self) -> float:
        """Put the model to sleep; return how long that takes."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        began_s = time.perf_counter()
        connection.request("POST", f"/admin/models/{MODEL}/sleep")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"it does not sleep: status {answer.status}")
        return time.perf_counter() - began_s


def main() -> None:
    """Measure and print; write the raw samples if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = heading("wake.py", vars(arguments))
    stored = open_library(Settings()).pull(MODEL)
    samples: dict[str, list[float]] = {case: [] for case in CASES}
    sleeps: list[float] = []
    memory: dict[str, list[int]] = {"server awake": [], "engine awake": [], "server asleep": []}
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        home = Path(folder)
        seed_model_store(home, stored.path)
        with ServerProcess(home) as server:
            server.wait_ready()
            client = Client(server)
            _, expected = client.first_token_s()
            for number in range(arguments.rounds):
                cold = number % 2 == 1
                samples["awake"].append(client.first_token_s()[0])
                memory["server awake"].append(pss_bytes(server.process.pid))
                memory["engine awake"].append(sum(map(pss_bytes, server.children())))
                sleeps.append(client.sleep())
                if server.children():
                    raise RuntimeError("an engine is left")
                memory["server asleep"].append(pss_bytes(server.process.pid))
                if cold:
                    drop_from_cache(models_and_packs(home))
                took_s, text = client.first_token_s()
                if text != expected:
                    raise RuntimeError(f"after a wake the text is {text!r}, not {expected!r}")
                samples["asleep, cold" if cold else "asleep"].append(took_s)
    result |= {
        "model": MODEL,
        "first_token_s": {case: [round(each, 4) for each in of_case] for case, of_case in samples.items()},
        "sleep_s": [round(each, 4) for each in sleeps],
        "memory_bytes": memory,
    }
    for case, of_case in samples.items():
        print(f"first token, {case:<13} {statistics.median(of_case):.3f} s, at most {max(of_case):.3f} s")
    print(f"falling asleep             {statistics.median(sleeps):.3f} s")
    for what, sizes in memory.items():
        print(f"memory of the {what:<13} {statistics.median(sizes) / 1e6:.0f} MB")
    if arguments.out is not None:
        write(arguments.out, result)


if __name__ == "__main__":
    main()
