"""import: a model is taken over as it is, looked at, and never silently anything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import read_json
from modelwright.base.run import Run
from modelwright.formats.card import stated_licence
from modelwright.formats.gguf import About, write_gguf
from modelwright.formats.huggingface import load_config
from modelwright.formats.stored import stored_dtype, weight_files
from modelwright.stages import import_model
from modelwright.stages.import_model import Config

pytest.importorskip("transformers")

from tests.life.outside import write_model


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("outside") / "tiny-llama", tiny_tokenizer)


def take(folder: Path, **settings: object) -> Artifact:
    config = Config.model_validate(settings)
    run = Run(folder, "import", "base", config, 1)
    try:
        return import_model.run(config, run)
    finally:
        run.close()


def test_it_is_taken_over_as_it_is(outside: Path, tmp_path: Path) -> None:
    made = take(tmp_path / "import", model=str(outside), jurisdiction="FR")
    model = made.file("model")
    assert len(weight_files(model)) > 1, "the shards stay shards"
    for file in model.iterdir():
        assert file.read_bytes() == (outside / file.name).read_bytes()
    names = {file.name for file in model.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= names
    assert "modeling_tiny.py" not in names
    assert stored_dtype(model) == torch.bfloat16
    expected = {"family": "llama", "dtype": "bfloat16", "context": 128, "licence": "apache-2.0"}
    expected["template"] = "ours (ChatML)"
    assert expected.items() <= dict(made.metrics).items()
    assert made.metrics["parameters"] == sum(
        t.numel() for f in weight_files(outside) for t in load_file(f).values()
    )
    assert made.manifest.provenance.licences == {"apache-2.0": 1}
    assert made.manifest.provenance.jurisdictions == {"FR": 1}
    assert made.learned_from().keys() == {"models from outside"}


def test_the_log_says_whose_template_it_has_and_the_manifest_which_revision(
    outside: Path, tmp_path: Path
) -> None:
    cached = shutil.copytree(outside, tmp_path / "snapshots" / "0123abcd")
    (cached / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    made = take(tmp_path / "own", model=str(cached))
    assert (made.metrics["template"], made.metrics["revision"]) == ("its own", "0123abcd")
    (cached / "chat_template.jinja").unlink()
    config = json.loads((cached / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (cached / "tokenizer_config.json").write_text(json.dumps(config))
    bare = take(tmp_path / "none", model=str(cached))
    assert (
        bare.metrics["template"].startswith("none")
        and "takes no turns" in (bare.path / "log.txt").read_text()
    )


def test_weights_take_no_room_twice(outside: Path, tmp_path: Path) -> None:
    made = take(tmp_path / "import", model=str(outside))
    for file in weight_files(made.file("model")):
        assert file.stat().st_ino == (outside / file.name).stat().st_ino


def test_a_licence_that_nobody_states_is_said_aloud(outside: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(outside, tmp_path / "bare")
    (bare / "README.md").unlink()
    made = take(tmp_path / "import", model=str(bare))
    assert "WARNING: the licence of this model" in (made.path / "log.txt").read_text()
    assert made.manifest.provenance.licences == {"unknown": 1}
    assert take(tmp_path / "said", model=str(bare), licence="MIT").metrics["licence"] == "MIT"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: llama3.2\n---\n", "llama3.2"),
        ("---\nlicense: [mit]\n---\n", "unknown"),
        ("---\nlicense: other\n---\n", "unknown"),
        ("---\n- a\n---\n", "unknown"),
        ("---\n{a: [\n---\n", "unknown"),
        ("---\ndate: 2024-13-45\n---\n", "unknown"),
        (f"---\na: {'[' * 5_000}\n---\n", "unknown"),
        ("---\na: !!int ''\n---\n", "unknown"),
        ("no front matter", "unknown"),
    ],
)
def test_the_licence_that_a_card_states(card: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert stated_licence(tmp_path) == licence


def test_weights_that_are_no_numbers_are_refused(outside: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(outside, tmp_path / "broken")
    index = read_json(broken / "model.safetensors.index.json")
    file = broken / index["weight_map"]["model.norm.weight"]
    tensors = load_file(file)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * float("nan")}, file)
    with pytest.raises(DamagedFile, match="gives no usable logits"):
        take(tmp_path / "import", model=str(broken))


def test_a_tokenizer_of_another_model_is_refused(outside: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", tiny_tokenizer, num_hidden_layers=1)
    config = json.loads((other / "config.json").read_text())
    tensors = {name: t for f in weight_files(other) for name, t in load_file(f).items()}
    for file in weight_files(other):
        file.unlink()
    (other / "model.safetensors.index.json").unlink()
    small = {
        n: t[:20].clone() if n in ("model.embed_tokens.weight", "lm_head.weight") else t
        for n, t in tensors.items()
    }
    save_file(small, other / "model.safetensors")
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    with pytest.raises(DamagedFile, match="do not belong together"):
        take(tmp_path / "import", model=str(other))


def test_what_cannot_be_a_model_from_outside(outside: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"import\.model is missing"):
        take(tmp_path / "a")
    made = take(tmp_path / "b", model=str(outside))
    deeper = shutil.copytree(made.file("model"), made.path / "bundle" / "model")
    with pytest.raises(UserError, match=r"was made by 'import' of a run"):
        take(tmp_path / "deep", model=str(deeper))
    with pytest.raises(UserError, match=r"was made by 'import' of a run\. Begin with it by --input model="):
        take(tmp_path / "c", model=str(made.file("model")))


def test_a_changed_file_changes_the_mark(outside: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(outside, tmp_path / "copy")
    before = import_model.sources(Config(model=str(copy)))
    assert import_model.sources(Config(model=str(copy))) == before
    (copy / "README.md").write_text("another card")
    assert import_model.sources(Config(model=str(copy))) != before


def test_a_folder_at_home_is_looked_at_as_any_other(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(outside.parent))
    at_home, config = Config(model=f"~/{outside.name}"), Config(model=str(outside))
    assert import_model.sources(at_home) == import_model.sources(config)
    assert at_home.provenance("mit") == config.provenance("mit")


def test_what_the_recipe_states_is_known_before_any_work() -> None:
    stated = import_model.facts(Config(model="org/name", licence="MIT", jurisdiction="NO"))
    assert stated.licences == {"MIT": 1} and stated.jurisdictions == {"NO": 1}
    assert import_model.facts(Config(model="org/name")).documents == 0, "its card will state the licence"


def test_a_gguf_file_is_taken_apart(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("llama")
    write_gguf(folder, tmp_path / "m.gguf", "f16", About(licence="CC0-1.0", name="tiny"))
    cached = tmp_path / "snapshots" / "0123abcd" / "small" / "m.gguf"
    cached.parent.mkdir(parents=True)
    (tmp_path / "m.gguf").rename(cached)
    made = take(tmp_path / "import", model=str(cached))
    assert made.metrics["revision"] == "0123abcd"
    assert made.metrics["family"] == "llama" and made.metrics["dtype"] == "float16"
    assert made.metrics["licence"] == "CC0-1.0"
    assert load_config(made.file("model")) == load_config(folder)


def test_a_name_on_the_hub_is_fetched(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetched(source: str) -> Path:
        asked.append(source)
        return outside

    monkeypatch.setattr(import_model, "resolve", fetched)
    made = take(tmp_path / "import", model="some/tiny@v2")
    assert asked == ["some/tiny@v2"] and made.metrics["source"] == "some/tiny@v2"
