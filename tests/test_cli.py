"""The command line: exit codes, what goes to which stream, and that every verb is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright import __version__, life
from modelwright.base.errors import GateRefused
from modelwright.cli import main
from modelwright.recipes.recipe import shipped
from modelwright.recipes.stations import VERBS

Capture = pytest.CaptureFixture[str]


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_every_verb_is_a_command_and_explains_itself(capsys: Capture) -> None:
    others = ("run", "serve", "chat", "predict", "ls", "show", "trace", "recipes", "validate", "dataset")
    for command in (*VERBS, *others):
        assert main([command, "--help"]) == 0
        assert "Usage: modelwright" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cook"], 2, "No such command 'cook'"),
        (["run"], 2, "Missing argument"),
        (["run", "quickstart", "--colour", "red"], 2, "No such option"),
        (["run", "quikstart"], 2, "Did you mean 'quickstart'?"),
        (["run", "quickstart", "--set", "seed"], 2, "expected path=value"),
        (["run", "quickstart", "--set", "sead=2"], 2, "Did you mean 'seed'?"),
        (["run", "quickstart", "--until", "cook"], 2, "no station 'cook'"),
        (["run", "quickstart", "--input", "flour=bag"], 2, "expected role=PATH"),
        (["validate", "quickstart", "--set", "data.source=[a]"], 2, "Did you mean 'sources'?"),
        (["run", "quickstart", "--set", "data.sources=/a"], 2, "sources: expected a list, e.g. [/a]"),
        (["run", "quickstart", "--set", "data.sources=[nowhere]"], 1, "'nowhere': no such file or folder"),
        (["prepare", "tiny", "--set", "data.sources=[garbled.md]"], 1, "garbled.md, line 1: byte 0xff"),
        (["run", "garbled.yaml"], 2, "garbled.yaml is no text in UTF-8"),
        (["serve", "nowhere", "--port", "65536"], 2, "65535"),
        (["chat", "nowhere", "--device", "tpu"], 2, "'tpu' is not one of"),
        (["run", "quickstart", "--out", "garbled.yaml/run"], 1, "Not a directory"),
        (["show", "nowhere"], 1, "nowhere does not exist. Expected a run directory, e.g. runs/quickstart"),
        (["trace", "garbled.md"], 1, "garbled.md is a file, and runs are folders. Expected a run directory"),
        (["run", "quickstart", "--input", "model=nowhere"], 1, "nowhere does not exist; expected the folder"),
        (["ls", "nowhere"], 1, "there is no folder 'nowhere'"),
    ],
)
def test_mistakes_exit_with_a_code_and_a_message_without_a_traceback(
    arguments: list[str],
    code: int,
    message: str,
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for garbled in ("garbled.md", "garbled.yaml"):
        Path(garbled).write_bytes(b"name: \xff")
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.replace("│", "").split())
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["garbled.md", "garbled.yaml"]


def test_a_gate_that_says_no_exits_3_and_debug_shows_where(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise GateRefused("the logits differ")

    monkeypatch.setattr(life.Life, "run", refuse)
    assert main(["export", "quickstart", "-o", str(tmp_path)]) == 3
    assert capsys.readouterr().err == "modelwright: the logits differ\n"
    assert main(["--debug", "export", "quickstart", "-o", str(tmp_path)]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_recipes_can_be_listed_printed_and_validated(capsys: Capture) -> None:
    assert main(["recipes", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(shipped())
    assert main(["recipes", "quickstart"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "quickstart"
    assert main(["validate", "quickstart", "--set", "seed=7", "--json"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert resolved["seed"] == 7
    assert resolved["data"]["validation_fraction"] > 0
    assert resolved["model"]


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_valid(name: str, capsys: Capture) -> None:
    assert main(["validate", name]) == 0
    assert "pretrain" in yaml.safe_load(capsys.readouterr().out)


def test_a_station_alone_and_what_the_views_say_of_it(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "tale.txt").write_text("Once upon a time there was a test.\n")
    arguments = ["--set", f"data.sources=[{tmp_path}/tale.txt]", "--out", str(tmp_path / "runs" / "mine")]
    assert main(["prepare", "tiny", *arguments]) == 0
    captured = capsys.readouterr()
    assert "[1/9] prepare" in captured.err
    assert captured.out == ""
    assert main(["prepare", "tiny", *arguments]) == 0
    assert "unchanged" in capsys.readouterr().err
    assert main(["prepare", "tiny", "--quiet", *arguments]) == 0
    assert capsys.readouterr().err == ""
    assert main(["ls", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["done"] == ["prepare"]
    assert main(["show", str(tmp_path / "runs" / "mine"), "--verify"]) == 0
    assert main(["trace", str(tmp_path / "runs" / "mine")]) == 0
    assert "tale.txt 1" in capsys.readouterr().out
    (tmp_path / "tale.txt").write_text("Once upon a time there was another test.\n")
    assert main(["prepare", str(tmp_path / "runs" / "mine")]) == 0  # the run directory is a recipe too
    assert "kept as" in capsys.readouterr().err


def test_ctrl_c_exits_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    script = """
    import signal, sys, time, types

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    from modelwright.life import loading
    from modelwright.base.config import Config
    from modelwright.cli import main

    def run(config, run):
        print("working", flush=True)
        time.sleep(60)

    loading.stage_module = lambda verb: types.SimpleNamespace(Config=Config, INPUTS=(), run=run)
    sys.exit(main(["prepare", sys.argv[1], "--out", sys.argv[2]]))
    """
    (tmp_path / "empty.yaml").write_text("seed: 1")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "empty.yaml"), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "resume with the same command" in error
    assert "Traceback" not in error
