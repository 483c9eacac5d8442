"""The compiled step against the model as it is, and against itself: alone, in a crowd, at once, in pieces."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling
from modelwright.compression.quantize import quantize
from modelwright.inference import packing
from modelwright.inference.compiled import CompiledRunner, serves
from modelwright.inference.engine import Engine
from modelwright.inference.runner import Piece, PlainRunner
from modelwright.kernels import decoder
from modelwright.model.adapters import Adaptable, Adapter, AdapterSet, LowRank, adaptable_layers
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.layers import Linear, RMSNorm
from modelwright.model.quantized import Scheme
from modelwright.model.transformer import Transformer

pytestmark = pytest.mark.skipif(decoder.library() is None, reason="no compiler: there is only the plain path")

GREEDY = Sampling(max_tokens=6)
SHAPES = {
    "qwen3": {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32},
    "llama": {"hidden_size": 48, "intermediate_size": 100, "head_dim": 12, "tie_word_embeddings": False},
    "qwen2": {"hidden_size": 96, "intermediate_size": 130, "head_dim": 64},
    "qwen3_moe": {
        **{"hidden_size": 64, "intermediate_size": 96, "head_dim": 32},
        **{"num_experts": 37, "num_experts_per_tok": 3, "moe_intermediate_size": 96, "mlp_only_layers": (1,)},
    },
    "qwen3_moe, odd": {
        **{"hidden_size": 48, "intermediate_size": 100, "head_dim": 12, "decoder_sparse_step": 2},
        **{"num_experts": 5, "num_experts_per_tok": 5, "moe_intermediate_size": 40, "norm_topk_prob": False},
    },
}


@cache
def model_of(architecture: str, dtype: torch.dtype) -> Transformer:
    config = ModelConfig(
        architecture=architecture.partition(",")[0],  # type: ignore[arg-type]
        vocab_size=333,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        **SHAPES[architecture],  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    model = Transformer(config, dtype)
    initialize(model, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than at first, so that attention is sharp; norms and biases off their first values.
            parameter.mul_(2) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
            parameter.copy_(parameter.to(dtype))
    return model.eval()


@pytest.fixture(params=["matrix unit", "vectors"])
def unit(request: pytest.FixtureRequest) -> Iterator[str]:
    """bf16 goes through the matrix unit, where there is one, and without it."""
    library = decoder.library()
    assert library is not None
    if not library.prepare(request.param == "matrix unit") and request.param == "matrix unit":
        pytest.skip("this processor has no matrix unit")
    yield request.param
    library.prepare(1)


def ids_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, 333, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def errors(model: Transformer, runner: PlainRunner | CompiledRunner) -> torch.Tensor:
    """How far a runner's logits are from those of the model in fp32: read at once, and then decoded."""
    exact = Transformer(model.config, torch.float32)
    exact.load_state_dict(model.state_dict())
    first, second = ids_of(70, 1), ids_of(41, 2)
    got = [
        runner.logits([Piece(first, 0, [3, 5, 7], 70), Piece(second[:33], 0, [2, 9], 1)])[:70],
        runner.logits([Piece([8], 70, [3, 5, 7], 1), Piece(second[33:], 33, [2, 9], 8)]),
    ]
    whole = exact(torch.tensor([[*first, 8]])).logits()[0]
    rest = exact(torch.tensor([second])).logits()[0, 33:]
    return torch.cat(got) - torch.cat([whole[:70], whole[70:], rest])


@pytest.mark.parametrize("architecture", SHAPES)
def test_fp32_equals_the_model(architecture: str):
    model = model_of(architecture, torch.float32)
    assert errors(model, CompiledRunner(model, 12)).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", SHAPES)
