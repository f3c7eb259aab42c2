"""Logits of llama.cpp, with its defaults. See `quality_job.py`.

Options: `kv_type` f16 (its default) or q8_0, the latter with flash attention, which it needs.
"""

import ctypes

import llama_cpp
import numpy as np
from numpy.typing import NDArray
from quality_job import print_settings, read_quality_job, write_logits

KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


def main() -> None:
    """Run the job on standard input."""
    job = read_quality_job()
    n_tokens = len(job.windows[0])
    kv_type = job.options.get("kv_type", "f16")
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(job.model.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = n_tokens
    params.n_threads = params.n_threads_batch = job.threads
    params.type_k = params.type_v = KV_TYPES[kv_type]
    context = llama_cpp.llama_init_from_model(model, params)
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(n_tokens, 0, 1)

    def logits(window: list[int]) -> NDArray[np.float32]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = n_tokens
        for i, token in enumerate(window):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = 1
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        found = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(found, (n_tokens, vocab_size)).copy()

    write_logits(job, vocab_size, logits)
    print_settings(engine="llama.cpp", version=llama_cpp.__version__, kv_type=kv_type)


if __name__ == "__main__":
    main()
