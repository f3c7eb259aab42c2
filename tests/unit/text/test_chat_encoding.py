"""Text from users never becomes control tokens, and otherwise changes nothing."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChatPrompt, Message
from stoker.testing.tokenizer import BYTE_CONTROLS, BYTE_TEMPLATE, byte_tokenizer_spec
from stoker.text import ChatTemplate, Tokenizer
from stoker.text.chat import ChatEncoder

TOKENIZER = Tokenizer(byte_tokenizer_spec())
TRIMMING = BYTE_TEMPLATE.replace("{{ message.content }}", "{{ message.content | trim }}")
THINKING = BYTE_TEMPLATE.replace(
    "{{ message.content }}",
    "{{ message.content.split('</think>')[-1] if '</think>' in message.content else message.content }}",
)
STRIPPING = BYTE_TEMPLATE.replace("{{ message.content }}", "{{ message.content | replace('<x>', '') }}")
COUNTING = BYTE_TEMPLATE.replace(
    "{{ message.content }}", "{{ message.content | tojson }}{{ message.content | length }}"
)
TEMPLATES = [BYTE_TEMPLATE, TRIMMING, THINKING, STRIPPING, COUNTING]

PIECES = st.one_of(
    st.sampled_from(
        [*BYTE_CONTROLS, "<", ">", "<|", "|>", "im_end|>", "<|im_", "</think>", "<x>", " ", "\n"]
    ),
    st.text(max_size=4),
)
CONTENTS = st.lists(PIECES, max_size=8).map("".join)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), CONTENTS), min_size=1, max_size=4
)


def encode(template: ChatTemplate, *messages: Message, tokenizer: Tokenizer = TOKENIZER) -> list[int]:
    return ChatEncoder(template, tokenizer).encode(ChatPrompt(messages))


def controls_of(ids: list[int]) -> list[int]:
    return [each for each in ids if TOKENIZER.is_control(each)]


def text_of(ids: list[int]) -> str:
    return b"".join(map(TOKENIZER.token_bytes, ids)).decode()


@pytest.mark.parametrize("source", TEMPLATES)
@given(messages=MESSAGES)
@example(messages=[Message("user", "<|im_<x>end|>")])
@example(messages=[Message("user", "<|im_end|></think><|im_start|>")])
@example(messages=[Message("user", " <|im_end|> \U000f0000\U000f0001")])
@example(messages=[Message("user", "<|im_<|im_end|>end|>")])
def test_only_the_template_makes_control_tokens(source: str, messages: list[Message]) -> None:
    ids = encode(ChatTemplate(source), *messages)
    # One start and one end for each message, and the start of the answer.
    assert controls_of(ids) == [257, 258] * len(messages) + [257]


@pytest.mark.parametrize("source", [BYTE_TEMPLATE, TRIMMING, COUNTING])
@given(messages=MESSAGES)
def test_the_text_is_the_rendered_text(source: str, messages: list[Message]) -> None:
    template = ChatTemplate(source)
    assert text_of(encode(template, *messages)) == template.render(ChatPrompt(tuple(messages)))


@pytest.mark.parametrize("source", TEMPLATES)
@given(messages=MESSAGES)
def test_without_spellings_the_ids_are_those_of_the_whole_text(source: str, messages: list[Message]) -> None:
    template = ChatTemplate(source)
    rendered = template.render(ChatPrompt(tuple(messages)))
    whole = TOKENIZER.encode(rendered, special=True)
    if controls_of(whole) == [257, 258] * len(messages) + [257]:
        assert encode(template, *messages) == whole


def test_a_template_that_looks_into_messages_still_does() -> None:
    template = ChatTemplate(THINKING)
    ids = encode(template, Message("assistant", "<hm></think>yes <|im_end|>"))
    assert text_of(ids).startswith("<|im_start|>assistant\nyes <|im_end|><|im_end|>\n")
    assert controls_of(ids) == [257, 258, 257]


def test_a_word_is_cut_across_the_border_of_template_and_message() -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec(merges=("x y",)))
    template = ChatTemplate("<|im_start|>x{{ messages[0].content }}")
    assert encode(template, Message("user", "y<|im_end|>"), tokenizer=tokenizer) == [
        257,
        259,
        *b"<|im_end|>",
    ]


def test_a_template_may_build_a_control_token_from_the_role() -> None:
    tokenizer = Tokenizer(byte_tokenizer_spec(controls=("<|user|>", "<|im_end|>")))
    template = ChatTemplate("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}")
    assert encode(template, Message("user", "<b>"), tokenizer=tokenizer) == [256, *b"<b>"]


def test_a_role_that_spells_a_control_token_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        encode(ChatTemplate(BYTE_TEMPLATE), Message("user", "Hi"), Message("x<|im_end|>", "Hi"))
    assert caught.value.param == "messages.1.role"


def test_a_model_without_control_tokens_has_plain_chats() -> None:
    spec = byte_tokenizer_spec(controls=(), end="A")
    template = ChatTemplate("{{ messages[0].content }}")
    ids = encode(template, Message("user", "<|im_end|>"), tokenizer=Tokenizer(spec))
    assert bytes(ids) == b"<|im_end|>"


@given(value=CONTENTS, messages=MESSAGES)
@example(value="<|im_end|>", messages=[Message("user", "<|im_")])
@example(value="end|>", messages=[Message("user", "<|im_")])
def test_a_variable_never_makes_control_tokens(value: str, messages: list[Message]) -> None:
    template = ChatTemplate(BYTE_TEMPLATE.replace("{{ message.content }}", "{{ message.content ~ mood }}"))
    prompt = ChatPrompt(tuple(messages), variables=(("mood", value),))
    ids = ChatEncoder(template, TOKENIZER).encode(prompt)
    assert controls_of(ids) == [257, 258] * len(messages) + [257]
    assert text_of(ids) == template.render(prompt)


@given(messages=MESSAGES)
def test_a_continued_message_is_not_closed(messages: list[Message]) -> None:
    prompt = ChatPrompt(tuple(messages), add_generation_prompt=False, continue_final_message=True)
    ids = ChatEncoder(ChatTemplate(BYTE_TEMPLATE), TOKENIZER).encode(prompt)
    assert controls_of(ids) == [257, 258] * (len(messages) - 1) + [257]
    assert text_of(ids).endswith(f"{messages[-1].role}\n{messages[-1].content}")


def test_messages_of_every_private_code_point_are_refused() -> None:
    everything = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    with pytest.raises(InvalidRequestError, match="private code point"):
        encode(ChatTemplate(BYTE_TEMPLATE), Message("user", "<" + everything))
