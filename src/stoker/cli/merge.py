"""``stoker merge``."""

import sys
from pathlib import Path
from typing import Literal

from stoker.cli.flags import fields_of, with_settings
from stoker.cli.progress import megabytes, pull_progress
from stoker.config import Settings
from stoker.models.library import open_library


@with_settings("home", "max_lora_rank", "max_lora_bytes", *fields_of("Model sources"))
def merge(
    settings: Settings,
    base: str,
    adapter: Path,
    /,
    *,
    name: str,
    dtype: Literal["q8_0", "bf16"] = "q8_0",
) -> None:
    """Merge an adapter into a model, as a model of its own in the model store.

    What the adapter does not change stays as it is. Serve the result by its name.

    Args:
        settings: The merged settings.
        base: A name that `stoker list` shows, or whatever else `stoker serve` takes.
        adapter: The adapter: PEFT's folder, or a GGUF file.
        name: What the merged model is called.
        dtype: Type of the quantized matrices that the adapter changes; those of floats keep theirs.
    """
    # These load NumPy and the native library.
    from stoker.app.merging import Merge, check_name, merge_adapter  # noqa: PLC0415
    from stoker.models.adapters import AdapterLimits  # noqa: PLC0415

    library = open_library(settings)
    check_name(library, name)
    with pull_progress(base) as report:
        located = library.ensure(base, report)
    limits = AdapterLimits(max_rank=settings.max_lora_rank, max_file_bytes=settings.max_lora_bytes)
    stored = merge_adapter(
        library, Merge(base=located, adapter=adapter, name=name, dtype=dtype, limits=limits)
    )
    sys.stdout.write(f"{stored.name}: {stored.path} ({megabytes(stored.size_bytes)})\n")
