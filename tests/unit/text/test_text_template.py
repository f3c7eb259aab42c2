"""The chat template's errors and bounds."""

import time
from datetime import UTC, datetime

import pytest

from stoker.core.errors import InvalidRequestError, UnsupportedModelError
from stoker.core.text import Message
from stoker.text import ChatTemplate

HI = [Message("user", "Hi")]


def test_the_template_s_own_refusal_is_the_message() -> None:
    template = ChatTemplate("{{ raise_exception('Roles must alternate!') }}")
    with pytest.raises(InvalidRequestError, match="Roles must alternate!") as caught:
        template.render(HI)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ x | no_such_filter }}", "{% if a %}", "{{ " + "(" * 3000]
)
def test_a_template_that_is_not_valid_is_refused_at_load(source: str) -> None:
    with pytest.raises(UnsupportedModelError, match="chat template"):
        ChatTemplate(source)


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        ChatTemplate("x").render([])


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
NESTED = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (NESTED, "loops too often"),
        ("{% for a in messages[0].content * 3000 %}" + NESTED + "{% endfor %}", "loops too often"),
        (DOUBLING, "loops too often"),
        (RECURSIVE, "too (often|much)"),
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


def test_the_bounds_grow_with_the_messages() -> None:
    messages = [Message("user", "x" * 1000) for _ in range(3000)]
    template = ChatTemplate(
        "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{{ m.content }}\n{% endfor %}"
    )
    assert len(template.render(messages)) > 6_000_000


def test_each_rendering_has_its_own_budget() -> None:
    template = ChatTemplate("{% for a in range(90000) %}{% endfor %}{{ messages[0].content }}")
    assert [template.render(HI) for _ in range(9)] == ["Hi"] * 9


def test_loop_variables_survive_counting() -> None:
    template = ChatTemplate(
        "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}"
        "{{ loop.previtem.content if not loop.first }}"
        "{{ loop.nextitem.content if not loop.last }}{{ loop.last }};{% else %}none{% endfor %}"
    )
    messages = [Message("system", "s"), Message("user", "a"), Message("user", "b")]
    assert template.render(messages) == "1/2bFalse;2/2aTrue;"
    assert template.render(messages[:1]) == "none"


def test_the_date_comes_from_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2031, 5, 7, tzinfo=UTC))
    assert template.render(HI) == "07 May 2031"


def test_json_is_not_escaped_for_html() -> None:
    template = ChatTemplate("{{ messages[0].content | tojson }}")
    assert template.render([Message("user", "<é> & 'x'")]) == "\"<é> & 'x'\""
