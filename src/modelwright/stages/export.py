"""export: a model as files that other programs run, read back by those programs before it counts.

Leaves `hf/` (Hugging Face folder), `gguf/model-TYPE.gguf`, `Modelfile` (Ollama), `README.md` (model card)
and `verification.json`. If a check fails the stage is not done: no manifest is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config as BaseConfig
from modelwright.base.errors import GateRefused, UserError
from modelwright.base.files import atomic_directory, read_json, remove_temporaries, write_json, write_text
from modelwright.base.run import Run
from modelwright.base.schema import Conversation
from modelwright.evaluation.torture import CONVERSATIONS, TORTURE, vocabulary_strings
from modelwright.evaluation.verification import (
    Evidence,
    Reader,
    Verdict,
    could_not_read,
    judge,
    not_verified,
)
from modelwright.formats.card import licence_of, model_card
from modelwright.formats.gguf import About, FileType, write_gguf
from modelwright.formats.huggingface import load_config
from modelwright.formats.llama_cpp import LlamaCppReader
from modelwright.formats.ollama import modelfile
from modelwright.formats.readers import (
    LLAMA_CPP,
    TRANSFORMERS,
    OwnReader,
    TransformersReader,
    reader_version,
    why_missing,
)
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.tokenizer.template import TemplateRefuses

INPUTS: tuple[str, ...] = ("model",)
FOLDER = "folder"
"""The key of the Hugging Face folder among the tolerances."""

_READERS: Mapping[str, Callable[[Path], Reader]] = {
    TRANSFORMERS: TransformersReader,
    LLAMA_CPP: LlamaCppReader,
}


class Config(BaseConfig):
    """What is exported, and how closely it is checked."""

    gguf: tuple[FileType, ...] = ("f16", "q8_0")
    """GGUF files to write: f32, f16, q8_0. Empty writes none."""
    readers: Literal["auto", "require"] = "auto"
    """"auto" uses the readers that are installed and says what was not verified; "require" refuses to
    export where not even transformers is installed."""
    tolerance_folder: float = Field(default=1e-8, gt=0)
    """Largest mean KL divergence (nats a token) of the folder, both in fp32. Measured: 5e-13."""
    tolerance_f32: float = Field(default=1e-8, gt=0)
    """The same for F32 files. Measured: 2e-12."""
    tolerance_f16: float = Field(default=1e-5, gt=0)
    """F16 files. Measured: 3e-8 on a trained model, 2e-6 on hot random ones (llama.cpp also rounds
    activations to F16)."""
    tolerance_q8_0: float = Field(default=5e-3, gt=0)
    """Q8_0 files. Measured: 2e-5 on a small trained model, 1.5e-3 on hot random ones; published: 4e-4
    (Llama-2-7B), 1.4e-3 (Llama-3-8B)."""
    sequences: int = Field(default=8, gt=0)
    """How many token sequences the logits are compared on."""
    sequence_length: int = Field(default=128, gt=1, le=512)
    """Tokens of each, at most the model's context."""

    def tolerance(self, kind: str) -> float:
        """By "folder" or GGUF type."""
        return float(getattr(self, f"tolerance_{kind}"))


def run(config: Config, run: Run) -> Artifact:
    """Write the bundle, have it read back, and refuse it if anybody disagrees."""
    model = run.input("model")
    source = model.file("model")
    if read_json(source / "config.json").get("quantization_config"):
        raise UserError(f"{source} is quantized already: export the full-precision model it was made from.")
    history = model.ancestry()
    files = _write_bundle(config, run, source, history)
    verdicts = _verify(config, run, source, files, history)
    write_json(run.dir / "verification.json", [asdict(verdict) for verdict in verdicts])
    for line in _summary(verdicts):
        run.log(line)
    _gate(config, run, verdicts)
    _write_card(run, source, files, history, verdicts)
    checked = [v for v in verdicts if v.status == "passed"]
    verified = {v.file for v in checked} == {path.name for path in files.values()}
    return run.finish(
        files=["hf", *(["gguf", "Modelfile"] if config.gguf else []), "README.md", "verification.json"],
        metrics={
            "verification": "verified" if verified else "not verified",
            "verified_by": sorted({f"{v.reader} {v.version}" for v in checked}),
            "checks_passed": len(checked),
            **{f"{key}_bytes": _size(path) for key, path in files.items()},
        },
    )


def _write_bundle(config: Config, run: Run, source: Path, history: Sequence[Artifact]) -> dict[str, Path]:
    """The folder and the GGUF files; returns "folder" and GGUF type -> path."""
    model = history[0]
    with atomic_directory(run.dir / "hf") as folder:
        for file in sorted(source.iterdir()):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    made = {FOLDER: run.dir / "hf"}
    shutil.rmtree(run.dir / "gguf", ignore_errors=True)  # of an earlier attempt with other types
    about = About(
        name=run.dir.resolve().parent.name,
        licence=licence_of(model.manifest.provenance),
        description=f"made by modelwright, stage {model.stage}",
        source=model.id,
    )
    for kind in config.gguf:
        made[kind] = run.dir / "gguf" / f"model-{kind}.gguf"
        write_gguf(source, made[kind], kind, about)
        run.log(f"{made[kind].name}: {made[kind].stat().st_size:,} bytes")
    if config.gguf:
        remove_temporaries(run.dir / "gguf")
        write_text(
            run.dir / "Modelfile", modelfile(f"gguf/model-{config.gguf[-1]}.gguf", BPETokenizer.load(source))
        )
    return made


