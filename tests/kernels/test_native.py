"""The compiled kernels: they agree with the plain versions, and where they cannot be built nothing breaks."""

from __future__ import annotations

import math
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from tests import children

from modelwright.kernels import attention, cross_entropy, native, rms_norm, rotary, swiglu
from modelwright.model.attention import segment_mask

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def needs_a_compiler(request: pytest.FixtureRequest):
    falls_back = request.node.name.startswith(("test_a_broken_compiler", "test_switched_off"))
    if not falls_back and native.library(torch.float32) is None:
        pytest.skip("no C++ compiler here")


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference over the norm of the exact."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())


def gradients(function, inputs, upstream):
    """(output, gradients) of function(*inputs), all as fp64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    return [x.double() for x in (out, *torch.autograd.grad(out, leaves, upstream.to(out.dtype)))]


def agree(fast, plain, inputs, dtype):
    """Forward and backward of `fast` in `dtype` against `plain` in fp64."""
    upstream = plain(*[x.double() for x in inputs]).detach()
    upstream = draw(*upstream.shape, seed=9)
    exact = gradients(plain, [x.double() for x in inputs], upstream)
    found = gradients(fast, [x.to(dtype) for x in inputs], upstream)
    allowed = 2e-6 if dtype == torch.float32 else 8e-3  # bf16 keeps 8 bits: half a unit is 2^-9
    for a, b in zip(found, exact, strict=True):
        assert error(a, b) <= allowed


@BOTH
@pytest.mark.parametrize("shape", [(1, 8), (3, 5, 64), (700, 33)])
def test_rms_norm(shape, dtype):
    weight = draw(shape[-1], seed=1)

    def fast(x):
        return rms_norm.rms_norm(x, weight, 1e-6)

    def plain(x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    agree(fast, plain, [draw(*shape)], dtype)
    x = draw(*shape).to(dtype)
    slope = draw(*shape, seed=2).to(dtype)
    learned = weight.clone().requires_grad_()
    (found,) = torch.autograd.grad(rms_norm.rms_norm(x, learned, 1e-6), learned, slope)
    exact = weight.double().requires_grad_()
    wide = x.double()
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    (wanted,) = torch.autograd.grad(normal * exact, exact, slope.double())
    assert error(found, wanted) < 1e-5


@BOTH
def test_swiglu(dtype):
    agree(swiglu.swiglu, swiglu.reference, [draw(5, 7, 19, scale=4), draw(5, 7, 19, seed=1)], dtype)


def test_swiglu_far_from_zero():
    gate = torch.tensor([-1e4, -200.0, -88.0, 88.0, 200.0, 1e4])
    found = swiglu.swiglu(gate, torch.ones(6))
    torch.testing.assert_close(found, torch.nn.functional.silu(gate), atol=1e-30, rtol=1e-6)


@BOTH
def test_rotation_of_what_is_laid_out_by_position(dtype):
    angles = draw(2, 1, 6, 4, seed=1).repeat(1, 1, 1, 2)
    cos, sin = angles.cos(), angles.sin()

    def by_position(turn, x):
        return turn(x.transpose(1, 2), cos.to(x.dtype), sin.to(x.dtype))

    agree(
        lambda x: by_position(rotary.rotate, x),
        lambda x: by_position(rotary.reference, x),
        [draw(2, 6, 3, 8)],
        dtype,
    )


@BOTH
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
def test_attention_with_shared_keys(heads, dtype):
    mask = segment_mask(torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 2, 2, 2, 3]]))
    h, k = heads

    def plain(q, k_, v):
        k_, v = (x.repeat_interleave(h // k, dim=1) for x in (k_, v))
        scores = (q @ k_.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v

    def fast(q, k_, v):
        return attention.explicit(q, k_, v, attention.additive(mask, q.dtype))

    agree(fast, plain, [draw(2, h, 7, 8), draw(2, k, 7, 8, seed=1), draw(2, k, 7, 8, seed=2)], dtype)


def test_one_mask_for_all_sequences():
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    q, k, v = (draw(3, 2, 5, 8, seed=seed).requires_grad_() for seed in range(3))
    found = attention.explicit(q, k, v, attention.additive(mask, q.dtype))
    torch.testing.assert_close(
        found, torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    )


@BOTH
def test_cross_entropy(dtype):
    targets = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(4))
    hidden, head = draw(40, 16), draw(300, 16, seed=1)
    weights = draw(40, seed=2)

    def fast(x, w):
        return cross_entropy.token_logprobs(x, w, targets, 16) * weights

    def plain(x, w):
        return (x @ w.T).log_softmax(-1).gather(1, targets[:, None]).squeeze(1) * weights

    upstream = torch.ones(40)
    exact = gradients(plain, [hidden.double(), head.double()], upstream)
    found = gradients(fast, [hidden.to(dtype), head], upstream)
    for a, b in zip(found, exact, strict=True):
        assert error(a, b) <= (2e-6 if dtype == torch.float32 else 1.5e-2)


def test_large_logits_and_nan_show():
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, math.nan, 1.0]])
    found = torch.empty(2)
    targets = torch.tensor([1, 0])
    native.call("cross_entropy", torch.float32, logits, targets, None, 0, found, None, 0.0, 2, 3)
    assert found[0] == -1e4 and found[1].isnan()
    x = torch.full((4, 8), math.nan, dtype=torch.bfloat16)
    assert rms_norm.rms_norm(x, torch.ones(8), 1e-6).isnan().all()
    assert swiglu.swiglu(x, torch.ones_like(x)).isnan().all()


@pytest.mark.parametrize("rows", [1, 31, 33, 2000])
def test_the_result_does_not_depend_on_the_number_of_threads(rows):
    x, weight, slope = draw(rows, 64), draw(64, seed=1), draw(rows, 64, seed=2)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = weight.clone().requires_grad_()
        out = rms_norm.rms_norm(x, leaf, 1e-6)
        results.append((out.detach(), torch.autograd.grad(out, leaf, slope)[0]))
    torch.set_num_threads(before)
    for out, gradient in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(gradient, results[0][1])


def compute(answer: str, environment: dict[str, str]) -> None:
    """In a process of its own, where nothing has been built or loaded yet."""
    os.environ.update(environment)
    found = native.library(torch.float32) is not None
    Path(answer).write_text(f"{found} {float(swiglu.swiglu(torch.ones(3), torch.ones(3)).sum())}")


def in_a_process(tmp_path: Path, **environment: str) -> str:
    answer, errors = tmp_path / "answer", tmp_path / "errors"
    answer.unlink(missing_ok=True)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
    assert children.run(errors, compute, str(answer), environment) == 0, errors.read_text()
    return answer.read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cache holds the library, built once for all tests that begin with one."""
    folder = tmp_path_factory.mktemp("built")
    in_a_process(folder)
    return folder


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The library in a cache that may be changed."""
    shutil.copytree(built / "cache", tmp_path / "cache")
    (made,) = (tmp_path / "cache/modelwright/kernels").glob("*.so")
    return made


def test_built_once_and_found_again(built):
    (made,) = (built / "cache/modelwright/kernels").glob("*.so")
    before = made.stat().st_mtime_ns
    assert in_a_process(built).startswith("True 2.19")
    assert made.stat().st_mtime_ns == before


VERSION = 'case "$*" in *--version*) echo Free Software Foundation; exit 0;; esac'
NOT_A_LIBRARY = f'{VERSION}; while [ "$1" != -o ]; do shift; done; echo x > "$2"'


@pytest.mark.parametrize("lines", ["exit 1", "echo broken >&2; exit 0", f"{VERSION}; exit 1", NOT_A_LIBRARY])
def test_a_broken_compiler_is_as_good_as_none(tmp_path, lines):
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{lines}\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    assert in_a_process(tmp_path, CXX=str(compiler)).startswith("False 2.19")


def test_a_library_that_was_cut_short_is_built_anew(copied, tmp_path):
    whole = copied.read_bytes()
    copied.write_bytes(whole[:1000])
    assert in_a_process(tmp_path).startswith("True 2.19")
    assert len(copied.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert in_a_process(tmp_path).startswith("False 2.19")


def test_a_folder_that_others_may_write_to_is_not_trusted(copied, tmp_path):
    assert in_a_process(tmp_path).startswith("True 2.19")
    copied.parent.chmod(0o777)
    assert in_a_process(tmp_path).startswith("False 2.19")


def test_a_compiler_of_several_words(tmp_path):
    assert in_a_process(tmp_path, CXX="env g++").startswith("True 2.19")


def test_a_user_without_a_home(monkeypatch):
    def nowhere() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    native.library.cache_clear()
    assert "home directory" in native.describe("cpu", torch.float32)
    monkeypatch.undo()
    native.library.cache_clear()


def test_operands_of_two_types_take_the_plain_path():
    gate, up = draw(4, 8).bfloat16(), draw(4, 8, seed=1)
    torch.testing.assert_close(swiglu.swiglu(gate, up), swiglu.reference(gate, up))
    x, cos = draw(1, 1, 4, 8).bfloat16(), draw(1, 1, 4, 4, seed=1).repeat(1, 1, 1, 2)
    found, plain = rotary.rotate(x, cos, cos), rotary.reference(x, cos, cos)
    torch.testing.assert_close(found, plain, atol=2e-2, rtol=2e-2)
    weight = draw(16, seed=2)[::2]
    torch.testing.assert_close(rms_norm.rms_norm(up, weight, 1), rms_norm.reference(up, weight, 1))


def test_under_autocast_and_another_default_device():
    x = draw(4, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        product = draw(4, 8, seed=1) @ draw(8, 8, seed=2)  # comes out in bf16
        torch.testing.assert_close(swiglu.swiglu(draw(4, 8), product), swiglu.reference(draw(4, 8), product))
    with torch.device("meta"):
        found = rms_norm.rms_norm(x, torch.ones(8, device="cpu"), 1e-6)
    torch.testing.assert_close(found, rms_norm.reference(x, torch.ones(8), 1e-6))


def test_the_log_says_why_not(monkeypatch):
    assert native.describe("cpu", torch.bfloat16) == "compiled C++"
    assert native.describe("cuda", torch.bfloat16) == "plain torch"
    monkeypatch.setenv("MODELWRIGHT_NATIVE", "0")
    native.library.cache_clear()
    assert "switched off" in native.describe("cpu", torch.bfloat16)
    monkeypatch.delenv("MODELWRIGHT_NATIVE")
    native.library.cache_clear()


def test_switched_off(tmp_path):
    assert in_a_process(tmp_path, MODELWRIGHT_NATIVE="0").startswith("False 2.19")
