"""Settings of the engine: what it computes with, how steps are filled, and what it keeps."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, Field

from stoker.config.model_settings import ModelName, Precise, SkipLayers, Speculation
from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.step import MAX_CALL_STEPS


class EngineSettings(BaseModel):
    """Settings of every engine, unless a model has its own."""

    engine: Literal["auto", "native", "llamacpp"] = Field(
        default="auto",
        description="What computes a model: `native` (Stoker's own engine), `llamacpp` (llama.cpp, which "
        "needs the extra `stoker[llamacpp]` and cannot do everything: see engines.md), or `auto`: the native "
        "engine if it knows the model, else llama.cpp if that extra is installed.",
    )
    quantize: Literal["none", "q8", "q4"] = Field(
        default="none",
        description="How a folder of safetensors is served whose weights are floats: `none` (as they are), "
        "`q8` (matrices in 8-bit codes) or `q4` (in 4-bit codes, embeddings and output matrix in 8-bit "
        "ones). Less memory and more speed, for other answers. GGUF files are served in the types they have.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Compute threads of an engine. Unset, as many as there are processor cores that this "
        "process may use (its affinity and its cgroup's quota).",
    )
    isa: Literal["auto", "amx", "avx512bf16", "avx512vnni", "avx2vnni", "avx2", "neon", "portable"] = Field(
        default="auto",
        description="Instruction-set path of the kernels: `auto` (the fastest that the processor has), "
        "`amx`, `avx512bf16`, `avx512vnni`, `avx2vnni`, `avx2`, `neon` or `portable`.",
    )
    precise: Precise = Field(
        default="auto",
        description="Matrices whose activations have 16 bits instead of 8, which costs twice the operations "
        "and brings answers nearer to those of floats: `auto` (`v,output`, which saves most "
        "error for its cost), `none`, or names separated by commas out of `q`, `k`, `v`, `o`, `gate`, `up`, "
        "`down` and `output`, all but the last also of one layer, as in `v,output,down:2`. "
        "`stoker quality` measures a model and says what it would choose.",
    )
    max_running: int = Field(
        default=64, ge=1, le=1024, description="Most sequences computed in one engine call."
    )
    max_waiting: int = Field(
        default=256,
        ge=0,
        le=65536,
        description="Most sequences that wait for a place; the next one gets status 429 with `Retry-After`.",
    )
    step_tokens: int = Field(
        default=512,
        ge=16,
        le=16384,
        description="Most tokens computed in one engine call; at least `max_running`. More speeds up "
        "long prompts, less evens out the streams that run beside them, as far as `batching` does not.",
    )
    batching: Literal["latency", "size", "time"] = Field(
        default="latency",
        description="How an engine call is filled, up to `step_tokens`: `latency` (beside running streams "
        "only as much of new prompts as keeps their `itl_target_s`), `size` (whatever waits) or `time` (the "
        "same, and new requests wait up to `batch_wait_s` for others). No answer depends on it. batching.md "
        "has what each is good for.",
    )
    itl_target_s: float = Field(
        default=0.07,
        ge=0.001,
        le=60,
        description="Seconds from one token of a stream to the next that 95 % shall keep. Less evens out the "
        "streams, more computes prompts sooner. Calls that take longer are counted.",
    )
    prefill_share: float = Field(
        default=0.25,
        ge=0.01,
        le=0.9,
        description="With `latency`: least share of an engine call's time for prompts that wait to be "
        "computed, also where running streams alone take longer than `itl_target_s`.",
    )
    prompt_patience_s: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="Seconds that each token of a prompt adds to a request's place in the queue, tokens that "
        "are cached left out, 10 s at most: a short prompt goes before a long one that came at most so much "
        "earlier. With 0 the order is that of arrival.",
    )
    batch_wait_s: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="With `time`: longest that a new request waits for others to fill an engine call "
        "with it.",
    )
    kv_type: Literal["auto", "f16", "bf16", "q8"] = Field(
        default="auto",
        description="How the KV cache holds keys and values: `f16`, `bf16` (the fastest where the "
        "processor multiplies bf16: `isa` `amx` and `avx512bf16`) or `q8` (8-bit codes with a scale and a "
        "minimum for each token and head: about half the memory, less exact). `auto` is `bf16` on those "
        "paths and `f16` on the others. Another type gives other answers.",
    )
    call_steps: int = Field(
        default=MAX_CALL_STEPS,
        ge=1,
        le=MAX_CALL_STEPS,
        description="Most tokens of each sequence in one engine call. A call has several while nobody waits "
        "for its end and it takes about 16 ms at most; a stream's tokens then come in groups, which saves "
        "work beside the engine's. 1 sends each on its own.",
    )
    speculation: Speculation = Field(
        default="prompt-lookup",
        description="Guessing the next tokens of a stream, so that an engine call can compute several; "
        "the tokens are those that come without it, bit for bit. `prompt-lookup` copies what followed when "
        "the conversation said the same before. Where that finds nothing, `draft-model` asks a smaller "
        "model, `skip-layers` the model itself without some of its layers. Each guesses only where that is "
        "expected to be faster (speculation.md). Only the native engine has it.",
    )
    draft_model: ModelName | None = Field(
        default=None,
        description="With `speculation` `draft-model`: the model that guesses, as `model` names one; its "
        "tokenizer must be the same. It is pulled if it is missing.",
    )
    skip_layers: SkipLayers = Field(
        default="auto",
        description="With `speculation` `skip-layers`: the layers that are left out when the model guesses, "
        "such as `8-15,20`, the first being 0; `auto` is a stretch in the middle.",
    )
    draft_tokens: int = Field(
        default=MAX_DRAFT_TOKENS,
        ge=1,
        le=MAX_DRAFT_TOKENS,
        description="Most tokens that are guessed for a stream in one engine call.",
    )
    kv_memory: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Memory for the KV cache of each model, such as `2GiB`. Unset, what every place needs "
        "for a full context, but at most a quarter of the memory that is available beside the weights, which "
        "all models share.",
    )
    kv_host_memory: ByteSize | None = Field(
        default=None,
        ge=0,
        description="Memory of each model for KV blocks that no longer fit `kv_memory`, such as `1GiB`; they "
        "are copied back when their prefix returns. Unset, half of the KV cache's, but at most a quarter of "
        "what is left beside it; 0 keeps none, except for 128 MiB that pass through with "
        "`max_kv_disk_bytes`. It is taken as it is used. Only the native engine has it (kv-cache.md).",
    )
    max_kv_disk_bytes: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Most bytes of KV blocks kept in files in `kv_dir`, of all models together, such as "
        "`20GiB`, so that a conversation goes on where it stopped also after a restart. Those used least "
        "recently are removed. With 0 none is kept or used. The files hold the tokens of the prompts and "
        "answers that they are of.",
    )
    kv_dir: Path | None = Field(
        default=None,
        description="Folder for KV blocks in files. Unset, `kv` below `home` (`~/.cache/stoker/kv`).",
    )
    max_pinned_tokens: int = Field(
        default=16_384,
        ge=0,
        le=2**24,
        description="Most tokens of each model's pinned prefixes together (`POST "
        "/admin/models/{name}/pins`); one whole context is left for requests in any case.",
    )
    lora_dir: Path | None = Field(
        default=None,
        description="Folder whose subfolders may be loaded as adapters (`POST /v1/load_lora_adapter`, "
        "lora.md). Nothing outside of it is read. Unset, there are no adapters.",
    )
    max_loras: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Most adapters of each model in memory. The one used least recently makes room for the "
        "next, and is read again when it is needed.",
    )
    max_lora_rank: int = Field(
        default=64,
        ge=1,
        le=512,
        description="Largest rank of an adapter, or size of a bottleneck; larger ones are refused.",
    )
    max_lora_bytes: ByteSize = Field(
        default=ByteSize(2**30),
        ge=1,
        description="Largest file of an adapter's weights; larger ones are refused.",
    )
    context_length: int | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="Most tokens of one sequence, prompt and output together; at most the model's own "
        "context length, which is the default.",
    )
    grammar_timeout_s: float = Field(
        default=2.0,
        ge=0.01,
        le=60,
        description="Seconds that compiling a request's grammar may take, which goes on beside the engine's "
        "steps; one that takes longer gets status 400.",
    )
    max_grammar_symbols: int = Field(
        default=100_000,
        ge=100,
        le=10_000_000,
        description="Most symbols of a compiled grammar; one that has more gets status 400.",
    )
    max_grammar_states: int = Field(
        default=30_000,
        ge=100,
        le=1_000_000,
        description="Most states of a grammar's lexer, about 2 kB each; an answer that would come to more "
        "ends with the code `grammar_too_complex`.",
    )
    max_grammar_compile_work: int = Field(
        default=1_000_000,
        ge=1_000,
        le=100_000_000,
        description="Most expressions that compiling a grammar's lexer may take, about 50,000 in a "
        "millisecond; a grammar that takes more gets status 400.",
    )
    max_grammar_step_work: int = Field(
        default=50_000,
        ge=1_000,
        le=10_000_000,
        description="Most expressions that a grammar's lexer may take to find which tokens may come next, "
        "about 14,000 in a millisecond, for which all streams of the step wait; an answer that takes more "
        "ends with the code `grammar_too_complex`.",
    )
    max_grammar_step_items: int = Field(
        default=20_000,
        ge=1_000,
        le=10_000_000,
        description="Most items that a grammar's parser may take for that, about 20,000 in a millisecond; "
        "likewise.",
    )
    max_grammar_row_items: int = Field(
        default=2_000,
        ge=10,
        le=100_000,
        description="Most items of a grammar's parser at one place of the answer, the ways to go on from "
        "there; likewise.",
    )
    sleep_after_s: float = Field(
        default=0.0,
        ge=0,
        le=31_536_000,
        description="Seconds without a request after which a model is put to sleep: its engine ends and its "
        "memory is free, its name stays, and the next request wakes it. With 0 no time does (sleep.md).",
    )
    wake_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds that a request waits for its model to be awake; after them it gets status 503.",
    )
    pooling: Literal["mean", "last"] = Field(
        default="mean",
        description="What an embedding is made of: `mean`, of the hidden states of all tokens, or `last`, of "
        "the last token's. Take what the model was trained for; a model for chats was trained for neither.",
    )
    engine_timeout_s: float = Field(
        default=60.0,
        ge=6,
        le=3600,
        description="Seconds without a word from an engine that has requests, after which it is killed and "
        "restarted; after a sixth of them the server is not ready. An engine gives a word at the end of "
        "every call, and four times a second during one that takes longer.",
    )
    resume_timeout_s: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="Seconds that a request whose engine died waits for the next engine to be ready, to go "
        "on where it stopped; after them it fails.",
    )
