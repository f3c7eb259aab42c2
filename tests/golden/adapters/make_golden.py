"""Make adapters with `peft` for some of the tiny models of ``../architectures``, and their golden logits.

It shares no code with Stoker. Needs an environment with torch, transformers, peft, safetensors and gguf::

    python tests/golden/adapters/make_golden.py

Writes beside this script, for each case:

- a folder as `peft` saves it: ``adapter_config.json`` and ``adapter_model.safetensors``;
- a GGUF file of the same numbers in the way of llama.cpp's ``convert_lora_to_gguf.py``, as of 2026, where
  that format can hold the case (it has one alpha for all modules, divided by each one's rank);
- in ``golden.npz``, the logits that `transformers` and `peft` compute in fp32 for ``tokens`` at
  ``positions``, from the folder as it was saved; ``NAME/base`` is the name of the case's model.
"""

import shutil
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MODELS = HERE.parent / "architectures"
sys.path.insert(0, str(MODELS))

gguf_file = import_module("gguf_file")
gguf: Any = import_module("gguf")
peft: Any = import_module("peft")
safetensors: Any = import_module("safetensors.torch")
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Case:
    """One adapter.

    Attributes:
        base: The model's folder in ``../architectures``.
        lora: What `peft.LoraConfig` is given.
        dtype: Type in which it is saved.
        gguf_type: Type of the GGUF file's tensors; None for no file.
    """

    base: str
    lora: dict[str, Any]
    dtype: str = "float32"
    gguf_type: str | None = None


CASES = {
    "plain": Case(
        "llama-3", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}, gguf_type="F32"
    ),
    "all-linear": Case(
        "llama-3", {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}, gguf_type="F16"
    ),
    "rslora": Case("llama-3", {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ALL}),
    "ranks": Case(
        "granite",
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"k_proj": 8, "layers.1.mlp.down_proj": 3},
            "target_modules": ALL,
        },
        gguf_type="F32",
    ),
    "patterns": Case(
        "qwen3",
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 7},
            "alpha_pattern": {"v_proj": 3, "^model.layers.0.self_attn.k_proj": 12},
            "target_modules": ALL,
        },
    ),
    "bfloat16": Case("gemma-3", {"r": 4, "lora_alpha": 8, "target_modules": ALL}, "bfloat16", "BF16"),
    "one-layer": Case(
        "mixtral",
        {"r": 4, "lora_alpha": 16, "layers_to_transform": [1], "target_modules": ATTENTION},
        gguf_type="F16",
    ),
    "fused": Case("phi-3", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, gguf_type="F32"),
}


def main() -> None:
    """Make all of them."""
    models = np.load(MODELS / "golden.npz")
    tokens, positions = models["tokens"], models["positions"]
    arrays: dict[str, Any] = {"tokens": tokens, "positions": positions}
    for index, (name, case) in enumerate(CASES.items()):
        folder = HERE / name
        make_folder(folder, case, np.random.default_rng(index))
        model = peft.PeftModel.from_pretrained(base_of(case), folder).eval()
        with torch.no_grad():
            found = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()
        arrays[name] = found[positions]
        arrays[f"{name}/base"] = np.array(case.base)
        if case.gguf_type is not None:
            write_gguf(HERE / f"{name}.gguf", folder, case)
        moved = np.abs(arrays[name] - models[case.base]).mean()
        sys.stdout.write(f"{name}: logits spread over {found.std():.2f}, moved by {moved:.2f}\n")
    np.savez_compressed(HERE / "golden.npz", **{name: arrays[name] for name in sorted(arrays)})


def base_of(case: Case) -> Any:
    """The model in fp32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODELS / case.base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for module in model.modules():
        if hasattr(module, "embed_scale"):  # as in ../architectures/make.py
            module.embed_scale = module.embed_scale.to(torch.bfloat16).float()
    return model


def make_folder(folder: Path, case: Case, random: Any) -> None:
    """Have `peft` save an adapter of random numbers; what was there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **case.lora)
    model = peft.get_peft_model(base_of(case), config)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.from_numpy(random_numbers(tuple(parameter.shape), name, random))
    model.peft_config["default"].base_model_name_or_path = f"tiny/{case.base}"
    model.to(getattr(torch, case.dtype)).save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "adapter_model.safetensors").chmod(0o644)


def random_numbers(shape: tuple[int, ...], name: str, random: Any) -> Any:
    """Numbers that bf16 and fp16 hold exactly, large enough that the adapter is not to be overlooked."""
    spread, grid = (shape[1] ** -0.5, 512) if ".lora_A." in name else (0.25, 128)
    values = np.rint(random.standard_normal(shape) * spread * grid)
    return (np.clip(values, -255, 255) / grid).astype(np.float32)


def write_gguf(path: Path, folder: Path, case: Case) -> None:
    """Write the adapter as llama.cpp's converter does: as the base's tensors are named and permuted."""
    config = transformers.AutoConfig.from_pretrained(MODELS / case.base)
    architecture = gguf_file.ARCHITECTURES.get(config.model_type, config.model_type)
    number = next(number for number, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(gguf.Keys.General.TYPE, gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(case.lora["lora_alpha"]))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for key, tensor in safetensors.load_file(folder / "adapter_model.safetensors").items():
        module, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        values = tensor.float().numpy()
        permuted = module.endswith(("q_proj", "k_proj")) and config.model_type in gguf_file.PERMUTED
        if side == "B" and permuted:
            values = gguf_file.neighbours(values, size)
        kind = gguf.GGMLQuantizationType[case.gguf_type]
        name = f"{names.get_name(f'{module}.weight', ('.weight',))}.lora_{side.lower()}"
        writer.add_tensor(name, gguf_file.encoded(values, case.gguf_type), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
