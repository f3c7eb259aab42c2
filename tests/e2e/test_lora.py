"""Adapters through the real server: by name, among others, beyond the memory, after an engine's death."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stoker.models import open_model
from stoker.testing.adapters import (
    adapter_weights,
    bottleneck_weights,
    write_adapter,
    write_bottlenecks,
    write_gguf_adapter,
)
from stoker.testing.model_folders import write_tiny_folder
from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

NAMES = ("anna", "bert", "cleo")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three adapters that fit it, and one that does not."""
    root = tmp_path_factory.mktemp("lora")
    write_tiny_folder(root / "tiny", dtype="BF16")
    write_tiny_folder(root / "wide", dtype="BF16", ffn_width=128)
    for name, base in (("tiny", NAMES), ("wide", ("alien",))):
        with open_model(root / name) as model:
            for seed, each in enumerate(base):
                weights = adapter_weights(model.config, rank=8, seed=seed, strength=2)
                write_adapter(root / "adapters" / each, weights, rank=8)
                if each == "anna":
                    write_gguf_adapter(root / "adapters" / "anna.gguf", model.config, weights)
                    write_bottlenecks(root / "adapters" / "modules", bottleneck_weights(model.config, size=8))
    (root / "home").mkdir()
    return root


@pytest.fixture(scope="module")
def server(folders: Path) -> Iterator[ServerProcess]:
    options = ("--lora-dir", str(folders / "adapters"), "--max-loras", "2")
    with ServerProcess(folders / "home", str(folders / "tiny"), *options) as process:
        process.wait_ready()
        for name in NAMES:
            response = post(process, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": name})
            assert response.status_code == 200, response.text
            assert response.json()["parent"] == "tiny"
        yield process
        assert process.stop() == 0, process.stderr


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=60)


def text_of(server: ServerProcess, model: str, max_tokens: int = 12) -> str:
    body = {"model": model, "prompt": "hello world", "max_tokens": max_tokens, "temperature": 0}
    body["ignore_eos"] = True
    response = post(server, "/v1/completions", body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == model.rpartition(":")[2]
    return str(answer["choices"][0]["text"])


def metric(server: ServerProcess, name: str) -> float:
    page = httpx2.get(f"{server.url}/metrics", timeout=60).text
    (line,) = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    return float(line.rpartition(" ")[2])


def test_each_adapter_has_its_own_answer_alone_and_among_others(server: ServerProcess) -> None:
    models = ["tiny", *NAMES]
    alone = {model: text_of(server, model) for model in models}
    assert len(set(alone.values())) == 4
    with ThreadPoolExecutor(16) as pool:
        asked = models * 6
        for model, text in zip(asked, pool.map(lambda model: text_of(server, model), asked), strict=True):
            assert text == alone[model]
    assert text_of(server, "tiny:anna") == alone["anna"]
    assert metric(server, "stoker_engine_adapters_resident") == 2
    assert metric(server, "stoker_engine_adapter_evictions_total") >= 1
    assert metric(server, "stoker_engine_adapter_loads_total") >= 3


def test_an_adapter_s_answer_may_be_held_to_a_grammar(server: ServerProcess) -> None:
    body = {"prompt": "hello", "max_tokens": 20, "guided_regex": "[0-9]{12}", "temperature": 0}
    answers = [post(server, "/v1/completions", {"model": name, **body}) for name in ("tiny", *NAMES)]
    texts = [answer.json()["choices"][0]["text"] for answer in answers]
    assert all(len(text) == 12 and text.isdigit() for text in texts)
    assert len(set(texts)) > 1


def test_embeddings_are_made_with_the_adapter_that_is_asked_for(server: ServerProcess) -> None:
    answers = [
        post(server, "/v1/embeddings", {"model": name, "input": "hello"}) for name in ("tiny", *NAMES, "anna")
    ]
    assert [answer.json()["model"] for answer in answers] == ["tiny", *NAMES, "anna"]
    vectors = [tuple(answer.json()["data"][0]["embedding"]) for answer in answers]
    assert vectors[-1] == vectors[1]
    assert len(set(vectors)) == 4


def test_adapters_are_listed_as_models_with_a_parent(server: ServerProcess) -> None:
    listed = httpx2.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    parents = {each["id"]: each.get("parent") for each in listed}
    assert parents == {"tiny": None} | dict.fromkeys(NAMES, "tiny")
    assert httpx2.get(f"{server.url}/v1/models/anna", timeout=60).json()["parent"] == "tiny"


def test_a_gguf_file_is_an_adapter_too(server: ServerProcess) -> None:
    body = {"lora_name": "gguf", "lora_path": "anna.gguf"}
    assert post(server, "/v1/load_lora_adapter", body).status_code == 200
    assert text_of(server, "gguf") == text_of(server, "anna")
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "gguf"}).status_code == 200


