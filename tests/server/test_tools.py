"""Tools and structured output through the real `openai` client. What a random model says is noise; what it
is held to is not."""

from __future__ import annotations

import contextlib
import json
import time

import openai
import pytest
from pydantic import BaseModel

pytest.importorskip("llguidance")

ASK = [{"role": "user", "content": "The weather in Wien?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Wien", "Paris"]},
        "days": {"type": "integer", "maximum": 9, "minimum": 0},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS},
}
TIME = {"type": "function", "function": {"name": "time"}}
FLAT = {"type": "function", **WEATHER["function"], "strict": True}
SETTINGS = {"model": "tiny", "temperature": 1.0, "seed": 3}


class City(BaseModel):
    """What the answer must be."""

    name: str
    large: bool


def checked(arguments: str) -> dict:
    given = json.loads(arguments)
    assert set(given) == {"city", "days"} and given["city"] in ("Wien", "Paris") and 0 <= given["days"] <= 9
    return given


def test_a_tool_that_must_be_called_is_called(client):
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in (named, "required"):
        tools = [WEATHER, TIME] if choice == named else [WEATHER]
        got = client.chat.completions.create(
            **SETTINGS,
            messages=ASK,
            tools=tools,
            tool_choice=choice,
            max_tokens=200,
            parallel_tool_calls=False,
        ).choices[0]
        assert got.finish_reason == "tool_calls" and got.message.content is None
        [call] = got.message.tool_calls
        assert call.type == "function" and call.id and call.function.name == "weather"
        checked(call.function.arguments)


def test_streamed_calls_build_the_same(client):
    asked = {**SETTINGS, "messages": ASK, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 200}
    asked["parallel_tool_calls"] = False
    whole = client.chat.completions.create(**asked).choices[0]
    name, arguments, ids, reason = "", "", set(), None
    for chunk in client.chat.completions.create(**asked, stream=True):
        [choice] = chunk.choices
        for call in choice.delta.tool_calls or []:
            assert call.index == 0
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            ids |= {call.id} - {None}
        assert not choice.delta.content
        reason = choice.finish_reason or reason
    made = whole.message.tool_calls[0].function
    assert (name, arguments, reason) == (made.name, made.arguments, "tool_calls") and len(ids) == 1


def test_a_conversation_with_calls_goes_on(client, http):
    """The client's own objects go back into the next request, with the tool's answer."""
    asked = {**SETTINGS, "tools": [WEATHER], "max_tokens": 200}
    message = client.chat.completions.create(**asked, messages=ASK, tool_choice="required").choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    got = client.chat.completions.create(**asked, messages=[*ASK, message, *results])
    assert got.choices[0].finish_reason in ("stop", "length", "tool_calls")
    turns = [*ASK, message.model_dump(exclude_none=True), *results]
    longer = http.post("/tokenize", json={"messages": turns, "tools": [WEATHER]}).json()["count"]
    assert got.usage.prompt_tokens == longer


def test_tools_that_may_not_be_called_are_not_offered(client):
    plain = client.chat.completions.create(**SETTINGS, messages=ASK, max_tokens=5)
    none = client.chat.completions.create(
        **SETTINGS, messages=ASK, max_tokens=5, tools=[WEATHER], tool_choice="none"
    )
    offered = client.chat.completions.create(**SETTINGS, messages=ASK, max_tokens=5, tools=[WEATHER])
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens < offered.usage.prompt_tokens
    assert none.choices[0].message == plain.choices[0].message


def test_structured_outputs(client):
    """Whatever the weights, the text parses (unless the limit of tokens cuts it)."""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    strict = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}},
    }
    for seed in range(3):
        asked = {"model": "tiny", "messages": ASK, "seed": seed, "temperature": 1.0, "max_tokens": 100}
        got = client.chat.completions.create(**asked, response_format=strict).choices[0]
        assert got.finish_reason == "stop" and json.loads(got.message.content)["a"] in (1, 2)
        one = client.chat.completions.create(
            **asked, extra_body={"structured_outputs": {"choice": ["yes", "no (not now)"]}}
        )
        assert one.choices[0].message.content in ("yes", "no (not now)")
        number = client.completions.create(
            model="tiny", prompt="Wien", seed=seed, extra_body={"structured_outputs": {"regex": "[0-9]{3}"}}
        )
        assert len(number.choices[0].text) == 3 and number.choices[0].text.isdigit()
        anything = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices[0]
        if anything.finish_reason == "stop":
            assert isinstance(json.loads(anything.message.content), dict)


def test_the_clients_own_parsing(client):
    """`parse` sends a pydantic model's schema and reads the answer with it."""
    for seed in range(20):
        try:
            got = client.chat.completions.parse(
                model="tiny", messages=ASK, response_format=City, max_tokens=300, seed=seed, temperature=0.3
            )
        except openai.LengthFinishReasonError:  # a random model may write a name that never ends
            continue
        assert isinstance(got.choices[0].message.parsed, City)
        return
    raise AssertionError("none of twenty answers ended")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "https://elsewhere.example/schema.json"},
        {"type": "string", "pattern": "("},
    ],
)
def test_structures_that_cannot_be_enforced_are_refused(client, schema):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(
                model="tiny",
                messages=ASK,
                stream=stream,
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            )
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2).choices


def test_a_hostile_pattern_costs_little(client):
    """It is refused, or the answer ends where the library's limits are reached; others are answered."""
    hostile = {"type": "string", "pattern": "(a{1000}){1000}"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": hostile}}
    began = time.monotonic()
    with contextlib.suppress(openai.BadRequestError):
        got = client.chat.completions.create(
            model="tiny", messages=ASK, response_format=form, max_tokens=3000
        )
        assert got.choices[0].finish_reason == "length"
    assert time.monotonic() - began < 20
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2).choices


def test_calls_in_responses(client):
    asked = {**SETTINGS, "tools": [FLAT], "tool_choice": {"type": "function", "name": "weather"}}
    asked = {name: value for name, value in asked.items() if name != "seed"} | {"extra_body": {"seed": 3}}
    got = client.responses.create(**asked, input="The weather?", max_output_tokens=200)
    [call] = got.output
    assert (got.status, call.type, call.name) == ("completed", "function_call", "weather")
    checked(call.arguments)
    with client.responses.stream(**asked, input="The weather?", max_output_tokens=200) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output[0].arguments == call.arguments
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    turns = [{"role": "user", "content": "The weather?"}, call.model_dump(exclude_none=True), result]
    more = client.responses.create(model="tiny", input=turns, tools=[FLAT], max_output_tokens=5)
    assert more.usage.input_tokens > got.usage.input_tokens


def test_responses_with_a_schema(client):
    form = {"format": {"type": "json_schema", "name": "x", "schema": PARAMETERS}}
    got = client.responses.create(model="tiny", input="The weather?", text=form, max_output_tokens=200)
    assert got.status == "completed"
    checked(got.output_text)
