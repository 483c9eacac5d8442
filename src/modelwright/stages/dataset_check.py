"""dataset check: what is wrong with rows, by kind, with examples; dataset stats: what they are like."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.progress import View
from modelwright.base.schema import Conversation, Reason
from modelwright.data.conversations.flaws import KINDS, Flaw, flaws
from modelwright.data.conversations.languages import LANGUAGE_LETTERS, detect_or_none, other_language
from modelwright.data.conversations.repeats import Firsts, Repeats
from modelwright.data.conversations.write import lost
from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.items import read_items
from modelwright.data.readers.faults import Faults
from modelwright.stages.dataset import (
    Examples,
    as_conversations,
    examples,
    new_file,
    open_tokenizer,
    sources_of,
)
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.template import TemplateRefuses

EXAMPLES = 3
"""Places that are shown of each kind."""
LEFT_OUT = frozenset({"over the context", "template refuses it"})
"""Kinds of rows that are read, and that finetune leaves out."""


@dataclass
class Checked:
    """What was found."""

    about: str = ""
    """Which tokenizer and template."""
    rows: int = 0
    """That were read, and could be."""
    layouts: dict[str, str] = field(default_factory=dict[str, str])
    """File -> its layout."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """Kind -> how often."""
    shown: dict[str, list[tuple[str, str]]] = field(default_factory=dict[str, list[tuple[str, str]]])
    """Kind -> (where, what) of the first ones."""
    unread: Counter[str] = field(default_factory=Counter[str])
    """Fields that no layout reads -> rows that have them."""
    gates: tuple[str, ...] = ()
    """Kinds that were found and say no."""

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {
            **{"tokenizer": self.about, "rows": self.rows, "layouts": self.layouts},
            "fields_not_read": dict(self.unread),
            "findings": {
                kind: {
                    "count": count,
                    "gate": kind in self.gates,
                    "advice": KINDS[kind].advice if kind in KINDS else "",
                    "examples": [{"where": where, "says": says} for where, says in self.shown[kind]],
                }
                for kind, count in self.counts.most_common()
            },
        }


def check(
    files: Sequence[str],
    settings: dict[str, Any],
    view: View,
    *,
    model: Path | None = None,
    context: int | None = None,
    against: Sequence[Path] = (),
    gates: Sequence[str] | None = None,
    report: Path | None = None,
) -> Checked:
    """Look for all that `KINDS` names. `against` are evaluation sets; `gates` are the kinds that say no,
    those of `KINDS` where None; `report` gets a line for every finding."""
    for gate in gates or ():
        if gate not in KINDS and gate != "none":
            raise UserError(f"--gate {gate}: no such kind.{did_you_mean(gate, [*KINDS, 'none'])}")
    tokenizer, about = open_tokenizer(model)
    index = Index.build(item for path in against for item in read_items(path)) if against else None
    found = Checked(about=about)
    with ExitStack() as stack:
        lines = stack.enter_context(new_file(report)) if report else None

        def tell(where: str, kind: str, says: str, is_dropped: bool) -> None:
            found.counts[kind] += 1
            shown = found.shown.setdefault(kind, [])
            if len(shown) < EXAMPLES:
                shown.append((where, says))
            if lines:
                said = {"where": where, "kind": kind, "says": says, "dropped": is_dropped}
                lines.write(json.dumps(said) + "\n")

        def unread(where: str, why: Reason) -> None:
            tell(where, why.rule, why.says or str(why), True)

        faults = Faults("skip", unread)
        repeats, places = Repeats(), list[str]()
        for each in examples(sources_of(files, settings), faults, view):
            found.rows += 1
            found.layouts[each.found.row.part.where] = str(each.found.layout)
            found.unread.update(_not_read(each))
            for kind, says in _flaws_of(each, tokenizer, context, index):
                tell(each.found.row.where, kind, says, kind in LEFT_OUT)
            for example in each.made:
                places.append(each.found.row.where)
                repeats.add(example)
        if places:
            for row, kind, first in repeated(repeats.firsts(), places):
                tell(places[row], kind, f"as in {places[first]}", False)
    wanted = set(gates) if gates is not None else {kind for kind in KINDS if KINDS[kind].is_gate}
    wanted |= set(faults.counts) if gates is None else set()
    found.gates = tuple(kind for kind in found.counts if kind in wanted)
    return found


def repeated(firsts: Firsts, places: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """(row, how, the earlier row) of each row that repeats one of another place: the ways of a tree share
    their beginnings."""
    kinds = (
        ("duplicate", firsts.whole),
        ("same prompt, other answer", firsts.prompt),
        ("nearly a duplicate", firsts.near),
    )
    for row in range(len(firsts.whole)):
        for kind, first in kinds:
            if first[row] != row:
                if places[row] != places[first[row]]:
                    yield row, kind, int(first[row])
                break


def _not_read(each: Examples) -> set[str]:
    """Names of fields of a row that no one reads."""
    fields, layout = each.found.fields, each.found.layout
    return {name for name in fields if name not in layout.known} | set(lost(fields))


def _flaws_of(
    each: Examples, tokenizer: BPETokenizer, context: int | None, index: Index | None
) -> Iterator[Flaw]:
    """What is wrong with a row, each thing once."""
    told: dict[Flaw, None] = {}
    for example in each.made:
        for conversation in as_conversations(example):
            told |= dict.fromkeys(flaws(conversation, tokenizer.special_ids))
            told |= dict.fromkeys(_as_tokens(conversation, tokenizer, context))
            if languages := other_language(conversation):
                told[Flaw("other language", "asked in {}, answered in {}".format(*languages))] = None
            if index and (hit := index.check("\n".join(turn.content for turn in conversation.messages))):
                told[Flaw("in an evaluation set", f"{hit} ({hit.kind}, {hit.score:.2f})")] = None
    yield from told


def _as_tokens(conversation: Conversation, tokenizer: BPETokenizer, context: int | None) -> Iterator[Flaw]:
    try:
        rendered = render(tokenizer, conversation)
    except TemplateRefuses as refusal:
        yield Flaw("template refuses it", str(refusal))
        return
    if context and len(rendered.ids) > context + 1:
        yield Flaw("over the context", f"{len(rendered.ids):,} tokens, at most {context:,} fit")


def stats(
    files: Sequence[str], settings: dict[str, Any], view: View, *, model: Path | None = None
) -> dict[str, Any]:
    """What the rows are like: counts, lengths, what is learned, languages, repeats."""
    tokenizer, about = open_tokenizer(model)
    faults, repeats, places = Faults("skip"), Repeats(near=False), list[str]()
    lengths, learned, turns = array("q"), array("q"), Counter[int]()
    layouts, languages, rows = Counter[str](), Counter[str](), 0
    for each in examples(sources_of(files, settings), faults, view):
        rows += 1
        layouts[str(each.found.layout)] += 1
        for example in each.made:
            repeats.add(example)
            places.append(each.found.row.where)
            for conversation in as_conversations(example):
                try:
                    rendered = render(tokenizer, conversation)
                except TemplateRefuses as refusal:
                    faults("template refuses it", each.found.row.where, str(refusal))
                    continue
                lengths.append(len(rendered.ids))
                learned.append(sum(rendered.mask))
                turns[len(conversation.messages)] += 1
                languages[_language_of(conversation)] += 1
    firsts = repeats.firsts() if lengths else None
    how = Counter(kind for _, kind, _ in repeated(firsts, places)) if firsts else Counter[str]()
    total = sum(lengths)
    return {
        **{"tokenizer": about, "rows": rows, "conversations": len(lengths), "layouts": dict(layouts)},
        "not_read": dict(faults.left_out),
        **{"tokens": total, "supervised_tokens": sum(learned), "supervised": sum(learned) / max(total, 1)},
        **{"turns": dict(sorted(turns.items())), "lengths": spread(lengths), "answers": spread(learned)},
        "languages": dict(languages.most_common()),
        "repeats": dict(how),
    }


def _language_of(conversation: Conversation) -> str:
    """Of the last answer."""
    detect = detect_or_none()
    answer = [turn.content for turn in conversation.messages if turn.role == "assistant"][-1]
    if detect is None or sum(map(str.isalpha, answer)) < LANGUAGE_LETTERS:
        return "too short to tell" if detect else "not told: pip install 'modelwright[data]'"
    return detect(answer)[0]


def spread(counts: array[int]) -> dict[str, Any]:
    """Quantiles and a histogram by powers of two of lengths in tokens."""
    if not counts:
        return {"quantiles": {}, "histogram": []}
    values = np.frombuffer(counts, np.int64)
    marks = (0, 5, 25, 50, 75, 95, 99, 100)
    powers = np.bincount(np.frexp(np.maximum(values, 1).astype(np.float64))[1] - 1)
    first = int(np.flatnonzero(powers)[0])
    return {
        "quantiles": {str(q): float(v) for q, v in zip(marks, np.percentile(values, marks), strict=True)},
        "histogram": [[1 << power, int(count)] for power, count in enumerate(powers) if power >= first],
    }
