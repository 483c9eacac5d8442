"""Pieces of tensors, shares of batches and what is computed again: all of it without a second process."""

from __future__ import annotations

from itertools import product
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.training.tiny import make_model, make_windows

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import write_json
from modelwright.base.schema import IGNORE, Batch
from modelwright.base.world import World, place
from modelwright.kernels import native
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Example, Pairs
from modelwright.training.compute import ComputeConfig
from modelwright.training.layout import Layout, Piece, ShardedLayout, whole_piece
from modelwright.training.parallel import Box, _piece, choose_box
from modelwright.training.pieces import INDEX, load_pieces
from modelwright.training.recompute import recompute
from modelwright.training.spread import deal


class Rows:
    """Micro-batches whose rows are numbered."""

    def __init__(self, rows: int, unit: int) -> None:
        self.rows, self.unit = rows, unit

    def __getitem__(self, index: int) -> Batch:
        ids = torch.arange(index * self.rows, (index + 1) * self.rows)[:, None]
        return Batch(ids=ids, targets=ids, extra={"number": ids[:, 0]}, unit=self.unit)


@given(micro=st.integers(1, 6), units=st.integers(1, 7), unit=st.sampled_from([1, 2]), of=st.integers(1, 9))
def test_every_row_is_dealt_out_once_and_units_stay_together(micro, units, unit, of):
    rows = units * unit
    dealt = [deal(Rows(rows, unit), range(micro), place, of) for place in range(of)]
    assert len({len(shares) for shares in dealt}) == 1, "every process runs equally often"
    counted = [share.batch for shares in dealt for share in shares if share.counts]
    assert sorted(torch.cat([b.ids[:, 0] for b in counted]).tolist()) == list(range(micro * rows))
    for share in (share for shares in dealt for share in shares):
        numbers = share.batch.extra["number"].tolist()
        assert numbers and len(numbers) % unit == 0
        assert all(first % unit == 0 for first in numbers[::unit])


def test_pairs_say_that_two_rows_belong_together():
    example = Example([1, 2, 3], [False, True, True])
    batch = Pairs([(example, example)] * 3, size=3, seed=0, padding=0, reference_logps=torch.arange(6.0))[0]
    assert (batch.unit, batch.units) == (2, 3)
    part = batch.part(1, 3)
    assert part.ids.shape[0] == 4
    assert part.extra["reference_logps"].tolist() == batch.extra["reference_logps"].tolist()[2:]
    assert part.to("cpu").unit == 2


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20)),
    shards=st.integers(1, 5),
    tensor=st.sampled_from([1, 2, 3, 4]),
    cut=st.sampled_from([None, 0, 1]),
)
def test_pieces_cover_a_parameter_once_for_each_copy(shape, shards, tensor, cut):
    box = Box(1, shards, tensor)
    counted = torch.zeros(shape)
    for at in range(box.held_by):
        counted[_piece(shape, cut, box, at).slices] += 1
    assert (counted == (tensor if cut is None else 1)).all()


def shapes_of(whole: torch.Tensor, box: Box, cut: int | None) -> list[ShardedLayout]:
    pieces = [{"w": _piece(tuple(whole.shape), cut, box, at)} for at in range(box.held_by)]
    group = object()
    return [ShardedLayout({"w": tuple(whole.shape)}, pieces, group, at) for at in range(box.held_by)]  # type: ignore[arg-type]


def write_in_pieces(folder, whole: torch.Tensor, layouts: list[ShardedLayout]) -> None:
    entries = []
    for at, layout in enumerate(layouts):
        if layout.is_keeper("w"):
            piece = layout.pieces[at]["w"]
            name = f"model-{at:05d}.safetensors"
            save_file({"w": whole[piece.slices].contiguous()}, folder / name)
            box = {"offset": piece.offset, "shape": piece.shape}
            entries.append({"file": name, "shape": tuple(whole.shape), "piece": box})
    write_json(folder / INDEX, {"model": {"w": entries}})


@given(
    lead=st.lists(st.integers(1, 5), max_size=1),
    size=st.tuples(st.integers(1, 9), st.integers(1, 4)),
    shards=st.integers(1, 5),
    tensor=st.sampled_from([1, 2, 4]),
    cut=st.sampled_from([None, 0, 1]),
    axis=st.sampled_from([-1, -2]),
)
def test_mean_squares_are_those_of_the_whole_however_it_is_cut(lead, size, shards, tensor, cut, axis):
    whole = torch.randn(*lead, size[0] * 4, size[1] * 4)
    expected = Layout().mean_squares(["w"], [whole], axis)
    box = Box(1, shards, tensor)
    layouts = shapes_of(whole, box, None if lead else cut)
    pieces = [whole[layout.pieces[at]["w"].slices] for at, layout in enumerate(layouts)]
    with patch.object(dist, "all_reduce"):  # the sum is taken here
        parts = [
            layout.mean_squares(["w"], [piece], axis) for layout, piece in zip(layouts, pieces, strict=True)
        ]
    torch.testing.assert_close(torch.stack(parts).sum(0), expected)
    for layout, piece in zip(layouts, pieces, strict=True):
        beside = layout.beside("w", expected[0], axis)
        assert (piece * beside.unsqueeze(axis)).shape == piece.shape
        own = (whole * expected[0].unsqueeze(axis))[layout.pieces[layout.rank]["w"].slices]
        assert torch.equal(piece * beside.unsqueeze(axis), own)


