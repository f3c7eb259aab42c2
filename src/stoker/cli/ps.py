"""``stoker ps``, ``load``, ``unload``, ``sleep`` and ``wake``: the models of a running server."""

import json
import sys
import time
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stoker.cli.control import ServerControl
from stoker.cli.flags import with_settings
from stoker.config import Settings
from stoker.core.errors import ModelError

POLL_S = 0.2
"""How often a server is asked what has become of a model."""

_SERVER = ("home", "host", "port", "api_key")
_HEADINGS = (
    "NAME",
    "STATUS",
    "FOR",
    "ENGINE",
    "CONTEXT",
    "PID",
    "RESTARTS",
    "RUNNING",
    "WAITING",
    "KV",
    "MEMORY",
)
_SERVED = frozenset({"ready", "unready", "falling_asleep", "sleeping", "waking"})
"""A model of one of these takes requests."""

_MINUTE_S, _HOUR_S = 60, 3600


@with_settings(*_SERVER)
def ps(
    settings: Settings,
    *,
    url: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """List the models of a running server.

    Args:
        settings: The merged settings.
        url: The server's address. Unset, it is that of `host` and `port`.
        as_json: Print what the server says, as JSON.
    """
    models = ServerControl(settings, url).models()
    if as_json:
        sys.stdout.write(json.dumps(models, indent=2) + "\n")
        return
    rows = [_HEADINGS, *(_row(model) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    for model in models:
        if "reason" in model:
            sys.stdout.write(f"{model['name']}: {model['reason']}\n")


@with_settings(*_SERVER)
def load(
    settings: Settings,
    name: str,
    /,
    *,
    url: str | None = None,
    alias: str | None = None,
    engine: Literal["auto", "native", "llamacpp"] | None = None,
    batching: Literal["latency", "size", "time"] | None = None,
    itl_target_s: Annotated[float | None, Parameter(validator=Number(gte=0.001, lte=60))] = None,
    context_length: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    kv_memory: str | None = None,
    max_running: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    max_waiting: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    pooling: Literal["mean", "last"] | None = None,
    precise: str | None = None,
    quantize: Literal["none", "q8", "q4"] | None = None,
    skip_layers: str | None = None,
    sleep_after_s: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    speculation: Literal["off", "prompt-lookup", "draft-model", "skip-layers"] | None = None,
    threads: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
) -> None:
    """Have a running server load a model, and wait until it is ready.

    What is left out is as the server's settings say.

    Args:
        settings: The merged settings.
        name: A name that `stoker list` shows on the server's machine; it is pulled if it is missing.
        url: The server's address. Unset, it is that of `host` and `port`.
        alias: Name that clients use for the model.
        engine: What computes it.
        batching: How its engine calls are filled.
        itl_target_s: Seconds from token to token that 95 % of a stream's shall keep.
        context_length: Most tokens of one sequence.
        kv_memory: Memory for its KV cache, such as `2GiB`.
        max_running: Most sequences computed in one engine call.
        max_waiting: Most sequences that wait for a place.
        pooling: What its embeddings are made of.
        precise: Matrices whose activations have 16 bits instead of 8, as `stoker quality` names them.
        quantize: How a folder of safetensors is served whose weights are floats.
        skip_layers: Layers that it leaves out when it guesses its own next tokens.
        sleep_after_s: Seconds without a request after which it is put to sleep.
        speculation: How its next tokens are guessed.
        threads: Compute threads of its engine.
    """
    control = ServerControl(settings, url)
    overrides: dict[str, object] = {
        "alias": alias,
        "engine": engine,
        "batching": batching,
        "itl_target_s": itl_target_s,
        "context_length": context_length,
        "kv_memory": kv_memory,
        "max_running": max_running,
        "max_waiting": max_waiting,
        "pooling": pooling,
        "precise": precise,
        "quantize": quantize,
        "skip_layers": skip_layers,
        "sleep_after_s": sleep_after_s,
        "speculation": speculation,
        "threads": threads,
    }
    state = control.load(name, {key: value for key, value in overrides.items() if value is not None})
    served, told = state["name"], ""
    while state["status"] not in _SERVED:
        if state["status"] == "failed":
            raise ModelError(
                f"the server could not load {served}: {state.get('reason', 'it does not say why')}"
            )
        if state["status"] != told:
            told = state["status"]
            sys.stderr.write(f"{served}: {told}\n")
            sys.stderr.flush()
        time.sleep(POLL_S)
        found = control.find(served)
        if found is None:
            raise ModelError(f"{served} was unloaded before it was ready")
        state = found
    sys.stdout.write(f"{served} is ready at {control.url}/v1\n")


@with_settings(*_SERVER)
def unload(settings: Settings, name: str, /, *, url: str | None = None) -> None:
    """Have a running server unload a model, and wait until it is gone.

    It takes no new requests; those that it has may end within the server's `shutdown_timeout_s`.

    Args:
        settings: The merged settings.
        name: A name that `stoker ps` shows.
        url: The server's address. Unset, it is that of `host` and `port`.
    """
    control = ServerControl(settings, url)
    control.unload(name)
    while (state := control.find(name)) is not None and state["status"] == "unloading":
        time.sleep(POLL_S)
    sys.stdout.write(f"unloaded {name}\n")


@with_settings(*_SERVER)
def sleep(settings: Settings, name: str, /, *, url: str | None = None) -> None:
    """Have a running server put an idle model to sleep, and wait until its memory is free.

    Args:
        settings: The merged settings.
        name: A name that `stoker ps` shows.
        url: The server's address. Unset, it is that of `host` and `port`.
    """
    ServerControl(settings, url).sleep(name)
    sys.stdout.write(f"{name} sleeps\n")


@with_settings(*_SERVER)
def wake(settings: Settings, name: str, /, *, url: str | None = None) -> None:
    """Have a running server wake a model, and wait until it is awake.

    Args:
        settings: The merged settings.
        name: A name that `stoker ps` shows.
        url: The server's address. Unset, it is that of `host` and `port`.
    """
    ServerControl(settings, url).wake(name)
    sys.stdout.write(f"{name} is awake\n")


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    status, pulled, total = model["status"], model.get("pulled_bytes"), model.get("total_bytes")
    if status == "pulling" and pulled is not None and total:
        status = f"pulling {100 * pulled // total}%"
    n_blocks = model.get("kv_blocks")
    memory = model.get("memory_bytes")
    return (
        model["name"],
        status,
        _ago(time.time() - model["since"]),
        model.get("engine", ""),
        str(model.get("context_length", "")),
        str(model.get("pid", "")),
        str(model["restarts"]),
        str(model["running"]),
        str(model["waiting"]),
        f"{100 * model['kv_blocks_used'] // n_blocks}% of {n_blocks}" if n_blocks else "",
        "" if memory is None else f"{memory / 1e6:.0f} MB",
    )


def _ago(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"
