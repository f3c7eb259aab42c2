"""Whole folders: their tensors under Stoker's names, tokenizer, digest, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError, SettingsError, StokerError, UnknownModelError
from stoker.core.step import StepPlan
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import OpenedModel, open_model
from stoker.models.huggingface.files import QUANTIZE, Quantize
from stoker.models.library import ModelLibrary
from stoker.models.packs import PackFolder
from stoker.models.sources import Network
from stoker.models.tensor_layout import expected_shapes
from stoker.testing.gguf_blocks import decode_blocks
from stoker.testing.gguf_files import TINY_VOCAB_SIZE
from stoker.testing.golden_models import golden_models
from stoker.testing.hub_server import HubServer
from stoker.testing.model_folders import (
    RawTensor,
    TinyFolder,
    encode_safetensors,
    raw,
    raw_integers,
    write_folder,
    write_json,
    write_tiny_folder,
)
from stoker.testing.reference_forward import ReferenceForward

Floats = NDArray[np.float32]
GOLDEN = {each.label: each for each in golden_models(Path(__file__).parents[2] / "golden" / "architectures")}
TOKENS = [3, 40, 12, 99, 7, 200, 3, 11]


def logits(model: OpenedModel) -> NDArray[np.float64]:
    return ReferenceForward(model.config, model.tensors).logits(TOKENS)


def decoded(model: OpenedModel, name: str) -> Floats:
    tensor = model.tensors[name]
    return decode_blocks(tensor.data, tensor.dtype, tensor.shape)


def copied(golden: str, folder: Path) -> Path:
    """Copy a golden folder so that it can be changed."""
    folder.mkdir()
    for path in GOLDEN[golden].path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_tensor_has_its_name_and_shape() -> None:
    for golden in GOLDEN.values():
        if golden.path.is_dir():
            with open_model(golden.path) as model:
                shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
                assert shapes == expected_shapes(model.config), golden.label
                for tensor in model.tensors.values():
                    decode_blocks(tensor.data, tensor.dtype, tensor.shape)
    assert sum(golden.path.is_dir() for golden in GOLDEN.values()) >= 13


def test_floats_are_mapped_not_copied(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    with open_model(folder) as model:
        tensor = model.tensors["blk.1.ffn_up.weight"]
        first, second = np.frombuffer(tensor.read(), np.uint8), np.frombuffer(tensor.read(), np.uint8)
        assert tensor.data.readonly
        assert np.shares_memory(first, second)
    expected = TinyFolder().weights()["model.layers.1.mlp.up_proj.weight"]
    assert np.array_equal(decode_blocks(tensor.data, "F32", (96, 64)), expected), "also after closing"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_one_file_or_several_are_the_same_model(tmp_path: Path, dtype: str, n_shards: int) -> None:
    one = write_tiny_folder(tmp_path / "one", dtype=dtype)
    several = write_tiny_folder(tmp_path / "several", dtype=dtype, n_shards=n_shards)
    with open_model(one) as left, open_model(several) as right:
        assert left.config == right.config
        for name in left.tensors:
            assert left.tensors[name].data == right.tensors[name].data
        assert (left.digest == right.digest) == (n_shards == 1)


def test_stacked_experts_are_those_that_stand_apart(tmp_path: Path) -> None:
    for golden, block in (("mixtral", "block_sparse_moe"), ("qwen3-moe", "mlp")):
        label = next(label for label in GOLDEN if label.startswith(golden) and GOLDEN[label].path.is_dir())
        folder = copied(label, tmp_path / golden)
        with open_model(folder) as apart:
            expected = {name: bytes(tensor.data) for name, tensor in apart.tensors.items()}
            config = apart.config
        restack(folder, block, config.n_layers)
        with open_model(folder) as stacked:
            assert {name: bytes(tensor.data) for name, tensor in stacked.tensors.items()} == expected


def restack(folder: Path, block: str, n_layers: int) -> None:
    """Bring per-expert tensors to the form in which `transformers` 5 holds them, all in one file."""
    tensors: dict[str, RawTensor] = {}
    for path in folder.glob("model*.safetensors*"):
        if path.suffix == ".safetensors":
            tensors |= read_raw(path)
        path.unlink()
    names = ("w1", "w3", "w2") if block == "block_sparse_moe" else ("gate_proj", "up_proj", "down_proj")
    for layer in (f"model.layers.{index}" for index in range(n_layers)):
        source, joined = f"{layer}.{block}.experts", f"{layer}.mlp.experts"
        n = len([name for name in tensors if name.startswith(source) and f".{names[0]}." in name])
        gate, up, down = (
            [tensors.pop(f"{source}.{expert}.{name}.weight") for expert in range(n)] for name in names
        )
        rows, inputs = gate[0].shape
        both = b"".join(one.data + other.data for one, other in zip(gate, up, strict=True))
        tensors[f"{joined}.gate_up_proj"] = RawTensor(gate[0].dtype, (n, 2 * rows, inputs), both)
        data = b"".join(each.data for each in down)
        tensors[f"{joined}.down_proj"] = RawTensor(down[0].dtype, (n, *down[0].shape), data)
        tensors[f"{layer}.mlp.gate.weight"] = tensors.pop(f"{layer}.{block}.gate.weight")
    (folder / "model.safetensors").write_bytes(encode_safetensors(tensors))


def read_raw(path: Path) -> dict[str, RawTensor]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: RawTensor(
            entry["dtype"],
            tuple(entry["shape"]),
            content[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def gptq_tensors(weights: dict[str, Floats], *, sym: bool) -> dict[str, RawTensor]:
    """Quantize the layers' matrices as GPTQ stores them; biases of zeros beside them, as its tools add."""
    tensors: dict[str, RawTensor] = {}
    for name, values in weights.items():
        if "proj" not in name:
            tensors[name] = raw(values, "F16")
            continue
        stem = name.removesuffix(".weight")
        groups = values.reshape(len(values), -1, 32)
        low, high = groups.min(axis=2), groups.max(axis=2)
        scales = (np.abs(groups).max(axis=2) / 7 if sym else (high - low) / 15).astype(np.float16)
        zeros = np.full(low.shape, 8) if sym else np.rint(-low / scales).clip(0, 15).astype(int)
        codes = np.rint(groups / scales[..., None]) + zeros[..., None]
        codes = codes.clip(0, 15).astype(np.uint32).reshape(values.shape)
        places = np.arange(8, dtype=np.uint32) * 4
        words = (codes.T.reshape(-1, 8, len(values)) << places[:, None]).sum(axis=1, dtype=np.uint32)
        stored_zeros = ((zeros.T - 1) & 15).astype(np.uint32).reshape(len(zeros.T), -1, 8)
        tensors |= {
            f"{stem}.qweight": raw_integers(words.view(np.int32)),
            f"{stem}.qzeros": raw_integers((stored_zeros << places).sum(axis=2, dtype=np.uint32)),
            f"{stem}.scales": raw(scales.T.astype(np.float32), "F16"),
            f"{stem}.g_idx": raw_integers((np.arange(values.shape[1]) // 32).astype(np.int32)),
            f"{stem}.bias": raw(np.zeros(len(values), np.float32), "F16"),
        }
    return tensors


@pytest.mark.parametrize("sym", [True, False])
def test_a_gptq_folder_is_close_to_the_model_that_it_was_made_from(tmp_path: Path, sym: bool) -> None:
    tiny = TinyFolder()
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": sym}
    folder = write_folder(
        tmp_path / "gptq",
        tiny.config() | {"quantization_config": quantization},
        gptq_tensors(tiny.weights(), sym=sym),
    )
    with open_model(folder) as model, open_model(write_tiny_folder(tmp_path / "plain")) as plain:
        assert model.tensors["blk.0.attn_q.weight"].dtype == "Q4_1"
        assert model.tensors["token_embd.weight"].dtype == "F16"
        assert model.quantized == f"gptq, 4 bits (14 {'exact' if sym else 'rounded minimums'})"
        assert plain.quantized is None
        for name in expected_shapes(model.config):
            values = decoded(plain, name)
            blocks = values.reshape(-1, 32)
            step = 2 * np.abs(blocks).max() / 14 if sym else np.ptp(blocks, axis=1).max() / 15
            if model.tensors[name].dtype == "F16":
                step = np.abs(blocks).max() * 2**-10
            assert np.abs(decoded(model, name) - values).max() <= 0.55 * step, name
        difference = np.abs(logits(model) - logits(plain))
        assert 1e-3 < difference.mean() < 0.3 * logits(plain).std()


@pytest.mark.parametrize(("quantize", "share"), [("none", 1e-5), ("q8", 0.03), ("q4", 0.25)])
def test_the_native_engine_computes_a_folder(tmp_path: Path, quantize: Quantize, share: float) -> None:
    folder = write_tiny_folder(tmp_path)
    settings = NativeEngineSettings(
        threads=1, context_length=64, step_tokens=64, kv_memory_bytes=1 << 22, max_running=1, float_path=True
    )
    with open_model(folder) as plain:
        expected = logits(plain)
    with open_model(folder, quantize) as model:
        served = logits(model)
        engine = load_engine(model, settings)
    assert quantize == "none" or np.abs(served - expected).mean() > 1e-4
    assert np.abs(served - expected).max() <= share * np.abs(expected).max()
    plan = StepPlan(
        request_ids=["a"], tokens=[TOKENS], first_positions=[0], block_tables=[[0]], samples=[False]
    )
    assert np.abs(engine.logits(plan) - served).max() < 1e-3
    assert model.digest[:12] in engine.fingerprint


def test_the_tokenizer_fills_the_embedding_matrix(tmp_path: Path) -> None:
    with open_model(write_tiny_folder(tmp_path / "padded", vocab_size=TINY_VOCAB_SIZE + 13)) as model:
        spec = model.tokenizer
        assert len(spec.tokens) == len(spec.token_types) == TINY_VOCAB_SIZE + 13
        assert set(spec.token_types[TINY_VOCAB_SIZE:]) == {5}
        assert spec.end_token_ids == {0, 2}
        assert spec.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
        assert spec.chat_template is not None


def test_tokens_without_an_embedding(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    image = {"id": TINY_VOCAB_SIZE, "content": "<image>", "special": True, "lstrip": True}
    edit(folder / "tokenizer.json", lambda content: content["added_tokens"].append(image))
    with open_model(folder) as model:
        assert len(model.tokenizer.tokens) == TINY_VOCAB_SIZE
        assert model.tokenizer.lstrip_ids == frozenset()
    edit(folder / "tokenizer.json", lambda content: content["model"]["vocab"].update({"zz": 276}))
    with (
        open_model(folder) as model,
        pytest.raises(CorruptFileError, match="token 276, but the model has 275"),
    ):
        assert model.tokenizer


def test_special_tokens_are_looked_for_in_both_files(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    named = {
        "bos_token": {"content": "<|im_start|>"},
        "eos_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
    }
    write_json(folder / "special_tokens_map.json", named)
    with open_model(folder) as model:
        assert model.tokenizer.special_tokens == {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
        }


def test_without_a_generation_config_the_config_names_the_end(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", lambda content: content.update({"eos_token_id": [7, 8]}))
    with open_model(folder) as model:
        assert {7, 8} <= model.tokenizer.end_token_ids


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    (folder / "tokenizer.json").unlink()
    with open_model(folder) as model, pytest.raises(CorruptFileError, match=r"tokenizer\.json is missing"):
        assert model.tokenizer


def test_each_way_of_serving_has_a_pack_of_its_own_and_all_go_with_the_model(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path / "packs", 1 << 30)
    repo = write_tiny_folder(tmp_path / "hub" / "someone" / "tiny")
    with HubServer(repo.parents[1]) as hub:
        library = ModelLibrary(tmp_path / "models", {}, Network(hub=hub.url), packs)
        stored = library.pull("hf:someone/tiny").path
    settings = NativeEngineSettings(
        threads=1, context_length=64, step_tokens=64, kv_memory_bytes=1 << 22, max_running=1
    )
    for quantize in QUANTIZE:
        for _ in range(2):
            with open_model(stored, quantize) as model:
                load_engine(model, settings, packs)
    assert len(list(packs.folder.glob("*.pack"))) == 3
    library.remove("hf:someone/tiny")
    assert list(packs.folder.glob("*.pack")) == []


def test_an_edited_folder_is_known_by_its_times(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)
    with open_model(folder) as model:
        before = model.identity
    path = folder / "model.safetensors"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    with open_model(folder) as model:
        assert model.identity != before


def test_the_digest_depends_on_config_and_weights(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path)

    def digest() -> str:
        with open_model(folder) as model:
            return model.digest

    original = digest()
    assert digest() == original
    assert len(original) == 32
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for name, stored in read_raw(path).items():
        at = whole.index(stored.data[:64]) + len(stored.data) // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert digest() != original, name
    path.write_bytes(whole)
    edit(folder / "config.json", lambda content: content.update({"rope_theta": 1e6}))
    assert digest() != original


def drop(name: str) -> Callable[[dict[str, RawTensor]], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: RawTensor) -> Callable[[dict[str, RawTensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


GATE = "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("model.embed_tokens.weight"), r"lacks the tensor model\.embed_tokens\.weight"),
        (drop(GATE), f"lacks the tensor '{GATE}'"),
        (drop("model.norm.weight"), "lacks the tensor 'model.norm.weight'"),
        (put(GATE, raw(np.ones((96, 32), np.float32))), r"the shape \(96, 32\), expected \(96, 64\)"),
        (put(GATE, raw(np.ones(96 * 64, np.float32))), r"the shape \(6144,\), expected"),
        (put(GATE, RawTensor("F8_E4M3", (96, 64), bytes(96 * 64))), "the type F8_E4M3; Stoker reads F32"),
        (put("model.norm.weight", RawTensor("I32", (64,), bytes(256))), "the type I32; Stoker reads F32"),
        (
            put("model.layers.2.mlp.up_proj.weight", raw(np.ones(4, np.float32))),
            "pass of its family does not",
        ),
        (
            put("model.layers.0.mlp.up_proj.bias", raw(np.ones(96, np.float32))),
            "pass of its family does not",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, RawTensor]], object], message: str
) -> None:
    tensors = {name: raw(values) for name, values in TinyFolder().weights().items()}
    change(tensors)
    with pytest.raises(StokerError, match=message):
        open_model(write_folder(tmp_path / "model", TinyFolder().config(), tensors))


def test_tables_that_are_computed_anew_and_tied_outputs_are_passed_over(tmp_path: Path) -> None:
    tensors = {name: raw(values) for name, values in TinyFolder().weights().items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = raw(np.ones(16, np.float32))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    with open_model(write_folder(tmp_path / "model", TinyFolder().config(), tensors)) as model:
        assert "output.weight" not in model.tensors


def test_what_is_no_model_is_told(tmp_path: Path, tiny_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"a folder without a config\.json"):
        open_model(tmp_path)
    with pytest.raises(SettingsError, match=r"quantize is 'q8', but .* is a GGUF file"):
        open_model(tiny_path, "q8")
    for content in ("", "[]", "{", '{"model_type": 3}', "\x00", '{"a":' * 5000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(StokerError) as caught:
            open_model(tmp_path)
        assert len(str(caught.value)) < 1000
