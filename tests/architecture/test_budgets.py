"""Budgets that keep the code readable. Exceptions are named here, with the reason, or do not exist."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "modelwright"
FILES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE, MEDIAN_FILE = 400, 150
MAX_FUNCTION, MAX_STAGE_RUN, MEDIAN_FUNCTION = 80, 120, 12
MAX_DEPTH = 3
MAX_READING_RADIUS, MAX_TRAINING_RADIUS = 7000, 11_000

LONGER_FILES: dict[str, str] = {}
LONGER_FUNCTIONS: dict[str, str] = {}
"""path (or path:function) -> why it may be longer than the budget."""


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def num_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def functions() -> dict[str, int]:
    """path:function -> number of lines."""
    return {
        f"{name(file)}:{node.name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def budget_of(function: str) -> int:
    file, its_name, _ = function.split(":")
    return MAX_STAGE_RUN if file.startswith("stages/") and its_name == "run" else MAX_FUNCTION


NO_MACHINERY = {"data/atlas/": "the embedded corpus: data that happens to be written as code"}
"""Folders that do not count towards what a reader of a stage has to read."""


def test_files_are_short() -> None:
    too_long = {
        name(f): num_lines(f) for f in FILES if num_lines(f) > MAX_FILE and name(f) not in LONGER_FILES
    }
    assert not too_long
    assert statistics.median(num_lines(file) for file in FILES if file.name != "__init__.py") <= MEDIAN_FILE


def test_functions_are_short() -> None:
    lengths = functions()
    too_long = {
        function: length
        for function, length in lengths.items()
        if length > budget_of(function) and function.rpartition(":")[0] not in LONGER_FUNCTIONS
    }
    assert not too_long
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION


def test_exceptions_are_still_needed() -> None:
    lengths: dict[str, int] = {}
    for function, length in functions().items():
        key = function.rpartition(":")[0]
        lengths[key] = max(length, lengths.get(key, 0))
    assert [path for path in LONGER_FILES if num_lines(PACKAGE / path) <= MAX_FILE] == []
    assert [key for key in LONGER_FUNCTIONS if lengths.get(key, 0) <= MAX_FUNCTION] == []


def test_folders_are_flat() -> None:
    assert [name(file) for file in FILES if len(file.relative_to(PACKAGE).parents) - 1 > MAX_DEPTH] == []


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = ("utils", "util", "common", "helpers", "helper", "misc")
    assert [name(file) for file in FILES if file.stem in drawers or file.parent.name in drawers] == []


def imported_files(file: Path) -> set[Path]:
    """Our files that `file` imports, wherever the import stands."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {path for alias in node.names for path in module_files(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            of_names = {path for alias in node.names for path in module_files(f"{node.module}.{alias.name}")}
            found |= of_names or module_files(node.module)
    return found


def module_files(module: str) -> set[Path]:
    """The file of a module of ours; nothing for others."""
    if module.split(".")[0] != "modelwright":
        return set()
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return {
        file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file() and file in FILES
    }


def reading_radius(start: Path) -> int:
    """Lines that a reader reaches from a file by following imports."""
    seen, ahead = set(), [start]
    while ahead:
        file = ahead.pop()
        if file not in seen and not name(file).startswith(tuple(NO_MACHINERY)):
            seen.add(file)
            ahead.extend(imported_files(file))
    return sum(num_lines(file) for file in seen)


TRAINING_STAGES = {
    *("adapting", "align", "finetune", "pretrain", "training"),  # they train, or are a part of that
    *(
        "average",
        "judging",
        "search",
        "reading",
        "reading_examples",
        "text_view",
        "views",
    ),  # they build what a training read or measured
    *("forecast", "rehearsal", "scale", "study"),  # they plan, try out or repeat a training
}
"""Stages that reach the training loop with all it can do (design/0008)."""

