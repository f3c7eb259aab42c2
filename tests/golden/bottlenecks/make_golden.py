"""Make bottleneck adapters with `adapters` for tiny models of ``../architectures``, and their golden logits.

It shares no code with Stoker. Needs an environment with torch, adapters and the transformers that it wants::

    python tests/golden/bottlenecks/make_golden.py

Writes beside this script, for each case, a folder as `adapters` saves it (as safetensors, without a head),
and in ``golden.npz`` the logits that it computes in fp32 for ``tokens`` at ``positions``; ``NAME/base`` names
the case's model.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MODELS = HERE.parent / "architectures"

adapters: Any = import_module("adapters")
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")


@dataclass(frozen=True)
class Case:
    """One adapter.

    Attributes:
        base: The model's folder in ``../architectures``.
        config: What `adapters` makes it of.
    """

    base: str
    config: Any


CASES = {
    "houlsby": Case("llama-3", adapters.DoubleSeqBnConfig(reduction_factor=16)),
    "pfeiffer": Case("llama-3", adapters.SeqBnConfig(reduction_factor=8)),
    "gelu": Case(
        "llama-2", adapters.DoubleSeqBnConfig(reduction_factor=4, non_linearity="gelu_new", scaling=0.5)
    ),
    "one-layer": Case("llama-2", adapters.SeqBnConfig(reduction_factor=3, leave_out=[0])),
    "post-norms": Case("gemma-2", adapters.DoubleSeqBnConfig(reduction_factor=16)),
    "post-norms-gelu": Case(
        "gemma-3", adapters.DoubleSeqBnConfig(reduction_factor=8, non_linearity="gelu_new", scaling=0.5)
    ),
}


def main() -> None:
    """Make all of them."""
    models = np.load(MODELS / "golden.npz")
    tokens, positions = models["tokens"], models["positions"]
    arrays: dict[str, Any] = {"tokens": tokens, "positions": positions}
    for index, (name, case) in enumerate(CASES.items()):
        make_folder(HERE / name, name, case, np.random.default_rng(index))
        model = base_of(case)
        loaded = model.load_adapter(str(HERE / name), use_safetensors=True)
        model.set_active_adapters(loaded)
        model.eval()
        with torch.no_grad():
            found = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()
        arrays[name] = found[positions]
        arrays[f"{name}/base"] = np.array(case.base)
        moved = np.abs(arrays[name] - models[case.base]).mean()
        sys.stdout.write(f"{name}: logits spread over {found.std():.2f}, moved by {moved:.2f}\n")
    np.savez_compressed(HERE / "golden.npz", **{name: arrays[name] for name in sorted(arrays)})


def base_of(case: Case) -> Any:
    """The model in fp32, ready for adapters."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODELS / case.base, dtype=torch.float32, attn_implementation="eager"
    )
    for module in model.modules():
        if hasattr(module, "embed_scale"):  # as in ../architectures/make.py
            module.embed_scale = module.embed_scale.to(torch.bfloat16).float()
    adapters.init(model)
    return model


def make_folder(folder: Path, name: str, case: Case, random: Any) -> None:
    """Have `adapters` save an adapter of random numbers that bf16 holds; what was there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    model = base_of(case)
    model.add_adapter(name, config=case.config)
    for parameter_name, parameter in model.named_parameters():
        if ".adapters." in parameter_name:
            grid = 128
            shape = tuple(parameter.shape)
            spread = shape[1] ** -0.5 if len(shape) > 1 else 0.3
            values = np.rint(random.standard_normal(shape) * spread * grid)
            parameter.data = torch.from_numpy((np.clip(values, -255, 255) / grid).astype(np.float32))
    model.save_adapter(str(folder), name, with_head=False, use_safetensors=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"model_name": f"tiny/{case.base}"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "adapter.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
