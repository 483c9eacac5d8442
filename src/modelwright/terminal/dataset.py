"""`modelwright dataset`: what is wrong with rows, what they are like, and how the model will see them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.base.metrics import counted
from modelwright.data.conversations.flaws import KINDS
from modelwright.terminal.printable import printable

LEARNED, CUT = "bold green", "red strike"
MARKS = {"learned": ("[[", "]]"), "cut": ("{{", "}}")}
"""What stands around spans where there is no colour."""
BAR = 30
"""Characters of the longest bar."""
ADVICE = (
    "the row is left out: mend it; where all rows are so, name the layout (--layout, --field NAME=COLUMN)"
)
"""For rows that cannot be read."""


def show_checked(checked: Any, as_json: bool) -> None:
    """Print what `stages.dataset_check.check` found."""
    if as_json:
        _print_json(checked.as_json())
        return
    console = Console(markup=False, highlight=False)
    for file, layout in checked.layouts.items():
        console.print(printable(f"{file}: layout {layout}"), soft_wrap=True)
    console.print(f"{counted(checked.rows, 'row')} read; {checked.about}", soft_wrap=True)
    if checked.unread:
        names = ", ".join(f"{name} ({count:,})" for name, count in checked.unread.most_common(12))
        console.print(printable(f"fields that are not read: {names}"), soft_wrap=True)
    if not checked.counts:
        console.print("Nothing was found.")
        return
    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("finding", "left"),
        ("count", "right"),
        ("gate", "left"),
        ("where, and what", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for kind, count in checked.counts.most_common():
        gate = Text("gate", style="bold red") if kind in checked.gates else Text("")
        where = _briefly(
            "\n".join(f"{place}: {says}" for place, says in checked.shown[kind]), checked.layouts
        )
        advice = KINDS[kind].advice if kind in KINDS else ADVICE
        cell = Text(printable(where, 600)).append(f"\n{advice}", style="dim")
        table.add_row(Text(kind), f"{count:,}", gate, cell)
    console.print(table)


def _print_json(value: Mapping[str, Any]) -> None:
    """Half a surrogate pair, which names of fields may hold, is printed as its escape."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _briefly(text: str, files: Iterable[str]) -> str:
    """Places without the folders of their files; of a single file, without its name."""
    names = {file: f"{Path(file).name}, " for file in files}
    for file, name in names.items():
        text = text.replace(f"{file}, ", name if len(names) > 1 else "")
    return text


def show_stats(stats: Mapping[str, Any], as_json: bool) -> None:
    """Print what `stages.dataset_check.stats` counted."""
    if as_json:
        _print_json(stats)
        return
    console = Console(markup=False, highlight=False)
    console.print(stats["tokenizer"], soft_wrap=True)
    facts = {
        "rows": f"{stats['rows']:,}, {_counted(stats['layouts'])}",
        "conversations": f"{stats['conversations']:,}",
        "tokens": f"{stats['tokens']:,}, of which {stats['supervised_tokens']:,} are learned"
        f" ({stats['supervised']:.1%})",
        "turns": _counted(stats["turns"]),
        "languages of answers": _counted(stats["languages"]),
        "repeats": _counted(stats["repeats"]) or "none",
        "not read": _counted(stats["not_read"]) or "none",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(name, printable(value))
    console.print(table)
    for name, title in (("lengths", "tokens in a conversation"), ("answers", "tokens learned of it")):
        _print_spread(console, title, stats[name])


def _print_spread(console: Console, title: str, spread: Mapping[str, Any]) -> None:
    if not spread["histogram"]:
        return
    marks = ", ".join(f"{mark} %: {value:,.0f}" for mark, value in spread["quantiles"].items())
    console.print(f"\n{title}: {marks}", soft_wrap=True)
    most = max(count for _, count in spread["histogram"])
    for low, count in spread["histogram"]:
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        console.print(f"{f'{low:,} to {2 * low - 1:,}':>20}  {bar} {count:,}")


def _counted(counts: Mapping[Any, int], most: int = 8) -> str:
    shown = [f"{name}: {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join([*shown, *([f"{len(counts) - most:,} others"] if len(counts) > most else [])])


def show_preview(about: str, shown: Sequence[Any], as_json: bool) -> None:
    """Print conversations with what is learned of them in colour, or between marks where there is none."""
    if as_json:
        rows = [asdict(each) for each in shown]
        _print_json({"tokenizer": about, "rows": rows})
        return
    console = Console(markup=False, highlight=False)
    in_colour = console.color_system is not None
    legend = Text(f"{about}\nlearned: ")
    legend.append(_marked("this", True, False, in_colour), LEARNED if in_colour else "")
    if any(each.cut for each in shown):
        legend.append("  beyond the context: ")
        legend.append(_marked("this", False, True, in_colour), CUT if in_colour else "")
    console.print(legend, soft_wrap=True)
    if not shown:
        console.print("No row could be read. modelwright dataset check says why.")
    for each in shown:
        console.rule(printable(f"{each.where}, layout {each.layout}"), align="left")
        text = Text()
        for span in each.spans:
            style = CUT if span.is_cut else LEARNED if span.is_learned else ""
            text.append(
                _marked(printable(span.text), span.is_learned, span.is_cut, in_colour),
                style if in_colour else "",
            )
        console.print(text, soft_wrap=True)
        cut = f", {each.cut:,} beyond the context" if each.cut else ""
        console.print(f"{each.tokens:,} tokens, {each.learned:,} learned{cut}", style="dim")


def _marked(text: str, is_learned: bool, is_cut: bool, in_colour: bool) -> str:
    if in_colour or not (is_learned or is_cut):
        return text
    before, after = MARKS["cut" if is_cut else "learned"]
    return f"{before}{text}{after}"


def show_written(made: Mapping[str, Any], as_json: bool) -> None:
    """Print which files were written, with how many rows, and what was left out."""
    if as_json:
        print(json.dumps(made, indent=2, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False)
    for each in [made, *made.values()]:
        if isinstance(each, Mapping) and "file" in each:
            console.print(printable(f"{each['file']}: {counted(each['rows'], 'row')}"), soft_wrap=True)
    if "groups" in made:
        console.print(f"{counted(made['groups'], 'group')} of rows that belong together, each on one side")
    for name, said in (
        ("dropped", "dropped"),
        ("lost", "lost, for want of a place"),
        ("not_read", "not read"),
    ):
        if made.get(name):
            console.print(printable(f"{said}: {_counted(made[name])}"), soft_wrap=True)
