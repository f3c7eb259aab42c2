"""The tokenizer of all the models: byte-level BPE with a few merges, cut into words as SmolLM2's.

The vocabulary is that of `stoker.testing.gguf_files.tiny_tokenizer`.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BOS, EOS = 1, 2
MERGES = (
    "Ġ t", "h e", "Ġt he", "i n", "l l", "he ll", "hell o", "Ġ a", "o r", "Ġ w",
    "Ġw or", "Ġwor l", "Ġworl d", "in g", "e r", "Ġ Ġ",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def alphabet() -> list[str]:
    """GPT-2's letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    letters = {value: chr(value) for value in printable}
    letters |= {value: chr(256 + index) for index, value in enumerate(others)}
    return [letters[value] for value in range(256)]


def tokens() -> list[str]:
    """The text of each token."""
    return [*SPECIAL, *alphabet(), *(merge.replace(" ", "") for merge in MERGES)]


def write(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    special = [
        {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, text in enumerate(SPECIAL)
    ]
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    file: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, words],
        },
        "post_processor": None,
        "decoder": words | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(tokens())},
            "merges": MERGES,
        },
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(each.pop("id")): each for each in [dict(entry) for entry in special]},
        "bos_token": SPECIAL[BOS],
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[EOS],
        "model_max_length": 256,
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": SPECIAL[0],
    }
    for name, content in (("tokenizer.json", file), ("tokenizer_config.json", config)):
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


def add_to_gguf(writer: Any, vocab_size: int) -> None:
    """Add the keys; ids that the tokenizer does not have are unused."""
    kinds = import_module("gguf").TokenType
    used = tokens()
    padding = range(len(used), vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*used, *(f"[PAD{number}]" for number in padding)])
    writer.add_token_types(
        [
            *[kinds.CONTROL] * len(SPECIAL),
            *[kinds.NORMAL] * (len(used) - len(SPECIAL)),
            *[kinds.UNUSED] * len(padding),
        ]
    )
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