WIDEST = {
    "adapting": (
        13_837,
        "it loads models of every family, gives them tokens, trains adapters, and writes what PEFT reads",
    ),
    "answering": (8_610, "it runs the model in the engine that serves, whichever runner computes"),
    "align": (14_781, "it trains models of every family that can be imported, whole or by adapters"),
    "average": (15_005, "it trains, loads models of every kind, and judges them"),
    "averaging_study": (17_272, "it runs two stations, pretrain and average, for every cell of its table"),
    "compress": (9_000, "it loads and judges models of every family that can be imported"),
    "dataset_check": (
        9_800,
        "it holds rows against evaluation sets, each other, personal data, languages and a chat template",
    ),
    "evaluate": (
        15_996,
        "it runs the model with all its kernels in the engine that serves, on suites and rows of any layout",
    ),
    "export": (10_500, "it loads models of every kind, and reads what it wrote with three readers"),
    "finetune": (
        18_789,  # 350 more: tokens and words dealt out over tensor-parallel processes
        "it trains models of every family, on data in every layout or on own answers, in every way",
    ),
    "forecast": (
        16_491,  # 3,044 more: models that write or are asked, measured steps, packed rows, several devices
        "it plans lives that begin with a training, or with a model from outside, and reads their rows",
    ),
    "forecast_untrained": (9_888, "it reads the rows that judge averages, and the suites that are asked"),
    "forecast_writing": (11_125, "it reads prompts in every layout, and the settings of every method"),
    "import_model": (9_700, "it takes over models of every family, with tokenizers of every kind"),
    "new_tokens": (
        7_728,
        "tokenizers of every kind get tokens, and adapters that have them are gone on with",
    ),
    "on_policy": (10_008, "it writes with the model that is trained, for the teacher that judges it"),
    "pretrain": (13_622, "it trains, with all that ends or keeps a training"),
    "rationale_study": (20_427, "it runs finetune for every student, asks it, and draws what came out"),
    "reading": (13_714, "it builds what a training reads"),
    "reading_examples": (18_978, "it reads data in every layout, and models of every family that read it"),
    "rehearsal": (11_237, "it runs real steps of any training, with all the kernels that compute them"),
    "retention": (7_715, "it asks tasks, reads text, and compares, as evaluate does"),
    "scale": (15_167, "it runs a station for every rung, fits a law to what they came to, and draws it"),
    "search": (15_800, "it trains in every way that finetune does, and judges what comes of it"),
    "serve": (
        16_023,
        "it runs the model with all its kernels, and speaks every endpoint's protocol, refusals included",
    ),
    "study": (15_531, "it runs two stations, tokenize and pretrain, for every cell of its table"),
    "screening": (
        19_349,
        "it runs the model that judges and sums its price, and looks at rows in every way that data has",
    ),
    "synthesize": (
        22_360,  # 3,800 more: filters of written rows, what no row may hold, a judge, and the page
        "it reads data in every layout, runs models of every family in the engine, and judges what comes",
    ),
    "teacher": (
        9_384,
        "it loads models of every family that can be imported, with their tokenizers and licences",
    ),
    "views": (12_408, "it builds what trainings read and measure, from data in every layout"),
    "writing": (13_717, "it runs models of every family that can be imported in the engine that serves"),
}
"""stage -> (lines, why it reaches further still). Whatever reads a tokenizer reads what imported ones bring:
some 900 lines of templates in a sandbox, their loss mask, special tokens and roles; whatever knows a model's
arithmetic, 95 lines on what of it the data needs; whatever trains, 111 lines on limits from the second step
on, and on the cause of a fault wherever it is; whatever is refused before any station works, up to 160 lines
on what is asked of settings, machine and processes for that; whatever forecasts a training, 67 lines on
products in 8 bits, and 95 of the kernel that makes them."""

STAGES = sorted((PACKAGE / "stages").glob("[a-z]*.py"))


@pytest.mark.parametrize("stage", STAGES, ids=[stage.stem for stage in STAGES])
def test_a_stage_can_be_read_in_days(stage: Path) -> None:
    limit = MAX_TRAINING_RADIUS if stage.stem in TRAINING_STAGES else MAX_READING_RADIUS
    assert reading_radius(stage) <= max(limit, WIDEST.get(stage.stem, (0, ""))[0])


def test_only_stages_that_need_it_reach_further() -> None:
    radius = {stage.stem: reading_radius(stage) for stage in STAGES}
    assert [name for name in TRAINING_STAGES if radius.get(name, 0) <= MAX_READING_RADIUS * 0.8] == []
