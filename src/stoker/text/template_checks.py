"""What the operations of a chat template cost, told before they run.

An operation is here with its bound or it is refused: of Python's and Jinja2's, some make gigabytes
of a few characters (``'{:>1000000000}'.format(x)``).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from string import Formatter
from typing import Any

from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined
from jinja2.utils import Cycler, Joiner, Namespace
from markupsafe import Markup

from stoker.text.template_budget import ELEMENT_CHARS, TemplateBoundError, budget, depth

_MAX_REPEAT_CHARS = 2**16
_MAX_INTEGER_BITS = 4096
_MAX_BASE = 2**64
_MAX_POWER = 64
_MAX_PRECISION = 100
_MAX_INDENT = 16
_MAX_SEPARATOR_CHARS = 16

_ESCAPED_CHARS = 6
"""Most characters that HTML's escaping makes of one."""
_ASCII_CHARS = 12
"""Most characters that JSON's escaping makes of one."""

_LONG_NUMBER = re.compile(r"\d{5}")
_STARRED = re.compile(r"%[^a-zA-Z%]*\*")
_MAX_WIDTH = 9999

_STRING_METHODS = frozenset(
    {"capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii"}
    | {"isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle"}
    | {"isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex"}
    | {"rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase"}
    | {"title", "upper"}
)
"""Methods whose results are about as long as the text."""

_METHODS: dict[type, frozenset[str]] = {
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}

_JINJA_NAMES = frozenset({"_loop_vars", "_block_vars"})
"""Arguments that Jinja2 adds to calls, and takes off again, for its own purposes."""

_OWNERS = (LoopContext, Cycler, Joiner)
_CALLABLES = (Macro, LoopContext, BlockReference, Joiner, Undefined)
_CLASSES = (dict, Namespace, Cycler, Joiner)


def check_binop(operator: str, left: Any, right: Any) -> None:
    """Check an operator.

    Raises:
        TemplateBoundError: Its result is too large.
    """
    for each in (left, right):
        if isinstance(each, int) and each.bit_length() > _MAX_INTEGER_BITS:
            raise TemplateBoundError(f"the chat template uses a number of more than {_MAX_INTEGER_BITS} bits")
    if operator in _OPERATORS:
        _OPERATORS[operator](left, right)


