"""Structures: what is drawn under one always fits it, and what fits it can always be drawn."""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling, Structure, ToolCall
from modelwright.inference import trial
from modelwright.inference.engine import Engine
from modelwright.inference.structured import MAX_CHARACTERS, Matcher, Vocabulary
from modelwright.tokenizer.chat import written
from modelwright.tokenizer.tool_calls import split, structure_for

pytest.importorskip("llguidance")

VERBS = Structure(kind="regex", text="(go|come) (home|away)[.!]?")


TRY_OUT = trial.try_out


@pytest.fixture(scope="module", autouse=True)
def untried():
    """Most tests compile without the trial in a child process, which takes a fifth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "try_out", lambda grammar: None)
        yield


@pytest.fixture(scope="module")
def vocabulary(tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer, 352, (2, 0))  # as many rows as a padded model has


def schema(content: Any) -> Structure:
    return Structure(kind="json_schema", text=json.dumps(content))


def choices(matcher: Matcher) -> list[int]:
    return matcher.allowed().nonzero().flatten().tolist()


def draw(matcher: Matcher, tokenizer, seed: int) -> str:
    """A text of tokens drawn evenly from all that are allowed, up to an end token."""
    drawn, pieces = random.Random(seed), list[bytes]()
    while (token := drawn.choice(choices(matcher))) not in (0, 2):
        matcher.accept(token)
        pieces.append(tokenizer.token_bytes(token))
        assert len(pieces) < 3000
    assert matcher.whole and not matcher.error
    matcher.accept(token)
    return b"".join(pieces).decode()


def fits(matcher: Matcher, tokenizer, text: str) -> bool:
    """Whether all tokens of a text may be drawn, and then an end."""
    for token in [*tokenizer.encode(text), 2]:
        if not matcher.allowed()[token]:
            return False
        matcher.accept(token)
    return True


# --- schemas and what fits them, side by side

WORDS = st.text('abc é"\\\n東', max_size=5)


def leaf() -> st.SearchStrategy[tuple[Any, Any]]:
    return st.one_of(
        st.tuples(st.just({"type": "string", "maxLength": 8}), WORDS),
        st.integers(-50, 50).flatmap(
            lambda low: st.tuples(
                st.just({"type": "integer", "minimum": low, "maximum": low + 30}), st.integers(low, low + 30)
            )
        ),
        st.tuples(st.just({"type": "number"}), st.sampled_from([0, -1, 2.5, 1e30])),
        st.tuples(st.just({"type": ["boolean", "null"]}), st.sampled_from([True, False, None])),
        st.lists(st.one_of(WORDS, st.integers(-9, 9)), min_size=1, max_size=4, unique_by=repr).flatmap(
            lambda values: st.tuples(st.just({"enum": values}), st.sampled_from(values))
        ),
    )


def nested(inner: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    arrays = st.tuples(inner, st.integers(0, 3), st.integers(0, 2)).map(
        lambda drawn: (
            {"type": "array", "items": drawn[0][0], "minItems": drawn[1], "maxItems": drawn[1] + drawn[2]},
            [drawn[0][1]] * drawn[1],
        )
    )
    fields = st.dictionaries(
        st.sampled_from(["a", "b c", "é", 'x"']), st.tuples(inner, st.booleans()), max_size=3
    )
    objects = fields.map(
        lambda drawn: (
            {
                "type": "object",
                "properties": {name: field[0] for name, (field, _) in drawn.items()},
                "required": [name for name, (_, required) in drawn.items() if required],
                "additionalProperties": False,
            },
            {name: field[1] for name, (field, required) in drawn.items() if required},
        )
    )
    either = st.tuples(inner, inner).map(lambda two: ({"anyOf": [two[0][0], two[1][0]]}, two[1][1]))
    return st.one_of(arrays, objects, either)


SCHEMAS = st.recursive(leaf(), nested, max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.integers(0, 2**32))
def test_what_is_drawn_is_valid(vocabulary, tokenizer, pair, seed):
    text = draw(vocabulary.matcher(schema(pair[0])), tokenizer, seed)
    jsonschema.validate(json.loads(text), pair[0])


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.sampled_from([None, 1]))
def test_what_is_valid_can_be_drawn(vocabulary, tokenizer, pair, indent):
    text = json.dumps(pair[1], indent=indent, ensure_ascii=False)
    assert fits(vocabulary.matcher(schema(pair[0])), tokenizer, text)


@pytest.mark.parametrize("seed", range(5))
def test_any_object(vocabulary, tokenizer, seed):
    text = draw(vocabulary.matcher(Structure(kind="json_object", text="")), tokenizer, seed)
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("seed", range(5))
def test_regular_expressions_and_grammars(vocabulary, tokenizer, seed):
    assert draw(vocabulary.matcher(VERBS), tokenizer, seed).rstrip(".!").split()[1] in ("home", "away")
    sums = Structure(kind="grammar", text='start: NUMBER ("+" NUMBER)~0..3\nNUMBER: /[1-9][0-9]?/')
    assert 1 <= sum(map(int, draw(vocabulary.matcher(sums), tokenizer, seed).split("+"))) <= 400


# --- ends


def test_an_end_is_allowed_where_the_text_is_whole(vocabulary, tokenizer):
    matcher = vocabulary.matcher(VERBS)
    for token in tokenizer.encode("go home"):
        assert not matcher.whole and not {0, 2} & set(choices(matcher))
        matcher.accept(token)
    assert matcher.whole and not matcher.finished and {0, 2} < set(choices(matcher))
    for token in tokenizer.encode("!"):
        matcher.accept(token)
    assert matcher.finished and choices(matcher) == [0, 2]


def test_rows_beyond_the_tokenizer_and_special_tokens_are_never_allowed(vocabulary, tokenizer):
    row = vocabulary.matcher(Structure(kind="regex", text="(?s:.)*")).allowed()
    assert row.shape == (352,) and not row[tokenizer.vocab_size :].any()
    assert row[2] and not row[1]


def test_matchers_of_one_structure_do_not_meet(vocabulary, tokenizer):
    first, second = vocabulary.matcher(VERBS), vocabulary.matcher(VERBS)
    before = choices(second)
    for token in tokenizer.encode("go ho"):
        first.accept(token)
    assert choices(second) == before != choices(first)


# --- through the engine


@pytest.fixture(scope="module")
def running(model, tokenizer) -> Engine:
    """Few slots and a small cache, so that sequences wait and are preempted."""
    return Engine(model, tokenizer, max_slots=8, cache_tokens=512)


RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_random_model_writes_what_it_must(running, temperature):
    """Beside answers that are free, which stay what they are alone."""
    free = Sampling(max_tokens=40, temperature=temperature, seed=3)
    bound = replace(free, max_tokens=150, structure=schema(RECORD))
    prompts = [[7 + i, 9, 30 + i] for i in range(6)]
    alone = running.sample(prompts, free)
    wanted = {running.submit(prompt, replace(bound, seed=i)): None for i, prompt in enumerate(prompts)}
    others = {running.submit(prompt, free): i for i, prompt in enumerate(prompts)}
    done = {}
    while len(done) < len(wanted) + len(others):
        done |= {delta.request: delta.completion for delta in running.step() if delta.completion}
    for request in wanted:
        assert done[request].finish_reason == "stop" and done[request].ids[-1] in running.stop_ids
        jsonschema.validate(json.loads(done[request].text), RECORD)
    for request, i in others.items():
        assert done[request].ids == alone[i].ids


def test_a_limit_cuts_a_structure(running):
    cut = running.sample([[7, 9]], Sampling(max_tokens=5, structure=schema(RECORD)))[0]
    assert cut.finish_reason == "length" and len(cut.ids) == 5


def test_a_structure_that_runs_out_of_its_limits_is_cut_and_harms_nobody(running):
    """The model is made to take the way that blows up, by a bias; the next request is served as ever."""
    grammar = "start: BEFORE BIG\nBEFORE: /[ab]+y/\nBIG: /(a{1000}){1000}/"
    bias = tuple((token, 100.0) for token in running.tokenizer.encode("y"))
    hostile = Sampling(structure=Structure(kind="grammar", text=grammar), logit_bias=bias)
    assert running.sample([[7, 9]], hostile)[0].finish_reason == "length"
    assert running.sample([[7, 9]], Sampling(structure=VERBS))[0].text.split()[0] in ("go", "come")


def test_wrong_structures_are_refused_when_submitted(running):
    with pytest.raises(UserError, match="not JSON"):
        running.submit([7, 9], Sampling(structure=Structure(kind="json_schema", text="{")))


# --- calls of tools


def tool(name: str, strict: bool, **parameters: Any) -> Any:
    return {"type": "function", "function": {"name": name, "strict": strict, "parameters": parameters}}


CITY = {"properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"], "additionalProperties": False}
TOOLS = [
    tool("get", True, **CITY, **{"$defs": {"city": {"enum": ["Wien", "Rom"]}}}),
    tool("get_time", False, properties={"n": {"type": "array", "uniqueItems": True, "maxItems": 2}}),
    {"type": "function", "function": {"name": "now"}},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("choice", ["required", "get", "get_time", "now"])
def test_a_forced_call_is_a_call(vocabulary, tokenizer, choice, seed):
    """And one of several is drawn for "required", as often as the model likes."""
    structure = structure_for(TOOLS, choice, parallel=seed % 2 == 0)
    words, calls = split(draw(vocabulary.matcher(structure), tokenizer, seed))
    assert not words and calls and (len(calls) == 1 or (choice == "required" and seed % 2 == 0))
    for call in calls:
        arguments = json.loads(call.arguments)
        assert call.name == choice or choice == "required"
        if call.name == "get":
            assert arguments["city"] in ("Wien", "Rom") and len(arguments) == 1
        assert isinstance(arguments, dict) and (call.name != "now" or arguments == {})


@pytest.mark.parametrize(
    ("parallel", "text", "fitting"),
    [
        (True, "Just words, and <tool", True),
        (True, written(ToolCall(name="get", arguments='{"city": "Rom"}')), True),
        (True, "Hm.\n" + "\n".join([written(ToolCall(name="now", arguments="{}"))] * 2) + "\nWell.", True),
        (True, written(ToolCall(name="get", arguments='{"city": "Ulm"}')), False),
        (True, written(ToolCall(name="other", arguments="{}")), False),
        (True, "The tag <tool_call> in words", False),
        (False, "Just words", True),
        (False, "Hm.\n" + written(ToolCall(name="now", arguments="{}")), True),
        (False, "\n".join([written(ToolCall(name="now", arguments="{}"))] * 2), False),
    ],
)
def test_a_free_answer_may_call_only_what_there_is(vocabulary, tokenizer, parallel, text, fitting):
    matcher = vocabulary.matcher(structure_for(TOOLS, "auto", parallel))
    assert fits(matcher, tokenizer, text) == fitting


def test_a_strict_function_asks_for_what_can_be_enforced(vocabulary):
    strict = tool("f", True, properties={"n": {"type": "array", "uniqueItems": True}})
    with pytest.raises(UserError, match="uniqueItems"):
        vocabulary.matcher(structure_for([strict], "f"))


def test_a_structure_in_use_does_not_wear_out(tokenizer, monkeypatch):
    """Each answer meets some hundred states of its own, and copies share the limit."""
    monkeypatch.setitem(trial.LIMITS, "max_lexer_states", 5000)
    vocabulary, bits = Vocabulary(tokenizer, 320, (2,)), random.Random(1)
    for _ in range(60):
        matcher = vocabulary.matcher(Structure(kind="regex", text="[01]*1[01]{18}"))
        for _ in range(120):
            assert matcher.allowed().any() and not matcher.error
            matcher.accept(tokenizer.encode(bits.choice("01"))[0])


# --- refusals


@pytest.mark.parametrize(
    ("structure", "says"),
    [
        (Structure(kind="json_schema", text='{"type": '), "is not JSON"),
        (Structure(kind="json_schema", text='{"const": NaN}'), "NaN is not a number"),
        (Structure(kind="json_schema", text="[1]"), "expected an object"),
        (Structure(kind="json_schema", text="[" * 100_000), "is not JSON|nested"),
        (Structure(kind="json_schema", text='{"items": ' * 60 + "{}" + "}" * 60), "more than 50 deep"),
        (Structure(kind="json_schema", text=json.dumps({"maximum": -(10**400)})), "cannot be enforced"),
        (schema({"type": "frob"}), "Invalid type: frob"),
        (schema({"type": "array", "uniqueItems": True}), "Unimplemented.*uniqueItems"),
        (schema({"not": {"type": "string"}}), "Unimplemented.*not"),
        (schema({"$ref": "https://example.org/schema.json"}), "does not fetch"),
        (schema({"$ref": "#/$defs/absent"}), "does not exist"),
        (schema({"$ref": "#"}), "fits no text|NoExtension"),
        (schema({"required": ["a"], "type": "object", "properties": {"a": False}}), "unsatisfiable"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (schema({"type": "string", "description": "a" * MAX_CHARACTERS}), "at most 100,000"),
        (Structure(kind="regex", text="(a"), "regular expression.*unclosed"),
        (Structure(kind="regex", text=r"\bword"), "cannot be enforced"),
        (Structure(kind="regex", text="(" * 5000 + ")" * 5000), "cannot be enforced"),
        (Structure(kind="regex", text="(a{1000}){1000}"), "too many expressions"),
        (Structure(kind="grammar", text="start: nowhere"), "grammar.*nowhere"),
        (Structure(kind="grammar", text="start: x\nx: x"), "cannot be enforced"),
        (Structure(kind="grammar", text="start: " + "(" * 40_000), "deeply nested"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_what_cannot_be_enforced_is_refused_at_once(vocabulary, structure, says):
    began = time.monotonic()
    with pytest.raises(UserError, match=f"(?s){says}") as error:
        vocabulary.matcher(structure)
    assert time.monotonic() - began < 10 and len(str(error.value)) < 500


def test_a_grammar_is_tried_in_a_process_that_can_be_ended(vocabulary, monkeypatch):
    """Patterns that must hold at once keep the library busy for minutes, whatever its limits."""
    monkeypatch.setattr(trial, "try_out", TRY_OUT)
    with pytest.raises(UserError, match="more than 2 seconds"):
        vocabulary.matcher(schema({"allOf": [{"pattern": f"a{{0,{i}}}b.*c"} for i in range(25)]}))
    with pytest.raises(UserError, match="cannot be enforced: lexer error: too many expressions"):
        vocabulary.matcher(Structure(kind="regex", text="(a{999}){999}"))
    assert vocabulary.matcher(schema({"const": "once"})).allowed().any()


def test_a_step_that_costs_too_much_ends_the_text(vocabulary, tokenizer):
    """The blow-up waits where the trial does not meet it."""
    blowing_up = "start: BEFORE BIG\nBEFORE: /[a-w]+y/\nBIG: /(a{1000}){1000}/"
    matcher = vocabulary.matcher(Structure(kind="grammar", text=blowing_up))
    began = time.monotonic()
    for token in tokenizer.encode("onwardyaa"):
        matcher.accept(token)
        left = choices(matcher)
    assert time.monotonic() - began < 3
    assert left == [0, 2] and not matcher.whole and "too many" in matcher.error


def test_an_engine_without_end_tokens_cannot_end_a_structure(tokenizer):
    with pytest.raises(UserError, match="no stop_ids"):
        Vocabulary(tokenizer, 320, ()).matcher(VERBS)


def test_without_the_library_the_error_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"pip install 'modelwright\[structured\]'"):
        Vocabulary(tokenizer, 320, (2,)).matcher(VERBS)
