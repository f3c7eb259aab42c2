"""What a case must compute and read at least, as Stoker holds the model, and what the processor allows."""

from pathlib import Path
from typing import TypedDict

from harness.contender import Case
from stoker import _native
from stoker.core.step import BLOCK_TOKENS
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.measure.machine import Machine
from stoker.measure.step_work import Run, step_work
from stoker.models import open_model
from stoker.models.packs import PackFolder

LIMIT_S = 0.4
MAX_PACKS_BYTES = 64 << 30


class Limits(TypedDict):
    """By all threads together: integer operations of dot products a second, and bytes read a second."""

    isa: str
    dot_ops_per_s: float
    read_bytes_per_s: float


def measure_limits(threads: int) -> Limits:
    """Measure what the processor allows on its fastest instruction-set path."""
    isa = _native.available_isas()[0]
    machine = Machine.measure(isa, threads, LIMIT_S)
    return {"isa": isa, "dot_ops_per_s": machine.dot_ops, "read_bytes_per_s": machine.memory_bytes}


class Work(TypedDict):
    """Of one call: operations of the matrix products, bytes of weights and of KV that it reads."""

    matrix_ops: float
    weight_bytes: float
    kv_bytes: float


def work_of(model: Path, cases: tuple[Case, ...], work: Path) -> list[Work]:
    """Count what each case must do.

    Args:
        model: GGUF file.
        cases: What is counted.
        work: Folder whose ``packs`` hold its pack.
    """
    with open_model(model) as source:
        settings = NativeEngineSettings(threads=1, context_length=BLOCK_TOKENS, max_running=1)
        engine = load_engine(source, settings, PackFolder(work / "packs", MAX_PACKS_BYTES))
        config = source.config
    try:
        found: list[Work] = []
        for kind, n_sequences, n_tokens in cases:
            run = Run(0, n_tokens) if kind == "prefill" else Run(n_tokens, 1)
            runs = [run] * n_sequences
            phases = step_work(config, engine.matrix, engine.kv_block_bytes / BLOCK_TOKENS, runs, n_sequences)
            kv_bytes = phases["attention"].size_bytes
            found.append(
                {
                    "matrix_ops": sum(each.ops for name, each in phases.items() if name != "attention"),
                    "weight_bytes": sum(each.size_bytes for each in phases.values()) - kv_bytes,
                    "kv_bytes": kv_bytes,
                }
            )
        return found
    finally:
        engine.close()
