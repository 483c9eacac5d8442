"""A life of stations that do next to nothing: what runs, what is skipped, what resumes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import read_json, write_json
from modelwright.base.progress import PlainView
from modelwright.base.run import Run
from modelwright.life import Life, loading, locked, outside, planning
from modelwright.life.folder import read_mark
from modelwright.recipes.recipe import Recipe, load_recipe

INPUTS: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "tokenize": ("corpus",),
    "pretrain": ("tokens",),
    "finetune": ("tokens", "model"),
    "align": ("tokens", "model"),
    "evaluate": ("models",),
    "average": ("tokens", "model"),
    "compress": ("model",),
    "export": ("model",),
}

OPTIONAL = {"evaluate": ("tokens",), "compress": ("tokens",)}


class Stations:
    """Stand-ins for the stage modules; they note what ran, on which inputs."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.inputs: dict[str, dict[str, str]] = {}
        self.fail_at: str | None = None
        self.empty_handed = False
        self.outside = "one"
        self.lacking: set[str] = set()

    def module(self, verb: str) -> Any:
        class StationConfig(Config):
            steps: int = 1
            model: dict[str, Any] | str = {}

        def run(config: StationConfig, run: Run) -> Artifact:
            self.ran.append(verb)
            self.inputs[verb] = {role: made.stage for role, made in run.inputs.items()}
            if self.empty_handed:
                raise UserError("no luck")
            progress = run.dir / "progress.txt"
            before = progress.read_text() if progress.exists() else ""
            progress.write_text(before + ".")
            if self.fail_at == verb:
                raise UserError("no luck")
            (run.dir / "made.txt").write_text(f"{verb} {config.steps} {run.seed}")
            return run.finish(["made.txt"])

        stage = SimpleNamespace(
            Config=StationConfig, INPUTS=INPUTS.get(verb, ()), OPTIONAL=OPTIONAL.get(verb, ()), run=run
        )

        def check(config: StationConfig) -> None:
            if verb in self.lacking and not Path(str(config.model)).exists():
                raise UserError(f"{verb} lacks something")

        stage.check = check
        if verb == "prepare":
            stage.sources = lambda config: self.outside
        return stage


@pytest.fixture
def stations(monkeypatch: pytest.MonkeyPatch) -> Stations:
    fake = Stations()
    monkeypatch.setattr(loading, "stage_module", fake.module)
    return fake


def live(folder: Path, given: dict[str, Path] | None = None, **recipe: Any) -> list[Artifact]:
    life = Life(Recipe(name="test", **recipe), folder, PlainView(quiet=True), given)
    return life.run(life.between())


def test_a_whole_life_runs_in_order_and_hands_the_right_models_on(tmp_path: Path, stations: Stations) -> None:
    made = live(tmp_path)
    assert stations.ran == list(INPUTS)
    assert [artifact.role for artifact in made][:3] == ["corpus", "tokens", "base"]
    assert stations.inputs["finetune"] == {"tokens": "tokenize", "model": "pretrain"}
    assert stations.inputs["align"]["model"] == "finetune"
    assert stations.inputs["evaluate"] == {
        "tokens": "tokenize",
        "base": "pretrain",
        "sft": "finetune",
        "aligned": "align",
    }
    assert stations.inputs["average"]["model"] == "align"
    assert stations.inputs["compress"]["model"] == "average"
    assert stations.inputs["export"]["model"] == "average"
    assert made[2].manifest.parents[0].id == made[1].id


def test_nothing_runs_twice(tmp_path: Path, stations: Stations) -> None:
    first = live(tmp_path)
    stations.ran.clear()
    again = live(tmp_path)
    assert stations.ran == []
    assert [artifact.id for artifact in again] == [artifact.id for artifact in first]


def test_a_changed_setting_reruns_its_station_and_all_below_and_keeps_the_old(
    tmp_path: Path, stations: Stations
) -> None:
    live(tmp_path)
    stations.ran.clear()
    live(tmp_path, finetune={"steps": 2})
    assert stations.ran == ["finetune", "align", "evaluate", "average", "compress", "export"]
    assert (tmp_path / "replaced" / "finetune-1" / "made.txt").read_text().startswith("finetune 1")
    assert (tmp_path / "finetune" / "made.txt").read_text().startswith("finetune 2")


