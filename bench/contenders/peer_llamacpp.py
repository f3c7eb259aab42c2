"""llama.cpp's `llama_decode` without HTTP. See `protocol.py`.

Options of an order: ``unified`` 0 or 1 (one KV buffer for all sequences, or one each), ``flash`` 0 or 1
(flash attention), ``ubatch`` (tokens of a micro-batch). A context is made for each setting that is asked for
and kept; with the process's option ``keep`` at 0, only until another one is asked for.
"""

import ctypes
import time
from dataclasses import dataclass, field
from typing import Any

import llama_cpp
from protocol import Contender, Hello, Job, Options, prompt, serve


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # the library ships no types
def _quiet(_level: int, _text: bytes, _user: object) -> None:
    pass


@dataclass
class _Context:
    """A context, and the states of a sequence at each length that was computed in it."""

    handle: Any
    states: dict[int, Any] = field(default_factory=dict)
    placed: tuple[int, int] = (0, 0)

    @property
    def memory(self) -> Any:
        return llama_cpp.llama_get_memory(self.handle)


class LlamaCpp:
    """One model and its contexts."""

    def __init__(self, job: Job) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_quiet, None)
        self._job = job
        self._model = llama_cpp.llama_model_load_from_file(
            job.model.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp refused the model {job.model}")
        self._contexts: dict[tuple[str, ...], _Context] = {}
        self._now: _Context | None = None
        self._first = self._n_sequences = 0

    def prefill(self, n_tokens: int, options: Options) -> float:
        """Compute a prompt in an empty context."""
        context = self._context(1, options)
        llama_cpp.llama_memory_clear(context.memory, False)
        context.placed = (0, 0)
        return self._compute(context, range(1), 0, n_tokens)

    def place(self, n_sequences: int, context: int, options: Options) -> None:
        """Compute one sequence and copy its state, bytes and all, to the others; or cut them back."""
        now = self._context(n_sequences, options)
        if now.placed == (n_sequences, context):
            for sequence in range(n_sequences):
                llama_cpp.llama_memory_seq_rm(now.memory, sequence, context, -1)
        else:
            state = self._state(now, context)
            llama_cpp.llama_memory_clear(now.memory, False)
            for sequence in range(n_sequences):
                if not llama_cpp.llama_state_seq_set_data(now.handle, state, len(state), sequence):
                    raise RuntimeError("llama.cpp did not take back the state of a sequence")
            now.placed = (n_sequences, context)
        self._now, self._first, self._n_sequences = now, context, n_sequences

    def step(self, number: int) -> float:
        """Compute one token for every sequence."""
        if self._now is None:
            raise RuntimeError("nothing was placed")
        return self._compute(self._now, range(self._n_sequences), self._first + number, 1)

    def clear(self) -> None:
        """Leave the context as it is."""

    def _state(self, context: _Context, n_tokens: int) -> Any:
        """Return the state of a sequence of this many tokens, as ctypes bytes."""
        if n_tokens not in context.states:
            llama_cpp.llama_memory_clear(context.memory, False)
            lengths = sorted({length for _, length in self._job.decode if length <= n_tokens})
            for first, last in zip([0, *lengths], lengths, strict=False):
                self._compute(context, range(1), first, last - first)
                state = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size(context.handle, 0))()
                llama_cpp.llama_state_seq_get_data(context.handle, state, len(state), 0)
                context.states[last] = state
        return context.states[n_tokens]

    def _context(self, n_sequences: int, options: Options) -> _Context:
        most = 1 if n_sequences == 1 else self._job.most_sequences
        key = (str(most), options["unified"], options["flash"], options["ubatch"])
        if key not in self._contexts:
            if self._job.options["keep"] == "0":
                for other in self._contexts.values():
                    llama_cpp.llama_free(other.handle)
                self._contexts.clear()
            self._contexts[key] = _Context(self._open(most, options))
            # Not the first computation of a context shall be timed.
            self._compute(self._contexts[key], range(1), 0, 64)
        return self._contexts[key]

    def _open(self, most: int, options: Options) -> Any:
        params = llama_cpp.llama_context_default_params()
        # The longest of the cases of one sequence, or of those of several.
        longest = self._job.longest(0 if most == 1 else 1)
        params.n_ctx = most * (longest + 32)
        params.n_batch = longest
        params.n_ubatch = int(options["ubatch"])
        params.n_seq_max = most
        params.n_threads = params.n_threads_batch = self._job.threads
        params.kv_unified = options["unified"] == "1"
        params.flash_attn_type = int(options["flash"])
        handle = llama_cpp.llama_init_from_model(self._model, params)
        if not handle:
            raise RuntimeError("llama.cpp refused the context")
        return handle

    @staticmethod
    def _compute(context: _Context, sequences: range, first: int, n_tokens: int) -> float:
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
        code = llama_cpp.llama_decode(context.handle, batch)
        llama_cpp.llama_synchronize(context.handle)
        seconds = time.perf_counter() - start
        llama_cpp.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        return seconds


def start(job: Job) -> tuple[Contender, Hello]:
    """Load the model."""
    contender = LlamaCpp(job)
    build = llama_cpp.llama_print_system_info().decode()
    return contender, Hello("llama.cpp", llama_cpp.__version__, {"build": build.strip()})


if __name__ == "__main__":
    serve(start)
