"""Write a GGUF file as a Hugging Face folder of bf16 weights, for vLLM; runs in vLLM's environment.

Usage: python to_bf16.py MODEL.gguf FOLDER
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

OUTPUT = "lm_head.weight"


def main() -> None:
    """Convert one file."""
    source, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    part = folder.with_name(f"{folder.name}.part")
    of_file = {"gguf_file": source.name}
    AutoTokenizer.from_pretrained(source.parent, **of_file).save_pretrained(part)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        **of_file,
    )
    config = model.config
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != OUTPUT or not config.tie_word_embeddings
    }
    if not all(tensor.is_floating_point() for tensor in model.state_dict().values()):
        sys.exit("transformers left weights in their blocks: it takes a version that knows dequantize=True")
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    # The weights are plain now, whatever they were read from.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(part)
    part.rename(folder)


if __name__ == "__main__":
    main()
