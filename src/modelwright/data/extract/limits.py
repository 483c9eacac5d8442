"""What reading one page may cost."""

from __future__ import annotations

from modelwright.base.config import Config


class Limits(Config):
    """What one document may cost."""

    seconds_per_document: float = 10.0
    memory_bytes: int = 1 << 30
    """Address space of the child process."""
