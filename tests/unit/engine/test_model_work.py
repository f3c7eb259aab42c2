"""Operations and bytes of a model, counted by hand for two small ones."""

from dataclasses import replace
from pathlib import Path

from stoker.core.work import ModelWork
from stoker.engine.native.work import model_work
from stoker.models import open_model
from stoker.models.config import Experts, Tensor
from stoker.testing.gguf_files import write_tiny_llama


def matrix(name: str, *shape: int) -> Tensor:
    return Tensor(name, "F32", shape, lambda: memoryview(b""))


def test_embeddings_are_not_multiplied_and_experts_only_as_far_as_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    with open_model(path) as source:
        config = source.config
    tensors = [
        matrix("token_embd.weight", 64, 8),
        matrix("output.weight", 64, 8),
        matrix("output_norm.weight", 8),
        matrix("blk.0.attn_q.weight", 8, 8),
        matrix("blk.0.ffn_up_exps.weight", 4, 16, 8),
    ]
    config = replace(
        config, layers=config.layers[:1], n_heads=2, n_kv_heads=1, head_size=4, width=8, vocab_size=64
    )
    dense = model_work(config, tensors)
    assert dense == ModelWork(
        weight_bytes=4 * (64 + 512),
        row_ops=2 * (64 + 512),
        pair_ops=4 * 8,
        kv_bytes=2 * 4 * 2,
        output_ops=2 * 512,
    )
    experts = Experts(n_experts=4, n_used=1, normalized=True)
    sparse = model_work(replace(config, experts=experts), tensors)
    assert sparse.row_ops == 2 * (64 + 512 / 4)
    assert sparse.weight_bytes == dense.weight_bytes