def _verify(
    config: Config, run: Run, source: Path, files: Mapping[str, Path], history: Sequence[Artifact]
) -> list[Verdict]:
    evidence: Evidence | None = None
    verdicts: list[Verdict] = []
    jobs = [(kind, path, name) for kind, path in files.items() for name in _READERS]
    with run.progress("reading back", len(jobs)) as progress:
        for kind, path, name in jobs:
            progress.advance(1, file=path.name, reader=name)
            if kind == FOLDER and name == LLAMA_CPP:
                continue  # it reads GGUF files only
            missing = why_missing(name, path)
            if missing:
                verdicts.append(not_verified(file=path.name, reader=name, reason=missing))
                continue
            evidence = evidence or _evidence(config, run, source, history)
            verdicts += _ask(evidence, path, name, config.tolerance(kind))
    return verdicts


def _ask(evidence: Evidence, path: Path, name: str, tolerance: float) -> list[Verdict]:
    """One reader's verdicts on one file. A reader that raises says no: what it raises is its own affair,
    hence the broad except."""
    version = reader_version(name)
    try:
        reader = _READERS[name](path)
        return judge(evidence, reader, file=path.name, reader=name, version=version, tolerance=tolerance)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return [could_not_read(file=path.name, reader=name, version=version, reason=reason[:500])]


def _evidence(config: Config, run: Run, source: Path, history: Sequence[Artifact]) -> Evidence:
    """Our own answers: on the torture set, and on validation tokens where the ancestry leads to them."""
    ours = OwnReader(source)
    length = min(config.sequence_length, load_config(source).max_position_embeddings)
    tokens = next((made for made in history if made.stage == "tokenize"), None)
    if tokens and (tokens.path / "validation").is_dir():
        shards = TokenShards.open(tokens.path / "validation")
        ids = [int(i) for i in shards.read(0, min(len(shards), length * config.sequences))]
    else:
        ids = ours.tokenize("\n".join(TORTURE))[: length * config.sequences]
    sequences = [ids[i : i + length] for i in range(0, len(ids), length)]
    tokenizer = BPETokenizer.load(source)
    special = set(tokenizer.special_ids.values())
    pieces = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size) if i not in special]
    texts = (*TORTURE, *vocabulary_strings([piece for piece in pieces if "\0" not in piece]))
    if tokenizer.cut and tokenizer.cut.composed:
        run.log(
            "the tokenizer brings text to Unicode's form NFC and llama.cpp does not: what is not in that form"
            " (letters with accents apart) is cut otherwise there, and was not compared"
        )
        texts = tuple(dict.fromkeys(map(tokenizer.composed, texts)))
    return Evidence.of(ours, texts, _taken(ours, run), sequences)


def _taken(reader: Reader, run: Run) -> list[Conversation]:
    """The conversations that the model's chat template takes: some know no system message, or no turns."""
    taken: list[Conversation] = []
    reasons: list[str] = []
    for talk in CONVERSATIONS:
        try:
            reader.render(talk)
            taken.append(talk)
        except TemplateRefuses as error:
            reasons.append(str(error))
    if reasons:
        run.log(
            f"{len(reasons)} of {len(CONVERSATIONS)} conversations are not compared, since the chat template"
            f" does not take them; the first: {reasons[0]}"
        )
    return taken


def _summary(verdicts: Sequence[Verdict]) -> list[str]:
    """One line for each file and reader; verification.json has the rest."""
    lines: list[str] = []
    for (file, reader), group in groupby(verdicts, key=lambda v: (v.file, v.reader)):
        checks = list(group)
        worst = next((v for wrong in ("failed", "not verified") for v in checks if v.status == wrong), None)
        if worst:
            lines.append(f"{file} by {reader}: {worst.status} ({worst.check}: {worst.reason:.160})")
        else:
            divergence = next(v.measured for v in checks if v.check == "logits")
            lines.append(
                f"{file} by {reader} {checks[0].version}: all agree, KL {divergence:.1e} nats a token"
            )
    return lines


def _gate(config: Config, run: Run, verdicts: Sequence[Verdict]) -> None:
    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    if failed:
        raise GateRefused(
            f"{len(failed)} of {len(verdicts)} checks of the export failed; the files in {run.dir} must not"
            " be used. All verdicts are in verification.json.\n" + "\n".join(f"  {v}" for v in failed)
        )
    absent = [v for v in verdicts if v.reader == TRANSFORMERS and v.check == "reads it"]
    if config.readers == "require" and absent:
        raise GateRefused(f"readers is 'require' and the export is not verified: {absent[0].reason}")


def _write_card(
    run: Run,
    source: Path,
    files: Mapping[str, Path],
    history: Sequence[Artifact],
    verdicts: Sequence[Verdict],
) -> None:
    config = load_config(source)
    with torch.device("meta"):
        parameters = Transformer(config).num_parameters()
    card = model_card(
        name=run.dir.resolve().parent.name,
        config=config,
        parameters=parameters,
        history=history,
        checks=[str(verdict) for verdict in verdicts],
        gguf_files=[f"gguf/{path.name}" for kind, path in files.items() if kind != FOLDER],
    )
    write_text(run.dir / "README.md", card)


def _size(path: Path) -> int:
    return (
        path.stat().st_size
        if path.is_file()
        else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    )
