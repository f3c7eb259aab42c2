"""Who takes part in a run of `bench/engine.py`, with which file, at which cases."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.contender import SCRIPTS, Case, Entry, case_name
from harness.sweep import LlamaSweep
from stoker.models.details import read_details

CASES: tuple[Case, ...] = (
    ("prefill", 1, 512),
    ("prefill", 1, 2048),
    ("decode", 1, 128),
    ("decode", 1, 2048),
    ("decode", 4, 512),
    ("decode", 16, 64),
    ("decode", 16, 512),
    ("decode", 32, 512),
    ("decode", 16, 2048),
    ("decode", 32, 2048),
)
"""Every case of the default model."""

SHAPE_CASES: tuple[Case, ...] = (
    ("prefill", 1, 512),
    ("decode", 1, 128),
    ("decode", 1, 2048),
    ("decode", 4, 512),
    ("decode", 16, 512),
)
"""Those of larger shapes."""

OUR_8_BIT = "stoker 8-bit KV"

BESIDE_CASES: tuple[Case, ...] = (("prefill", 1, 512), ("decode", 1, 128), ("decode", 16, 512))
"""Those that are reported beside the others: another file, another KV precision."""

_CASE = re.compile(r"prefill (\d+)|decode (\d+)x(\d+)")
_OPENVINO_CACHE_GIB = {"u8": "2", "f16": "1"}
"""Enough for all sequences of the cases that it is asked for with the default model."""


def parse_case(text: str) -> Case:
    """Read ``prefill 512`` or ``decode 16x512``.

    Raises:
        ValueError: It is neither.
    """
    found = _CASE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no case: write 'prefill 512' or 'decode 16x512'")
    if found[1]:
        return ("prefill", 1, int(found[1]))
    return ("decode", int(found[2]), int(found[3]))


def file_type(model: Path) -> str:
    """Name the type that most of a file's tensors have, norms left aside."""
    types = {name: n for name, n in read_details(model).tensor_types.items() if name != "F32"}
    return max(types, key=lambda name: types[name])


def model_files(model: Path, python: Path, work: Path) -> dict[str, Path]:
    """Return the file and what llama.cpp makes of a Q4_1 one, by type; the best for llama.cpp comes first.

    Args:
        model: GGUF file.
        python: Interpreter of the peers' environment.
        work: Folder for the files that are made.
    """
    kind = file_type(model)
    if kind != "Q4_1":
        return {kind: model}
    made = {}
    for other in ("Q4_0", "Q4_K_M"):
        made[other] = work / f"{model.stem}.{other}.gguf"
        if not made[other].exists():
            part = made[other].with_suffix(".part")
            command = [python, SCRIPTS / "requantize.py", model, part, other]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            part.replace(made[other])
    return {"Q4_0": made["Q4_0"], "Q4_1": model, "Q4_K_M": made["Q4_K_M"]}


def our_entries(model: Path, cases: tuple[Case, ...], work: Path) -> list[Entry]:
    """Return ours: with the KV type that is the default, and with 8 bits for steps."""
    steps = tuple(case for case in cases if case[0] == "decode")
    ours = [_stoker("stoker", model, cases, work)]
    return [*ours, _stoker(OUR_8_BIT, model, steps, work, kv_type="q8")] if steps else ours


def peer_entries(
    files: Mapping[str, Path], cases: tuple[Case, ...], python: Path, work: Path, sweep: LlamaSweep
) -> list[Entry]:
    """Return llama.cpp in its best setting of each case, and OpenVINO if there is a Q4_0 file.

    Args:
        files: As `model_files` returns them.
        cases: What is timed.
        python: Interpreter of the peers' environment.
        work: Folder for converted models.
        sweep: A sweep that was run.
    """
    options = {
        case_name(case): {name: sweep.best(case)[name] for name in ("flash", "unified", "ubatch")}
        for case in cases
    }
    entries = []
    for kind, model in files.items():
        chosen = tuple(case for case in cases if sweep.best(case)["file"] == kind)
        if chosen:
            entries.append(_llamacpp(f"llama.cpp {kind}", python, model, chosen, options))
    if "Q4_0" in files:
        entries.append(_openvino("u8", python, files["Q4_0"], cases, work))
    return entries


def entries_beside(
    files: Mapping[str, Path], cases: tuple[Case, ...], python: Path, work: Path, sweep: LlamaSweep
) -> list[Entry]:
    """Return what is reported beside: the Q4_K_M file here and there, OpenVINO with its KV in 16 bits."""
    chosen = tuple(case for case in BESIDE_CASES if case in cases)
    if not chosen:
        return []
    entries = []
    if "Q4_K_M" in files and len(files) > 1:
        model = files["Q4_K_M"]
        options = {
            case_name(case): {name: sweep.best(case)[name] for name in ("flash", "unified", "ubatch")}
            for case in chosen
        }
        entries.append(_stoker("stoker Q4_K_M", model, chosen, work))
        entries.append(_llamacpp("llama.cpp Q4_K_M", python, model, chosen, options))
    if "Q4_0" in files:
        entries.append(_openvino("f16", python, files["Q4_0"], chosen, work))
    return entries


def _stoker(name: str, model: Path, cases: tuple[Case, ...], work: Path, **settings: str) -> Entry:
    return Entry(
        name=name,
        python=Path(sys.executable),
        script="stoker_engine.py",
        model=model,
        cases=cases,
        process={"packs": str(work / "packs"), **settings},
    )


def _llamacpp(
    name: str, python: Path, model: Path, cases: tuple[Case, ...], options: dict[str, dict[str, str]]
) -> Entry:
    return Entry(
        name=name,
        python=python,
        script="peer_llamacpp.py",
        model=model,
        cases=cases,
        process={"keep": "1"},
        order={case_name(case): options[case_name(case)] for case in cases},
    )


def _openvino(kv: str, python: Path, model: Path, cases: tuple[Case, ...], work: Path) -> Entry:
    folder = work / f"openvino-{model.stem}"
    return Entry(
        name="openvino" if kv == "u8" else f"openvino {kv} KV",
        python=python,
        script="peer_openvino.py",
        model=model,
        cases=cases,
        process={"folder": str(folder), "kv": kv, "cache_gib": _OPENVINO_CACHE_GIB[kv]},
    )