def test_changed_files_outside_the_run_count_as_a_change(tmp_path: Path, stations: Stations) -> None:
    live(tmp_path)
    stations.ran.clear()
    stations.outside = "two"
    live(tmp_path)
    assert stations.ran[0] == "prepare"


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing", "manifest"])
def test_damaged_files_are_made_anew(
    tmp_path: Path, stations: Stations, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    live(tmp_path)
    file = tmp_path / "tokenize" / "made.txt"
    intact = file.read_text()
    if damage == "manifest":
        (tmp_path / "tokenize" / "manifest.json").write_text("{")
    elif damage == "missing":
        file.unlink()
    else:
        file.write_text("x" * len(intact) if damage == "changed" else "x")
    stations.ran.clear()
    life = Life(Recipe(name="test"), tmp_path, PlainView())
    life.run(life.between())
    assert stations.ran == ["tokenize"]  # its content is the same again, so nothing below has changed
    assert file.read_text() == intact
    assert "damaged" in capsys.readouterr().err


def test_an_interrupted_station_goes_on_in_its_own_folder(tmp_path: Path, stations: Stations) -> None:
    stations.fail_at = "pretrain"
    with pytest.raises(UserError, match="no luck") as caught:
        live(tmp_path)
    assert "same command goes on" in caught.value.__notes__[0]
    assert stations.ran == ["prepare", "tokenize", "pretrain"]
    stations.fail_at = None
    live(tmp_path)
    assert stations.ran[3:] == list(INPUTS)[2:]
    assert (tmp_path / "pretrain" / "progress.txt").read_text() == ".."


def test_unfinished_work_of_other_settings_is_not_gone_on_with(tmp_path: Path, stations: Stations) -> None:
    stations.fail_at = "pretrain"
    with pytest.raises(UserError):
        live(tmp_path)
    stations.fail_at = None
    live(tmp_path, pretrain={"steps": 5})
    assert (tmp_path / "pretrain" / "progress.txt").read_text() == "."
    assert (tmp_path / "replaced" / "pretrain-1" / "progress.txt").read_text() == "."


def test_starts_that_make_nothing_leave_nothing_in_replaced(tmp_path: Path, stations: Stations) -> None:
    live(tmp_path, stages=("prepare", "tokenize"))
    stations.empty_handed = True
    for steps in (2, 3, 4):
        with pytest.raises(UserError):
            live(tmp_path, pretrain={"steps": steps})
        assert (tmp_path / "pretrain" / "started.json").is_file()
    assert not (tmp_path / "replaced").exists()


def test_a_start_that_makes_nothing_gives_the_earlier_result_back(
    tmp_path: Path, stations: Stations, capsys: pytest.CaptureFixture[str]
) -> None:
    made = live(tmp_path)
    stations.empty_handed = True
    for _ in range(2):
        life = Life(Recipe(name="test", pretrain={"steps": 2}), tmp_path, PlainView())
        with pytest.raises(UserError, match="no luck"):
            life.run(["pretrain"])
        assert "the earlier result is back" in capsys.readouterr().err
    assert not (tmp_path / "replaced").exists()
    assert Artifact.load(tmp_path / "pretrain").id == made[2].id
    stations.ran.clear()
    assert live(tmp_path)[2].id == made[2].id and stations.ran == []


KEPT = ("checkpoints/step-00000020/state.json", "metrics.jsonl", "answers.jsonl", "notes", "model/link")


@pytest.mark.parametrize("name", KEPT)
def test_what_a_start_has_made_is_never_lost(tmp_path: Path, stations: Stations, name: str) -> None:
    live(tmp_path, stages=("prepare", "tokenize"))
    stations.empty_handed = True
    with pytest.raises(UserError):
        live(tmp_path, pretrain={"steps": 2})
    file = tmp_path / "pretrain" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("link"):
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_text("{}")
    with pytest.raises(UserError):
        live(tmp_path, pretrain={"steps": 3})
    back = tmp_path / "pretrain" / name  # the second start has made nothing either
    assert back.is_symlink() if name.endswith("link") else back.read_text() == "{}"
    stations.empty_handed = False
    live(tmp_path, pretrain={"steps": 3})
    aside = tmp_path / "replaced" / "pretrain-1" / name
    assert aside.is_symlink() if name.endswith("link") else aside.read_text() == "{}"


def test_when_a_station_began_is_no_part_of_what_it_is_good_for(tmp_path: Path, stations: Stations) -> None:
    stations.fail_at = "pretrain"
    for _ in range(2):
        with pytest.raises(UserError, match="no luck"):
            live(tmp_path)
        started = read_json(tmp_path / "pretrain" / "started.json")
        assert read_mark(tmp_path / "pretrain") == {n: v for n, v in started.items() if n != "began"}
        write_json(tmp_path / "pretrain" / "started.json", started | {"began": "2026-01-01T00:00:00+00:00"})
    assert started["began"] == "2026-01-01T00:00:00+00:00", "what goes on began when it first did"
    assert (tmp_path / "pretrain" / "progress.txt").read_text() == ".."


def test_force_runs_again(tmp_path: Path, stations: Stations) -> None:
    live(tmp_path)
    stations.ran.clear()
    Life(Recipe(name="test"), tmp_path, PlainView(quiet=True)).run(["average"], force=True)
    assert stations.ran == ["average"]


def test_what_is_said_at_the_end_is_what_there_is(
    tmp_path: Path, stations: Stations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "write_report", lambda folder: folder / "report.html")
    life = Life(Recipe(name="test", stages=("prepare", "tokenize")), tmp_path, PlainView())
    life.run(life.between())
    life.finish()
    said = capsys.readouterr().err
    assert "[1/2] prepare" in said and "[2/2] tokenize" in said
    assert "modelwright trace" in said and "prepare/report.html" in said and "modelwright chat" not in said
    life = Life(Recipe(name="test"), tmp_path, PlainView())
    life.run(life.between(until="pretrain"))
    life.finish()
    said = capsys.readouterr().err
    assert "[3/9] pretrain" in said and "modelwright chat" in said


def test_a_missing_input_is_found_before_any_work(tmp_path: Path, stations: Stations) -> None:
    life = Life(Recipe(name="test"), tmp_path, PlainView(quiet=True))
    with pytest.raises(
        UserError, match=r"pretrain needs 'tokens'.*Run 'tokenize' there first.*--input tokens="
    ):
        life.run(["pretrain", "finetune"])
    with pytest.raises(UserError, match="export needs 'model'"):
        life.run(["prepare", "export"])
    assert stations.ran == []


def test_what_is_missing_outside_is_found_before_any_work(tmp_path: Path, stations: Stations) -> None:
    stations.lacking = {"evaluate"}
    with pytest.raises(UserError, match="evaluate lacks something"):
        live(tmp_path / "run", evaluate={"model": str(tmp_path / "absent")})
    assert stations.ran == []
    assert not (tmp_path / "run").exists()
    recipe = Recipe(name="test", evaluate={"model": str(tmp_path / "absent")})
    assert planning.lacks(recipe, tmp_path / "run") == "evaluate lacks something"


def test_what_an_earlier_station_will_make_is_not_missing(tmp_path: Path, stations: Stations) -> None:
    folder = tmp_path / "run"
    stations.lacking = {"evaluate"}
    live(folder, evaluate={"model": str(folder / "finetune" / "made.txt")})
    assert stations.ran == list(INPUTS)
    with pytest.raises(UserError, match="evaluate lacks something"):
        live(tmp_path / "other", evaluate={"model": str(tmp_path / "other" / "export" / "made.txt")})


def test_what_is_finished_needs_nothing_from_outside_any_more(tmp_path: Path, stations: Stations) -> None:
    live(tmp_path)
    stations.lacking = {"finetune"}
    live(tmp_path)
    assert stations.ran == list(INPUTS)


def test_a_failure_before_anything_was_made_leaves_no_folder(tmp_path: Path, stations: Stations) -> None:
    def fail(folder: Path, verb: str) -> None:
        life = Life(Recipe(name="test"), folder, PlainView(quiet=True))
        with pytest.raises(UserError) as error:
            life.run([verb])
        assert not hasattr(error.value, "__notes__")  # nothing is kept, so nothing is said to be

    fail(tmp_path / "runs" / "mine", "pretrain")  # it has no tokens
    assert list(tmp_path.iterdir()) == []
    stations.empty_handed = True
    fail(tmp_path / "runs" / "mine", "prepare")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    fail(tmp_path / "runs", "prepare")  # what was there before stays
    assert (tmp_path / "runs").is_dir()


def test_a_failure_leaves_what_was_made(tmp_path: Path, stations: Stations) -> None:
    stations.fail_at = "tokenize"
    with pytest.raises(UserError) as error:
        live(tmp_path / "mine")
    assert "What was made is kept" in error.value.__notes__[0]
    assert (tmp_path / "mine" / "prepare" / "made.txt").is_file()


def test_a_wrong_setting_is_found_before_any_work(tmp_path: Path, stations: Stations) -> None:
    with pytest.raises(ConfigError, match=r"section 'export'(.|\n)*stepz.*Did you mean 'steps'"):
        live(tmp_path, export={"stepz": 2})
    assert stations.ran == []


@pytest.mark.parametrize(
    ("settings", "teaching"),
    [
        ({"data": {"sources": ["mine/"]}}, "finetune and align"),
        ({"data": {"sources": ["mine/"]}, "align": {"sources": ["pairs.jsonl"]}}, "finetune"),
        ({"data": {"sources": ["mine/"]}, "stages": ("prepare", "tokenize", "pretrain")}, ""),
        ({"data": {"sources": ["mine/", "atlas"]}}, ""),
        ({"stages": ("finetune",)}, ""),
        ({}, ""),
    ],
)
def test_who_gives_own_texts_is_told_what_the_embedded_corpus_still_teaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], teaching: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(PlainView, "log", lambda self, text: said.append(text))
    monkeypatch.setattr(Life, "_station", lambda *_: None)
    monkeypatch.setattr(Life, "_check_inputs", lambda *_: None)
    monkeypatch.setattr(outside, "check", lambda *_, **__: None)
    live(tmp_path, **settings)
    if not teaching:
        assert said == []
        return
    (line,) = said
    assert f"what {teaching} teach comes from the embedded corpus" in line
    assert "modelwright run text" in line and "\n" not in line