def test_bf16_is_nearer_to_fp32_than_the_plain_model(architecture: str, unit: str):
    model = model_of(architecture, torch.bfloat16)
    compiled = errors(model, CompiledRunner(model, 12)).square().mean().sqrt()
    plain = errors(model, PlainRunner(model, 12)).square().mean().sqrt()
    assert compiled < 1.05 * plain and compiled < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_equal_the_plain_layers(dtype: torch.dtype, unit: str):
    whole = model_of("qwen2", dtype)
    model = quantize(whole, kept_dtype=dtype)
    first = [Piece(ids_of(70, 1), 0, [3, 5, 7], 70)]
    plain, compiled = PlainRunner(model, 12).logits(first), CompiledRunner(model, 12).logits(first)
    assert (plain - compiled).square().mean().sqrt() < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_eight_bit_cache_is_off_by_its_rounding_only(dtype: torch.dtype, unit: str):
    model = model_of("qwen3", dtype)
    pieces = [Piece(ids_of(70, 1), 0, [3, 5, 7], 70)]
    exact = CompiledRunner(model, 12).logits(pieces)
    compiled = CompiledRunner(model, 12, "int8").logits(pieces)
    plain = PlainRunner(model, 12, "int8").logits(pieces)
    assert (compiled - exact).square().mean().sqrt() < 0.02
    if dtype == torch.float32:
        assert (compiled - plain).square().mean().sqrt() < 2e-3  # a level at a midpoint may round either way


@pytest.mark.parametrize("cache", ["auto", "int8"])
@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16 in 8 bits", "fp32 in 4 bits", "bf16 in 4 bits"])
@given(cuts=st.lists(st.integers(1, 99), max_size=6, unique=True), others=st.integers(0, 9))
@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the unit is the same for all
def test_the_same_bits_alone_in_a_crowd_whole_or_in_pieces(
    architecture: str, weights: str, cache: str, unit: str, cuts: list[int], others: int
):
    model = weighted(architecture, weights)
    ids = ids_of(100, 5)
    runner = CompiledRunner(model, 60, cache)
    whole = runner.logits([Piece(ids, 0, [1, 2, 4, 6], 100)])
    runner.clear()
    parts: list[torch.Tensor] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 100], strict=True):
        crowd = [Piece(ids_of(1 + 7 * n, n), 0, [8 + 4 * n, 9 + 4 * n, 10 + 4 * n], 1) for n in range(others)]
        found = runner.logits([*crowd, Piece(ids[start:end], start, [6, 1, 2, 4], end - start)])
        parts.append(found[others:])
    assert torch.equal(torch.cat(parts), whole)


