"""The stations of a life, in order. The one list of the verbs: the command line, the recipes, the docs
and the report follow it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Station:
    """A stage of a life: its verb, what it makes, and which part of a recipe is its own."""

    verb: str
    role: str
    """What its artifact serves as for later stations."""
    section: str
    """The recipe key that holds its settings."""
    about: str
    module: str = ""
    """The file in `stages/`, where a word of Python keeps it from having the verb's name."""


STATIONS = (
    Station("prepare", "corpus", "data", "raw text -> clean documents with their provenance"),
    Station("tokenize", "tokens", "tokenizer", "documents -> a tokenizer and shards of token ids"),
    Station("pretrain", "base", "pretrain", "shards -> a base model that continues text"),
    Station("import", "base", "import", "a model from outside -> a base model, as it is", "import_model"),
    Station(
        "synthesize",
        "examples",
        "synthesize",
        "prompts -> rows that a model writes, verified, with a record of each",
    ),
    Station("finetune", "sft", "finetune", "conversations -> a model that answers"),
    Station("align", "aligned", "align", "preferences -> a model that answers well"),
    Station("evaluate", "report", "evaluate", "any model -> scores with confidence intervals"),
    Station("average", "averaged", "average", "checkpoints -> one averaged model, if it is better"),
    Station("compress", "quantized", "compress", "a model -> weights of 8 or 4 bits, and what that costs"),
    Station("export", "bundle", "export", "a model -> Hugging Face folder and GGUF, read back to verify"),
)
VERBS = tuple(station.verb for station in STATIONS)
STATION = {station.verb: station for station in STATIONS}
FROM_TEXT = ("prepare", "tokenize", "pretrain")
"""How a life begins that begins with text."""
IMPORT = "import"
"""How a life begins that begins with a model from outside."""
SYNTHESIZE = "synthesize"
"""Who writes rows for `finetune`; among the sources there it is named like this."""
WHOLE_LIFE = tuple(verb for verb in VERBS if verb not in (IMPORT, SYNTHESIZE))
"""What a recipe lives that names no stations: everything, from text."""
