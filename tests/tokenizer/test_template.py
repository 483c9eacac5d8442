"""Templates of strangers: what transformers' environment offers, and bounds for those that would take all."""

from __future__ import annotations

import time

import pytest

from modelwright.tokenizer import template
from modelwright.tokenizer.template import SPOKEN_END, SPOKEN_START, TemplateRefuses, write


def growing(step: str) -> str:
    """A template that repeats a step of growth."""
    start = "{% set ns = namespace(x='aa', number=99, list=['a']) %}"
    return start + "{% for a in range(99) %}{% set " + step + " %}{% endfor %}"


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "letters": "{% set x = 'a' * 99999 %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "filters": "{{ range(99999) | select('in', range(99999) | list) | list | length }}",
    "lists": growing("ns.list = [ns.list, ns.list]") + "{{ ns.list | tojson }}",
    "digits": "{{ 5 | round(12000000, 'ceil') }}",
    "macros": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
}
HUGE = {
    "times": "{{ ('a' * 1000000) * 1000000 }}",
    "integers": growing("ns.number = ns.number * ns.number"),
    "concatenation": growing("ns.x = ns.x ~ ns.x"),
    "addition": growing("ns.x = ns.x + ns.x"),
    "filter replace": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "method replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "join": "{{ range(99999) | map('string') | join('x' * 99999) }}",
    "blocks": "{% set x %}aa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "output": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "width": "{{ '%999999999d' % 1 }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "indent": "{{ [1] | tojson(indent=999999999) }}",
    "separators": "{{ range(99999) | list | tojson(separators=('x' * 99999, ':')) }}",
    "bytes": "{{ (1).to_bytes(60000000, 'big') | length }}",
    "sum": growing("ns.list = ns.list + ['a'] * 50000") + "{{ [ns.list] * 20 | sum(start=[]) | length }}",
    "source": "x" * (template.MAX_SOURCE + 1),
}
ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__['os'] }}",
    "namespace": "{{ namespace(__class__=1) }}",
    "attribute": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "file": "{% include '/etc/passwd' %}",
    "change": "{{ messages.append(1) }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_time_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SECONDS", 0.3)
    begun = time.monotonic()
    with pytest.raises(TemplateRefuses):
        write(ENDLESS[name], {"messages": []})
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("name", HUGE)
def test_size_is_bounded(name: str) -> None:
    with pytest.raises(TemplateRefuses):
        write(HUGE[name], {"messages": []})


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_leads_out_of_the_sandbox(name: str) -> None:
    with pytest.raises(TemplateRefuses):
        write(ESCAPES[name], {"messages": []})


def test_what_templates_are_written_for() -> None:
    source = (
        "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}"
        "{{ m['role'] ~ ': ' ~ m.content | trim }} {% generation %}{{ m | tojson }}{% endgeneration %}"
        "{% endfor %}{{ dict(a=1)['a'] }} {{ strftime_now('%Y') | length }}"
    )
    message = {"role": "user", "content": " <é> "}
    text = write(source, {"messages": [message, message]})
    assert text == f'user: <é> {SPOKEN_START}{{"role": "user", "content": " <é> "}}{SPOKEN_END}1 4'
    assert write("{{ 'aaa'.replace('a', 'b', count=1) }}", {}) == "baa"
    assert write("{{ 'aaa' | replace('a', 'b', 2) }}", {}) == "bba"
    assert write("{{ [1, 2] | tojson(separators=(',', ':')) }}", {}) == "[1,2]"
    with pytest.raises(TemplateRefuses, match="turns must alternate"):
        write("{{ raise_exception('turns must alternate') }}", {})