@cache
def weighted(architecture: str, weights: str) -> Transformer:
    dtype, _, rounded = weights.partition(" in ")
    model = model_of(architecture, {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    return quantize(model, Scheme(bits=int(rounded[0])), model.compute_dtype).eval() if rounded else model


@pytest.mark.parametrize("kind", ["auto", "int8"])
@pytest.mark.parametrize("use_compiled", [True, False])
def test_broken_weights_leave_nothing_in_the_cache(tokenizer, kind, use_compiled):  # type: ignore[no-untyped-def]
    """A number that is none, in a block that somebody takes over, would reach his answer as 0 x NaN."""
    model = copy.deepcopy(model_of("qwen3", torch.float32))
    good = copy.deepcopy(model.state_dict())
    bad = {name: tensor * torch.inf for name, tensor in good.items()}
    made = dict(cache=kind, use_compiled=use_compiled, stop_ids=())
    engine, fresh = Engine(model, tokenizer, **made), Engine(copy.deepcopy(model), tokenizer, **made)
    engine.update_weights(bad, version=1)
    with pytest.raises(UserError, match="not finite"):
        engine.sample([ids_of(90, 1)], Sampling(max_tokens=3))
    for read in (engine.score, engine.embed):
        with pytest.raises(UserError, match="not finite"):
            read([ids_of(90, 2)])
    engine.update_weights(good, version=2)
    asked = [ids_of(20, 3)], Sampling(max_tokens=3)
    assert engine.sample(*asked)[0].logprobs == fresh.sample(*asked)[0].logprobs
    assert engine.score([ids_of(20, 4)]) == fresh.score([ids_of(20, 4)])


def test_numbers_that_are_none_are_seen_behind_an_eight_bit_head(tokenizer):  # type: ignore[no-untyped-def]
    model = copy.deepcopy(model_of("qwen3", torch.bfloat16))
    with torch.no_grad():
        model.model.layers[1].get_submodule("mlp.down_proj").weight[3, 3] = torch.nan  # type: ignore[index]
    engine = Engine(model, tokenizer, stop_ids=(), head="int8")
    with pytest.raises(UserError, match="not finite"):
        engine.sample([ids_of(9, 1)], Sampling(max_tokens=3))


STARVED = """
import resource, torch
from modelwright.inference.compiled import CompiledRunner
from modelwright.inference.runner import Piece
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer

torch.set_num_threads(1)
model = Transformer(ModelConfig(architecture="qwen3", vocab_size=99, hidden_size=64, intermediate_size=96,
    num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
    max_position_embeddings=128))
runner = CompiledRunner(model, 8)
one, many = [Piece([1], 0, [0], 1)], [Piece(list(range(96)), 0, [1, 2, 3], 1)] * 800
before = runner.logits(one).clone()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**23, resource.RLIM_INFINITY))
try:
    runner.logits(many)
except MemoryError:
    print("no memory for many")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert torch.equal(runner.logits(one), before)
"""


def test_a_step_without_memory_costs_later_ones_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no memory for many\n"), done.stderr


@pytest.mark.parametrize("use_compiled", [True, False])
def test_a_text_that_breaks_costs_later_ones_nothing(tokenizer, use_compiled):  # type: ignore[no-untyped-def]
    model = copy.deepcopy(model_of("llama", torch.float32))
    bad, clean = 7, [1, 2, 3, 4]
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    engine = Engine(model, tokenizer, stop_ids=(), use_compiled=use_compiled)
    before = engine.score([clean]), engine.embed([clean])
    for read in (engine.score, engine.embed):
        with pytest.raises(UserError, match="not finite"):
            read([[*clean, bad, *clean]])
        assert engine.score([clean]) == before[0] and torch.equal(engine.embed([clean]), before[1])


def test_new_weights_are_taken(tokenizer):  # type: ignore[no-untyped-def]
    old, new = (copy.deepcopy(model_of("qwen3", torch.float32)) for _ in range(2))
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    engine = Engine(old, tokenizer, stop_ids=())
    sequence = ids_of(80, 3)
    before = engine.score([sequence])
    engine.update_weights(new.state_dict(), version=2)
    assert engine.is_compiled and engine.score([sequence]) != before
    assert engine.score([sequence])[0] == pytest.approx(Engine(new, tokenizer).score([sequence])[0], abs=1e-6)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen3_moe"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16 in 8 bits"])
def test_an_owned_model_has_its_weights_once(tokenizer, architecture, weights):  # type: ignore[no-untyped-def]
    whole, owned = (copy.deepcopy(weighted(architecture, weights)) for _ in range(2))
    engines = [Engine(model, tokenizer, stop_ids=(), owns_model=model is owned) for model in (whole, owned)]
    assert not any(each.is_meta for each in whole.state_dict().values())
    assert all(each.is_meta for each in owned.state_dict().values())
    with pytest.raises(RuntimeError, match="ask the engine"):
        owned(torch.tensor([[3, 4]]))

    def same(sampling: Sampling = GREEDY) -> bool:
        found = [engine.sample([ids_of(70, 1)], sampling)[0] for engine in engines]
        return found[0].ids == found[1].ids and found[0].logprobs == found[1].logprobs

    assert same()
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    state["model.norm.weight"] *= 1.5
    for engine in engines:
        engine.update_weights(state, version=1)
        engine.add_adapter("voice", adapter_of(whole, 1, 4))
    assert same() and same(replace(GREEDY, adapter="voice"))
    assert all(each.is_meta for each in owned.state_dict().values())
    with pytest.raises(UserError, match="let go"):
        engines[1].add_adapter("lengths", adapter_of(whole, 1, 4, dora=True))


