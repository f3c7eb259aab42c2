"""The chat template's errors and bounds."""

import time
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stoker.core.errors import InvalidRequestError, UnsupportedModelError
from stoker.core.text import ChatPrompt, Message
from stoker.text import ChatTemplate

HI = ChatPrompt((Message("user", "Hi"),))
MOST_BYTES = 2**28


def test_the_template_s_own_refusal_is_the_message() -> None:
    template = ChatTemplate("{{ raise_exception('Roles must alternate!') }}")
    with pytest.raises(InvalidRequestError, match="Roles must alternate!") as caught:
        template.render(HI)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{{ 'x' | urlize }}",
        "{% for %}",
        "{{ x | no_such_filter }}",
        "{% if a %}",
        "{{ " + "(" * 3000,
    ],
)
def test_a_template_that_is_not_valid_is_refused_at_load(source: str) -> None:
    with pytest.raises(UnsupportedModelError, match="chat template"):
        ChatTemplate(source)


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        ChatTemplate("x").render(ChatPrompt(()))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[3].role }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ none.upper() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_that_stumbles_is_the_request_s_fault(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="template"):
        ChatTemplate(source).render(HI)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}{{ messages.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
    ],
)
def test_python_is_out_of_reach(source: str) -> None:
    try:
        rendered = ChatTemplate(source).render(HI)
    except InvalidRequestError:
        return
    assert "class" not in rendered


