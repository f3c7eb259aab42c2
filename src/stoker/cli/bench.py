"""``stoker bench``: a server under load, or the engine beside what the machine allows."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stoker.cli.bench_load import LoadFlags, run_load
from stoker.cli.bench_roofline import RooflineFlags, print_roofline, run_roofline
from stoker.cli.bench_tables import print_report
from stoker.cli.flags import fields_of, with_source
from stoker.config import SettingsSource
from stoker.core.errors import SettingsError

_ENGINE_SETTINGS = frozenset(
    {"threads", "isa", "kv_type", "quantize", "step_tokens", *fields_of("Model sources")}
)


@with_source("home", "api_key", *sorted(_ENGINE_SETTINGS))
def bench(
    source: SettingsSource,
    target: str | None = None,
    /,
    *,
    roofline: Annotated[bool, Parameter(negative=())] = False,
    load: LoadFlags | None = None,
    engine: RooflineFlags | None = None,
    out: Path | None = None,
) -> None:
    """Measure an OpenAI-compatible server under load, or the engine beside what the machine allows.

    Prompts for a server are synthetic words; how many of them make a prompt of the wanted length is measured
    by the server's own count. Each request has a connection of its own.

    Args:
        source: Where the settings are.
        target: Address of the server, such as `http://127.0.0.1:8000`; with `--roofline` a model, as
            `stoker serve` takes it. Unset there, the default one.
        roofline: Run the engine by itself, without HTTP and scheduler, and say for each phase of a step how
            much it has reached of what the machine allows. The limits are measured first.
        load: The load.
        engine: What the engine runs.
        out: File for the result as JSON, raw samples included.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise SettingsError(f"--out: there is no folder {out.absolute().parent}")
    settings = source.load()
    if roofline:
        if load is not None and load != LoadFlags():
            raise SettingsError("--roofline runs no server: leave the flags about load out")
        result = run_roofline(settings, target or settings.model, engine or RooflineFlags())
    else:
        if target is None:
            raise SettingsError("say which server to measure, such as http://127.0.0.1:8000, or --roofline")
        given = set(_ENGINE_SETTINGS & source.flags.keys())
        if engine is not None and engine != RooflineFlags():
            given.add("cases, --repeats or --steps")
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
            raise SettingsError(f"{names}: says nothing to a server; it goes with --roofline")
        result = run_load(settings, target, load or LoadFlags())
    if out is not None:
        out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    (print_roofline if roofline else print_report)(result)