def check_call(called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Check a call and return its arguments, iterators among them unrolled.

    Raises:
        TemplateBoundError: Its result is too large, or nobody bounded what is called.
    """
    limits = budget()
    limits.make(ELEMENT_CHARS * (len(args) + len(kwargs)))
    # Jinja2 wraps `format`, and keeps what it wraps.
    owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)
    name = getattr(called, "__name__", "")
    if isinstance(owner, str):
        limits.make(len(owner))
        if name in _STRING_METHODS:
            return args
        if name in _SIZED_METHODS:
            args = tuple(map(unroll, args))
            named = {key: value for key, value in kwargs.items() if key not in _JINJA_NAMES}
            _SIZED_METHODS[name](owner, *args, **named)
            return args
    for kind, names in _METHODS.items():
        if isinstance(owner, kind) and name in names:
            if kind is not dict:
                limits.measure([owner, args])
            return args
    if isinstance(owner, LoopContext) and name == "changed":
        limits.measure(args)
    if isinstance(called, _CALLABLES) or isinstance(owner, _OWNERS) or called in _CLASSES:
        return args
    if getattr(called, "stoker_allowed", False):
        return args
    raise TemplateBoundError(
        f"the chat template calls {str(name or type(called).__name__)[:80]!r}, which it may not"
    )


def check_compared(value: Any) -> Any:
    """Return a value that is about to be compared with another."""
    if isinstance(value, (list, tuple, dict)):
        budget().measure(value)
    return value


def unroll(value: Any) -> Any:
    """Return a list of an iterator's items, counted; anything else as it is."""
    if not isinstance(value, Iterator):
        return value
    items = []
    for item in value:
        budget().make(ELEMENT_CHARS)
        items.append(item)
    return items


def check_filter(name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check a filter that reads all of a value.

    Raises:
        TemplateBoundError: Its result is too large.
    """
    budget().measure([value, args, kwargs])
    if name in _SIZED_FILTERS:
        _SIZED_FILTERS[name](value, *args, **kwargs)


def check_json(value: Any, *, ensure_ascii: bool, indent: Any, separators: Any) -> None:
    """Check what JSON makes of a value.

    Raises:
        TemplateBoundError: It is too large.
    """
    limits = budget()
    size = limits.measure(value)
    if indent is not None:
        width = len(indent) if isinstance(indent, str) else indent
        if not isinstance(width, int) or width > _MAX_INDENT:
            raise TemplateBoundError(f"the chat template indents JSON by more than {_MAX_INDENT}")
        limits.make(size * max(0, width) * depth(value) // _MAX_INDENT)
    if separators is not None and len("".join(map(str, separators))) > _MAX_SEPARATOR_CHARS:
        raise TemplateBoundError(
            f"the chat template's JSON separators exceed {_MAX_SEPARATOR_CHARS} characters"
        )
    if ensure_ascii:
        limits.make(_ASCII_CHARS * size)


def _check_power(base: Any, power: Any) -> None:
    numbers = isinstance(base, (int, float)) and isinstance(power, (int, float))
    if not numbers or abs(base) > _MAX_BASE or abs(power) > _MAX_POWER:
        raise TemplateBoundError(f"the chat template raises a number to a power above {_MAX_POWER}")


def _check_product(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        repeats = isinstance(many, (str, list, tuple)) and isinstance(times, int)
        if repeats and len(many) * times > _MAX_REPEAT_CHARS:
            raise TemplateBoundError(f"the chat template repeats something to more than {_MAX_REPEAT_CHARS}")


def _check_sum_of(left: Any, right: Any) -> None:
    escapes = isinstance(left, Markup) or isinstance(right, Markup)
    for each in (left, right):
        budget().make_like(each)
        if escapes and isinstance(each, str):
            budget().make(_ESCAPED_CHARS * len(each))


def _check_percent(form: Any, values: Any) -> None:
    if not isinstance(form, str):
        return
    if _STARRED.search(form):
        raise TemplateBoundError("the chat template formats to a width that is a value")
    _check_widths(form, form.count("%"), values)


def _check_braces(form: str, *args: Any, **kwargs: Any) -> None:
    fields = [(name, spec) for _, name, spec, _ in Formatter().parse(form) if name is not None]
    if any("{" in (spec or "") for _, spec in fields):
        raise TemplateBoundError("the chat template formats to a width that is a value")
    _check_widths(form, len(fields), [args, kwargs])


def _check_braces_of(form: str, values: Any) -> None:
    _check_braces(form, values)


def _check_widths(form: str, n_fields: int, values: Any) -> None:
    if _LONG_NUMBER.search(form):
        raise TemplateBoundError(f"the chat template formats to a width above {_MAX_WIDTH}")
    if n_fields:
        widths = [int(number) for number in re.findall(r"\d+", form)]
        limits = budget()
        limits.make(n_fields * (limits.measure(values) + max(widths, default=0)))


def _check_width(_: str, width: Any = 80, *__: Any) -> None:
    budget().make(max(0, int(width)))


def _check_tabs(text: str, tabsize: Any = 8) -> None:
    budget().make(text.count("\t") * max(0, int(tabsize)))


def _check_replace(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    factor = _ESCAPED_CHARS if isinstance(text, Markup) else 1
    budget().make(len(text) + factor * text.count(old) * len(new))


def _check_join(glue: str, parts: Any) -> None:
    limits = budget()
    limits.measure(parts)
    limits.make(len(glue) * len(parts) * (_ESCAPED_CHARS if isinstance(glue, Markup) else 1))


def _check_join_filter(parts: Any, d: Any = "", attribute: Any = None) -> None:  # noqa: ARG001 - Jinja2's signature
    if isinstance(parts, Iterable):
        budget().make(len(str(d)) * len(list(parts)) * _ESCAPED_CHARS)


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    n_chars = len(width) if isinstance(width, str) else max(0, int(width))
    budget().make((str(text).count("\n") + 1) * n_chars)


def _check_round(_: Any, precision: Any = 0, *__: Any, **___: Any) -> None:
    if abs(int(precision)) > _MAX_PRECISION:
        raise TemplateBoundError(f"the chat template rounds to more than {_MAX_PRECISION} digits")


def _check_sum(_: Any, attribute: Any = None, start: Any = 0) -> None:  # noqa: ARG001 - Jinja2's signature
    if not isinstance(start, (int, float)):
        raise TemplateBoundError("the chat template sums up something else than numbers")


def _check_escape(text: Any) -> None:
    budget().make(_ESCAPED_CHARS * len(str(text)))


_OPERATORS: dict[str, Callable[[Any, Any], None]] = {
    "%": _check_percent,
    "*": _check_product,
    "**": _check_power,
    "+": _check_sum_of,
}

_SIZED_METHODS: dict[str, Callable[..., None]] = {
    "center": _check_width,
    "expandtabs": _check_tabs,
    "format": _check_braces,
    "format_map": _check_braces_of,
    "join": _check_join,
    "ljust": _check_width,
    "replace": _check_replace,
    "rjust": _check_width,
    "zfill": _check_width,
}

_SIZED_FILTERS: dict[str, Callable[..., None]] = {
    "center": _check_width,
    "e": _check_escape,
    "escape": _check_escape,
    "format": lambda form, *args, **kwargs: _check_percent(str(form), [args, kwargs]),
    "indent": _check_indent,
    "join": _check_join_filter,
    "replace": _check_replace,
    "round": _check_round,
    "sum": _check_sum,
}
