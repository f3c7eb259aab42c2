"""How the weights of a model are named without reading all of them."""

DIGEST_CHARS = 32
"""Length of a digest: 128 bits in hex."""

SAMPLE_BYTES = 4096
"""What is read of a tensor, or at a place, of a file whose SHA-256 nobody has recorded."""


def sample_of(size_bytes: int) -> slice:
    """Return the middle `SAMPLE_BYTES` of so many bytes, or all of fewer."""
    start = max(0, size_bytes - SAMPLE_BYTES) // 2
    return slice(start, min(size_bytes, start + SAMPLE_BYTES))
