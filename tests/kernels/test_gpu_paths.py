"""What GPUs run, as far as a CPU can: the same masks and the same numbers as the plain versions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from modelwright.kernels import cross_entropy, flex
from modelwright.kernels.attention import additive, attend
from modelwright.model.attention import segment_mask

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def documents(lengths: list[int], length: int, padding: int = 0) -> torch.Tensor:
    """(1, length) numbers of documents in order; the last `padding` tokens belong to none."""
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    row = torch.nn.functional.pad(numbers, (0, length), value=len(lengths))[:length]
    row[length - padding :] = -1
    return row[None]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=12),
    st.integers(0, 200),
    st.integers(1, 4),
    st.integers(1, 520),
)
def test_no_pair_is_lost_and_whole_blocks_are_whole(lengths, padding, blocks, window):
    segments = documents(lengths, flex.BLOCK * blocks, min(padding, flex.BLOCK * blocks))
    pairs = segment_mask(segments, window)[0, 0].unflatten(0, (blocks, -1)).unflatten(2, (blocks, -1))
    some, whole = flex.block_table(segments, window)
    assert (some[0, 0] | ~pairs.any(3).any(1)).all(), "a block with a pair in it is looked at"
    assert (pairs.all(3).all(1) | ~whole[0, 0]).all(), "in a whole block every pair is looked at"
    assert (some | ~whole).all()


def test_of_documents_in_order_the_blocks_are_torch_s_own():
    segments = torch.cat([documents([100, 300, 20, 500], 1024), documents([1024], 1024)])

    def may_see(row, head, query, key):
        return (query >= key) & (segments[row, query] == segments[row, key])

    wanted = create_block_mask(may_see, 2, None, 1024, 1024, device="cpu")
    ours = flex.block_mask(segments)
    assert torch.equal(ours.to_dense(), wanted.to_dense())
    assert torch.equal(ours.full_kv_num_blocks, wanted.full_kv_num_blocks)


@pytest.mark.parametrize("window", [1, 2, 127, 128, 129, 256, 300, 1024])
def test_of_windows_too(window):
    def may_see(row, head, query, key):
        return (query >= key) & (query - key < window)

    wanted = create_block_mask(may_see, 1, None, 1024, 1024, device="cpu")
    ours = flex.block_mask(torch.zeros(1, 1024, dtype=torch.int64), window)
    assert torch.equal(ours.to_dense(), wanted.to_dense())
    assert torch.equal(ours.full_kv_num_blocks, wanted.full_kv_num_blocks)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("heads", [2, 4])
def test_documents_by_blocks_attend_as_by_an_added_mask(heads, window):
    segments = torch.cat([documents([100, 30, 80], 256), documents([3, 250], 256, padding=3)])
    q, k, v = random(2, heads, 256, 16), random(2, 2, 256, 16, seed=1), random(2, 2, 256, 16, seed=2)
    with torch.no_grad():
        ours = attend(q, k, v, flex.block_mask(segments, window), causal=False)
        plain = attend(q, k, v, additive(segment_mask(segments, window), q.dtype), causal=False)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_a_cpu_adds_masks():
    assert not flex.usable(documents([128], 128))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [None, torch.tensor(-1.0), random(9, seed=3)])
@pytest.mark.parametrize("z", [0.0, 0.1])
def test_the_one_pass_cross_entropy_is_the_plain_one(dtype, weights, z, monkeypatch):
    monkeypatch.setattr(cross_entropy.native, "usable", lambda *tensors: False)
    logits, targets = (5 * random(9, 33)).to(dtype), torch.arange(9) * 3
    ours, plain = logits.clone(), logits.clone()
    found, normalizers = cross_entropy.one_pass(ours, targets, weights, z)
    wanted, expected = cross_entropy._logprobs(plain, targets, weights, z)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (normalizers is None) == (expected is None) == (z == 0.0)
    if normalizers is not None:
        torch.testing.assert_close(normalizers, expected)
    torch.testing.assert_close(ours, plain, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


@given(st.integers(1, 300_000), st.integers(1, 200), st.booleans())
def test_a_chunk_of_logits_has_its_share_of_a_gpu_s_memory(words, gib, fused):
    chunk = cross_entropy.chunk_size(words, gib * 2.0**30, fused=fused)
    room = min(2**29, gib * 2**30 / 64) / (1 if fused else cross_entropy.COPIES)
    assert chunk == cross_entropy.CHUNK or room - 2 * words <= 2 * chunk * words <= room


def test_the_loss_asks_for_the_size_of_its_chunks(monkeypatch):
    """A GPU's memory and its compiler decide, and a head that is shared out counts its own words."""
    hidden, head = random(4, 8), torch.empty(50_304, 8)
    assert cross_entropy.memory_of(hidden.device) == 0.0
    monkeypatch.setattr(cross_entropy, "memory_of", lambda device: 80e9)
    for compiler, size in ((True, 5336), (False, 667)):
        monkeypatch.setattr(cross_entropy, "can_compile_for_gpu", lambda compiler=compiler: compiler)
        assert cross_entropy._chunk(hidden, head, None) == size
    monkeypatch.setattr(cross_entropy, "memory_of", lambda device: 8 * 2.0**30)
    monkeypatch.setattr(cross_entropy, "can_compile_for_gpu", lambda: True)
    assert cross_entropy._chunk(hidden, head, None) * len(head) * 2 <= 2**27


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("heads", [2, 4])
def test_on_a_gpu_gradients_are_those_of_the_added_mask(heads):
    segments = documents([300, 100, 112], 512).cuda()
    assert flex.usable(segments)
    shapes = (1, heads, 512, 64), (1, 2, 512, 64), (1, 2, 512, 64)
    inputs = [random(*shape, seed=i).cuda().requires_grad_() for i, shape in enumerate(shapes)]
    ours = attend(*inputs, flex.block_mask(segments), causal=False)
    plain = attend(*inputs, additive(segment_mask(segments), torch.float32), causal=False)
    torch.testing.assert_close(ours, plain, rtol=5e-3, atol=5e-3)
    got, wanted = (torch.autograd.grad(out.square().sum(), inputs) for out in (ours, plain))
    torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("weights", [None, torch.tensor(-1.0), random(40)])
