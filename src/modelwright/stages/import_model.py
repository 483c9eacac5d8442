"""import: a model from outside -> a base model of this run; weights, tokenizer and template as they are.

Weights are linked where the file system allows it, so that they take no room twice, and never changed; what
is no weight, tokenizer or description (code above all) is left behind. The model counts as one source of its
own, with its licence, in the manifests of all that is made from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from modelwright.base.artifact import MANIFEST, Artifact
from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import atomic_directory, canonical_json, link, sha256_text
from modelwright.base.policy import stated_facts
from modelwright.base.provenance import UNKNOWN, Provenance, personal_data_flag
from modelwright.base.run import Run
from modelwright.data.readers.source import Stated
from modelwright.formats.card import stated_licence
from modelwright.formats.gguf_import import import_gguf
from modelwright.formats.hub import resolve
from modelwright.formats.huggingface import load_model
from modelwright.formats.stored import DESCRIPTIONS, stored_dtype, weight_files
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import CHAT_TEMPLATE

INPUTS: tuple[str, ...] = ()
LARGEST_DESCRIPTION = 200_000_000
"""Bytes. The largest tokenizer.json in use has some 35 million."""
SNAPSHOTS = "snapshots"
"""Where the hub's cache keeps a folder for each revision of a model, by its hash."""
PROBE = "The capital of France is"
"""What the model must give finite logits for."""


class Config(Stated):
    """Which model, and what is known of it."""

    model: str = ""
    """A Hugging Face folder, a GGUF file, or org/name[@revision] on the hub."""
    name: str = ""
    """What manifests and cards call it; where nothing is said, the name of its folder or on the hub."""
    licence: str = ""
    """SPDX identifier. Where nothing is said: what its card states, else "unknown"."""

    def provenance(self, licence: str) -> Provenance:
        """The model as one source."""
        flag = personal_data_flag(self.personal_data)
        facts = stated_facts(licence, self.jurisdiction, flag, self.legal_basis, self.retention)
        outside = Path(self.model).expanduser()
        return Provenance(by_source={self.name or (outside.name if outside.exists() else self.model): facts})


def sources(config: Config) -> str:
    """A mark of the files there are now: when one changes, the stage runs anew."""
    path = Path(config.model).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    seen = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return sha256_text(canonical_json(seen))


def facts(config: Config) -> Provenance:
    """What the recipe states of the model, for the policy: known before any work."""
    return config.provenance(config.licence) if config.licence else Provenance()


def run(config: Config, run: Run) -> Artifact:
    """Take the model over, see that it computes, and say what it is."""
    if not config.model:
        raise ConfigError("import.model is missing: name a Hugging Face folder, a GGUF file, or org/name")
    source = resolve(config.model)
    _refuse_own(source)
    if source.suffix == ".gguf":
        import_gguf(source, run.dir / "model")
    else:
        with atomic_directory(run.dir / "model") as folder:
            take_over(source, folder)
    licence = config.licence or stated_licence(run.dir / "model")
    if licence == UNKNOWN:
        run.log(
            "WARNING: the licence of this model is stated neither in the recipe nor on its card. Find out"
            " whether you may change and use it, and state it: import.licence"
        )
    run.brings_in(config.provenance(licence))
    found = describe(run.dir / "model")
    run.log(
        ", ".join(
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
            for name, value in found.items()
        )
    )
    return run.finish(["model"], {**found, **_revision(source), "licence": licence, "source": config.model})


def _revision(source: Path) -> dict[str, str]:
    """Of a folder or file in the hub's cache, which revision it is."""
    found = [after for part, after in pairwise(source.parts) if part == SNAPSHOTS]
    return {"revision": found[-1]} if found else {}


def _refuse_own(source: Path) -> None:
    """Refuse what a stage of ours has made: as an input, it keeps its ancestry."""
    for folder in (source, *source.absolute().parents[:2]):
        if (folder / MANIFEST).is_file():
            stage = Artifact.load(folder)
            raise UserError(
                f"{source} was made by '{stage.stage}' of a run. Begin with it by --input model={folder}: so"
                " its ancestry is kept, which an import does not know"
            )


def take_over(source: Path, folder: Path) -> None:
    """Link the weights and copy what describes them."""
    for file in weight_files(source):
        link(file.resolve(), folder / file.name)
    for file in _descriptions(source):
        if file.stat().st_size > LARGEST_DESCRIPTION:
            raise DamagedFile(f"{file} has {file.stat().st_size:,} bytes: that is no description of a model")
        shutil.copyfile(file, folder / file.name)


def _descriptions(source: Path) -> Iterator[Path]:
    named = {file for pattern in DESCRIPTIONS for file in source.glob(pattern) if file.is_file()}
    yield from sorted(file for file in named if file.name != MANIFEST)


@torch.inference_mode()
def describe(folder: Path) -> dict[str, Any]:
    """Load the model in the format it is stored in, see that it computes, and say what it is."""
    tokenizer, dtype = BPETokenizer.load(folder), stored_dtype(folder)
    model = load_model(folder, dtype).eval()
    _check_logits(model, tokenizer, folder)
    return {
        "family": model.config.architecture,
        "parameters": model.num_parameters(),
        "context": model.config.max_position_embeddings,
        "vocabulary": tokenizer.vocab_size,
        "dtype": str(dtype).removeprefix("torch."),
        "template": _kind_of_template(tokenizer),
    }


def _kind_of_template(tokenizer: BPETokenizer) -> str:
    """Whose chat template the model has; without one it takes no turns."""
    if not tokenizer.chat_template:
        return "none: it continues text, and takes no turns"
    return "ours (ChatML)" if tokenizer.chat_template == CHAT_TEMPLATE else "its own"


def _check_logits(model: Transformer, tokenizer: BPETokenizer, folder: Path) -> None:
    """The weights are numbers and belong together: logits are finite, and not all the same."""
    ids = torch.tensor([tokenizer.encode(PROBE)])
    if int(ids.max()) >= model.config.vocab_size:
        raise DamagedFile(
            f"{folder}: the tokenizer gives id {int(ids.max())}, and the model has"
            f" {model.config.vocab_size:,} embeddings: the two do not belong together"
        )
    logits = model(ids).logits().float()
    if not bool(torch.isfinite(logits).all()) or float(logits.std()) == 0.0:
        raise DamagedFile(
            f"{folder}: the model gives no usable logits for '{PROBE}' (NaN, infinite, or all the same): its"
            " weights are damaged, or of a kind that is read wrongly here. Copy it again"
        )
