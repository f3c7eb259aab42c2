"""Real servers with and without speculation: the same texts, and drafts that are right."""

from pathlib import Path

import httpx2
import orjson
import pytest

from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.gguf_layers import write_layers
from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

N_TOKENS = 96
LINES = "".join(
    f"{name} keeps {n} {animal} in the barn behind the mill.\n"
    for name, n, animal in (("Ottilie", 7, "geese"), ("Benno", 12, "goats"), ("Wanda", 3, "mules"))
)
PROMPT = f"The list, read aloud five times:\n{LINES * 4}Ottilie keeps"
DRAFTED, ACCEPTED = "stoker_engine_drafted_tokens_total", "stoker_engine_accepted_tokens_total"


def complete(server: ServerProcess, **fields: object) -> str:
    body: dict[str, object] = {
        "model": "smollm2-135m-instruct",
        "prompt": PROMPT,
        "max_tokens": N_TOKENS,
        "ignore_eos": True,
    }
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


NEW = "Once upon a time there was a miller who"


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory, default_model_path: Path) -> Path:
    """The default model with layers between its own that take time and change nothing."""
    layers = [each for layer in range(30) for each in (layer, None, None)]
    return write_layers(tmp_path_factory.mktemp("models") / "deep.gguf", default_model_path, layers)


def test_a_smaller_model_guesses_what_is_new(home: Path, deep_model: Path) -> None:
    def told(server: ServerProcess) -> list[str]:
        return [
            complete(server, model="deep", prompt=NEW, temperature=0),
            complete(server, model="deep", prompt=NEW, temperature=0.8, seed=8, frequency_penalty=0.2),
        ]

    with ServerProcess(home, str(deep_model), "--speculation", "off") as server:
        server.wait_ready()
        expected = told(server)
    with ServerProcess(home) as server:
        server.wait_ready()
        assert complete(server, prompt=NEW, temperature=0) == expected[0], "the layers change nothing"
    silent = ",".join(str(layer) for layer in range(90) if layer % 3)
    for more in (
        ("--speculation", "draft-model", "--draft-model", "smollm2-135m-instruct"),
        ("--speculation", "skip-layers", "--skip-layers", silent),
    ):
        with ServerProcess(home, str(deep_model), *more) as server:
            server.wait_ready()
            assert told(server) == expected
            metrics = server.metrics()
            assert 0 < metrics[ACCEPTED] <= metrics[DRAFTED]
            assert metrics["stoker_engine_drafting_seconds_total"] > 0


def test_a_draft_model_with_another_tokenizer_is_refused_at_the_start(home: Path, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other.gguf")
    with ServerProcess(home, "--speculation", "draft-model", "--draft-model", str(other)) as server:
        assert server.process.wait(timeout=60) == 2
        assert "draft_model has another tokenizer than the model" in server.stderr


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