DOUBLING = (
    "{% macro f(n) %}{% if n %}{% set a = f(n - 1) %}{% set b = f(n - 1) %}{% endif %}{% endmacro %}"
    "{{ f(60) }}"
)
RECURSIVE = (
    "{% for x in range(9) recursive %}{% if loop.depth < 9 %}{{ loop(range(9)) }}{% endif %}{% endfor %}"
)
SEARCHING = "{% for a in range(99999) %}{{ range(99999) | select('eq', -1) | first }}{% endfor %}"
LOOP = "{{% for i in range(9000) %}}{{% set ns.x = {} %}}{{% endfor %}}"
GROWING = (
    "{{% set ns = namespace(x='ab') %}}{{% for i in range(60) %}}{{% set ns.x = {} %}}{{% endfor %}}"
    "{{{{ ns.x }}}}"
)
BLOCKS = (
    "{% set ns = namespace(x='ab') %}{% for i in range(90) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"
)
NESTING = "{% set ns = namespace(x=[1]) %}" + LOOP.format("[ns.x, ns.x]")
NESTED = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (NESTED, "loops too often"),
        ("{% for a in messages[0].content * 3000 %}" + NESTED + "{% endfor %}", "loops too often"),
        (DOUBLING, "loops too often"),
        (RECURSIVE, "too (often|much)"),
        (SEARCHING, "loops too often"),
        ("{% for a in range(90000) %}0123456789{% endfor %}", "too much text"),
        ("{{ 'a' * 10 ** 9 }}", "repeats"),
        ("{{ 10 ** 9 * 'a' }}", "repeats"),
        ("{{ [0] * 10 ** 9 }}", "repeats"),
        ("{{ 9 ** (9 ** 9) }}", "power"),
        ("{{ 10 ** 30 ** 30 }}", "power"),
    ],
)
def test_a_template_without_end_is_stopped(source: str, reason: str) -> None:
    template = ChatTemplate(source)
    started = time.process_time()
    with pytest.raises(InvalidRequestError, match=reason):
        template.render(HI)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 'x' | center(10 ** 10) }}", "too large"),
        ("{{ 'x'.center(10 ** 10) }}", "too large"),
        ("{{ 'x'.zfill(10 ** 10) }}", "too large"),
        ("{{ ('\\t' * 1000).expandtabs(10 ** 9) }}", "too large"),
        ("{{ 'x' | indent(10 ** 10, true) }}", "too large"),
        ("{{ '%1000000000d' % 1 }}", "width"),
        ("{{ '%1000000000d' | format(1) }}", "width"),
        ("{{ '%*d' % (10 ** 9, 1) }}", "width"),
        ("{{ '{:>1000000000}'.format(1) }}", "width"),
        ("{{ '{:>{}}'.format(1, 10 ** 9) }}", "width"),
        ("{{ ('{0}' * 9999).format('x' * 60000) }}", "too large"),
        ("{{ ('%(a)s' * 9999) % {'a': 'x' * 60000} }}", "too large"),
        ("{{ (['x' * 60000] * 60000) | join }}", "too large"),
        ("{{ ('x' * 60000).join(['y'] * 60000) }}", "too large"),
        ("{{ (['y'] * 60000) | join('x' * 60000) }}", "too large"),
        ("{{ ('x' * 60000) | replace('x', 'y' * 60000) }}", "too large"),
        ("{{ ('x' * 60000).replace('', 'y' * 60000) }}", "too large"),
        ("{{ messages | tojson(indent=10 ** 9) }}", "indents"),
        ("{{ messages | tojson(separators=('x' * 60000, ':')) }}", "separators"),
        ("{{ 5 | round(-10 ** 9) }}", "rounds"),
        ("{{ [[1], [2]] | sum(start=[]) }}", "sums"),
        ("{{ lipsum(n=10 ** 9) }}", "template"),
        ("{{ (5).to_bytes(10 ** 9, 'big') }}", "may not"),
        ("{{ ('x' * 60000).encode('utf-32') }}", "may not"),
        ("{{ strftime_now('%c' * 30000) }}", "date"),
        (GROWING.format("ns.x + ns.x"), "too large"),
        (GROWING.format("ns.x ~ ns.x"), "too large"),
        (GROWING.format("[ns.x, ns.x]"), "too large"),
        (GROWING.format("(ns.x, ns.x)"), "too large"),
        (GROWING.format("{'a': ns.x, 'b': ns.x}"), "too large"),
        (GROWING.format("dict(a=ns.x, b=ns.x)"), "too large"),
        (GROWING.format("'%s%s' % (ns.x, ns.x)"), "too large"),
        (GROWING.format("'{0}{0}'.format(ns.x)"), "too large"),
        (GROWING.format("[ns.x, ns.x] | join"), "too large"),
        (GROWING.format("''.join([ns.x, ns.x])"), "too large"),
        ("{% set ns = namespace(x=2) %}" + LOOP.format("ns.x * ns.x"), "bits"),
        ("{% set ns = namespace(x=[]) %}" + LOOP.format("[ns.x, ('a' * 60000)[1:]]"), "too large"),
        ("{% set ns = namespace(x=1) %}" + LOOP.format("[ns.x] + [range(60000) | list]"), "too large"),
        (BLOCKS, "too large"),
        (NESTING + "{{ ns.x == [ns.x] }}", "too large"),
        (NESTING + "{{ ns.x in [ns.x, 1] }}", "too large"),
        (NESTING + "{{ ns.x is eq([ns.x]) }}", "too large"),
        (NESTING + "{{ ns.x | tojson }}", "too large"),
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "namespace"),
    ],
)
def test_a_template_cannot_fill_the_memory(source: str, reason: str) -> None:
    template = ChatTemplate(source)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match=reason):
            template.render(HI)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert ChatTemplate("{{ messages[0].content }}").render(HI) == "Hi"


def test_the_bounds_grow_with_the_messages() -> None:
    messages = tuple(Message("user", "x" * 1000) for _ in range(3000))
    template = ChatTemplate(
        "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{{ m.content }}\n{% endfor %}"
    )
    assert len(template.render(ChatPrompt(messages))) > 6_000_000


def test_each_rendering_has_its_own_budget() -> None:
    template = ChatTemplate("{% for a in range(90000) %}{% endfor %}{{ messages[0].content }}")
    assert [template.render(HI) for _ in range(9)] == ["Hi"] * 9


def test_loop_variables_survive_counting() -> None:
    template = ChatTemplate(
        "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}"
        "{{ loop.previtem.content if not loop.first }}"
        "{{ loop.nextitem.content if not loop.last }}{{ loop.last }};{% else %}none{% endfor %}"
    )
    messages = (Message("system", "s"), Message("user", "a"), Message("user", "b"))
    assert template.render(ChatPrompt(messages)) == "1/2bFalse;2/2aTrue;"
    assert template.render(ChatPrompt(messages[:1])) == "none"


def test_the_date_comes_from_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2031, 5, 7, tzinfo=UTC))
    assert template.render(HI) == "07 May 2031"