def test_what_has_no_compiled_path_takes_the_plain_one(tokenizer, caplog, monkeypatch):  # type: ignore[no-untyped-def]
    model = model_of("qwen3", torch.float32)
    assert serves(model) and not Engine(model, tokenizer, use_compiled=False).is_compiled
    assert not serves(Transformer(model.config, torch.float16))
    assert not caplog.messages
    other = copy.deepcopy(model)
    other.model.norm = type("SlowNorm", (RMSNorm,), {})(64, 1e-6)
    assert not Engine(other, tokenizer).is_compiled and "does not know SlowNorm" in caplog.messages[-1]
    monkeypatch.setattr(packing, "SETTINGS", packing.SETTINGS - {"sliding_window"})
    assert serves(model)
    other = copy.deepcopy(model)
    other.config = model.config.model_copy(update={"sliding_window": 3})
    assert not serves(other) and "does not know sliding_window 3" in caplog.messages[-1]
    other.config = model.config.model_copy(update={"architecture": "other"})
    assert not serves(other) and "architecture other" in caplog.messages[-1]


def test_biases_anywhere_are_added():
    model = copy.deepcopy(model_of("llama", torch.float32))
    torch.manual_seed(6)
    for layer in model.model.layers.modules():
        if isinstance(layer, Linear) and layer.out_features != 24:  # all but keys and values
            layer.bias = torch.nn.Parameter(0.3 * torch.randn(layer.out_features))
    pieces = [Piece(ids_of(70, 1), 0, [3, 5, 7], 70)]
    compiled, plain = CompiledRunner(model, 12).logits(pieces), PlainRunner(model, 12).logits(pieces)
    assert torch.allclose(compiled, plain, atol=2e-5)
    assert not torch.allclose(
        plain, PlainRunner(model_of("llama", torch.float32), 12).logits(pieces), atol=1e-2
    )


def test_rotations_are_the_models_own():
    model = copy.deepcopy(model_of("qwen3", torch.float32))
    rotations = model.model.rope

    class Stretched(torch.nn.Module):
        def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
            cosine, sine = rotations(positions.float() / 4, torch.float32)
            return (1.2 * cosine).to(dtype), (1.2 * sine).to(dtype)

    model.model.rope = Stretched()  # type: ignore[assignment]
    assert serves(model)
    pieces = [Piece(ids_of(70, 1), 0, [3, 5, 7], 70)]
    compiled, plain = CompiledRunner(model, 12).logits(pieces), PlainRunner(model, 12).logits(pieces)
    assert torch.allclose(compiled, plain, atol=2e-5)
    assert not torch.allclose(
        plain, PlainRunner(model_of("qwen3", torch.float32), 12).logits(pieces), atol=1e-2
    )


def test_groups_of_more_heads_than_a_pass_has_rows():
    config = replace_heads(model_of("qwen3", torch.float32).config, 40, 2)
    torch.manual_seed(3)
    model = Transformer(config).eval()
    initialize(model, seed=3)
    assert errors(model, CompiledRunner(model, 12)).abs().max() < 1e-5


def replace_heads(config: ModelConfig, heads: int, kv_heads: int) -> ModelConfig:
    return config.model_copy(update={"num_attention_heads": heads, "num_key_value_heads": kv_heads})


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bits_equal_the_plain_layers(dtype: torch.dtype, group: int, unit: str):
    config = model_of("qwen3", dtype).config.model_copy(update={"intermediate_size": 128})
    torch.manual_seed(2)
    whole = Transformer(config, dtype)
    initialize(whole, seed=2)
    model = quantize(whole, Scheme(bits=4, group=group), kept_dtype=dtype).eval()
    pieces = [Piece(ids_of(70, 1), 0, [3, 5, 7], 70)]
    wide = quantize(whole, Scheme(bits=4, group=group), kept_dtype=dtype).eval()
    wide.compute_dtype = torch.float32
    exact_logits = PlainRunner(wide, 12).logits(pieces)
    error = (CompiledRunner(model, 12).logits(pieces) - exact_logits).square().mean().sqrt()
    plain = (PlainRunner(model, 12).logits(pieces) - exact_logits).square().mean().sqrt()
    assert error < (1e-6 if dtype == torch.float32 else 1.05 * plain)


