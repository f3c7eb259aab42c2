"""OpenVINO GenAI's continuous batching without HTTP. See `protocol.py`.

Options of the process: ``folder``, where the GGUF file is converted to once; ``kv``, the precision of the KV
cache (``u8``, its default, ``f16`` or ``bf16``); ``cache_gib``, its size.

Its prefix cache is on, so that a sequence that was computed once, every one from a prompt of its own and
into blocks of its own, need not be computed again for the next round. Prompts that are timed are new each
time.
"""

import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai
from protocol import ROOM, VOCABULARY, Contender, Hello, Job, Options, prompt, serve


def _convert(model: str, folder: Path) -> None:
    if (folder / "openvino_model.xml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / Path(model).name  # the converted model is written beside the file
    link.unlink(missing_ok=True)
    link.symlink_to(Path(model).resolve())
    genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)


class OpenVino:
    """One pipeline."""

    def __init__(self, job: Job) -> None:
        folder = Path(job.options["folder"])
        _convert(job.model, folder)
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = int(job.options["cache_gib"])
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = 1 << 16
        scheduler.max_num_seqs = 64
        properties = {"INFERENCE_NUM_THREADS": job.threads, "KV_CACHE_PRECISION": job.options["kv"]}
        self._pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        self._n_requests = 0
        self._handles: list[genai.GenerationHandle] = []
        self.prefill(64, {})

    def prefill(self, n_tokens: int, options: Options) -> float:  # noqa: ARG002 - it has none
        """Compute a prompt that no other one begins like."""
        first = (self._n_requests * 7919) % VOCABULARY
        self._add([first, *prompt(self._n_requests, 0, n_tokens - 1)], 2)
        seconds = self._step()
        self.clear()
        return seconds

    def place(self, n_sequences: int, context: int, options: Options) -> None:  # noqa: ARG002 - it has none
        """Add the sequences and run the step that computes what is not cached of their prompts."""
        for sequence in range(n_sequences):
            self._add([VOCABULARY + sequence, *prompt(sequence, 1, context - 1)], ROOM + 8)
        self._step()

    def step(self, number: int) -> float:  # noqa: ARG002 - it counts by itself
        """Run one step of all requests."""
        return self._step()

    def clear(self) -> None:
        """Cancel what runs."""
        for handle in self._handles:
            handle.cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._handles.clear()

    def _add(self, ids: list[int], n_new: int) -> None:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = n_new
        config.ignore_eos = True
        config.do_sample = False
        self._n_requests += 1
        tensor = openvino.Tensor(np.array([ids], dtype=np.int64))
        # A handle that is dropped ends its request.
        self._handles.append(self._pipeline.add_request(self._n_requests, tensor, config))

    def _step(self) -> float:
        start = time.perf_counter()
        self._pipeline.step()
        return time.perf_counter() - start


def start(job: Job) -> tuple[Contender, Hello]:
    """Convert and load the model."""
    core = openvino.Core()
    names = ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
    settings = {name.lower(): str(core.get_property("CPU", name)) for name in names}
    settings["kv"] = job.options["kv"]
    return OpenVino(job), Hello("openvino-genai", genai.__version__, settings)


if __name__ == "__main__":
    serve(start)
