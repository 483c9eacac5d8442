"""`modelwright show`: what the manifest of a stage folder, or of every station of a run, says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from modelwright.base.artifact import Artifact
from modelwright.base.errors import DamagedFile
from modelwright.base.metrics import counted, size
from modelwright.base.provenance import Provenance
from modelwright.terminal.printable import printable
from modelwright.terminal.runs import duration, finished, is_run, is_unfinished, named
from modelwright.terminal.unfinished import look_at, unfinished_in

MANY = 12
"""More entries than this are summed up."""
CHARACTERS = 100
"""Of one metric in words."""


def show_manifests(path: Path, *, verify: bool = False, as_json: bool = False) -> None:
    """Print one manifest, or those of all finished stations; and what there is to say of those that have
    begun and not ended. `verify` hashes every file."""
    begun = unfinished_in(path) if is_run(path) else [look_at(path)] if is_unfinished(path) else []
    artifacts = named(path) if not begun else finished(path) if is_run(path) else []
    if as_json:
        manifests = [artifact.manifest.model_dump(mode="json") for artifact in artifacts]
        found = manifests + [each.as_json() for each in begun]
        print(json.dumps(found if is_run(path) else found[0], indent=2, ensure_ascii=False))
    else:
        console = Console(markup=False, highlight=False)
        for text in (*map(describe, artifacts), *(each.describe() for each in begun)):
            console.print(printable(text), soft_wrap=True)
    if verify:
        check(artifacts)


def check(artifacts: list[Artifact]) -> None:
    """Raise if any file is not what its manifest says."""
    faults = [f"{made.path}: {damage}" for made in artifacts if (damage := made.damage(hashes=True))]
    if faults:
        raise DamagedFile("files are not what their manifests say:\n  " + "\n  ".join(faults))


def describe(artifact: Artifact) -> str:
    """A manifest for the eye."""
    manifest, cost = artifact.manifest, artifact.manifest.cost
    total = sum(file.bytes for file in manifest.files)
    parts = {
        "artifact": manifest.id,
        "made by": f"{manifest.stage}, as '{manifest.role}', {manifest.created}",
        "code": f"modelwright {manifest.version}, revision {manifest.revision}",
        "from": [f"{parent.role}: {parent.id[:12]} ({parent.path})" for parent in manifest.parents]
        or "outside",
        "cost": f"{duration(cost.seconds)}, {counted(cost.tokens, 'token')}, {cost.flops:.3g} FLOPs, "
        f"{size(cost.peak_memory_bytes)} peak memory, about {cost.energy_wh:.2f} Wh",
        "metrics": {name: brief(value) for name, value in manifest.metrics.items()},
        "settings": {"seed": manifest.seed, **manifest.config},
        "files": _files(artifact) | {"in all": f"{counted(len(manifest.files), 'file')}, {size(total)}"},
        "learned from": {"in all": artifact.texts_behind(), **provenance_summary(manifest.provenance)},
        "machine": dict(manifest.environment),
    }
    return f"{artifact.path}\n" + _indented(
        yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=100)
    )


def brief(value: Any, depth: int = 0) -> Any:
    """A metric for the eye: rows of figures in a line each, long lists and texts cut, with how much is left
    out. `--json` has it all."""
    if isinstance(value, str):
        return printable(value, CHARACTERS)
    if isinstance(value, Mapping):
        if depth and all(isinstance(each, int | float) for each in value.values()) and len(value) <= 4:
            return ", ".join(f"{name} {each:,}" for name, each in value.items())
        shown = {name: brief(each, depth + 1) for name, each in list(value.items())[:MANY]}
        rest = len(value) - MANY
        return shown | ({"...": f"{rest} more"} if rest > 0 else {})
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        if all(isinstance(each, int | float) for each in value) and len(value) <= MANY:
            return ", ".join(f"{each:,}" for each in value)
        shown = [_line(each) if depth < 2 else brief(each, depth + 1) for each in value[:MANY]]
        return [*shown, *([f"{len(value) - MANY} more"] if len(value) > MANY else [])]
    return value


def _line(value: Any) -> Any:
    """A row of a table: `read, documents 42, bytes 1,234`."""
    if not isinstance(value, Mapping):
        return brief(value, 2)
    parts = [
        f"{name} {each:,}" if isinstance(each, int | float) else f"{each}" for name, each in value.items()
    ]
    return printable(", ".join(parts), CHARACTERS)


def _files(artifact: Artifact) -> dict[str, str]:
    files = artifact.manifest.files
    return {file.path: f"{size(file.bytes)}  {file.sha256[:12]}" for file in files[:MANY]}


def provenance_summary(provenance: Provenance) -> dict[str, Any]:
    """The roll-up of what was learned from: where it comes from, under which licences."""
    return {
        "sources": _most(provenance.sources),
        "licences": _most(provenance.licences),
        "jurisdictions": _most(provenance.jurisdictions),
        "personal data": _most(provenance.personal_data),
        "legal bases": _most(provenance.legal_bases),
        "retention": _most(provenance.retentions),
    }


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """The largest entries; the rest in one."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[MANY:]
    return dict(ordered[:MANY]) | ({f"({len(rest)} more)": sum(n for _, n in rest)} if rest else {})


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
