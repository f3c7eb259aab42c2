"""The C++ compute library: weights, KV cache, forward pass and sampling. See ``native/``."""

def available_isas() -> list[str]:
    """Instruction-set paths that this processor can run, fastest first."""
