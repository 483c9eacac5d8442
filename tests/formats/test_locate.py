"""From a path to the model it means."""

from __future__ import annotations

import shutil

import pytest

from modelwright.base.config import Config
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.run import Run
from modelwright.formats.huggingface import load_model
from modelwright.formats.locate import fingerprint, identify, resolve_model


def stage(run, name, role, folder, model, *, finished=True):
    work = Run(run / name, name, role, Config(), 0)
    shutil.copytree(model, work.dir / folder)
    if finished:
        return work.finish([folder])
    work.close()
    return None


@pytest.fixture
def model(tiny_model):
    return tiny_model()


def test_a_model_folder_is_itself(model):
    assert resolve_model(model) == model
    assert identify(model).role == "model" and identify(model).short_id == "no manifest"
    before = fingerprint(model)
    config = model / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert len(before) == 12 and fingerprint(model) != before


def test_a_run_gives_its_most_finished_model(tmp_path, model):
    base = stage(tmp_path, "pretrain", "base", "model", model)
    assert resolve_model(tmp_path) == tmp_path / "pretrain" / "model"
    about = identify(resolve_model(tmp_path))
    assert about.role == "base" and about.id == base.id and not about.chats
    stage(tmp_path, "finetune", "sft", "model", model)
    stage(tmp_path, "align", "aligned", "model", model, finished=False)
    stage(tmp_path, "compress", "quantized", "model", model)
    assert resolve_model(tmp_path) == tmp_path / "finetune" / "model"
    stage(tmp_path, "average", "averaged", "model", model)
    assert resolve_model(tmp_path) == tmp_path / "average" / "model"
    stage(tmp_path, "export", "bundle", "hf", model)
    assert resolve_model(tmp_path) == tmp_path / "export" / "hf"
    assert resolve_model(tmp_path / "compress") == tmp_path / "compress" / "model"
    assert identify(tmp_path / "finetune" / "model").chats


def test_nothing_to_load_is_an_error_that_lists_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"Found: notes\.txt"):
        resolve_model(tmp_path)
    with pytest.raises(UserError, match="a file"):
        resolve_model(tmp_path / "notes.txt")


def test_weights_in_several_files_are_a_model_too(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}'
    )
    assert resolve_model(folder) == folder
    load_model(folder)


def test_a_configuration_that_is_none_is_said(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "model")
    for content, message in (("[]", "no model's configuration"), ("{}", "no model's configuration")):
        (folder / "config.json").write_text(content)
        with pytest.raises(DamagedFile, match=message):
            load_model(folder)