def test_inputs_from_another_run(tmp_path: Path, stations: Stations) -> None:
    live(tmp_path / "a")
    given = {"tokens": tmp_path / "a" / "tokenize", "model": tmp_path / "a" / "pretrain"}
    live(tmp_path / "b", given, stages=("finetune", "evaluate"))
    assert stations.inputs["finetune"] == {"tokens": "tokenize", "model": "pretrain"}
    assert stations.inputs["evaluate"] == {"tokens": "tokenize", "base": "pretrain", "sft": "finetune"}


def test_an_input_of_another_role_is_refused(tmp_path: Path, stations: Stations) -> None:
    live(tmp_path / "a")
    for role, verb, expected in (("tokens", "pretrain", "tokens"), ("model", "compress", "base or sft")):
        with pytest.raises(ConfigError, match=rf"--input {role}=.*made by '{verb}'; expected {expected}"):
            live(tmp_path / "b", {role: tmp_path / "a" / verb}, stages=("finetune",))


def test_between(tmp_path: Path) -> None:
    life = Life(Recipe(name="test"), tmp_path, PlainView(quiet=True))
    assert life.between("finetune", "evaluate") == ("finetune", "align", "evaluate")
    with pytest.raises(ConfigError, match="no station 'cook'"):
        life.between("cook")
    with pytest.raises(ConfigError, match="'align' comes after 'prepare'"):
        life.between("align", "prepare")


