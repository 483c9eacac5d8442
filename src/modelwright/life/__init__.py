"""A life: the stations in order, what is done already, and what has to run.

Stage modules are imported when they are needed, because they bring torch with them and
`modelwright --help` must not wait for it (design/0002).
"""

from modelwright.life.folder import locked
from modelwright.life.forgetting import forget
from modelwright.life.life import Life
from modelwright.life.loading import (
    read_at_step,
    resolved,
    sampler_of,
    stage_config,
    stage_module,
    taught_at_step,
    write_report,
)
from modelwright.life.together import kind_of_life

__all__ = [
    "Life",
    "forget",
    "kind_of_life",
    "locked",
    "read_at_step",
    "resolved",
    "sampler_of",
    "stage_config",
    "stage_module",
    "taught_at_step",
    "write_report",
]
