"""Real servers with and without speculation: the same texts, and drafts that are right."""

from pathlib import Path

import httpx2
import orjson
import pytest

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

N_TOKENS = 96
LINES = "".join(
    f"{name} keeps {n} {animal} in the barn behind the mill.\n"
    for name, n, animal in (("Ottilie", 7, "geese"), ("Benno", 12, "goats"), ("Wanda", 3, "mules"))
)
PROMPT = f"The list, read aloud five times:\n{LINES * 4}Ottilie keeps"
DRAFTED, ACCEPTED = "stoker_engine_drafted_tokens_total", "stoker_engine_accepted_tokens_total"


def complete(server: ServerProcess, **fields: float) -> str:
    body = {"model": "smollm2-135m-instruct", "prompt": PROMPT, "max_tokens": N_TOKENS, "ignore_eos": True}
    told = httpx2.post(f"{server.url}/v1/completions", json=body | fields, timeout=60)
    assert told.status_code == 200, told.text
    text: str = orjson.loads(told.text)["choices"][0]["text"]
    return text


def texts(server: ServerProcess) -> list[str]:
    """Return a greedy text and sampled ones."""
    return [
        complete(server, temperature=0),
        complete(server, temperature=0.7, seed=8),
        complete(server, temperature=0, frequency_penalty=0.1),
    ]


def test_texts_are_those_without_speculation_and_drafts_are_right(home: Path) -> None:
    with ServerProcess(home, "--speculation", "off") as server:
        server.wait_ready()
        expected = texts(server)
        metrics = server.metrics()
        assert metrics[DRAFTED] == metrics[ACCEPTED] == 0
    assert LINES.splitlines()[1] in expected[0]  # it goes on as the prompt does
    with ServerProcess(home) as server:
        server.wait_ready()
        assert texts(server) == expected
        metrics = server.metrics()
        assert 0 < metrics[ACCEPTED] <= metrics[DRAFTED]
        assert metrics["stoker_engine_generated_tokens_total"] == 3 * N_TOKENS
        assert texts(server) == expected
