"""The Jinja2 environment of chat templates: that of `transformers`, with bounds.

Templates come with models, from anywhere. The sandbox keeps them from Python's insides; a `Budget`
keeps each rendering from running without end, whether the template or the messages ask for it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

BUDGET_KEY = "_stoker_budget"
"""Name under which a rendering's budget is in its context; templates cannot read it unnoticed."""

_CALL_STEPS = 5
"""A call takes about five times as long as a turn of a loop."""

_MAX_REPEAT_CHARS = 2**16
_MAX_BASE = 2**64
_MAX_POWER = 64


class TemplateBoundError(TemplateError):
    """A rendering exceeded its bounds."""


@dataclass(slots=True)
class Budget:
    """What is left for one rendering.

    Attributes:
        steps: Turns of loops; a call counts as some.
        chars: Characters of output.
    """

    steps: int
    chars: int

    def take(self, steps: int) -> None:
        """Count a loop iteration or a call.

        Raises:
            TemplateBoundError: It was one too many.
        """
        self.steps -= steps
        if self.steps < 0:
            raise TemplateBoundError("the chat template loops too often over these messages")

    def take_output(self, text: str) -> None:
        """Count a piece of output.

        Raises:
            TemplateBoundError: It was too much.
        """
        self.chars -= len(text)
        if self.chars < 0:
            raise TemplateBoundError("the chat template makes too much text of these messages")


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

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.filters["tojson"] = _to_json
        self.filters[_COUNTED] = _counted
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: now().strftime(form)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call from a template; counted, since macros recurse."""
        budget: Budget = context[BUDGET_KEY]
        budget.take(_CALL_STEPS)
        if isinstance(obj, LoopContext) and args:
            args = (_counted(context, args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute the operators by which a few characters of template become gigabytes."""
        if operator == "**" and not (
            isinstance(left, (int, float))
            and isinstance(right, (int, float))
            and abs(left) <= _MAX_BASE
            and abs(right) <= _MAX_POWER
        ):
            raise TemplateBoundError(f"the chat template raises a number to a power above {_MAX_POWER}")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                    _check_repeat(len(many) * times)
        return super().call_binop(context, operator, left, right)


def count_loops(template: nodes.Template) -> None:
    """Make every loop of a parsed template count its iterations."""
    for loop in template.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    budget: Budget = context[BUDGET_KEY]
    for item in items:
        budget.take(1)
        yield item


_COUNTED = "stoker_counted"


def _check_repeat(n_chars: int) -> None:
    if n_chars > _MAX_REPEAT_CHARS:
        raise TemplateBoundError(f"the chat template repeats something to more than {_MAX_REPEAT_CHARS}")


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
