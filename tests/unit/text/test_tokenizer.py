"""The tokenizer on small vocabularies."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import CorruptFileError, InvalidRequestError, UnsupportedModelError
from stoker.models.token_bytes import byte_alphabet
from stoker.testing.tokenizer import BYTE_CONTROLS, byte_tokenizer_spec
from stoker.text import Tokenizer
from stoker.text.pretokenizer import make_pretokenizer

BYTES = Tokenizer(byte_tokenizer_spec())
WITH_SPELLINGS = st.lists(st.one_of(st.sampled_from(BYTE_CONTROLS), st.text(max_size=5))).map("".join)


def test_the_byte_alphabet_has_a_letter_for_every_byte() -> None:
    assert len(set(byte_alphabet())) == 256
    assert [byte_alphabet()[byte] for byte in (0x20, 0x0A, 0x41, 0xAD, 0xFF)] == ["Ġ", "Ċ", "A", "Ń", "ÿ"]


@given(WITH_SPELLINGS)
def test_text_never_becomes_a_control_token(text: str) -> None:
    ids = BYTES.encode(text)
    assert bytes(ids) == text.encode()
    assert BYTES.decode(ids) == text
    assert BYTES.count(text) == len(ids)


@given(WITH_SPELLINGS)
def test_control_tokens_are_found_when_asked_for(text: str) -> None:
    ids = BYTES.encode(text, special=True)
    assert b"".join(map(BYTES.token_bytes, ids)) == text.encode()
    assert sum(map(BYTES.is_control, ids)) == sum(map(text.count, BYTE_CONTROLS))


FIRST, SECOND, THIRD = (byte_alphabet()[byte] for byte in "\u1f82".encode())
COMPOSING = Tokenizer(
    byte_tokenizer_spec(
        pre="qwen2", merges=(f"{FIRST} {SECOND}", f"{FIRST}{SECOND} {THIRD}"), controls=("<e>",), end="<e>"
    )
)
DECOMPOSED = st.lists(st.sampled_from(("a", "\u03b1\u0313\u0300\u0345", "\u212a", "\u1112\u1161\u11ab")))


@given(st.one_of(WITH_SPELLINGS, DECOMPOSED.map("".join)))
def test_the_least_number_of_tokens_is_never_above_the_number(text: str) -> None:
    for tokenizer in (BYTES, COMPOSING):
        assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text))
        assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text, special=True))


def test_four_characters_can_become_one_token() -> None:
    assert len(COMPOSING.encode("\u03b1\u0313\u0300\u0345")) == 1


def test_the_least_number_of_tokens_grows_with_the_text() -> None:
    assert [BYTES.min_tokens("x" * n) for n in (0, 1, 13, 14, 1300)] == [0, 1, 1, 2, 100]


def test_the_longest_control_token_at_a_place_wins() -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec(controls=("<a>", "<a><b>", "<|im_end|>")))
    assert tokenizer.encode("<a><a><b>", special=True) == [256, 257]


def test_a_run_between_control_tokens_is_restored_and_encoded_as_text() -> None:
    ids = BYTES.encode_split("a<|im_end|>b", lambda run: run.replace("b", "<|im_end|>"))
    assert ids == [97, 258, *b"<|im_end|>"]


def test_user_defined_tokens_are_text() -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec(user_defined=("<think>",)))
    assert tokenizer.encode("a<think>b") == [97, 259, 98]
    assert tokenizer.decode([97, 259, 98]) == "a<think>b"
    assert not tokenizer.is_control(259)


def test_control_tokens_have_bytes_but_add_none_to_an_answer() -> None:
    assert BYTES.token_bytes(258) == b"<|im_end|>"
    assert BYTES.text_bytes(258) == b""
    assert BYTES.decode([72, 258, 105]) == "Hi"


def test_a_padding_row_of_the_embedding_matrix_stands_for_nothing() -> None:
    assert BYTES.vocab_size == 259
    assert BYTES.token_bytes(259) == b""


def test_merges_run_in_order_and_never_make_control_tokens() -> None:
    spec = byte_tokenizer_spec(merges=("a b", "ab c"))
    assert Tokenizer(spec).encode("abc ab b") == [260, 32, 259, 32, 98]
    assert Tokenizer(replace(spec, token_types=(*spec.token_types[:-1], 3))).encode("abc") == [259, 99]


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["it", "'s", " 123", "  ", " x"]),
        ("smollm", ["it", "'s", " ", "1", "2", "3", "  ", " x"]),
        ("starcoder", ["it", "'s", " ", "1", "2", "3", "  ", " x"]),
        ("qwen2", ["it", "'s", " ", "1", "2", "3", "  ", " x"]),
        ("deepseek-r1-qwen", ["it", "'s", " ", "1", "2", "3", "  ", " x"]),
        ("llama-bpe", ["it", "'s", " ", "123", "  ", " x"]),
        ("llama3", ["it", "'s", " ", "123", "  ", " x"]),
        ("llama-v3", ["it", "'s", " ", "123", "  ", " x"]),
        ("dbrx", ["it", "'s", " ", "123", "  ", " x"]),
        ("smaug-bpe", ["it", "'s", " ", "123", "  ", " x"]),
        ("tekken", ["it", "'s", " ", "1", "2", "3", "  ", " x"]),
        ("gpt-4o", ["it's", " ", "123", "  ", " x"]),
        ("refact", ["it", "'s", " ", "1", "2", "3", "  ", " x"]),
        ("olmo", ["it", "'s", " 123", "  ", " x"]),
    ],
)
def test_families_cut_words_their_own_way(pre: str, words: list[str]) -> None:
    split = make_pretokenizer(pre).split
    assert split is not None
    cut = [word.replace("Ġ", " ") for word, _ in split.pre_tokenize_str("it's 123   x")]
    assert cut == words


def test_only_llama_takes_a_whole_word_before_merging() -> None:
    for pre, ids in (("llama-bpe", [260]), ("gpt-2", [259, 99])):
        spec = byte_tokenizer_spec(pre=pre, merges=("a b", "ab c"))
        assert Tokenizer(replace(spec, merges=spec.merges[:1])).encode("abc") == ids


def test_only_qwen_normalizes() -> None:
    assert bytes(Tokenizer(byte_tokenizer_spec(pre="qwen2")).encode("e\u0301")) == "\u00e9".encode()
    assert bytes(BYTES.encode("e\u0301")) == "e\u0301".encode()


@pytest.mark.parametrize("pre", ["default", "superbpe", "", "x" * 500])
def test_an_unknown_pre_tokenizer_is_refused_by_name(pre: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'{pre[:80]}'.*smollm"):
        Tokenizer(byte_tokenizer_spec(pre=pre))


def test_a_token_outside_the_byte_alphabet_is_refused() -> None:
    spec = byte_tokenizer_spec(merges=("a b",))
    with pytest.raises(UnsupportedModelError, match="'語'"):
        Tokenizer(replace(spec, tokens=(*spec.tokens[:-1], "語"), merges=()))


def test_merges_of_unknown_tokens_are_a_corrupt_file() -> None:
    with pytest.raises(CorruptFileError, match="merges"):
        Tokenizer(replace(byte_tokenizer_spec(), merges=("a b",)))


def test_unpaired_surrogates_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"U\+D83D.*character 2"):
        BYTES.encode("ab\ud83d")


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2"])
def test_a_character_that_the_vocabulary_cannot_spell_is_refused_not_dropped(pre: str) -> None:
    spec = byte_tokenizer_spec(pre=pre)
    lacking = Tokenizer(replace(spec, token_types=(*spec.token_types[:4], 5, *spec.token_types[5:])))
    assert lacking.encode("e\u0301") == list(("\u00e9" if pre == "qwen2" else "e\u0301").encode())
    with pytest.raises(InvalidRequestError, match=r"U\+0004"):
        lacking.encode("a\x04b")
