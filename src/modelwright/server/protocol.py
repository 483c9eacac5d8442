"""What clients may ask: OpenAI's request bodies, as far as we can honour them.

A field that we cannot honour is refused by name, be it known, of another server's interface or misspelled: an
answer that silently disregards it would be worse than none.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from modelwright.base.errors import closest
from modelwright.base.schema import Sampling, Structure
from modelwright.server.errors import ApiError

_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    # who asks, and for what: for the client's own books
    "user": None,
    "metadata": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "request_id": None,
    "store": (False,),
    "service_tier": ("auto", "default"),
    "priority": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_special_tokens": (),
    "return_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "grammar": ("",),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "include_stop_str_in_output": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "prompt_logprobs": (),
    "logprobs_mode": ("raw_logprobs",),
    "use_beam_search": (False,),
    # of /v1/responses, which keeps nothing
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
    "reasoning": ({}, {"effort": "none"}),
    "include": ([],),
    "truncation": ("disabled",),
    "max_tool_calls": (),
    "prompt_template": (),
    # of llama.cpp
    "cache_prompt": (True,),
    "mirostat": (0,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
}
"""Field -> the values that ask for nothing of an answer, and so can be honoured (None: any). Null can be."""
_OURS = {
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_length"), "'max_tokens'"),
    **dict.fromkeys(("think", "enable_thinking"), "'chat_template_kwargs': {'enable_thinking': ...}"),
    **dict.fromkeys(("format", "json_schema"), "'response_format'"),
    "repeat_penalty": "'repetition_penalty'",
    "n_probs": "'logprobs'",
    "stop_sequences": "'stop'",
    "num_ctx": "the model's own context",
    "options": "the fields themselves, such as 'temperature' and 'seed'",
    "system": "a message of the role 'system'",
    "keep_alive": "nothing: a model stays loaded",
}
"""Fields of other servers -> what says the same here."""


class Asked(BaseModel):
    """What the requests of all endpoints share."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str | None = None

    def refuse_unsupported(self) -> None:
        """Raise for the first field that we cannot honour, or do not know."""
        for name, value in (self.model_extra or {}).items():
            neutral = _NEUTRAL.get(name, ())
            if value is None or neutral is None or value in neutral:
                continue
            raise unsupported(name) if name in _NEUTRAL else self._unknown(name[:80])

    def _unknown(self, name: str) -> ApiError:
        """The refusal of a field that we do not know."""
        near = closest(name, {*type(self).model_fields, *_NEUTRAL})
        hint = f" Here it is {_OURS[name]}." if name in _OURS else f" Did you mean '{near}'?" if near else ""
        message = f"'{name}' is not a field of this request.{hint}"
        return ApiError(400, message, code="unknown_parameter", param=name)


def unsupported(param: str, why: str = "is not supported by this server; leave it out") -> ApiError:
    """The refusal of a field that we know and cannot honour."""
    return ApiError(400, f"'{param}' {why}", code="unsupported_parameter", param=param)


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True)
    include_usage: bool = False


class StructuredOutputs(BaseModel):
    """vLLM's field for what an answer's text must be: exactly one of these."""

    model_config = ConfigDict(strict=True, extra="forbid")
    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None

    def structure(self) -> Structure:
        """As our own noun."""
        given = {name: value for name, value in self if value}
        if len(given) != 1:
            message = f"'structured_outputs' needs exactly one of its fields, received {len(given)}"
            raise ApiError(400, message, code="invalid_value", param="structured_outputs")
        if self.choice:
            return Structure("regex", "|".join(map(re.escape, self.choice)))
        if self.json_:
            schema = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
            return Structure("json_schema", schema)
        if self.regex:
            return Structure("regex", self.regex)
        return Structure("grammar", self.grammar) if self.grammar else Structure("json_object", "")


Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[Finite, Field(ge=-2, le=2)]
Bias = dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[Finite, Field(ge=-100, le=100)]]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Schema = dict[str, Any]
LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]
"""vLLM's names, there an option of the server: of the model, or of what the tokens were drawn from."""


class Drawing(Asked):
    """What the requests share that ask for an answer: how its tokens are drawn."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """-1 and 0 keep all."""
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01, le=10)] | None = None
    logit_bias: Annotated[Bias, Field(max_length=1024)] | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Prompts are found in the cache by requests with the same (vLLM's field)."""
    structured_outputs: StructuredOutputs | None = None

    def structure(self) -> Structure | None:
        """What the answer's text must be."""
        return self.structured_outputs.structure() if self.structured_outputs else None

    def refuse_unsupported(self) -> None:
        """Raise for the first field that we know and cannot honour."""
        super().refuse_unsupported()
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "'stream_options' needs 'stream': true", param="stream_options")

    def sampling(
        self, *, max_tokens: int, top_logprobs: int, adapter: str | None, structure: Structure | None
    ) -> Sampling:
        """The engine's settings; OpenAI's defaults where nothing is said (temperature 1)."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            seed=self.seed,
            stop=tuple(stop),
            stop_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            min_tokens=self.min_tokens or 0,
            top_logprobs=top_logprobs,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            adapter=adapter,
            structure=structure,
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextFormat(BaseModel):
    """Any text will do."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """The answer is a JSON object."""

    model_config = ConfigDict(strict=True)
    type: Literal["json_object"]


def schema_structure(schema: Schema | None, param: str) -> Structure:
    """The structure that a JSON schema asks for. It is always enforced, `strict` or not."""
    if schema is None:
        raise ApiError(400, f"'{param}' is missing", code="invalid_value", param=param)
    return Structure("json_schema", json.dumps(schema))


A = TypeVar("A", bound=Asked)


def parse(kind: type[A], body: bytes) -> A:
    """Body -> request, or an error that names the field and what was expected."""
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        places = [(_place(kind, fault), fault["msg"] + _received(fault)) for fault in faults]
        # Of the branches of a union, the one that went deepest is what the client meant.
        place, message = max(places, key=lambda fault: len(fault[0]))
        param = ".".join(place) or None
        where = f"'{param}': " if param else "the body: "
        raise ApiError(400, f"{where}{message}", code="invalid_value", param=param) from None
    asked.refuse_unsupported()
    return asked


def _received(fault: ErrorDetails) -> str:
    """What stood in the faulty place, where something did."""
    if not fault["loc"] or fault["type"] == "missing":
        return ""
    shown = json.dumps(fault["input"], ensure_ascii=False, default=str)
    return f" (received {shown if len(shown) <= 80 else shown[:80] + '...'})"


@cache
def _field_names(kind: type[BaseModel]) -> frozenset[str]:
    """The names of a request's fields at all depths."""
    schema = kind.model_json_schema()
    parts = (schema, *schema.get("$defs", {}).values())
    return frozenset(name for part in parts for name in part.get("properties", {}))


def _place(kind: type[BaseModel], fault: ErrorDetails) -> list[str]:
    """messages, 0, content: pydantic's place without the branches of unions that it names too."""
    known, place = _field_names(kind), fault["loc"]
    if fault["type"] == "extra_forbidden":
        known |= {str(place[-1])[:80]}  # a name that we do not know is what is wrong
    named = [str(part) for part in place if isinstance(part, int) or part in known]
    # A branch may be called as the field that it has: response_format, json_schema, json_schema.
    return [part for part, before in zip(named, [None, *named], strict=False) if part != before]
