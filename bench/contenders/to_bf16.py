"""Write a GGUF file as a Hugging Face folder of bf16 weights, for vLLM; runs in vLLM's environment.

Usage: python to_bf16.py MODEL.gguf FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Convert one file."""
    source, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    part = folder.with_name(f"{folder.name}.part")
    of_file = {"gguf_file": source.name}
    AutoTokenizer.from_pretrained(source.parent, **of_file).save_pretrained(part)
    model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.bfloat16, **of_file)
    model.save_pretrained(part)
    part.rename(folder)


if __name__ == "__main__":
    main()