def test_json_is_not_escaped_for_html() -> None:
    template = ChatTemplate("{{ messages[0].content | tojson }}")
    assert template.render(ChatPrompt((Message("user", "<é> & 'x'"),))) == "\"<é> & 'x'\""


THINKING = (
    "{{ messages[0].content }} {{ 'thinks' if enable_thinking | default(true) else 'answers' }} {{ n }}"
)


def test_a_prompt_sets_the_template_s_variables() -> None:
    template = ChatTemplate(THINKING)
    assert template.variables == {"enable_thinking", "n"}
    assert template.render(HI) == "Hi thinks "
    told = replace(HI, variables=(("enable_thinking", False), ("n", 2.5)))
    assert template.render(told) == "Hi answers 2.5"


def test_a_prompt_may_do_without_thinking_whatever_the_template() -> None:
    hasty = replace(HI, without_thinking=True)
    assert ChatTemplate(THINKING).render(hasty) == "Hi answers "
    assert ChatTemplate("{{ messages[0].content }}").render(hasty) == "Hi"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (THINKING, "enable_thought"),
        (THINKING, "messages"),
        ("{{ add_generation_prompt }}{{ tools }}{{ documents }}", "tools"),
        ("{{ bos_token }}", "bos_token"),
        ("{{ raise_exception('no') if false }}", "raise_exception"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "m"),
        ("{% set x = 1 %}{{ x }}", "x"),
    ],
)
def test_a_variable_that_is_not_the_request_s_to_set_is_refused(source: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"no variable '{name}'") as caught:
        ChatTemplate(source).render(replace(HI, variables=((name, 1),)))
    assert caught.value.param == "chat_template_kwargs"


def test_a_variable_cannot_make_a_template_endless() -> None:
    template = ChatTemplate("{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}")
    with pytest.raises(InvalidRequestError, match="loops too often"):
        template.render(replace(HI, variables=(("n", 99_999),)))


GOING_ON = "{% for m in messages %}<{{ m.role }}>{{ m.content KEPT }}</>{% endfor %}"


@pytest.mark.parametrize(
    ("kept", "content", "expected"),
    [
        ("", "So, the ", "<user>Hi</><assistant>So, the "),
        ("| trim", " So, the ", "<user>Hi</><assistant>So, the"),
        ("", "", "<user>Hi</><assistant>"),
        ("", "<user>Hi</>", "<user>Hi</><assistant><user>Hi</>"),
        ("", "\U00100000 \U00100001", "<user>Hi</><assistant>\U00100000 \U00100001"),
    ],
)
def test_the_last_message_stays_open(kept: str, content: str, expected: str) -> None:
    messages = (*HI.messages, Message("assistant", content))
    prompt = ChatPrompt(messages, add_generation_prompt=False, continue_final_message=True)
    assert ChatTemplate(GOING_ON.replace("KEPT", kept)).render(prompt) == expected


@pytest.mark.parametrize(
    "source", ["{{ messages[0].content }}", "{{ messages[-1].content | replace('t', '') }}"]
)
def test_a_message_that_does_not_come_out_cannot_be_continued(source: str) -> None:
    messages = (*HI.messages, Message("assistant", "text"))
    with pytest.raises(InvalidRequestError, match="cannot be continued") as caught:
        ChatTemplate(source).render(ChatPrompt(messages, continue_final_message=True))
    assert caught.value.param == "continue_final_message"


def test_messages_of_every_private_code_point_cannot_be_continued() -> None:
    everything = "".join(map(chr, range(0x100000, 0x10FFFE)))
    prompt = ChatPrompt((Message("user", everything),), continue_final_message=True)
    with pytest.raises(InvalidRequestError, match="private code point"):
        ChatTemplate("{{ messages[0].content }}").render(prompt)


def test_long_conversations_stay_within_the_bounds() -> None:
    turn = "{{ m.role }}{% if loop.index0 == messages | length - 1 and messages | first %}!{% endif %}"
    template = ChatTemplate("{% for m in messages[::-1] %}" + turn + "{% endfor %}")
    assert template.render(ChatPrompt(HI.messages * 4096)) == "user" * 4096 + "!"
