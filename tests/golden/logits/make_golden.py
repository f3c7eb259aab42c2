"""Make the golden log-probabilities of the default model with `transformers`.

It shares no code with Stoker.

Usage: python make_golden.py FILE.gguf    (in an environment with torch, transformers, accelerate and gguf)

Writes golden.npz beside this script: for each prompt its token ids, and at every fourth position and
the last one the 64 most likely token ids with their natural log-probabilities, computed in fp32 from the
file's dequantized weights.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "<|im_start|>user\nName three primary colours.<|im_end|>\n<|im_start|>assistant\n",
    "Water boils at 100 degrees Celsius at sea level, but on a high mountain " * 12,
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, " * 6,
    "Über den Wolken; \u4f60\u597d, \u4e16\u754c! \U0001f600 naïve façade",
]
TOP = 64


def main() -> None:
    """Write the file."""
    path = Path(sys.argv[1]).resolve()
    torch, transformers = import_module("torch"), import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    arrays: dict[str, Any] = {}
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1).numpy()
        positions = sorted({*range(0, len(ids), 4), len(ids) - 1})
        top = np.argsort(-logprobs[positions], axis=1, kind="stable")[:, :TOP]
        top_logprobs = np.take_along_axis(logprobs[positions], top, axis=1)
        arrays[f"ids_{i}"] = np.array(ids, np.int32)
        arrays[f"positions_{i}"] = np.array(positions, np.int32)
        arrays[f"top_{i}"] = top.astype(np.int32)
        arrays[f"logprobs_{i}"] = top_logprobs.astype(np.float32)
        sys.stdout.write(f"prompt {i}: {len(ids)} tokens, {len(positions)} positions\n")
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **arrays)


if __name__ == "__main__":
    main()
