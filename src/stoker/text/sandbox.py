"""The Jinja2 environment of chat templates: that of `transformers`, with bounds.

Templates come with models, from anywhere. The sandbox keeps them from Python's insides; a `Budget`
keeps each rendering from running without end, whether the template or the messages ask for it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stoker.text.template_bounds import (
    Budget,
    check_format,
    check_join,
    check_operator,
    check_padding,
    check_replace,
)

BUDGET_KEY = "_stoker_budget"
"""Name under which a rendering's budget is in its context; templates cannot read it unnoticed."""

_CALL_STEPS = 5
"""A call takes about five times as long as a turn of a loop."""

_LITERAL_STEP_CHARS = 64
"""Characters of a template's own text that count as a turn of the loop that they stand in."""

_TEXT_STEP_CHARS = 4096
"""Characters of a text whose method is called that count as a step."""

_NO_FILTERS = ("batch", "center", "pprint", "random", "slice", "urlize", "wordwrap", "xmlattr")
"""Filters that no chat template needs: they pad, print what cannot be measured, or draw random numbers."""

_NO_METHODS = frozenset({"encode", "expandtabs", "format_map", "maketrans", "translate"})
"""Methods of strings, likewise."""

_PADDING = frozenset({"center", "ljust", "rjust", "zfill"})
_PADDING_FILTERS = frozenset({"indent", "round", "truncate"})


class GenerationTag(Extension):
    """Lets ``{% generation %}`` pass, which marks what an assistant said for those who train on it."""

    tags = {"generation"}  # noqa: RUF012 - Jinja2 declares it as an instance's attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the tag's body as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles chat templates; stateless between renderings, so it can be shared by threads.

    Args:
        now: Local time, for ``strftime_now``.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        # The optimizer takes the cube of an expression's depth, and would compute without a budget.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            optimized=False,
            finalize=_written,
        )
        for name in _NO_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = _to_json
        self.filters = {name: _bounded(name, each) for name, each in self.filters.items()}
        self.filters |= {_COUNTED: _counted, _MADE: _made, _JOINED: _joined}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: now().strftime(form)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Keep templates from what Jinja2's sandbox forbids, and from methods that make large values."""
        if isinstance(obj, (int, float, complex, bytes)) or (isinstance(obj, str) and attr in _NO_METHODS):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call from a template; counted, since macros recurse."""
        budget: Budget = context[BUDGET_KEY]
        budget.take(_CALL_STEPS)
        if isinstance(obj, LoopContext) and args:
            args = (_counted(context, args[0]), *args[1:])
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps `format`
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            args = _check_method(budget, text, method.__name__, args, kwargs)
        return budget.made(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator."""
        budget: Budget = context[BUDGET_KEY]
        check_operator(budget, operator, left, right)
        return budget.made(super().call_binop(context, operator, left, right))


def count(template: nodes.Template) -> None:
    """Make every loop of a parsed template count its iterations, and measure what its expressions build."""
    for loop in template.find_all(nodes.For):
        n_chars = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
        cost = nodes.Const(1 + n_chars // _LITERAL_STEP_CHARS)
        loop.iter = nodes.Filter(loop.iter, _COUNTED, [cost], [], None, None, lineno=loop.lineno)
    _measure_displays(template)


def _measure_displays(parent: nodes.Node) -> None:
    """Wrap lists, tuples, dicts and concatenations in filters that measure them."""
    for name, child in list(parent.iter_fields()):
        if isinstance(child, list):
            setattr(parent, name, [_measured(each) for each in child])
        elif isinstance(child, nodes.Node):
            setattr(parent, name, _measured(child))


def _measured(node: Any) -> Any:
    if not isinstance(node, nodes.Node):
        return node
    _measure_displays(node)
    if isinstance(node, nodes.Concat):
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, _JOINED, [], [], None, None, lineno=node.lineno)
    loads = isinstance(node, (nodes.List, nodes.Dict)) or (
        isinstance(node, nodes.Tuple) and node.ctx == "load"
    )
    if loads and not all(isinstance(each, nodes.Const) for each in node.iter_child_nodes()):
        return nodes.Filter(node, _MADE, [], [], None, None, lineno=node.lineno)
    return node


def _check_method(
    budget: Budget, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """Check a call of a string's method before it runs, and return its arguments."""
    budget.take(len(text) // _TEXT_STEP_CHARS)
    if name == "join" and args:
        return (check_join(budget, text, args[0]), *args[1:])
    if name == "replace":
        check_replace(budget, text, args)
    elif name == "format":
        check_format(budget, text, *args, *kwargs.values())
    elif name in _PADDING:
        check_padding(args, kwargs)
    return args


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that checks its arguments and measures what it makes."""
    wants = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    @wraps(function)
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget: Budget = context[BUDGET_KEY]
        budget.take(1)
        if name == "join":
            value = check_join(budget, args[0] if args else kwargs.get("d"), value)
        elif name == "replace":
            check_replace(budget, str(value), (*args, *kwargs.values()))
        elif name == "format":
            check_format(budget, str(value), *args, *kwargs.values())
        elif name in _PADDING_FILTERS:
            check_padding(args, kwargs)
        elif name == "tojson":
            check_padding(args, kwargs)
            indent = kwargs.get("indent", args[1] if len(args) > 1 else None)
            budget.measure(value, len(indent) if isinstance(indent, str) else indent or 0)
        elif name in _SPELLING:
            budget.write(value)
        first = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }
        return budget.made(function(*first.get(wants or "", ()), value, *args, **kwargs))

    bounded.jinja_pass_arg = pass_context(lambda _: None).jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


_SPELLING = frozenset({"string", "escape", "e", "forceescape", "safe", "striptags", "urlencode"})
"""Filters that spell any value."""


@pass_context
def _written(context: Context, value: Any) -> Any:
    """Count what an expression writes."""
    budget: Budget = context[BUDGET_KEY]
    budget.write(value)
    return value


@pass_context
def _counted(context: Context, items: Iterable[Any], cost: int = 1) -> Iterator[Any]:
    budget: Budget = context[BUDGET_KEY]
    for item in items:
        budget.take(cost)
        yield item


@pass_context
def _made(context: Context, value: Any) -> Any:
    budget: Budget = context[BUDGET_KEY]
    return budget.made(value)


@pass_context
def _joined(context: Context, parts: list[Any]) -> str:
    """Concatenate, as ``~`` does."""
    budget: Budget = context[BUDGET_KEY]
    for part in parts:
        budget.write(part)
    return budget.made("".join(map(str, check_join(budget, "", parts))))


_COUNTED, _MADE, _JOINED = "stoker_counted", "stoker_made", "stoker_joined"


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the filter's signature in chat templates
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - likewise
) -> str:
    """Jinja2's own filter would escape for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))
