"""What serves as the input of a station."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from modelwright.base.artifact import FULL_PRECISION_MODELS, MANIFEST, Artifact
from modelwright.base.errors import ConfigError

MODEL_ROLES = (*FULL_PRECISION_MODELS, "quantized")


def used_by(stage: ModuleType) -> tuple[str, ...]:
    """Roles that a stage needs (INPUTS), and those that it uses where there are any (OPTIONAL)."""
    return (*stage.INPUTS, *getattr(stage, "OPTIONAL", ()))


def is_outside(path: Path | None) -> bool:
    """Whether a model that was named is none that a stage has made: a folder or a file of somebody else's, or
    a name on a hub."""
    if path is None or (path / MANIFEST).is_file():
        return False
    return path.is_file() or (path / "config.json").is_file() or (not path.exists() and _is_hub_name(path))


def _is_hub_name(path: Path) -> bool:
    """`org/name`, and no path that merely has a typing error in it."""
    return not path.is_absolute() and len(path.parts) == 2 and not Path(path.parts[0]).exists()


def load_given(role: str, path: Path) -> Artifact:
    """The stage folder that was named to serve as `role`, if it can."""
    artifact = Artifact.load(path)
    fitting = FULL_PRECISION_MODELS if role == "model" else (role,)
    if artifact.role not in fitting:
        raise ConfigError(
            f"--input {role}={path}: that is '{artifact.role}', made by '{artifact.stage}'; expected"
            f" {' or '.join(fitting)}"
        )
    return artifact


def select(role: str, have: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """What serves as `role`: "model" is the latest full-precision model, "models" is every model."""
    if role == "models":
        return {made.role: made for made in have.values() if made.role in MODEL_ROLES}
    if role == "model" and role not in have:
        latest = [have[name] for name in FULL_PRECISION_MODELS if name in have]
        return {role: latest[-1]} if latest else {}
    return {role: have[role]} if role in have else {}
