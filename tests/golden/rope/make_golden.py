"""Make ``golden.json``: rotary frequencies and magnitudes as `transformers` computes them.

Needs `transformers` and torch; must not import stoker::

    python tests/golden/rope/make_golden.py

Each case has the parameters, in the spelling of a ``config.json``, the elements of a head, the frequencies
(fp32) and the factor of cosine and sine. Cases of LongRoPE have frequencies for short and for long texts.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

HEAD_SIZE = 64
FACTORS = [1 + 0.05 * pair for pair in range(HEAD_SIZE // 2)]
LONG_FACTORS = [1 + pair**1.3 for pair in range(HEAD_SIZE // 2)]

CASES: dict[str, dict[str, Any]] = {
    "plain": {"rope_type": "default", "rope_theta": 10_000.0},
    "plain-large-base": {"rope_type": "default", "rope_theta": 5_000_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    "llama3.1": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "llama3.2": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    },
    "yarn-gpt-oss": {
        "rope_type": "yarn",
        "rope_theta": 150_000.0,
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "yarn-short-context": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 2.0,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": FACTORS,
        "long_factor": LONG_FACTORS,
        "original_max_position_embeddings": 4096,
        "factor": 32.0,
    },
}


def compute(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a case with its frequencies."""
    torch = import_module("torch")
    transformers = import_module("transformers")
    functions = import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    config = transformers.LlamaConfig(
        hidden_size=2 * HEAD_SIZE,
        num_attention_heads=2,
        head_dim=HEAD_SIZE,
        max_position_embeddings=131_072,
        rope_parameters=dict(parameters),
    )
    found: dict[str, Any] = {"parameters": parameters, "head_size": HEAD_SIZE}
    if parameters["rope_type"] == "default":
        module = import_module("transformers.models.llama.modeling_llama").LlamaRotaryEmbedding(config)
        return found | {"frequencies": module.inv_freq.tolist(), "magnitude": module.attention_scaling}
    function = functions[parameters["rope_type"]]
    frequencies, magnitude = function(config, torch.device("cpu"), seq_len=1)
    found |= {"frequencies": frequencies.tolist(), "magnitude": magnitude}
    if parameters["rope_type"] == "longrope":
        long, _ = function(config, torch.device("cpu"), seq_len=131_072)
        found["long_frequencies"] = long.tolist()
    return found


def main() -> None:
    """Write the file beside this script."""
    golden = {name: compute(parameters) for name, parameters in CASES.items()}
    Path(__file__).with_name("golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
