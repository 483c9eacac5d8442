"""The real `openai` client against a real server."""

from __future__ import annotations

import asyncio

import numpy as np
import openai
import pytest

from modelwright.base.schema import Completion, Conversation, Message, Sampling
from modelwright.tokenizer.chat import render

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The capital of France?"}]


def ids_of(tokenizer, messages):
    turns = tuple(Message(role=m["role"], content=m["content"]) for m in messages)
    return render(tokenizer, Conversation(messages=turns), add_generation_prompt=True).ids


def test_chat_gives_the_engines_own_text(client, engine, tokenizer):
    got = client.chat.completions.create(
        model="tiny", messages=ASK, temperature=0.8, seed=5, max_completion_tokens=20, top_p=0.9
    )
    prompt = ids_of(tokenizer, ASK)
    [expected] = engine.sample([prompt], Sampling(max_tokens=20, temperature=0.8, seed=5, top_p=0.9))
    assert got.choices[0].message.content == expected.text
    assert got.choices[0].message.role == "assistant"
    assert got.choices[0].finish_reason == expected.finish_reason
    assert got.usage.prompt_tokens == len(prompt) and got.usage.completion_tokens == len(expected.ids)
    assert got.object == "chat.completion" and got.model == "tiny" and got.system_fingerprint == "abc"


def test_a_stream_says_the_same(client):
    settings = {"model": "tiny", "messages": ASK, "temperature": 1.2, "seed": 3, "max_tokens": 30, "n": 2}
    whole = client.chat.completions.create(**settings)
    texts, reasons, roles, usage = ["", ""], [None, None], [], None
    for chunk in client.chat.completions.create(
        **settings, stream=True, stream_options={"include_usage": True}
    ):
        if not chunk.choices:
            usage = chunk.usage
            continue
        assert chunk.usage is None and usage is None
        choice = chunk.choices[0]
        if choice.delta.role:
            roles.append(choice.delta.role)
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices] and texts[0] != texts[1]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert roles == ["assistant"] * 2 and usage == whole.usage


def test_log_probabilities(client, engine, tokenizer):
    settings = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": 6}
    got = client.chat.completions.create(**settings, logprobs=True, top_logprobs=3)
    content = got.choices[0].logprobs.content
    prompt = ids_of(tokenizer, ASK)
    [expected] = engine.sample([prompt], Sampling(max_tokens=6))
    assert [entry.logprob for entry in content] == pytest.approx(list(expected.logprobs), abs=1e-5)
    assert b"".join(bytes(entry.bytes) for entry in content).decode(errors="replace") == expected.text
    for entry in content:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].token == entry.token
    streamed = [
        entry
        for chunk in client.chat.completions.create(**settings, logprobs=True, top_logprobs=3, stream=True)
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_stop_strings(client):
    settings = {"model": "tiny", "messages": ASK, "temperature": 1.0, "seed": 1, "max_tokens": 40}
    free = client.chat.completions.create(**settings).choices[0].message.content
    stop = free[6:8]
    cut = client.chat.completions.create(**settings, stop=["\x00never", stop]).choices[0]
    assert cut.message.content == free[: free.index(stop)] and cut.finish_reason == "stop"


def test_completions_with_echo_score_the_prompt(client, engine, tokenizer):
    prompt = "The capital of France is Paris"
    ids = tokenizer.encode(prompt)
    got = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=2, temperature=0, echo=True, logprobs=1
    )
    [expected] = engine.sample([ids], Sampling(max_tokens=2))
    choice = got.choices[0]
    assert choice.text == prompt + expected.text
    assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.top_logprobs[0] is None
    scores = [*engine.score([ids])[0], *expected.logprobs]
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(scores, abs=1e-5)
    before = [len(tokenizer.decode(ids[:n])) for n in range(len(ids) + 1)]  # of plain letters
    assert choice.logprobs.text_offset[: len(before)] == before
    assert len(choice.logprobs.tokens) == len(ids) + 2
    best, greedy = choice.logprobs.top_logprobs[-1], choice.logprobs.tokens[-1]
    assert list(best) == [greedy]


def test_offsets_count_characters_that_tokens_share(client, tokenizer):
    text = "a\U0001f9a4b\u20acc"
    got = client.completions.create(model="tiny", prompt=text, max_tokens=0, echo=True, logprobs=0)
    found = got.choices[0].logprobs
    assert len(found.tokens) > len(text), "no character of this text is more than one token"
    starts = dict(zip(found.tokens, found.text_offset, strict=True))
    assert {letter: text.index(letter) for letter in "abc"} == {letter: starts[letter] for letter in "abc"}


