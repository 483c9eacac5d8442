"""What serves as the input of a station."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelwright.base.artifact import FULL_PRECISION_MODELS, Artifact
from modelwright.base.errors import ConfigError

MODEL_ROLES = (*FULL_PRECISION_MODELS, "quantized")


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
