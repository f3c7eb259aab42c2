"""Make ``golden.json``: what `transformers` makes of the corpus and the conversations.

Needs `transformers`, `gguf` and `sentencepiece`, and the default model's file; must not import stoker::

    python tests/golden/tokenizer/make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

`transformers` reads vocabulary, merges, control tokens and template from the file. Two things that
its GGUF reader leaves out are set as the original repositories' ``tokenizer.json`` have them:
SmolLM2 splits digits before the GPT-2 words, and Llama 3 sets ``ignore_merges``. The other families
are compared with the same vocabulary, since what differs is how a text is cut into words.

The SentencePiece-style families share a small vocabulary, ``pieces.json``, which is trained here on the
corpus if it is not there.
"""

import argparse
import io
import json
from array import array
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

HERE = Path(__file__).parent
corpus = import_module("corpus")  # beside this script

BYTE_LEVEL = (
    *("smollm", "starcoder", "refact", "gpt-2", "olmo", "llama-bpe", "dbrx", "smaug-bpe"),
    *("tekken", "gpt-4o", "qwen2"),
)


def load(path: Path, pre: str) -> Any:
    """Return a tokenizer of `transformers` with the words of one family."""
    transformers = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    backend = tokenizer.backend_tokenizer
    match pre:
        case "gpt-2" | "olmo":
            pass
        case "smollm" | "starcoder" | "refact":
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
        case "llama-bpe" | "dbrx" | "smaug-bpe" | "tekken" | "gpt-4o":
            mapping = import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
            tokenizer = mapping.set_split_regex(tokenizer, {"pre_tokenizer_type": pre})
            backend.model.ignore_merges = pre in {"llama-bpe", "tekken"}
        case "qwen2":
            model = json.loads(backend.to_str())["model"]
            merges = [tuple(merge) for merge in model["merges"]]
            tokenizer = transformers.Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
        case _:
            raise ValueError(pre)
    return tokenizer


def digest(ids: list[int]) -> str:
    """Hash token ids as little-endian 32-bit integers."""
    return sha256(array("I", ids).tobytes()).hexdigest()


def pieces() -> dict[str, Any]:
    """Return the small SentencePiece vocabulary; train it if it is not there."""
    path = HERE / "pieces.json"
    if not path.exists():
        trained = io.BytesIO()
        import_module("sentencepiece").SentencePieceTrainer.train(
            sentence_iterator=iter(
                [
                    text
                    for name, whole in corpus.sections()
                    if name not in {"scripts", "anything"}
                    for text in whole.splitlines()
                ]
            ),
            model_writer=trained,
            vocab_size=800,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=0.98,
            max_sentence_length=20_000,
            control_symbols=["[INST]", "[/INST]"],
            user_defined_symbols=["<think>", "\u2581\u2581\u2581"],
        )
        model = import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
        model.ParseFromString(trained.getvalue())
        content = {
            "tokens": [piece.piece for piece in model.pieces],
            "scores": [piece.score for piece in model.pieces],
            "token_type": [piece.type for piece in model.pieces],
        }
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))
    return {**content, "tokenizer_type": "llama"}


def load_pieces(architecture: str) -> Any:
    """Return a tokenizer of `transformers` as it builds it for a GGUF file of an architecture."""
    mapping = import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
    content = pieces()
    tokenizer = mapping.select_tokenizer_builder(architecture, "llama")(content)
    return mapping.add_gguf_special_tokens(tokenizer, content)


def encode_corpus(tokenizer: Any) -> dict[str, Any]:
    """Encode the corpus."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    sections = {name: encode(text) for name, text in corpus.sections()}
    return {
        "sections": {name: {"tokens": len(ids), "sha256": digest(ids)} for name, ids in sections.items()},
        "samples": [encode(text) for text in corpus.SAMPLES],
    }


def chats(path: Path) -> dict[str, Any]:
    """Render and encode the conversations with the model's own template, and render ours."""
    tokenizer = load(path, "smollm")

    def render(messages: list[dict[str, str]], template: str | None = None) -> str:
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        return text

    own = {name: render(messages) for name, messages in corpus.CONVERSATIONS.items()}
    return {
        "text": own,
        "ids": {name: tokenizer.encode(text, add_special_tokens=False) for name, text in own.items()},
        "special": [tokenizer.encode(text, add_special_tokens=False) for text in corpus.SPECIAL_SAMPLES],
        "templates": {
            template: {
                name: render(messages, source)
                for name, messages in corpus.CONVERSATIONS.items()
                if name not in {"long", "code"}
            }
            for template, source in corpus.TEMPLATES.items()
        },
    }


def main() -> None:
    """Write the golden file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    path = parser.parse_args().model.resolve()
    golden = {
        "made_by": {
            name: import_module(name).__version__ for name in ("transformers", "tokenizers", "jinja2")
        },
        "families": {pre: encode_corpus(load(path, pre)) for pre in BYTE_LEVEL},
        "sentencepiece": {name: encode_corpus(load_pieces(name)) for name in ("llama", "phi3", "gemma3")},
        "chats": chats(path),
    }
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
    (HERE / "golden.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
