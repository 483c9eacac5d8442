"""dataset preview: rows as the model will see them, and which tokens it will learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from modelwright.base.files import write_text
from modelwright.base.progress import View
from modelwright.base.schema import Conversation
from modelwright.data.readers.faults import Faults
from modelwright.evaluation.page import template
from modelwright.stages.dataset import as_conversations, examples, open_tokenizer, sources_of
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.template import TemplateRefuses


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens in a row that are treated alike, as text."""

    text: str
    is_learned: bool
    is_cut: bool
    """Whether it stands beyond the context."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A conversation as the model will see it."""

    where: str
    layout: str
    spans: tuple[Span, ...]
    tokens: int
    learned: int
    """Tokens that are supervised, those beyond the context included."""
    cut: int
    """Tokens beyond the context: finetune leaves such a row out, or shortens it by whole turns."""


def preview(
    files: Sequence[str],
    settings: dict[str, Any],
    view: View,
    *,
    model: Path | None = None,
    context: int | None = None,
    skip: int = 0,
    count: int = 3,
) -> tuple[str, list[Shown]]:
    """What is said of the tokenizer, and `count` conversations from the one behind `skip`."""
    tokenizer, about = open_tokenizer(model)
    rendered = (
        show(tokenizer, conversation, each.found.row.where, str(each.found.layout), context)
        for each in examples(sources_of(files, settings), Faults("skip"), view)
        for example in each.made
        for conversation in as_conversations(example)
    )
    return about, list(islice(rendered, skip, skip + count))


def show(
    tokenizer: BPETokenizer, conversation: Conversation, where: str, layout: str, context: int | None
) -> Shown:
    """A conversation in spans."""
    try:
        rendered = render(tokenizer, conversation)
    except TemplateRefuses as refusal:
        return Shown(where, layout, (Span(f"The template refuses it: {refusal}", False, True),), 0, 0, 0)
    size = len(rendered.ids)
    fits = size if context is None else context + 1
    kinds = [(learned, place >= fits) for place, learned in enumerate(rendered.mask)]
    spans: list[Span] = []
    start = 0
    for (learned, is_cut), group in groupby(kinds):
        stop = start + len(list(group))
        spans.append(Span(tokenizer.decode(rendered.ids[start:stop]), learned, is_cut))
        start = stop
    return Shown(where, layout, tuple(spans), size, sum(rendered.mask), max(0, size - fits))


def write_page(path: Path, about: str, shown: Sequence[Shown]) -> None:
    """The rows as a page."""
    page = template("modelwright.stages", "dataset_preview.html.jinja")
    write_text(path, page.render(about=about, shown=[asdict(each) for each in shown]))
