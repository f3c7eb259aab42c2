"""The Jinja2 environment of chat templates: that of `transformers`, with bounds.

Templates come with models, from anywhere. The sandbox keeps them from Python's insides; a `Budget`
keeps each rendering from running without end or filling the memory, whether the template or the
messages ask for it.
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
from jinja2.visitor import NodeTransformer

from stoker.text.template_budget import TemplateBoundError, budget
from stoker.text.template_checks import (
    check_binop,
    check_call,
    check_compared,
    check_filter,
    check_json,
    unroll,
)

_CALL_STEPS = 5
"""A call takes about five times as long as a turn of a loop."""

_MAX_TIME_CHARS = 256

_LIGHT_FILTERS = frozenset({"attr", "count", "d", "default", "first", "last", "length"})
"""Filters that take as long whatever the value's size, and make nothing."""

_LAZY_FILTERS = frozenset({"map", "reject", "rejectattr", "select", "selectattr"})
"""Filters that go through a value's elements when somebody asks for the next one."""

_FILTERS = frozenset({"abs", "float", "int", "items", "list", "reverse", "safe"}) | _LAZY_FILTERS
"""Filters that look at a value's own elements only."""

_DEEP_FILTERS = frozenset(
    {"capitalize", "center", "dictsort", "e", "escape", "format", "groupby", "indent", "join", "lower"}
    | {"max", "min", "replace", "round", "sort", "string", "sum", "title", "trim", "truncate", "unique"}
    | {"upper", "wordcount"}
)
"""Filters that compare or spell out everything in a value."""

_DEEP_TESTS = frozenset(
    {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan"}
    | {"lower", "lt", "ne", "upper"}
)

_COUNTED, _MADE, _COMPARED, _CONCAT = "stoker_counted", "stoker_made", "stoker_compared", "stoker_concat"


class GenerationTag(Extension):
    """Lets ``{% generation %}`` pass, which marks what an assistant said for those who train on it."""

    tags = {"generation"}  # noqa: RUF012 - Jinja2 declares it as an instance's attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the tag's body as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _concat_pieces(pieces: Iterable[str]) -> str:
    parts = list(pieces)
    budget().make(sum(map(len, parts)))
    return "".join(parts)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles chat templates; stateless between renderings, so it can be shared by threads.

    Everything that a template does at rendering is one of these, and each is counted by
    `stoker.text.template_budget` before or as it happens: loops, calls, operators, filters, tests,
    comparisons, literals, slices, joined text, and output.

    Args:
        now: Local time, for ``strftime_now``.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    concat = staticmethod(_concat_pieces)

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            finalize=_finalize,
            optimized=False,  # nothing is computed, uncounted, when a template is compiled
        )
        known = self.filters
        self.filters = {
            name: _bounded(name, known[name]) for name in _LIGHT_FILTERS | _FILTERS | _DEEP_FILTERS
        }
        self.filters["tojson"] = _to_json
        self.filters[_COUNTED] = _counted
        self.filters[_MADE] = _made
        self.filters[_COMPARED] = check_compared
        self.filters[_CONCAT] = _concat
        self.tests = {
            name: _bounded_test(test) if name in _DEEP_TESTS else test for name, test in self.tests.items()
        }
        del self.globals["lipsum"]
        self.globals["range"] = _allowed(self.globals["range"])
        self.globals["raise_exception"] = _allowed(_raise_exception)
        self.globals["strftime_now"] = _allowed(lambda form: now().strftime(_short(form)))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call from a template; counted, since macros recurse."""
        limits = budget()
        limits.take(_CALL_STEPS)
        if isinstance(obj, LoopContext) and args:
            args = (_counted(args[0]), *args[1:])
        result = super().call(context, obj, *check_call(obj, args, kwargs), **kwargs)
        limits.make_like(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator."""
        check_binop(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        budget().make_like(result)
        return result


class _Counting(NodeTransformer):
    """Sends what a template does without a call through filters that count it."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja2's name of it
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802 - likewise
        self.generic_visit(node)
        # Comparing with a constant looks at no more than one level of the other side.
        if not any(isinstance(each, nodes.Const) for each in (node.expr, *(op.expr for op in node.ops))):
            node.expr = _filtered(node.expr, _COMPARED)
            for operand in node.ops:
                operand.expr = _filtered(operand.expr, _COMPARED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - likewise
        self.generic_visit(node)
        return _filtered(node.nodes[0], _CONCAT, *node.nodes[1:])

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802 - likewise
        self.generic_visit(node)
        return _filtered(node, _MADE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802 - likewise
        self.generic_visit(node)
        return _filtered(node, _MADE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802 - likewise
        self.generic_visit(node)
        return _filtered(node, _MADE) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802 - likewise
        self.generic_visit(node)
        return _filtered(node, _MADE) if isinstance(node.arg, nodes.Slice) else node


def count_operations(template: nodes.Template) -> None:
    """Make everything in a parsed template count that is no call, operator or filter yet."""
    _Counting().visit(template)


def _filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    limits = budget()
    for item in items:
        limits.take(1)
        yield item


def _made(value: Any) -> Any:
    budget().make_like(value)
    return value


def _concat(*parts: Any) -> str:
    limits = budget()
    for part in parts:
        if isinstance(part, str):
            limits.make(len(part))
        else:
            limits.measure(part)
    return "".join(map(str, parts))


@pass_context  # so that Jinja2 does not evaluate constants when it compiles
def _finalize(_: Context, value: Any) -> Any:
    if not isinstance(value, str):
        budget().measure(value)
    return value


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count a filter, and check its result's size first if it reads all of the value."""
    n_context = hasattr(function, "jinja_pass_arg")
    deep, light = name in _DEEP_FILTERS, name in _LIGHT_FILTERS

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        limits = budget()
        limits.take(1)
        before, (value, *rest) = args[:n_context], args[n_context:]
        if deep:
            value = unroll(value)
            check_filter(name, value, tuple(rest), kwargs)
        elif not light:
            limits.make_like(value)
            if name in _LAZY_FILTERS and value:
                value = _counted(value)
        result = function(*before, value, *rest, **kwargs)
        if not light:
            limits.make_like(result)
        return result

    return bounded


def _bounded_test(function: Any) -> Callable[..., bool]:
    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> bool:
        for value in args:
            check_compared(value)
        return bool(function(*args, **kwargs))

    return bounded


def _allowed(function: Any) -> Callable[..., Any]:
    """Mark a function that templates may call."""

    @wraps(function)
    def allowed(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    allowed.stoker_allowed = True  # type: ignore[attr-defined]
    return allowed


def _short(form: Any) -> str:
    text = str(form)
    if len(text) > _MAX_TIME_CHARS:
        raise TemplateBoundError(f"the chat template's form of a date exceeds {_MAX_TIME_CHARS} characters")
    return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the filter's signature in chat templates
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - likewise
) -> str:
    """Jinja2's own filter would escape for HTML."""
    budget().take(1)
    check_json(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message)[:10_000])