def test_only_the_prompts_own_probabilities(client, engine, tokenizer):
    """What lm-evaluation-harness asks: several prompts as ids, nothing generated."""
    prompts = [tokenizer.encode("Die Hauptstadt"), tokenizer.encode("Wien")]
    got = client.completions.create(model="tiny", prompt=prompts, max_tokens=0, echo=True, logprobs=1)
    for choice, ids, scores in zip(got.choices, prompts, engine.score(prompts), strict=True):
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(scores, abs=1e-5)
        assert choice.text == tokenizer.decode(ids)
    assert got.usage.completion_tokens == 0


def test_completion_streams_with_echo(client):
    settings = {
        "model": "tiny",
        "prompt": ["Wien", "Paris"],
        "temperature": 1.0,
        "seed": 2,
        "echo": True,
        "n": 2,
    }
    whole = client.completions.create(**settings)
    texts = [""] * 4
    for chunk in client.completions.create(**settings, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert all(
        text.startswith(start) for text, start in zip(texts, ["Wien"] * 2 + ["Paris"] * 2, strict=True)
    )


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="Known: tiny"):
        client.models.retrieve("gpt-4")


def test_extras_of_other_servers_are_taken(client, engine, tokenizer):
    extra = {"top_k": 5, "min_p": 0.05}
    got = client.chat.completions.create(
        model="tiny", messages=ASK, temperature=2, seed=9, max_tokens=9, extra_body=extra
    )
    sampling = Sampling(max_tokens=9, temperature=2, seed=9, top_k=5, min_p=0.05)
    assert got.choices[0].message.content == engine.sample([ids_of(tokenizer, ASK)], sampling)[0].text


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_log_probabilities_after_the_filters(client, engine, tokenizer, temperature):
    """An extension, whole and streamed, at both endpoints: what the tokens were drawn with."""
    sampling = Sampling(max_tokens=9, temperature=temperature, seed=3, top_k=6, top_p=0.9, top_logprobs=4)
    extra = {"top_k": 6, "logprobs_mode": "processed_logprobs"}
    settings = {"model": "tiny", "temperature": temperature, "seed": 3, "max_tokens": 9, "top_p": 0.9}
    own = {"model": "tiny", **settings, "extra_body": extra | {"logprobs_mode": "raw_logprobs"}}
    settings["extra_body"] = extra

    def checked(logprobs: list[float], top: list[list[float]], drawn: Completion) -> None:
        assert logprobs == pytest.approx(drawn.sampler_logprobs)
        assert top == [pytest.approx([value for _, value in row]) for row in drawn.top_sampler_logprobs]

    [drawn] = engine.sample([ids_of(tokenizer, ASK)], sampling)
    assert drawn.finish_reason == "length", "all tokens are part of the answer"
    assert drawn.sampler_logprobs != drawn.logprobs
    whole = client.chat.completions.create(messages=ASK, logprobs=True, top_logprobs=4, **settings)
    stream = client.chat.completions.create(
        messages=ASK, logprobs=True, top_logprobs=4, stream=True, **settings
    )
    for content in (
        whole.choices[0].logprobs.content,
        [e for chunk in stream if (p := chunk.choices[0].logprobs) for e in p.content],
    ):
        checked([e.logprob for e in content], [[t.logprob for t in e.top_logprobs] for e in content], drawn)
    plain = client.chat.completions.create(messages=ASK, logprobs=True, top_logprobs=4, **own)
    assert [e.logprob for e in plain.choices[0].logprobs.content] == pytest.approx(drawn.logprobs)

    [drawn] = engine.sample([tokenizer.encode("Wien")], sampling)
    whole = client.completions.create(prompt="Wien", logprobs=4, **settings)
    stream = client.completions.create(prompt="Wien", logprobs=4, stream=True, **settings)
    parts = [chunk.choices[0].logprobs for chunk in stream]
    for logprobs, top in (
        (whole.choices[0].logprobs.token_logprobs, whole.choices[0].logprobs.top_logprobs),
        (
            [p for part in parts for p in part.token_logprobs],
            [t for part in parts for t in part.top_logprobs],
        ),
    ):
        checked(logprobs, [list(row.values()) for row in top], drawn)


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        ("chat", {"logprobs_mode": "processed_logprobs"}),  # without any log-probabilities
        ("chat", {"logprobs_mode": "drawn", "logprobs": True}),
        ("text", {"logprobs_mode": "raw_logprobs"}),
        ("text", {"logprobs_mode": "processed_logprobs", "logprobs": 1, "echo": True}),
        ("response", {"logprobs_mode": "processed_logprobs"}),
    ],
)
def test_log_probabilities_that_nobody_can_give_are_refused(client, endpoint, more):
    ask = {
        "chat": lambda: client.chat.completions.create(model="tiny", messages=ASK, extra_body=more),
        "text": lambda: client.completions.create(model="tiny", prompt="Wien", extra_body=more),
        "response": lambda: client.responses.create(model="tiny", input="Wien", extra_body=more),
    }[endpoint]
    with pytest.raises(openai.BadRequestError) as refused:
        ask()
    assert refused.value.param == "logprobs_mode"


