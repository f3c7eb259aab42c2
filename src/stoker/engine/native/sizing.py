"""How much memory a model takes and how much there is."""

from pathlib import Path

from stoker import _native
from stoker.core.errors import OutOfMemoryError
from stoker.core.step import BLOCK_TOKENS
from stoker.engine.native.precision import Choice
from stoker.models.config import ModelConfig, Tensor

KV_SHARE = 0.25
"""Share of the memory left beside the weights that KV caches may take when no size is set."""

RESERVE_BYTES = 200 << 20
"""Left for both processes' code, buffers and requests."""

_CGROUP = Path("/sys/fs/cgroup")
_U4_BITS, _U8_BITS = 4 + 32 / 32, 8 + 32 / 32
PACKED_BITS = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), _U4_BITS),
    **dict.fromkeys(("Q8_0", "Q5_0", "Q5_1", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4"), _U8_BITS),
    **dict.fromkeys(("F16", "BF16", "Q2_K", "Q6_K"), 16.0),
    "F32": 32.0,
}
"""Bits per weight in the packed layout of ``native/src/weights.h``."""

ROUTER = "ffn_gate_inp.weight"
"""The matrix that is held in floats whatever its type."""

_FLOAT_BITS = 32.0
_LANES = 16
"""Outputs in a column block."""

_ATTENTION_ROWS, _PARTIALS, _LEAST_PARTIAL_BYTES = 16, 16, 1 << 20
"""Rows of an attention task; partial results of whole tasks, and bytes, that a thread has room for."""

_FLOAT_BYTES = 4
_CODE_BYTES = 1 + 12 / 32
"""A code, and its share of a group's three floats."""


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Memory that this process may still take: the machine's free memory, or less under a cgroup."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) << 10
    left = _cgroup_bytes_left(cgroup)
    return available if left is None else min(available, max(0, left))


def _cgroup_bytes_left(cgroup: Path) -> int | None:
    """Return what the cgroup (version 2, then 1) lets its processes take yet, or None without a limit.

    Its usage includes cached pages of files, such as the model just downloaded, which the kernel
    drops when memory is asked for.
    """
    folder, prefix = cgroup, ""
    limit, usage = folder / "memory.max", folder / "memory.current"
    if not limit.exists():
        folder, prefix = cgroup / "memory", "total_"
        limit, usage = folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
    if not (limit.exists() and usage.exists()):
        return None
    text = limit.read_text().strip()
    if text == "max":
        return None
    fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    cached = sum(int(fields.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return int(text) - int(usage.read_text()) + cached


def packed_bytes(tensors: list[Tensor], *, float_path: bool) -> int:
    """Memory that the packed weights take."""
    bits = 0.0
    for tensor in tensors:
        n_values = 1
        for dim in tensor.shape:
            n_values *= dim
        as_floats = float_path or tensor.name.endswith(ROUTER)
        bits += n_values * (_FLOAT_BITS if as_floats else PACKED_BITS[tensor.dtype])
    return int(bits / 8)


def kv_block_bytes(config: ModelConfig, kv_type: str) -> int:
    """Memory of one KV block of `BLOCK_TOKENS` tokens over all layers.

    Args:
        config: The model.
        kv_type: ``f32``, ``f16``, ``bf16`` or ``q8``.
    """
    return 2 * config.n_layers * config.n_kv_heads * _native.kv_part_bytes(kv_type, config.head_size)


def scratch_bytes(
    config: ModelConfig,
    *,
    step_tokens: int,
    max_running: int,
    threads: int,
    precise: Choice = frozenset(),
) -> int:
    """Memory of a step's buffers, as ``native/src/model_scratch.cpp`` lays them out."""
    width, query_width = config.width, config.n_heads * config.head_size
    n_used = 0 if config.experts is None else config.experts.n_used
    # Residual stream and queries; cosines and sines of every rotary embedding.
    floats = width + query_width + sum(2 * len(rotary.frequencies) for rotary in config.rotaries)
    if config.post_norms or config.experts is not None:
        floats += width
    if config.qk_norm == "row":
        floats += config.n_kv_heads * config.head_size
    # Rows of activations, each as floats and as codes.
    activations = [width, query_width, *[config.ffn_width] * max(1, n_used)]
    if config.experts is not None:
        floats += _padded(config.experts.n_experts) + n_used + n_used * width
        activations += [width] * n_used
    # Activations that some matrix wants at 16 bits have two rows of codes more; the normed ones always have.
    names = {each.name for each in precise}
    twice = [width]
    if "o" in names:
        twice.append(query_width)
    if "down" in names:
        twice += [config.ffn_width] * max(1, n_used)
    if names & {"gate", "up"}:
        twice += [width] * n_used
    codes = sum(activations) + 2 * sum(twice)
    rows = step_tokens * (sum(activations, floats) * _FLOAT_BYTES + codes * _CODE_BYTES)
    logits = max_running * _padded(config.vocab_size) * _FLOAT_BYTES
    return int(rows) + logits + threads * _partial_bytes(config)


def _partial_bytes(config: ModelConfig) -> int:
    """Memory of each thread for partial results of long attention."""
    queries = _ATTENTION_ROWS * config.n_heads // config.n_kv_heads
    return max(_LEAST_PARTIAL_BYTES, _PARTIALS * queries * (config.head_size + 2) * _FLOAT_BYTES)


def _padded(n: int) -> int:
    """Round up to whole column blocks."""
    return -(-n // _LANES) * _LANES


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"


def choose_kv_blocks(
    *,
    block_bytes: int,
    weight_bytes: int,
    step_bytes: int,
    available_bytes: int,
    kv_memory_bytes: int | None,
    kv_sharers: int = 1,
    context_length: int,
    max_running: int,
) -> int:
    """Decide how many KV blocks to reserve.

    Args:
        block_bytes: Size of one block.
        weight_bytes: Memory that the weights will take.
        step_bytes: Memory that computing steps will take.
        available_bytes: Memory that may be taken in all.
        kv_memory_bytes: The size that the settings ask for; None for a share of what is left,
            at most what `max_running` whole contexts need.
        kv_sharers: Engines that this share is divided among. Memory is taken when it is first used, so
            what another one has reserved still looks available.
        context_length: Tokens of one context; at least one context must fit.
        max_running: Sequences that run at once.

    Raises:
        OutOfMemoryError: Weights or KV cache do not fit.
    """
    left = available_bytes - weight_bytes - step_bytes - RESERVE_BYTES
    if left <= 0:
        raise OutOfMemoryError(
            f"the model's weights need {_gib(weight_bytes)}, computing steps {_gib(step_bytes)} and "
            f"everything else {_gib(RESERVE_BYTES)}, but only {_gib(available_bytes)} of memory is left; "
            f"free memory, serve a smaller model, or set a smaller step_tokens, max_running or context_length"
        )
    context_blocks = -(-context_length // BLOCK_TOKENS)
    if kv_memory_bytes is None:
        n_blocks = min(int(left * KV_SHARE / kv_sharers) // block_bytes, context_blocks * max_running)
    else:
        n_blocks = kv_memory_bytes // block_bytes
        if kv_memory_bytes > left:
            raise OutOfMemoryError(
                f"kv_memory asks for {_gib(kv_memory_bytes)}, but only {_gib(left)} is left beside "
                f"weights and steps; set a smaller kv_memory"
            )
    if n_blocks < context_blocks:
        raise OutOfMemoryError(
            f"one context of {context_length} tokens needs {_gib(context_blocks * block_bytes)} of KV cache, "
            f"but there is room for {_gib(n_blocks * block_bytes)}; free memory, raise kv_memory or set a "
            f"context_length of at most {n_blocks * BLOCK_TOKENS}"
        )
    return n_blocks


def choose_host_bytes(*, kv_bytes: int, available_bytes: int, host_bytes: int | None) -> int:
    """Decide how much memory evicted KV blocks may take.

    Args:
        kv_bytes: Memory of the KV cache, of which little has been touched yet.
        available_bytes: Memory that may be taken now that the weights are loaded.
        host_bytes: The size that the settings ask for; None for half of the KV cache's, but no more than
            a quarter of what is left beside it.

    Raises:
        OutOfMemoryError: There is not so much.
    """
    left = max(0, available_bytes - kv_bytes)
    if host_bytes is None:
        return min(kv_bytes // 2, left // 4)
    if host_bytes > left:
        raise OutOfMemoryError(
            f"kv_host_memory asks for {_gib(host_bytes)}, but only {_gib(left)} is left beside weights and "
            f"KV cache; set a smaller kv_host_memory or kv_memory"
        )
    return host_bytes
