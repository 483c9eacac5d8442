"""Rows of embedding and head in PEFT's folders: peft judges what we read, and what we write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.test_peft import THEIR_WARNING
from tests.model.test_adapters import IDS, random_adapter

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json, write_json
from modelwright.formats.huggingface import load_model, load_tensors, save_weights
from modelwright.formats.peft import load_adapter, save_adapter
from modelwright.model.adapters import Adapter, AdapterSet
from modelwright.model.rows import EMBEDDING, HEAD, Rows
from modelwright.terminal.merging import merge_adapter
from modelwright.tokenizer.added import add_tokens

SOME = [3, 50, 7]
FORMS: list[dict[str, Any]] = [
    {"trainable_token_indices": SOME},
    {"trainable_token_indices": {"embed_tokens": SOME, "lm_head": SOME}},
    {"trainable_token_indices": {"model.embed_tokens": SOME, "lm_head": [8]}},
    {"trainable_token_indices": {"lm_head": [8, 3]}},
    {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
]


def theirs_of(base: Path, settings: dict[str, Any], rows: int | None = None) -> Any:
    """Their model with an adapter, every part of which says something else."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(4)
    if rows:
        model.resize_token_embeddings(rows)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], init_lora_weights=False, **settings
    )
    made = peft.get_peft_model(model, config).eval()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and "lora" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.filterwarnings(THEIR_WARNING, "ignore::UserWarning")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_we_read_what_peft_writes(
    tiny_model: Callable[..., Path], tmp_path: Path, form: dict[str, Any], tied: bool
) -> None:
    base = tiny_model("qwen3", tie_word_embeddings=tied)
    theirs = theirs_of(base, form)
    theirs.save_pretrained(tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    with torch.inference_mode():
        found = load_model(tmp_path / "merged")(IDS).logits()
        torch.testing.assert_close(found, theirs(IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings(THEIR_WARNING, "ignore::UserWarning")
@pytest.mark.parametrize("form", [{}, {"trainable_token_indices": [400, 401]}], ids=str)
def test_we_read_a_resized_vocabulary_of_peft(
    tiny_model: Callable[..., Path], tmp_path: Path, form: dict[str, Any]
) -> None:
    base, adapter = tiny_model("qwen3"), tmp_path / "adapter"
    size = load_model(base).config.vocab_size
    form = {name: [size, size + 1] for name in form}
    theirs = theirs_of(base, form, rows=size + 2)
    theirs.save_pretrained(adapter)
    with pytest.raises(UserError, match="save the tokenizer that it was trained with"):
        merge_adapter(base, adapter, tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter / name)
    add_tokens(adapter, {"<tool>": False, "<|wish|>": True})
    merge_adapter(base, adapter, tmp_path / "merged")
    with torch.inference_mode():
        found = load_model(tmp_path / "merged")(IDS).logits()
        torch.testing.assert_close(found, theirs(IDS).logits, atol=1e-4, rtol=1e-4)
    add_tokens(adapter, {"<one more>": False})
    with pytest.raises(UserError, match=r"its tokenizer has \d+ tokens, and the model has rows for"):
        merge_adapter(base, adapter, tmp_path / "again")


def with_rows(base: Path, grown: int, whole: bool) -> Adapter:
    """An adapter of ours with rows for tokens that there are, and for `grown` behind the last."""
    model = load_model(base)
    size, width = model.model.embed_tokens.weight.shape
    generator = torch.Generator().manual_seed(6)
    ids = None if whole else torch.tensor([*SOME, *range(size, size + grown)])
    count = size + grown if ids is None else len(ids)
    names = [EMBEDDING] if model.lm_head is None else [EMBEDDING, HEAD]
    rows = {name: Rows(torch.randn(count, width, generator=generator) * 0.2, ids) for name in names}
    return Adapter(random_adapter(model, 1).layers, rows)


@pytest.mark.filterwarnings(THEIR_WARNING, "ignore::UserWarning")
@pytest.mark.parametrize("whole", [False, True], ids=["rows", "all"])
@pytest.mark.parametrize("grown", [0, 2])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_peft_reads_what_we_write(
    tiny_model: Callable[..., Path], tmp_path: Path, tied: bool, grown: int, whole: bool
) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = tiny_model("qwen3", tie_word_embeddings=tied)
    adapter, folder = with_rows(base, grown, whole), tmp_path / "adapter"
    save_adapter(folder, adapter, load_model(base), base=str(base))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    if grown:
        add_tokens(folder, {"<tool>": False, "<|wish|>": True})
    merge_adapter(base, folder, tmp_path / "merged")
    assert load_adapter(folder).rows.keys() >= adapter.rows.keys()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    size = theirs.config.vocab_size
    if grown:
        theirs.resize_token_embeddings(size + grown)
    theirs = peft.PeftModel.from_pretrained(theirs, folder).eval()
    ids = IDS.clone()
    ids[:, ::4] = torch.tensor([SOME[0], size + grown - 1, SOME[1]])
    with torch.inference_mode():
        found = load_model(tmp_path / "merged")(ids).logits()
        torch.testing.assert_close(found, theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_rows_are_for_a_model_of_their_own(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_model("qwen3")
    adapter = with_rows(base, 0, whole=False)
    with pytest.raises(UserError, match=r"merge it into a model of its own \(modelwright merge"):
        AdapterSet(load_model(base)).add("it", adapter)
    save_adapter(tmp_path / "adapter", adapter, load_model(base))
    with pytest.raises(UserError, match="those that there were are lost"):
        merge_adapter(base, tmp_path / "adapter", tmp_path / "out", undo=True)


def test_an_adapter_of_another_vocabulary_is_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base, adapter = tiny_model("qwen3"), tmp_path / "adapter"
    save_adapter(adapter, with_rows(base, 0, whole=True), load_model(base))
    other = tiny_model("qwen3", vocab_size=500)
    with pytest.raises(UserError, match=r"rows for \d+ tokens, and the model has 500"):
        merge_adapter(other, adapter, tmp_path / "merged")
    content = read_json(base / "tokenizer.json")
    first, second = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)[:2]
    content["model"]["vocab"] |= {first: 1, second: 0}
    write_json(adapter / "tokenizer.json", content)
    with pytest.raises(UserError, match="made for another vocabulary"):
        merge_adapter(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"trainable_token_indices": [3, 3, 7]}, "no ids that differ"),
        ({"trainable_token_indices": [-1, 3, 7]}, "no ids that differ"),
        ({"trainable_token_indices": [2**31, 3, 7]}, "no ids that differ"),
        ({"trainable_token_indices": [3, 7, 2**70]}, "no ids that differ"),
        ({"trainable_token_indices": ["a"]}, "no ids that differ"),
        ({"trainable_token_indices": {"embed_tokens": 3}}, "no ids that differ"),
        (
            {"trainable_token_indices": [3, 7]},
            "names 2 tokens .* there are rows for 3",
        ),
        ({"trainable_token_indices": None}, "names 0 tokens"),
        ({"trainable_token_indices": {"wte": [3, 50, 7]}}, "trains wte"),
        ({"modules_to_save": ["norm"]}, "trains norm"),
        ({"modules_to_save": "all"}, "expected a list"),
        ({"modules_to_save": ["lm_head"], "trainable_token_indices": [3, 50, 7]}, "rows are missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_do_not_fit_are_refused(
    tiny_model: Callable[..., Path], tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    base = tiny_model("qwen3")
    save_adapter(tmp_path, with_rows(base, 0, whole=False), load_model(base))
    write_json(tmp_path / "adapter_config.json", {**read_json(tmp_path / "adapter_config.json"), **setting})
    with pytest.raises((UserError, DamagedFile), match=message):
        load_adapter(tmp_path)


def test_rows_that_are_missing_or_no_matrix_are_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model("qwen3")
    save_adapter(tmp_path, with_rows(base, 0, whole=False), load_model(base))
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_tensors(file)
    (name,) = [each for each in tensors if "trainable_tokens" in each]
    save_weights(file, tensors | {name: tensors[name][0]})
    with pytest.raises(DamagedFile, match="are no matrix"):
        load_adapter(tmp_path)
    del tensors[name]
    save_weights(file, tensors)
    with pytest.raises(DamagedFile, match="rows are missing"):
        load_adapter(tmp_path)
