"""llama.cpp's `llama_decode` without HTTP: prefill and decode times on one GGUF file. See `protocol.py`.

Options: ``unified`` 0 or 1 (one KV buffer for all sequences, or one each), ``flash`` -1, 0 or 1 (flash
attention; -1 lets the library choose), ``ubatch`` (tokens of a micro-batch).
"""

import time

import llama_cpp
from protocol import Job, Report, prompt, read_job, time_steps


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # the library ships no types
def _quiet(_level: int, _text: bytes, _user: object) -> None:
    pass


class Runner:
    """One model and context."""

    def __init__(self, job: Job) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_quiet, None)
        self._model = llama_cpp.llama_model_load_from_file(
            job.model.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        most_sequences = max((n for n, _ in job.decode), default=1)
        longest = max([*job.prefill, *(context + job.room for _, context in job.decode)])
        unified = job.options["unified"] == "1"
        total = max([longest, *(n * (context + job.room + 32) for n, context in job.decode)])
        # Without a unified buffer, every sequence gets an equal part of the whole.
        params.n_ctx = total if unified else most_sequences * (longest + 32)
        params.n_batch = longest
        params.n_ubatch = int(job.options["ubatch"])
        params.n_seq_max = most_sequences
        params.n_threads = params.n_threads_batch = job.threads
        params.kv_unified = unified
        params.flash_attn_type = int(job.options["flash"])
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp refused the context")
        self._memory = llama_cpp.llama_get_memory(self._context)

    def clear(self) -> None:
        """Forget every sequence."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def step(self, sequences: range, first: int, n_tokens: int) -> float:
        """Compute `n_tokens` of each sequence from position `first` on; returns seconds."""
        size = len(sequences) * n_tokens
        batch = llama_cpp.llama_batch_init(size, 0, 1)
        i = 0
        for sequence in sequences:
            for j, token in enumerate(prompt(sequence, first, n_tokens)):
                batch.token[i] = token
                batch.pos[i] = first + j
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = j == n_tokens - 1
                i += 1
        batch.n_tokens = size
        start = time.perf_counter()
        code = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_synchronize(self._context)
        seconds = time.perf_counter() - start
        llama_cpp.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        return seconds


def main() -> None:
    """Run the job on standard input; print the report."""
    job = read_job()
    runner = Runner(job)
    info = llama_cpp.llama_print_system_info().decode()
    report = Report(
        engine="llama.cpp", version=llama_cpp.__version__, settings={**job.options, "build": info}
    )
    runner.step(range(1), 0, 64)
    for n_tokens in job.prefill:
        times = []
        for _ in range(job.repeats):
            runner.clear()
            times.append(runner.step(range(1), 0, n_tokens))
        report.add(f"prefill {n_tokens}", times)
    for n_sequences, context in job.decode:
        runner.clear()
        for s in range(n_sequences):
            runner.step(range(s, s + 1), 0, context)

        def step(i: int, sequences: range = range(n_sequences), first: int = context) -> float:
            return runner.step(sequences, first + i, 1)

        report.add(f"decode {n_sequences}x{context}", time_steps(job, step))
    report.print()


if __name__ == "__main__":
    main()