def test_many_at_once_get_what_each_gets_alone(address, engine, tokenizer):
    asks = [
        [{"role": "user", "content": f"The capital of {word}? " * (1 + i % 5)}]
        for i, word in enumerate("ABCDEFGHIJKLMNOPQRST")
    ]

    async def ask(client, number):
        settings = {"model": "tiny", "messages": asks[number], "temperature": 0.9, "seed": number}
        settings["max_tokens"] = 5 + 3 * number
        if number % 2:
            got = await client.chat.completions.create(**settings)
            return got.choices[0].message.content
        stream = await client.chat.completions.create(**settings, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(len(asks))))

    for number, text in enumerate(asyncio.run(ask_all())):
        sampling = Sampling(max_tokens=5 + 3 * number, temperature=0.9, seed=number)
        assert text == engine.sample([ids_of(tokenizer, asks[number])], sampling)[0].text


def test_embeddings(client, engine, tokenizer):
    texts = ["Wien", "Die Hauptstadt von Österreich"]
    expected = engine.embed([tokenizer.encode(text) for text in texts]).numpy()
    got = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    by_ids = client.embeddings.create(model="tiny", input=tokenizer.encode("Wien"))
    for answer in (got, plain, by_ids):
        for place, entry in enumerate(answer.data):
            assert entry.index == place
            assert entry.embedding == pytest.approx(expected[place].tolist(), abs=1e-6)
    assert got.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    short = client.embeddings.create(model="tiny", input="Wien", dimensions=8).data[0].embedding
    kept = expected[0, :8]
    assert short == pytest.approx((kept / np.linalg.norm(kept)).tolist(), abs=1e-6)
    for bad in ({"dimensions": 33}, {"dimensions": 0}, {"input": ""}, {"input": []}, {"input": [""]}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(**{"model": "tiny", "input": "Wien"} | bad)


def test_responses_say_what_the_chat_says(client):
    settings = {"model": "tiny", "temperature": 0.9, "top_p": 0.9}
    chat = client.chat.completions.create(**settings, messages=ASK, max_tokens=12, seed=3)
    asked = {"input": ASK[1]["content"], "instructions": ASK[0]["content"], "max_output_tokens": 12}
    got = client.responses.create(**settings, **asked, extra_body={"seed": 3})
    assert got.output_text == chat.choices[0].message.content
    assert got.usage.input_tokens == chat.usage.prompt_tokens
    assert got.usage.output_tokens == chat.usage.completion_tokens
    cut = chat.choices[0].finish_reason == "length"
    assert got.status == got.output[0].status == ("incomplete" if cut else "completed")
    assert (got.incomplete_details.reason if cut else None) == ("max_output_tokens" if cut else None)
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": ASK[0]["content"]}]},
        {"type": "message", "role": "user", "content": ASK[1]["content"]},
    ]
    same = client.responses.create(**settings, input=items, max_output_tokens=12, extra_body={"seed": 3})
    assert same.output_text == got.output_text


def test_streamed_responses_build_the_whole_one(client):
    asked = {"model": "tiny", "input": "Wien?", "max_output_tokens": 20, "extra_body": {"seed": 2}}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == f"response.{whole.status}"
    assert [event.sequence_number for event in events] == sorted({e.sequence_number for e in events})
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text == final.output_text


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"store": True},
        {"include": ["message.output_text.logprobs"]},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
    ],
)
def test_responses_refuse_what_needs_a_memory(client, more):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**{"model": "tiny", "input": "Wien"} | more)
    assert refused.value.param.startswith(next(iter(more)))


def test_penalties_and_bias_reach_the_engine(client, engine, tokenizer):
    bias = {str(tokenizer.encode("W")[0]): 100}
    forced = client.chat.completions.create(
        model="tiny", messages=ASK, temperature=0, max_tokens=5, logit_bias=bias, logprobs=True
    )
    assert forced.choices[0].message.content == "WWWWW"
    wishes = {"presence_penalty": 1.5, "frequency_penalty": 0.7, "seed": 4, "temperature": 0.6}
    got = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=20, extra_body={"repetition_penalty": 1.3}, **wishes
    )
    sampling = Sampling(max_tokens=20, repetition_penalty=1.3, **wishes)
    assert got.choices[0].message.content == engine.sample([ids_of(tokenizer, ASK)], sampling)[0].text
    with pytest.raises(openai.BadRequestError, match="319"):
        client.chat.completions.create(model="tiny", messages=ASK, logit_bias={"320": 1})
