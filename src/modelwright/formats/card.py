"""The model card: a README made from the manifests, so that it says what happened and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from modelwright.base.artifact import MANIFEST, Artifact
from modelwright.base.metrics import figure, in_words
from modelwright.base.provenance import UNKNOWN, Provenance
from modelwright.formats.config_json import rotations_to_json
from modelwright.formats.gguf_names import TRANSFORMERS_READS_NO
from modelwright.model.config import ModelConfig
from modelwright.model.flops import idle_parameters

MAX_FRONT_MATTER = 100_000
"""Letters of a card's front matter that are read."""


def licence_of(provenance: Provenance) -> str:
    """The licences of the documents as one expression: all of them apply."""
    return " AND ".join(sorted(provenance.licences)) or "unknown"


def stated_licence(folder: Path) -> str:
    """What the card in a model's folder states as its licence; "unknown" where it states none."""
    card = folder / "README.md"
    found = (
        re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.DOTALL)
        if card.is_file()
        else None
    )
    try:
        front = yaml.safe_load(found[1][:MAX_FRONT_MATTER]) if found else None
    except Exception:  # a stranger's text: the library raises what comes
        return UNKNOWN
    stated = front if isinstance(front, dict) else {}
    said = stated.get("license_name" if stated.get("license") == "other" else "license")
    return said if isinstance(said, str) and said else UNKNOWN


def licence_behind(folder: Path) -> str:
    """What is known of the licence of a model in a folder: the licences of all that it learned from, where a
    manifest of ours says so, else what its card states."""
    for place in (folder, folder.parent):
        if (place / MANIFEST).is_file():
            return licence_of(Artifact.load(place).manifest.provenance)
    return stated_licence(folder)


def model_card(
    *,
    name: str,
    config: ModelConfig,
    parameters: int,
    history: Sequence[Artifact],
    checks: Iterable[str],
    gguf_files: Sequence[str],
) -> str:
    """Markdown with the front matter that model hubs read. `history` is the model's `ancestry()`."""
    provenance = history[0].manifest.provenance
    sections = [
        _front_matter(provenance),
        f"# {name}\n\n{_what_it_is(config, parameters)}",
        f"## Data\n\n{_data(history[0])}",
        f"## How it was made\n\n{_stages(history)}",
        "## Checks\n\nThe exported files were read back by independent programs:\n\n"
        + "\n".join(f"- {line}" for line in checks),
        f"## How to load it\n\n{_loading(name, config, gguf_files)}",
    ]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _front_matter(provenance: Provenance) -> str:
    licences = sorted(provenance.licences)
    known = len(licences) == 1 and licences[0] != "unknown"
    licence = f"license: {licences[0].lower()}" if known else "license: other\nlicense_name: see-data-sources"
    tags = "library_name: transformers\npipeline_tag: text-generation\ntags: [modelwright]"
    return f"---\n{licence}\n{tags}\n---"


def _what_it_is(config: ModelConfig, parameters: int) -> str:
    tied = "tied" if config.tie_word_embeddings else "separate"
    active = parameters - idle_parameters(config)
    experts = f" ({active:,} of them active for a token)" if config.num_experts else ""
    mixture = f", {config.num_experts} experts, {config.num_experts_per_tok} for a token"
    return (
        f"A language model with {parameters:,} parameters{experts} in the {config.architecture} architecture:"
        f" {config.num_hidden_layers} layers, width {config.hidden_size}"
        f"{mixture if config.num_experts else ''}, {config.num_attention_heads} query"
        f" and {config.num_key_value_heads} key/value heads, {config.vocab_size:,} tokens,"
        f" {tied} embeddings, trained for contexts of up to {config.max_position_embeddings:,} tokens."
    )


def _data(artifact: Artifact) -> str:
    provenance = artifact.manifest.provenance
    if not provenance.documents:
        return "The manifests name no source documents."
    tables = [
        _table("source", provenance.sources),
        _table("licence", provenance.licences),
        _table("jurisdiction", provenance.jurisdictions),
        _table("personal data", provenance.personal_data),
        _table("legal basis", provenance.legal_bases),
        _table("retention", provenance.retentions),
    ]
    return f"{artifact.texts_behind()}.\n\n" + "\n\n".join(tables)


def _table(head: str, rows: Mapping[str, int]) -> str:
    lines = [f"| {_cell(name)} | {count:,} |" for name, count in rows.items()]
    return "\n".join([f"| {head} | |", "| --- | --- |", *lines])


def _cell(text: str) -> str:
    """Table text as one line: sources are file names, and may hold anything."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _stages(history: Sequence[Artifact]) -> str:
    lines = ["| stage | artifact | seed | tokens | results |", "| --- | --- | --- | --- | --- |"]
    for artifact in reversed(history):
        made = artifact.manifest
        results = ", ".join(
            f"{in_words(name)} {figure(value)}"
            for name, value in made.metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )
        lines.append(
            f"| {made.stage} | {made.id[:12]} | {made.seed} | {made.cost.tokens:,} | {_cell(results)} |"
        )
    first = history[0].manifest
    return "\n".join(lines) + f"\n\nMade by modelwright {first.version}, revision {first.revision}."


def _loading(name: str, config: ModelConfig, gguf_files: Sequence[str]) -> str:
    tokenizer = "PreTrainedTokenizerFast" if config.architecture == "qwen2" else "AutoTokenizer"
    why = (
        "\nAutoTokenizer would replace this tokenizer by one that normalizes text (transformers 5).\n"
        if config.architecture == "qwen2"
        else ""
    )
    text = (
        f"transformers:\n\n```python\nfrom transformers import AutoModelForCausalLM, {tokenizer}\n\n"
        'model = AutoModelForCausalLM.from_pretrained("hf")\n'
        f'tokenizer = {tokenizer}.from_pretrained("hf")\n```\n{why}'
    )
    if gguf_files:
        file = gguf_files[-1]
        text += (
            f"\nllama.cpp:\n\n```sh\nllama-cli -m {file} -cnv --jinja\n```\n"
            f"{'' if config.architecture in TRANSFORMERS_READS_NO else _gguf_in_transformers(file, config)}"
            f"\nOllama:\n\n```sh\nollama create {Path(name).name} -f Modelfile\n```\n"
        )
    return text


def _gguf_in_transformers(file: str, config: ModelConfig) -> str:
    """transformers 5.23 does not read some sizes from the file (see formats/readers.py)."""
    path = PurePosixPath(file)
    source = f'"{path.parent}", gguf_file="{path.name}"'
    size = f"config.moe_intermediate_size = {config.moe_intermediate_size}\n"
    expert = size if config.num_experts else ""
    stretched = f"config.rope_parameters = {rotations_to_json(config)}\n" if config.rope_scaling else ""
    return (
        f"\nThe GGUF file in transformers. The size of a head ({config.head_dim}) must be given: transformers"
        " takes a default that does not fit this model.\n\n```python\n"
        "from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast\n\n"
        f"config = AutoConfig.from_pretrained({source})\nconfig.head_dim = {config.head_dim}\n{expert}"
        f"{stretched}"
        f"model = AutoModelForCausalLM.from_pretrained({source}, config=config)\n"
        f"tokenizer = PreTrainedTokenizerFast.from_pretrained({source})\n```\n"
    )
