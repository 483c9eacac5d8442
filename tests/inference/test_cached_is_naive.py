"""The table: whatever the model, the option and the runner, decoding with a cache and in a crowd equals the
plainest decoder there is, the whole text anew for every token: the same ids, the same log-probabilities.

Requests of a case come at random times, in a random order. Ids may differ where the two best tokens are
nearer than the tolerance, and what follows in that text is not compared; next to nothing may be left out so.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from tests.inference.test_graphs import eager

from modelwright.base.schema import Sampling
from modelwright.compression.quantize import quantize
from modelwright.inference import compiled
from modelwright.inference.engine import Engine
from modelwright.inference.graphs import GraphRunner
from modelwright.inference.speculate import Speculation
from modelwright.kernels import decoder
from modelwright.model.adapters import Adaptable, Adapter, LowRank, adaptable_layers
from modelwright.model.config import ModelConfig
from modelwright.model.quantized import Scheme
from modelwright.model.transformer import Transformer

TOKENS = 7
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {},
    "qwen2, biases": {"architecture": "qwen2", "num_key_value_heads": 1},
    "llama, untied": {"architecture": "llama", "num_key_value_heads": 4, "tie_word_embeddings": False},
    "llama, biases and stretched rotations": {
        "architecture": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40},
    },
    "mistral, a window of 9": {"architecture": "mistral", "sliding_window": 9},
    "mistral, a window of 1": {"architecture": "mistral", "sliding_window": 1},
    "gemma": {"architecture": "gemma"},
    "qwen3, a window of 40": {"sliding_window": 40},
    "mixture": {"architecture": "qwen3_moe", **EXPERTS},
    "mixture among dense layers": {
        "architecture": "qwen3_moe",
        "num_hidden_layers": 3,
        "mlp_only_layers": (1,),
        "norm_topk_prob": False,
        **EXPERTS,
    },
}


class Option(NamedTuple):
    """How an engine is asked to work."""

    settings: Mapping[str, Any] = {}
    weights: str = "fp32"
    adapters: bool = False
    happens: str = ""
    """What the engine's statistics must have counted for it to mean something."""
    tolerance: float = 3e-5
    """Of log-probabilities in nats; logits are up to 20 here."""

    @property
    def rounded(self) -> bool:
        """Whether keys and values are in 8 bits. A level at a midpoint may round either way."""
        return self.settings.get("cache") == "int8"


CROWD = {"max_slots": 4}
SMALL_CACHE = {**CROWD, "cache_tokens": 160}
ROUNDED = {**CROWD, "cache": "int8"}
OPTIONS = {
    "alone": Option({"max_slots": 1}, happens="prefix_hits"),
    "in a crowd": Option(CROWD),
    "prompts in pieces": Option({**CROWD, "step_tokens": 7}),
    "preempted": Option(SMALL_CACHE, happens="preemptions"),
    "look-up": Option({**CROWD, "speculate": Speculation()}, happens="drafted"),
    "draft": Option({**CROWD, "speculate": "draft"}, happens="accepted"),
    "all at once": Option({**SMALL_CACHE, "step_tokens": 9, "speculate": Speculation()}),
    "8 bits": Option(CROWD, "8 bits", tolerance=1e-4),
    "4 bits": Option(CROWD, "4 bits", tolerance=1e-4),
    "8-bit cache": Option(ROUNDED, tolerance=0.02),
    "8 bits, 8-bit cache": Option(ROUNDED, "8 bits", tolerance=0.02),
    "adapters": Option(CROWD, adapters=True, tolerance=1e-4),
}
COMMON = ("in a crowd", "all at once")


def cases() -> list[tuple[str, str, str]]:
    """Every family with the common options, two with all of them. Steps of mixtures are not recorded."""
    pairs = [(family, option) for family in FAMILIES for option in OPTIONS]
    wanted = [(f, o) for f, o in pairs if f in ("qwen3", "mixture") or o in COMMON]
    found = [(*pair, runner) for pair in wanted for runner in ("compiled", "plain")]
    dense = [(f, o) for f, o in wanted if "mixture" not in f]
    return found + [(*pair, "recorded") for pair in dense if pair[0] == "qwen3" or pair[1] == "in a crowd"]


@pytest.mark.parametrize(("family", "option", "runner"), cases())
def test_cached_decoding_is_naive_decoding(
    family: str, option: str, runner: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = OPTIONS[option]
    if runner == "compiled" and decoder.library() is None:
        pytest.skip("no compiler: there is only the plain path")
    if runner == "recorded":  # as on a GPU; every step is recorded, and done by the same operations
        monkeypatch.setattr(compiled, "runner_of", lambda *given, **_: GraphRunner(*given, record=eager))
    engine = engine_of(family, chosen, tokenizer, use_compiled=runner == "compiled")
    assert engine.is_compiled == (runner == "compiled")
    assert (engine.runner == "GraphRunner") == (runner == "recorded")
    draw = random.Random(f"{family} {option}")
    requests = [(prompt, adapter_for(chosen, n)) for n, prompt in enumerate(prompts())]
    if chosen.happens != "preemptions":
        draw.shuffle(requests)
    done = answered(engine, requests, draw)
    compared = sum(
        equal_tokens(answer, naive(family, chosen.weights, prompt, adapter, chosen.rounded), chosen.tolerance)
        for (prompt, adapter), answer in zip(requests, done, strict=True)
    )
    assert compared > 0.85 * TOKENS * len(requests)
    assert not chosen.happens or getattr(engine.stats(), chosen.happens)


@cache
def prompts() -> tuple[tuple[int, ...], ...]:
    """Some begin alike, one has a third of all tokens, which can be looked up. Most are near the end of a
    block of the cache, so that a small one is soon full."""
    draw = random.Random(1)

    def words(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 320) for _ in range(count))

    begin = words(64)
    alike = begin + words(27), begin[:61]
    return (words(29), words(30), words(28), words(1), *alike, tuple(range(3, 121)))