@pytest.mark.parametrize("cut", [None, 0, 1])
def test_pieces_written_by_some_are_read_by_others(cut, tmp_path):
    whole = torch.arange(12.0 * 8).view(12, 8)
    boxes = [Box(1, 1, 1), Box(1, 5, 1), Box(1, 2, 2), Box(1, 3, 4)]
    for number, (writer, reader) in enumerate(product(boxes, boxes)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_in_pieces(folder, whole, shapes_of(whole, writer, cut))
        assert torch.equal(load_pieces(folder, "model", Layout())["w"], whole)
        for at, layout in enumerate(shapes_of(whole, reader, cut)):
            assert torch.equal(
                load_pieces(folder, "model", layout)["w"], whole[layout.pieces[at]["w"].slices]
            )


def test_a_missing_piece_is_damage(tmp_path):
    whole = torch.arange(8.0).view(4, 2)
    write_in_pieces(tmp_path, whole, shapes_of(whole, Box(1, 2, 1), None)[:1])
    with pytest.raises(DamagedFile, match="w"):
        load_pieces(tmp_path, "model", Layout())
    (tmp_path / "model-00000.safetensors").write_bytes(b"torn")
    with pytest.raises(DamagedFile, match="safetensors"):
        load_pieces(tmp_path, "model", Layout())


@pytest.mark.parametrize("kind", ["full", "selective"])
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_computed_again_has_the_same_gradients(kind, every, monkeypatch):
    monkeypatch.setattr(native, "library", lambda dtype: None)  # both passes by the same, plain path
    gradients = []
    for again in (False, True):
        model = make_model()
        if again:
            names = [name for name, _ in model.named_parameters()]
            assert recompute(model.model.layers, kind, every) == 2 // every
            assert names == [name for name, _ in model.named_parameters()]
        batch = make_windows()[0]
        NextToken()(model.on_batch(batch), batch)[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        with torch.no_grad():
            model.on_batch(batch)
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


def kept_bytes(kind: str) -> int:
    """Bytes that the forward pass of a wide model leaves for the backward pass."""
    model = make_model(hidden_size=64, intermediate_size=256, num_hidden_layers=4)
    if kind != "none":
        recompute(model.model.layers, kind)  # type: ignore[arg-type]
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = model.on_batch(make_windows(rows=4)[0])
    assert kept.hidden.requires_grad
    return sum(sizes.values())


def test_full_checkpointing_keeps_less():
    assert kept_bytes("full") < 0.25 * kept_bytes("none")


def test_the_processes_stand_in_a_box():
    machine, many = World(0, 8, 0, 8), World(0, 16, 0, 8)
    assert choose_box(ComputeConfig(), machine) == Box(1, 8, 1)
    assert choose_box(ComputeConfig(), many) == Box(2, 8, 1)
    assert choose_box(ComputeConfig(shard="fsdp"), many) == Box(1, 16, 1)
    assert choose_box(ComputeConfig(shard="none"), many) == Box(16, 1, 1)
    assert choose_box(ComputeConfig(tensor_parallel=4), many) == Box(2, 2, 4)
    with pytest.raises(ConfigError, match="tensor_parallel is 3"):
        choose_box(ComputeConfig(tensor_parallel=3), many)
    with pytest.raises(ConfigError, match="groups of 3"):
        choose_box(ComputeConfig(shard_size=3), many)


def test_who_is_alone_needs_no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert place() == World()
    assert World().tell({"a": 1}) == {"a": 1} and World().gather(3) == [3]
    monkeypatch.setenv("MASTER_ADDR", "host")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="WORLD_SIZE"):
        place()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place().rank == 1 and not place().is_first


def test_a_whole_is_one_piece():
    assert whole_piece((2, 3)).slices == (slice(0, 2), slice(0, 3))
    assert whole_piece(()) == Piece((), ()) and whole_piece(()).numel == 1


def test_rows_without_loss_are_left_to_the_count():
    batch = make_windows()[0]
    masked = Batch(ids=batch.ids, targets=torch.full_like(batch.targets, IGNORE))
    assert NextToken().count(masked.part(0, 1)) == 0
