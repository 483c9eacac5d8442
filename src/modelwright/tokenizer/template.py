"""Chat templates that came with a model: Jinja of strangers, rendered as transformers renders it, in bounds.

The environment is jinja2's immutable sandbox with what templates are written for: `{% generation %}`,
`{% break %}`, `tojson` without HTML's escapes, `raise_exception`, `strftime_now`. We differ from transformers
where a template could take all time or memory: the source, the time, every text and every list are bounded,
and filters and methods that only serve to blow up a text are not there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from modelwright.base.errors import UserError

MAX_SOURCE = 200_000
"""Characters of a template. The longest in use (tools, documents, images) have 20,000."""
MAX_TEXT = 10_000_000
"""Characters of what is rendered, and entries of a list on the way."""
MAX_SECONDS = 5.0
"""For one rendering; a conversation of a million characters takes milliseconds."""
SPOKEN_START, SPOKEN_END = "\ufdd0", "\ufdd1"
"""Stand around the body of `{% generation %}` in what is rendered, for the caller to remove: no characters
of Unicode's, but kept free for such use."""

_METHODS = {
    *("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace", "lower", "upper", "title"),
    *(
        "capitalize",
        "split",
        "rsplit",
        "splitlines",
        "partition",
        "rpartition",
        "join",
        "startswith",
        "endswith",
    ),
    *("find", "rfind", "index", "count", "isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower"),
}
"""What a template may call on a text."""
_NO_FILTERS = (
    *("batch", "center", "filesizeformat", "format", "forceescape", "indent", "pprint", "random", "round"),
    *("slice", "striptags", "sum", "truncate", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"),
)
_deadline: ContextVar[float] = ContextVar("deadline")


class TemplateRefuses(UserError):
    """The template cannot render a conversation, or must not."""


def write(source: str, variables: Mapping[str, Any]) -> str:
    """What a template writes. `TemplateRefuses` with its own words where it raises an exception, such as
    "roles must alternate", and where it exceeds the bounds."""
    _deadline.set(time.monotonic() + MAX_SECONDS)
    try:
        pieces: list[str] = []
        for piece in _compiled(source).generate(**variables):
            pieces.append(piece)
            _bounded(sum(map(len, pieces)) if len(pieces) % 1000 == 0 else len(piece))
        text = "".join(pieces)
        _bounded(len(text))
        return text
    except UserError:
        raise
    except Exception as error:  # a stranger's program: anything may come
        words = str(error).splitlines() or [type(error).__name__]
        raise TemplateRefuses(
            f"the model's chat template refuses this conversation: {words[0]:.300}"
        ) from error


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    if len(source) > MAX_SOURCE:
        raise TemplateRefuses(
            f"the chat template has {len(source):,} characters, at most {MAX_SOURCE:,} are read"
        )
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = _Bounded(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_measured
    )
    plain = cast(Any, made)
    for name in _NO_FILTERS:
        del plain.filters[name]
    plain.filters |= {"tojson": _to_json, "replace": _replaced, "join": _joined, "string": _spelled}
    plain.globals = {
        **{"range": plain.globals["range"], "dict": _dictionary, "namespace": _namespace},
        **{"raise_exception": _raise, "strftime_now": _now},
    }
    return made


class _Bounded(ImmutableSandboxedEnvironment):
    """The sandbox, with a look at the clock in every turn of a loop and every call, and a look at the size of
    whatever is multiplied or joined."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"'{operator}' is not for chat templates")
        if operator == "*":
            _bounded(_length(left) * right if isinstance(right, int) else 0)
            _bounded(_length(right) * left if isinstance(left, int) else 0)
        elif operator == "+":
            _bounded(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in ("replace", "join"):
            return (_replaced if name == "replace" else _put_between)(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, int | float | bytes):  # (1).to_bytes takes any length
            return False
        return (not isinstance(obj, str) or attr in _METHODS) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`format` can make a text of any width."""
        if getattr(value, "__name__", "") in ("format", "format_map") and isinstance(value.__self__, str):
            raise SecurityError("'format' is not for chat templates")

    def _filter_test_common(self, *args: Any, **kwargs: Any) -> Any:
        """Filters such as `map` call others for every entry."""
        _tick()
        return super()._filter_test_common(*args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return cast(nodes.Template, _Watched().visit(tree))

    tick = staticmethod(lambda: "")
    """What a loop calls: `call` looks at the clock."""
    concatenated = staticmethod(lambda *parts: _put_between("", parts))


class _Watched(NodeTransformer):
    """A template whose loops and `~` go through the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [])).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenated", node.nodes).set_lineno(node.lineno)


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_spoken"), [], [], body).set_lineno(line)

    def _spoken(self, caller: Callable[[], str]) -> str:
        return f"{SPOKEN_START}{caller()}{SPOKEN_END}"


def _tick() -> None:
    if time.monotonic() > _deadline.get():
        raise TemplateRefuses(f"the model's chat template takes more than {MAX_SECONDS:g} seconds")


def _bounded(size: int) -> None:
    _tick()
    if size > MAX_TEXT:
        raise TemplateRefuses(f"the model's chat template makes more than {MAX_TEXT:,} characters")


def _length(value: Any) -> int:
    """Characters, entries, or digits: what grows when it is multiplied."""
    if isinstance(value, int):
        return value.bit_length() * MAX_TEXT // 4096 if value.bit_length() > 64 else 0
    return len(cast(str, value)) if isinstance(value, str | list | tuple) else 0


def _measured(value: Any) -> Any:
    """A value about to be written, if it is not too large: lists may hold one another many times over."""
    ahead, size = [value], 0
    while ahead:
        one = ahead.pop()
        if isinstance(one, Mapping):
            ahead += [*cast(Mapping[Any, Any], one).items()]
        elif isinstance(one, list | tuple | set):
            ahead += cast(Iterable[Any], one)
        size += len(one) if isinstance(one, str) else 1
        if len(ahead) > MAX_TEXT or size > MAX_TEXT or size % 1000 == 0:
            _bounded(max(size, len(ahead)))
    return value


def _spelled(value: Any) -> str:
    return str(_measured(value))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers writes JSON."""
    if indent is not None and indent > 16:
        raise SecurityError(f"an indent of {indent} is not for chat templates")
    if separators and sum(map(len, separators)) > 16:
        raise SecurityError("separators of so many characters are not for chat templates")
    return json.dumps(
        _measured(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _replaced(text: Any, old: str, new: str, count: int = -1) -> str:
    text = _spelled(text)
    _bounded(len(text) + (len(text) if not old else text.count(old)) * len(new))
    return text.replace(old, new, -1 if count is None else count)  # pyright: ignore[reportUnnecessaryComparison]


def _joined(values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """The filter `join`; `attribute` names what to take of each value."""
    return _put_between(d, [value if attribute is None else value[attribute] for value in values])


def _put_between(separator: str, values: Iterable[Any]) -> str:
    texts, size = list[str](), 0
    for value in values:
        texts.append(_spelled(value))
        size += len(texts[-1]) + len(separator)
        _bounded(size)
    return separator.join(texts)


class _Namespace(Namespace):
    """Without names that begin with an underscore: they are Python's."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"{name!r} is not for chat templates")
        super().__setitem__(name, value)


def _namespace(*values: Any, **named: Any) -> _Namespace:
    made = _Namespace()
    for name, value in dict(*values, **named).items():
        made[name] = value
    return made


def _dictionary(*values: Any, **named: Any) -> dict[Any, Any]:
    return dict(*values, **named)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format[:200])
