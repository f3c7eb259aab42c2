"""What the machine allows: measured by the native library's own loops."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stoker import _native

_MIB = 1 << 20
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
_UNKNOWN_CACHE_BYTES = 8 * _MIB
_MEMORY_BYTES = 256 * _MIB
_MAX_ARRAY_BYTES = 4096 * _MIB
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

SECONDS_EACH = 1.0


def last_cache_bytes(path: Path = _CACHE) -> int:
    """Return the size of the last cache level; 8 MiB where the system does not tell."""
    try:
        text = path.read_text(encoding="ascii").strip()
        return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)
    except (OSError, ValueError, IndexError):
        return _UNKNOWN_CACHE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Limits of all threads together. A multiplication and an addition are two operations.

    Attributes:
        isa: The instruction-set path.
        n_threads: Threads that were used.
        dot_ops: Integer products of that path, a second.
        fma_ops: fp32 operations, a second.
        bf16_ops: bfloat16 products of that path, a second; 0 where it has none.
        memory_bytes: Bytes read from memory, a second.
        cache_bytes: Bytes read from the last cache level, a second.
        last_cache_size: Bytes of that level.
    """

    isa: str
    n_threads: int
    dot_ops: float
    fma_ops: float
    bf16_ops: float
    memory_bytes: float
    cache_bytes: float
    last_cache_size: int

    @classmethod
    def measure(cls, isa: str, n_threads: int, seconds_each: float = SECONDS_EACH) -> Self:
        """Measure them, each for so long.

        Raises:
            MemoryError: There is no room for an array larger than the caches.
        """
        cache = last_cache_bytes()
        limits = _native.measure_limits(
            isa,
            n_threads=n_threads,
            memory_bytes=min(max(_MEMORY_BYTES, 4 * cache), _MAX_ARRAY_BYTES),
            cache_bytes=min(max(cache // 4, _MIB), 16 * _MIB),
            seconds=seconds_each,
        )
        return cls(isa=isa, n_threads=n_threads, last_cache_size=cache, **limits)

    def read_rate(self, working_set: int) -> float:
        """Return the bytes a second that a step reads which touches so many each time."""
        return self.cache_bytes if 2 * working_set <= self.last_cache_size else self.memory_bytes
