"""Logits of Stoker's native engine. See `quality_job.py`.

Options: `float_path` 1 for fp32 weights, activations and KV; else `kv_type` f16, bf16 or q8.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality_job import print_settings, read_quality_job, write_logits

from stoker import __version__
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import open_model


def main() -> None:
    """Run the job on standard input."""
    job = read_quality_job()
    n_tokens = len(job.windows[0])
    with open_model(Path(job.model)) as source:
        engine = load_engine(
            source,
            NativeEngineSettings(
                threads=job.threads,
                kv_type=job.options.get("kv_type", "auto"),
                context_length=n_tokens,
                step_tokens=n_tokens,
                kv_memory_bytes=256 << 20,
                max_running=1,
                float_path=job.options.get("float_path") == "1",
            ),
        )
        vocab_size = source.config.vocab_size

    def logits(window: list[int]) -> NDArray[np.float32]:
        return engine.logits(
            StepPlan(
                request_ids=["window"],
                tokens=[window],
                first_positions=[0],
                block_tables=[list(range(-(-n_tokens // BLOCK_TOKENS)))],
                samples=[False],
            )
        )

    write_logits(job, vocab_size, logits)
    print_settings(engine="stoker", version=__version__, fingerprint=engine.fingerprint)


if __name__ == "__main__":
    main()