def test_the_one_pass_is_compiled_once_for_all_rows_and_knows_the_words(weights):
    shapes = []

    def look(graph, inputs):
        given = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
        shapes.extend(each.shape for each in given if isinstance(each, torch.Tensor) and each.ndim == 2)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(cross_entropy.one_pass, backend=look)
    for rows in (40, 8, 23):
        logits, targets = random(rows, 33), torch.arange(rows) % 33
        factors = weights if weights is None or not weights.ndim else weights[:rows]
        found, _ = compiled(*cross_entropy.of_any_rows(logits.clone(), targets, factors, 0.0))
        torch.testing.assert_close(found, logits.log_softmax(-1)[torch.arange(rows), targets])
    assert len(shapes) == 1, "one program"
    assert isinstance(shapes[0][0], torch.SymInt) and type(shapes[0][1]) is int


@pytest.mark.gpu
@on_gpu
def test_on_a_gpu_cross_entropy_is_the_reference():
    hidden, head = random(3000, 64).cuda().requires_grad_(), random(500, 64, seed=1).cuda().requires_grad_()
    targets = torch.arange(3000).cuda() % 500
    ours = cross_entropy.linear_cross_entropy(hidden, head, targets)
    plain = -cross_entropy.reference_logprobs(hidden, head, targets).sum()
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-2)
    for a, b in zip(*(torch.autograd.grad(out, (hidden, head)) for out in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_one_compiled_graph_serves_all_packings():
    """Each micro-batch has a mask of its own: compiling for each would never end."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    attended = torch.compile(
        lambda q, mask: attend(q, q, q, mask, causal=False), backend=count, dynamic=False
    )
    q = random(1, 2, 256, 16)
    with torch.no_grad():
        for lengths in ([100, 30, 80], [256], [3, 250]):
            mask = flex.block_mask(documents(lengths, 256))
            plain = attend(q, q, q, additive(segment_mask(documents(lengths, 256)), q.dtype), causal=False)
            torch.testing.assert_close(attended(q, mask), plain, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1