def adapter_for(option: Option, number: int) -> str | None:
    return (None, "first", "second")[number % 3] if option.adapters else None


def engine_of(family: str, option: Option, tokenizer: Any, *, use_compiled: bool) -> Engine:
    model = model_of(family, option.weights)
    settings = dict(option.settings)
    if settings.get("speculate") == "draft":
        settings["speculate"] = Speculation(
            kind="draft", draft=model_of(family, "nearly"), draft_tokenizer=tokenizer
        )
    engine = Engine(model, tokenizer, stop_ids=(), use_compiled=use_compiled, **settings)
    if option.adapters:
        for name in ("first", "second"):
            engine.add_adapter(name, adapter_of(family, name))
    return engine


@pytest.fixture(autouse=True)
def cheap_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here drafts are as large as the model, and by the clock would soon not be asked any more."""
    monkeypatch.setattr("modelwright.inference.speculate.Pace.cost", lambda self, requests: 0.05)
    monkeypatch.setattr("modelwright.inference.speculate.Pace.compares", lambda self, requests: False)


@cache
def model_of(family: str, weights: str) -> Transformer:
    """In fp32, 8 or 4 bits; "nearly" is off by a little everywhere."""
    if weights != "fp32":
        return changed(copy.deepcopy(model_of(family, "fp32")), weights)
    config = ModelConfig.model_validate(
        {
            "vocab_size": 320,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 160,
            **FAMILIES[family],
        }
    )
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that a wrong cache shows
            noise = torch.randn_like(parameter)
            parameter.copy_(0.25 * noise if parameter.dim() > 1 else parameter + 0.2 * noise)
    return model


def changed(model: Transformer, weights: str) -> Transformer:
    if weights != "nearly":
        return quantize(model, Scheme(bits=int(weights[0])), torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.003 * torch.randn_like(parameter))
    return model


@cache
def adapter_of(family: str, name: str) -> Adapter:
    generator = torch.Generator().manual_seed(len(name))

    def change(layer: Adaptable) -> LowRank:
        a = torch.randn(3, layer.in_features, generator=generator)
        return LowRank(a / 8, torch.randn(layer.out_features, 3, generator=generator) / 8, scale=0.5)

    layers = adaptable_layers(model_of(family, "fp32"))
    return Adapter({place: change(layer) for place, layer in layers.items()})


@cache
def merged(family: str, name: str) -> Transformer:
    """The model with an adapter's change in its weights."""
    model = copy.deepcopy(model_of(family, "fp32"))
    with torch.no_grad():
        for place, change in adapter_of(family, name).layers.items():
            model.get_parameter(f"{place}.weight").add_(change.scale * change.b @ change.a)
    return model


class Token(NamedTuple):
    """What the plainest decoder found."""

    id: int
    logprob: float
    lead: float
    """Before the second best."""


@cache
def naive(
    family: str, weights: str, prompt: tuple[int, ...], adapter: str | None, rounded: bool
) -> tuple[Token, ...]:
    model = model_of(family, weights) if adapter is None else merged(family, adapter)
    found: list[Token] = []
    for _ in range(TOKENS):
        ids = torch.tensor([[*prompt, *(token.id for token in found)]])
        seen = torch.ones(1, 1, ids.numel(), ids.numel(), dtype=torch.bool).tril()
        with torch.no_grad():
            output = model(ids, mask=seen, cache=EightBits()) if rounded else model(ids)
        best = output.logits()[0, -1].log_softmax(-1).topk(2)
        (first, second), id = best.values.tolist(), int(best.indices[0])
        found.append(Token(id, first, first - second))
    return tuple(found)


class EightBits:
    """No cache: keys and values of one pass, each rounded as one in 8 bits rounds them."""

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention sees of them."""
        scales = [each.abs().amax(-1, keepdim=True) / 127 for each in (k, v)]
        return (k / scales[0]).round() * scales[0], (v / scales[1]).round() * scales[1]


def answered(engine: Engine, requests: list[Any], draw: random.Random) -> list[Any]:
    """Completions of requests that come while others run, in their order."""
    numbers: list[int] = []
    done: dict[int, Any] = {}
    while len(done) < len(requests):
        for prompt, adapter in requests[len(numbers) : len(numbers) + draw.choice((0, 1, 4))]:
            numbers.append(engine.submit(prompt, Sampling(max_tokens=TOKENS, adapter=adapter)))
        done |= {delta.request: delta.completion for delta in engine.step() if delta.completion}
    return [done[number] for number in numbers]


def equal_tokens(answer: Any, wanted: tuple[Token, ...], tolerance: float) -> int:
    """How many tokens of an answer are as they should be, and were compared."""
    assert len(answer.ids) == len(wanted)
    for place, (id, logprob, token) in enumerate(zip(answer.ids, answer.logprobs, wanted, strict=True)):
        if id != token.id:
            assert token.lead <= 2 * tolerance, f"token {place} is {id}, expected {token}"
            return place
        assert logprob == pytest.approx(token.logprob, abs=tolerance)
    return len(wanted)