def test_two_processes_do_not_share_a_run_directory(tmp_path: Path) -> None:
    script = f"""
    from pathlib import Path
    from modelwright.life import locked
    with locked(Path({str(tmp_path)!r})):
        print("held", flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {other.pid} is working on"), locked(tmp_path):
            pass
        other.kill()  # not a clean end: the lock must go with the process all the same
    with locked(tmp_path):
        pass


def test_a_life_may_begin_with_a_model_from_outside(tmp_path: Path, stations: Stations) -> None:
    """Stations that use text where there is some do without."""
    stages = ("import", "align", "evaluate", "compress", "export")
    stations.inputs.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INPUTS, "align", ("model",))
        made = live(tmp_path, stages=stages, **{"import": {"model": "org/name"}})
    assert stations.ran == list(stages)
    assert made[0].role == "base" and made[0].manifest.config["model"] == "org/name"
    assert stations.inputs["align"] == {"model": "import"}
    assert stations.inputs["evaluate"] == {"base": "import", "aligned": "align"}
    assert stations.inputs["compress"] == {"model": "align"}


def test_a_model_that_is_no_artifact_is_imported_on_the_fly(tmp_path: Path, stations: Stations) -> None:
    outside = tmp_path / "model"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    given = {"model": outside}
    life = Life(Recipe(name="test"), tmp_path / "run", PlainView(quiet=True), given)
    assert [made.stage for made in life.run(["export"])] == ["import", "export"]
    assert stations.inputs["export"] == {"model": "import"}
    stations.ran.clear()
    again = Life(load_recipe(str(tmp_path / "run"), environment={}), tmp_path / "run", PlainView(quiet=True))
    again.run(["import", "export"])
    assert stations.ran == [], "the run directory remembers where its life began"
    live(tmp_path / "hub", {"model": Path("org/name")}, stages=("pretrain", "export"))
    assert stations.ran == ["import", "export"]


def test_a_path_with_a_typing_error_is_no_name_on_a_hub(tmp_path: Path, stations: Stations) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        live(tmp_path / "out", {"model": tmp_path / "runs" / "typo"})
