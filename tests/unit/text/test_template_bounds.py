"""Templates that a few characters make huge or endless are refused, in bounded memory."""

import tracemalloc

import pytest

from stoker.core.errors import InvalidRequestError, UnsupportedModelError
from stoker.core.text import ChatPrompt, Message
from stoker.text.template import ChatTemplate

HI = ChatPrompt((Message("user", "Hi"),))
MAX_MEMORY_BYTES = 64 * 2**20


def doubling(start: str, step: str, end: str = "{{ ns.x|length }}") -> str:
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range(40) %}}"
        f"{{% set ns.x = {step} %}}{{% endfor %}}{end}"
    )


LONG = "{% set a = 'a' * 60000 %}"
HOSTILE = {
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent-star": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format-nested": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format-filter": "{{ '%1000000000d'|format(1) }}",
    "format-many": LONG + "{{ ('%s' * 60000) % a }}{{ ('{0}' * 20000).format(a) }}",
    "to-bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "round": "{{ 1.5|round(1000000000, 'ceil') }}",
    "json-indent": "{{ [[1]]|tojson(indent=1000000000) }}",
    "center": "{{ 'x'|center(1000000000) }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "lipsum": "{{ lipsum(n=10000000) }}",
    "replace": LONG + "{{ a.replace('a', a)|length }}",
    "replace-filter": LONG + "{{ a|replace('a', a)|length }}",
    "join": LONG + "{{ a.join(a)|length }}",
    "join-filter": LONG + "{{ a|join(a)|length }}",
    "concat": doubling("'aa'", "ns.x ~ ns.x"),
    "add": doubling("'aa'", "ns.x + ns.x"),
    "lists": doubling("[1]", "ns.x + ns.x"),
    "nested-lists": doubling("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "nested-tuples": doubling("[1]", "((ns.x, 1), (ns.x, 2))|list", "{{ ns.x|string }}"),
    "nested-dicts": doubling("[1]", "{'a': ns.x, 'b': ns.x}", "{{ ns.x|tojson }}"),
    "nested-calls": doubling("[1]", "dict(a=ns.x, b=ns.x)", "{{ ns.x == ns.x }}"),
    "namespaces": doubling("1", "[ns, ns]", "{{ ns.x }}"),
    "printed-namespace": "{% set ns = namespace(x=1) %}{{ ns }}",
    "json-escapes": doubling("'\\\\'", "ns.x|tojson|tojson"),
    "multiply": doubling("99", "ns.x * ns.x", "{{ ns.x > 1 }}"),
    "macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}" + doubling("'aa'", "f(ns.x)"),
    "block": (
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}"
        "{% set q %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = q %}{% endfor %}{{ ns.x|length }}"
    ),
    "literal": "{% set q %}{% for i in range(90000) %}" + "x" * 60_000 + "{% endfor %}{% endset %}",
    "work": LONG + "{% for i in range(90000) %}{% set b = a.upper().count('aab') %}{% endfor %}",
    "deep-blocks": "{% for i in range(2) %}" * 25 + "{% endfor %}" * 25,
    "parentheses": "{{ " + "+x" * 2000 + " }}",
    "optimizer": ("{{ 'a'.ljust" + "+" * 190 + "x|list }}") * 20,
    "long-number": "{{ " + "9" * 5000 + " }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_templates_are_refused_in_bounded_memory(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((InvalidRequestError, UnsupportedModelError), match="template"):
            ChatTemplate(source).render(HI)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MAX_MEMORY_BYTES


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ 'a'.ljust(3) ~ 1 ~ none }}|{{ '%5.2f' % 1.5 }}|{{ '{:>4}'.format(7) }}", "a  1None| 1.50|   7"),
        ("{{ 'a-b'.replace('-', '+') }}{{ 'x'|replace('x', 'y') }}", "a+by"),
        ("{{ ['a', messages[0].role]|join(', ') }}{{ '-'.join(['b', 'c']) }}", "a, userb-c"),
        ("{{ [1, [2, {'a': none}]] }}{{ (1, 2) + (3,) }}", "[1, [2, {'a': None}]](1, 2, 3)"),
        ("{% for k, v in {'a': [1]}.items() %}{{ k }}{{ v }}{% endfor %}", "a[1]"),
        ("{{ {'a': [1]}|tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
        ("{{ messages|map(attribute='content')|list }}{{ messages|length }}", "['Hi']1"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 7 // 2 % 4 %}{{ ns.n * 2 }}", "6"),
        ("{% macro f(ns) %}{{ ns.a }}{% endmacro %}{{ f(namespace(a='b')) }}", "b"),
        ("{{ 2 in [1, messages|length + 1] }}{{ 2**3 }}{{ 7.5|round(0, 'floor')|int }}", "True87"),
    ],
)
def test_what_templates_do_comes_out_unchanged(source: str, rendered: str) -> None:
    assert ChatTemplate(source).render(HI) == rendered