def adapter_of(model: Transformer, seed: int, rank: int, only: str = "", *, dora: bool = False) -> Adapter:
    generator = torch.Generator().manual_seed(seed)

    def low_rank(layer: Adaptable) -> LowRank:
        a = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        b = torch.randn(layer.out_features, rank, generator=generator)
        magnitude = 0.5 + torch.rand(layer.out_features, generator=generator) if dora else None
        return LowRank(a, b, 0.3, magnitude)

    layers = adaptable_layers(model)
    return Adapter({name: low_rank(layer) for name, layer in layers.items() if only in name})


@pytest.mark.parametrize("architecture", SHAPES)
def test_each_row_answers_with_its_own_adapter(architecture: str):
    model = copy.deepcopy(model_of(architecture, torch.float32))
    adapters = AdapterSet(model)
    plain, compiled = (kind(model, 40, adapters=adapters) for kind in (PlainRunner, CompiledRunner))
    adapters.add("all", adapter_of(model, 1, 4))
    adapters.add("queries", adapter_of(model, 2, 40, "q_proj"))
    adapters.add("ups", adapter_of(model, 3, 8, "up_proj"))
    adapters.add("lengths", adapter_of(model, 4, 4, dora=True))
    adapters.add("some lengths", adapter_of(model, 5, 4, "k_proj", dora=True))
    compiled.adapters_changed()
    names = [None, "all", "queries", "ups", "lengths", "some lengths", None]
    pieces = [
        Piece(ids_of(3 + 20 * n, n), 0, [5 * n + k for k in range(5)], 2, adapter=name)
        for n, name in enumerate(names)
    ]
    together = compiled.logits(pieces)
    assert torch.allclose(together, plain.logits(pieces), atol=2e-5)
    alone = torch.cat([compiled.logits([piece]) for piece in pieces])
    assert torch.equal(together, alone)
    bare = CompiledRunner(model_of(architecture, torch.float32), 30)
    assert torch.equal(bare.logits([pieces[0]]), together[:2])


def test_an_adapter_of_the_same_name_is_another_one(tokenizer):  # type: ignore[no-untyped-def]
    model = copy.deepcopy(model_of("qwen3", torch.float32))
    engine = Engine(model, tokenizer, stop_ids=())
    asked = Sampling(max_tokens=4, adapter="voice")
    prompt = ids_of(70, 4)
    engine.add_adapter("voice", adapter_of(model, 1, 4))
    first = engine.sample([prompt], asked)[0]
    engine.remove_adapter("voice")
    engine.add_adapter("voice", adapter_of(model, 5, 4))
    second = engine.sample([prompt], asked)[0]
    fresh = Engine(model, tokenizer, stop_ids=())
    fresh.add_adapter("voice", adapter_of(model, 5, 4))
    assert second.logprobs == fresh.sample([prompt], asked)[0].logprobs != first.logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_in_eight_bits_is_off_by_its_rounding_only(dtype: torch.dtype, unit: str):
    model = model_of("qwen3", dtype)
    pieces = [Piece(ids_of(70, 1), 0, [3, 5, 7], 70)]
    exact = CompiledRunner(model, 12)
    hidden, logits = exact.hidden(pieces), exact.logits(pieces)
    found = CompiledRunner(model, 12, eight_bit_head=True).logits(pieces)
    # Each weight is off by half a level of its row at most.
    bound = hidden.abs().sum(-1, keepdim=True) * model.head.float().abs().amax(-1) / 254
    slack = 1e-4 if dtype == torch.float32 else 0.02 * float(logits.std())
    assert ((found - logits).abs() <= bound + slack).all() and not torch.equal(found, logits)