def test_bottleneck_modules_are_an_adapter_too(server: ServerProcess) -> None:
    body = {"lora_name": "modules", "lora_path": "modules"}
    assert post(server, "/v1/load_lora_adapter", body).status_code == 200
    alone = text_of(server, "modules")
    assert alone not in {text_of(server, model) for model in ("tiny", *NAMES)}
    with ThreadPoolExecutor(8) as pool:
        asked = ["modules", "anna", "tiny"] * 3
        texts = list(pool.map(lambda model: text_of(server, model), asked))
    assert {text for model, text in zip(asked, texts, strict=True) if model == "modules"} == {alone}
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "modules"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("alien", "made for another model"),
        ("nowhere", "is missing"),
        ("nowhere.gguf", "is missing"),
        ("../tiny", "not inside of lora_dir"),
        ("/etc", "not inside of lora_dir"),
        (".", "not inside of lora_dir"),
        ("a\0b", "no path"),
    ],
)
def test_what_cannot_be_loaded_is_refused(server: ServerProcess, path: str, message: str) -> None:
    response = post(server, "/v1/load_lora_adapter", {"lora_name": "other", "lora_path": path})
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "lora_path"


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("load", {"lora_name": "anna", "lora_path": "anna"}, 409),
        ("load", {"lora_name": "tiny", "lora_path": "anna"}, 409),
        ("load", {"lora_name": "a:b", "lora_path": "anna"}, 400),
        ("load", {"lora_name": "x", "lora_path": "anna", "base_model_name": "none"}, 404),
        ("load", {"lora_name": "x", "lora_path": "anna", "load_inplace": True}, 400),
        ("unload", {"lora_name": "nobody"}, 404),
        ("unload", {}, 400),
    ],
)
def test_wrong_calls_have_their_status(
    server: ServerProcess, route: str, body: dict[str, Any], status: int
) -> None:
    assert post(server, f"/v1/{route}_lora_adapter", body).status_code == status


def test_a_name_of_another_base_is_not_found(server: ServerProcess) -> None:
    response = post(server, "/v1/completions", {"model": "other:anna", "prompt": "a", "max_tokens": 1})
    assert response.status_code == 404
    pins = post(server, "/admin/models/anna/pins", {"prompt": "hello " * 40})
    assert pins.status_code == 400


def test_an_unloaded_adapter_is_gone_and_can_come_back(server: ServerProcess, folders: Path) -> None:
    before = text_of(server, "bert")
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "bert"}).json()["deleted"] is True
    body = {"model": "bert", "prompt": "a", "max_tokens": 1}
    assert post(server, "/v1/completions", body).status_code == 404
    path = str(folders / "adapters" / "bert")
    assert post(server, "/v1/load_lora_adapter", {"lora_name": "bert", "lora_path": path}).status_code == 200
    assert text_of(server, "bert") == before


def test_a_new_engine_has_the_adapters_again(server: ServerProcess) -> None:
    before = text_of(server, "cleo")
    (state,) = httpx2.get(f"{server.url}/admin/models", timeout=60).json()["models"]
    os.kill(state["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while httpx2.get(f"{server.url}/readyz", timeout=60).status_code != 200 or (
        httpx2.get(f"{server.url}/admin/models", timeout=60).json()["models"][0]["pid"] == state["pid"]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert text_of(server, "cleo") == before
