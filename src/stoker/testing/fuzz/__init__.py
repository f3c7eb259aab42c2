"""Fuzz targets of everything that reads what a stranger wrote: model files, texts, requests, frames.

A target takes any bytes and calls the code under test as Stoker does. It may return, or raise a
`StokerError` of bounded length; whatever else happens is a finding. `tests/fuzz/` replays the
corpora and runs the targets for as long as one likes.

To add one, write a function of bytes in a module here and name it in `TARGETS`.
"""

from collections.abc import Callable, Mapping

from stoker.core.errors import StokerError
from stoker.testing.fuzz import api, folders, grammars, models, text, worker

Target = Callable[[bytes], None]

TARGETS: Mapping[str, Target] = {
    "adapter": folders.adapter,
    "catalogue": models.catalogue,
    "connection": api.connection,
    "folder": folders.folder,
    "frames": worker.frames,
    "gguf": models.gguf,
    "grammar": grammars.grammar,
    "header": models.header,
    "kv_file": worker.kv_file,
    "manifest": models.manifest,
    "pack": models.pack,
    "request": api.request,
    "safetensors": folders.safetensors,
    "shards": folders.shards,
    "template": text.template,
    "tokenizer": text.tokenizer,
}
"""By name, which is also that of the corpus."""

MAX_MESSAGE_CHARS = 4096
"""An error never carries a whole input away."""


def run(target: Target, data: bytes) -> None:
    """Call a target.

    Raises:
        AssertionError: An error's message is out of proportion. Anything else but a `StokerError` passes
            through.
    """
    try:
        target(data)
    except StokerError as error:
        if len(str(error)) > MAX_MESSAGE_CHARS:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
