"""OpenVINO GenAI's continuous batching without HTTP: prefill and decode times. See `protocol.py`.

Option: ``folder``, where the GGUF file is converted to once. Steps are timed one by one through
add_request and step.
"""

import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai
from protocol import Job, Report, prompt, read_job, time_steps


def _convert(model: str, folder: Path) -> None:
    if (folder / "openvino_model.xml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / Path(model).name  # the converted model is written beside the file
    link.unlink(missing_ok=True)
    link.symlink_to(model)
    genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)


class Runner:
    """One pipeline."""

    def __init__(self, job: Job) -> None:
        folder = Path(job.options["folder"])
        _convert(job.model, folder)
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 4
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = 1 << 16
        scheduler.max_num_seqs = 64
        self._pipeline = genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {"INFERENCE_NUM_THREADS": job.threads}
        )
        self._n_requests = 0

    def add(self, sequence: int, n_tokens: int, n_new: int) -> object:
        """Queue a request; the handle must be kept alive until it is done."""
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = n_new
        config.ignore_eos = True
        config.do_sample = False
        ids = np.array([prompt(sequence, 0, n_tokens)], dtype=np.int64)
        self._n_requests += 1
        return self._pipeline.add_request(self._n_requests, openvino.Tensor(ids), config)

    def step(self) -> float:
        """Run one step; returns seconds."""
        start = time.perf_counter()
        self._pipeline.step()
        return time.perf_counter() - start

    def drain(self) -> None:
        """Run until nothing is left."""
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()


def main() -> None:
    """Run the job on standard input; print the report."""
    job = read_job()
    runner = Runner(job)
    report = Report(
        engine="openvino-genai", version=genai.__version__, settings={"kv": "the default, 8 bits"}
    )
    warm_up = runner.add(0, 64, 4)
    runner.drain()
    del warm_up
    for n_tokens in job.prefill:
        times = []
        for _ in range(job.repeats):
            handle = runner.add(0, n_tokens, 2)
            times.append(runner.step())
            runner.drain()
            del handle
        report.add(f"prefill {n_tokens}", times)
    for n_sequences, context in job.decode:
        handles = [runner.add(s, context, job.room + 3) for s in range(n_sequences)]
        runner.step()
        times = time_steps(job, lambda _: runner.step())
        runner.drain()
        handles.clear()
        report.add(f"decode {n_sequences}x{context}", times)
    report.print()


if __name__ == "__main__":
    main()
