"""llama.cpp over a model file, without an engine process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stoker.engine.llamacpp.engine import LlamaCppEngine
from stoker.engine.llamacpp.loader import LlamaCppSettings, load_engine
from stoker.models.header import ModelHeader


@contextmanager
def running_llamacpp(
    path: Path, *, context_length: int, kv_memory_bytes: int, max_running: int = 8, step_tokens: int = 64
) -> Iterator[LlamaCppEngine]:
    """Load a model and end its server afterwards; needs the package xllamacpp."""
    with TemporaryDirectory() as folder:
        settings = LlamaCppSettings(
            threads=1,
            socket_path=Path(folder) / "engine.sock",
            kv_memory_bytes=kv_memory_bytes,
            context_length=context_length,
            max_running=max_running,
            step_tokens=step_tokens,
        )
        engine, _ = load_engine(ModelHeader(path), settings)
        try:
            yield engine
        finally:
            engine.close()
