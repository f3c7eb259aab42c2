"""``stoker pull``, ``list``, ``show`` and ``rm``."""

import sys

from rich.console import Console
from rich.table import Table

from stoker.cli.flags import fields_of, with_settings
from stoker.cli.progress import megabytes, pull_progress
from stoker.config import Settings
from stoker.models.config import ModelConfig
from stoker.models.details import FileDetails
from stoker.models.gguf import TENSOR_TYPES
from stoker.models.library import open_library

_NOTES = {
    kind.name: "" if kind.fidelity == "exact" else f" ({kind.fidelity})" for kind in TENSOR_TYPES.values()
}
"""How tensors of a type are held, if not exactly."""


@with_settings(*fields_of("Model and folders", "Model sources"))
def pull(settings: Settings) -> None:
    """Fetch a model into the model store.

    A model that is already there is left as it is. A pull that was interrupted goes on where it stopped.
    """
    with pull_progress(settings.model) as report:
        stored = open_library(settings).pull(settings.model, report)
    sys.stdout.write(f"{stored.name}: {stored.path}\n")


@with_settings("home")
def list_models(settings: Settings) -> None:
    """List the models that are stored or known.

    "Unverified" is a model whose sources nobody has pulled from yet when the catalogue was written.
    """
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("NAME", "STORED", "SIZE", "LICENCE", "DESCRIPTION"):
        table.add_column(title, overflow="fold", no_wrap=title != "DESCRIPTION")
    for model in open_library(settings).list_models():
        size = "" if model.size_bytes is None else megabytes(model.size_bytes)
        state = "yes" if model.stored else "no" if model.verified else "no, unverified"
        table.add_row(model.name, state, size, model.licence, model.description)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = sum(max(len(str(cell)) for cell in column.cells) + 20 for column in table.columns)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():  # rich fills every line up
        sys.stdout.write(f"{line.rstrip()}\n")


@with_settings("home")
def show(settings: Settings, name: str, /) -> None:
    """Show what is known of one model.

    Args:
        settings: The merged settings.
        name: A name that `stoker list` shows, or whatever else `stoker serve` takes.
    """
    details = open_library(settings).show(name)
    rows = {
        "name": details.name,
        "description": details.description,
        "licence": details.licence,
        "source": ", ".join(details.sources) or None,
        "verified": None
        if details.verified
        else "no: whoever wrote the catalogue has not pulled it; a pull tells",
        "sampling": str(details.sampling) or None,
        "sha256": details.sha256,
        "pulled": None if details.pulled_at is None else f"{details.pulled_at:%Y-%m-%d %H:%M} UTC",
        **({"file": "not pulled yet"} if details.file is None else _file_rows(details.file)),
        "loss": None if details.file is None else _loss(details.file),
    }
    for key, value in rows.items():
        if value is not None:
            sys.stdout.write(f"{key:<15}{value}\n")


@with_settings("home")
def remove(settings: Settings, name: str, /) -> None:
    """Remove a model from the model store.

    Args:
        settings: The merged settings.
        name: A name that `stoker list` shows as stored.
    """
    open_library(settings).remove(name)
    sys.stdout.write(f"removed {name}\n")


def _file_rows(file: FileDetails) -> dict[str, str | None]:
    tensors = ", ".join(f"{count} {kind}{_NOTES[kind]}" for kind, count in file.tensor_types.items())
    return {
        "file": str(file.path),
        "size": megabytes(file.size_bytes),
        "title": file.title,
        "digest": file.digest,
        "engine": "native" if file.refusal is None else f"llama.cpp only: {file.refusal}",
        "architecture": file.architecture,
        "parameters": f"{file.n_parameters / 1e6:.1f} million" if file.n_parameters else None,
        "tensors": tensors or None,
        "quantized": file.quantized,
        **({} if file.config is None else _shape_rows(file.config)),
        "vocabulary": str(file.vocab_size),
        "context": f"{file.context_length} tokens",
    }


def _shape_rows(config: ModelConfig) -> dict[str, str | None]:
    return {
        "layers": str(config.n_layers),
        "width": str(config.width),
        "heads": f"{config.n_heads} query, {config.n_kv_heads} key-value, of size {config.head_size}",
    }


def _loss(file: FileDetails) -> str | None:
    """Say how far weights that are not held exactly are from the file's; None when all are held exactly."""
    if not any(_NOTES[kind] for kind in file.tensor_types):
        return None
    from stoker.engine.native.fidelity import measure_losses  # noqa: PLC0415 - imports NumPy and the library
    from stoker.models import open_model  # noqa: PLC0415 - only here

    with open_model(file.path) as model:
        losses = measure_losses(model.tensors)
    errors = ", ".join(f"{error:.1e} of {kind}" for kind, error in losses.items())
    return f"relative RMS error of weights {errors} (sampled)"
