"""Make a tiny random model of every architecture, as people have them, and its golden logits.

It shares no code with Stoker. Needs an environment with torch, transformers, safetensors and gguf::

    python tests/golden/architectures/make.py            # all of shapes.py
    python tests/golden/architectures/make.py qwen3      # some, the others stay

Writes beside this script, for each model:

- a folder as on the Hugging Face hub: ``config.json``, ``generation_config.json``, the tokenizer's files
  and ``model.safetensors``, in one model cut into two files with an index;
- a GGUF file as the field's converters write it, which holds exactly the same weights;
- in ``golden.npz`` the logits that `transformers` computes of them in fp32 with eager attention (Gemma's
  factor of embeddings rounded to bfloat16, as when it computes in the folder's dtype) for
  ``tokens``, at ``positions``: ``NAME``; ``NAME/short``, of the first tokens alone, for a model that
  computes longer texts otherwise; ``NAME/gguf``, where the GGUF file cannot say all that the folder does.
"""

import json
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
shapes = import_module("shapes")  # beside this script
weights = import_module("weights")
tokenizer = import_module("tokenizer")
gguf_file = import_module("gguf_file")
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")
safetensors: Any = import_module("safetensors.torch")

N_TOKENS = 70
POSITIONS = (0, 9, 23, 24, 31, 32, 47, 69)
"""Before, at and behind the windows' ends."""


def main() -> None:
    """Make the models that the command line names, or all of them."""
    path = HERE / "golden.npz"
    arrays = dict(np.load(path)) if path.exists() and sys.argv[1:] else {}
    arrays["tokens"] = np.random.default_rng(70).integers(0, shapes.VOCAB_SIZE, N_TOKENS).astype(np.int32)
    arrays["positions"] = np.array(POSITIONS, np.int32)
    for name in sys.argv[1:] or shapes.CASES:
        case = shapes.CASES[name]
        make_folder(HERE / name, name, case)
        arrays |= golden(HERE / name, name, case, arrays["tokens"])
        if case.gguf_type is not None:
            config = case.config_json() | case.gguf_config
            tensors = stored_tensors(HERE / name)
            gguf_file.write(HERE / f"{name}.gguf", config, tensors, case.gguf_type)
        spread = arrays[name].std(axis=1).mean()
        sys.stdout.write(f"{name}: logits spread over {spread:.2f}\n")
    np.savez_compressed(path, **{name: arrays[name] for name in sorted(arrays)})


def make_folder(folder: Path, name: str, case: Any) -> None:
    """Write the folder; what was there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = case.config_json()
    write_json(folder / "config.json", config)
    generation = {"bos_token_id": shapes.BOS, "eos_token_id": [shapes.EOS], "transformers_version": "4.46.0"}
    write_json(folder / "generation_config.json", generation)
    tokenizer.write(folder)
    dtype = getattr(torch, config.get("torch_dtype") or config["dtype"])
    random = np.random.default_rng(list(name.encode()))
    tensors: dict[str, Any] = {}
    for key, shape in published_shapes(config).items():
        grid = case.gguf_type if case.gguf_type in weights.LARGEST_CODE else "Q8_0"
        values = weights.random_tensor(key, shape, config, grid, random)
        if "quantization_config" in config and key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors |= packed_experts(key, values)
        else:
            tensors[key] = torch.from_numpy(values).to(dtype)
    write_safetensors(folder, tensors, case.n_files)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file as `transformers` does."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that `transformers` saves of such a model, and their shapes."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    with tempfile.TemporaryDirectory() as temporary:
        write_json(Path(temporary) / "config.json", plain)
        loaded = transformers.AutoConfig.from_pretrained(temporary)
        model = transformers.AutoModelForCausalLM.from_config(loaded)
        model.save_pretrained(temporary)
        tensors = safetensors.load_file(Path(temporary) / "model.safetensors")
    return {key: tuple(tensors[key].shape) for key in sorted(tensors)}


def packed_experts(key: str, values: Any) -> dict[str, Any]:
    """Experts ``[experts, inputs, outputs]`` as gpt-oss publishes them.

    Codes ``[experts, outputs, inputs / 32, 16]``, of neighbours in one byte, the first in its low half.
    """
    codes, exponents = weights.to_mxfp4(np.ascontiguousarray(values.swapaxes(1, 2)))
    pairs = codes.reshape(*exponents.shape, 16, 2)
    blocks = pairs[..., 0] | (pairs[..., 1] << 4)
    return {f"{key}_blocks": torch.from_numpy(blocks), f"{key}_scales": torch.from_numpy(exponents)}


def write_safetensors(folder: Path, tensors: dict[str, Any], n_files: int) -> None:
    """Write one file, or several and their index."""
    if n_files == 1:
        safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    keys = sorted(tensors)
    weight_map: dict[str, str] = {}
    for index in range(n_files):
        name = f"model-{index + 1:05}-of-{n_files:05}.safetensors"
        part = keys[index * len(keys) // n_files : (index + 1) * len(keys) // n_files]
        weight_map |= dict.fromkeys(part, name)
        safetensors.save_file({key: tensors[key] for key in part}, folder / name, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index_file = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index_file)


def stored_tensors(folder: Path) -> dict[str, Any]:
    """The folder's tensors: floats as fp32, bytes as they are."""
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for key, tensor in safetensors.load_file(path).items():
            tensors[key] = (tensor if tensor.dtype == torch.uint8 else tensor.float()).numpy()
    return tensors


def golden(folder: Path, name: str, case: Any, tokens: Any) -> dict[str, Any]:
    """The golden logits of a folder, by their names in ``golden.npz``."""
    positions = list(POSITIONS)
    results = {name: logits(folder, {}, tokens)[positions]}
    if case.n_short:
        short = [position for position in positions if position < case.n_short]
        results[f"{name}/short"] = logits(folder, {}, tokens[: case.n_short])[short]
    if case.gguf_config:
        results[f"{name}/gguf"] = logits(folder, case.gguf_config, tokens)[positions]
    return results


def logits(folder: Path, changes: dict[str, Any], tokens: Any) -> Any:
    """Logits after each token, ``[tokens, vocab_size]``."""
    options = {}
    config = transformers.AutoConfig.from_pretrained(folder, **changes)
    if getattr(config, "quantization_config", None):
        options["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        model = model.float()
    for module in model.modules():
        if hasattr(module, "embed_scale"):
            # Gemma's root of the width, which its own dtype rounds before it multiplies.
            module.embed_scale = module.embed_scale.to(torch.bfloat16).float()
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()


if __name__ == "__main__":
    main()
